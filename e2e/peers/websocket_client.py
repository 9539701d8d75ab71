"""What a client of the package `websockets` sees of websocket_server.py at HOST:PORT, its argument, as JSON."""
import asyncio
import json
import sys

from websockets.asyncio.client import connect

TURNS = 200
LARGE = 1 << 20


async def main():
    said = {}
    # Compression is off, so that what is compared is what was on the wire.
    async with connect(f"ws://{sys.argv[1]}/", compression=None, max_size=64 << 20, proxy=None) as connection:
        said["seen_as"] = await connection.recv()
        said["turns"] = 0
        for number in range(TURNS):
            await connection.send(str(number))
            said["turns"] += await connection.recv() == str(number)
        await connection.send(b"x" * LARGE)
        said["large"] = len(await connection.recv())
        await (await connection.ping())
        said["pong"] = True
        await connection.close(4000, "as planned")
        said["close"] = connection.close_code
    print(json.dumps(said))


asyncio.run(main())
