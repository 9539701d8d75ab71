"""A collector that reads with the official package of the protocol (opentelemetry-proto), and prints what it got.

First line: its ports, `grpc http`. Then one JSON object for each span or log record.
"""

import json
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

told = threading.Lock()


def tell(**what):
    with told:
        print(json.dumps(what), flush=True)


def attributes(pairs):
    return {pair.key: pair.value.string_value for pair in pairs}


def spans(via, request):
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                tell(
                    via=via,
                    service=attributes(resource.resource.attributes).get("service.name"),
                    scope=scope.scope.name,
                    trace=span.trace_id.hex(),
                    span=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    kind=span.kind,
                    lasted=span.end_time_unix_nano - span.start_time_unix_nano,
                    error=span.status.code == 2,
                    tags=attributes(span.attributes),
                )
    return trace_service_pb2.ExportTraceServiceResponse()


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        return spans("grpc", request)


class Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def Export(self, request, context):
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    tell(via="logs", service=attributes(resource.resource.attributes).get("service.name"), body=record.body.string_value)
        return logs_service_pb2.ExportLogsServiceResponse()


class Http(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = b""
        if self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf":
            request = trace_service_pb2.ExportTraceServiceRequest()
            request.ParseFromString(body)
            answer = spans("http", request).SerializeToString()
        elif self.path == "/api/v2/spans" and self.headers["content-type"] == "application/json":
            for span in json.loads(body):
                tell(via="zipkin", service=span["localEndpoint"]["serviceName"], trace=span["traceId"], name=span["name"], tags=span["tags"])
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = grpc.server(futures.ThreadPoolExecutor(2))
trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
logs_service_pb2_grpc.add_LogsServiceServicer_to_server(Logs(), server)
grpc_port = server.add_insecure_port("127.0.0.1:0")
server.start()
http = ThreadingHTTPServer(("127.0.0.1", 0), Http)
threading.Thread(target=http.serve_forever, daemon=True).start()
print(grpc_port, http.server_address[1], flush=True)
sys.stdin.read()
