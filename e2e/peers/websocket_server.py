"""An echo of the package `websockets`: the first message says who called. PORT is its argument."""
import asyncio
import sys

from websockets.asyncio.server import serve


async def talk(connection):
    await connection.send(connection.remote_address[0])
    async for message in connection:
        await connection.send(message)


async def main():
    async with serve(talk, "", int(sys.argv[1]), max_size=64 << 20) as server:
        await server.serve_forever()


asyncio.run(main())
