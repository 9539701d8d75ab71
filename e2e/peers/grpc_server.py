"""A gRPC server with the official library: an echo of each of the four kinds, health and reflection. PORT is its argument.

Messages are bytes; what a call is to do beside is in its metadata."""
import sys
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

HUNG_SECONDS = 30  # a call that hangs is given up by its client, which has a deadline


def wishes(context):
    asked = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-seen-as", context.peer()), ("x-said", asked.get("x-say", "-"))))
    if "x-fail" in asked:
        context.abort(grpc.StatusCode.ABORTED, "as asked: %")
    if "x-hang" in asked:
        for _ in range(HUNG_SECONDS * 10):
            if not context.is_active():
                break
            time.sleep(0.1)  # a hang has to take time


def unary(request, context):
    wishes(context)
    return request


def down(request, context):
    wishes(context)
    for number in range(int(request)):
        yield str(number).encode()


def up(requests, context):
    wishes(context)
    return str(sum(len(one) for one in requests)).encode()


def both(requests, context):
    wishes(context)
    for one in requests:
        yield one


def main():
    kinds = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=[("grpc.max_receive_message_length", 64 << 20)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("e2e.Echo", kinds),))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    servicer.set("e2e.Echo", health_pb2.HealthCheckResponse.SERVING)
    names = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    server.add_insecure_port(f"[::]:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()


main()
