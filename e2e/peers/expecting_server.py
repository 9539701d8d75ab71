"""Python's own HTTP server: POST /take is told to go on and answered with the number of bytes, POST /refuse is answered 403
before its body is sent. PORT is its argument."""
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_expect_100(self):
        if self.path != "/refuse":
            return super().handle_expect_100()
        self.close_connection = True
        self.send_response(HTTPStatus.FORBIDDEN)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        body = f"{len(self.rfile.read(length))} bytes\n".encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
