"""What a client of the official gRPC library sees of grpc_server.py at HOST:PORT, its argument, as JSON."""
import json
import queue
import sys

import grpc

TURNS = 200
LARGE = 4 << 20

channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_retries", 0)])
call = {name: getattr(channel, kind)(f"/e2e.Echo/{name}") for name, kind in (("Unary", "unary_unary"), ("Down", "unary_stream"), ("Up", "stream_unary"), ("Both", "stream_stream"))}
said = {}

answer, done = call["Unary"].with_call(b"hello", metadata=(("x-say", "tail"),), timeout=10)
trailers = dict(done.trailing_metadata())
said["unary"] = answer.decode()
said["trailer"] = trailers.get("x-said")
said["seen_as"] = trailers.get("x-seen-as")
said["large"] = len(call["Unary"](b"x" * LARGE, timeout=30))
said["down"] = sum(1 for number, one in enumerate(call["Down"](b"1000", timeout=30)) if int(one) == number)
said["up"] = int(call["Up"](iter([b"y" * 1000] * 1000), timeout=30))

# One at a time each way: whoever holds messages back would never see the next.
asked = queue.Queue()
answers = call["Both"](iter(asked.get, None), timeout=30)
said["turns"] = 0
for number in range(TURNS):
    asked.put(str(number).encode())
    if int(next(answers)) == number:
        said["turns"] += 1
asked.put(None)
said["left"] = sum(1 for _ in answers)

for name, metadata, seconds in (("failed", (("x-fail", "1"),), 10), ("late", (("x-hang", "1"),), 0.5)):
    try:
        call["Unary"](b"", metadata=metadata, timeout=seconds)
        said[name] = "OK"
    except grpc.RpcError as error:
        said[name] = f"{error.code().name}: {error.details()}" if name == "failed" else error.code().name
try:
    channel.unary_unary("/e2e.Nobody/Here")(b"", timeout=10)
    said["unknown"] = "OK"
except grpc.RpcError as error:
    said["unknown"] = error.code().name
streams = [call["Both"](iter([b"z"] * 10), timeout=30) for _ in range(50)]
said["at_once"] = sum(1 for stream in streams for _ in stream)
print(json.dumps(said))
