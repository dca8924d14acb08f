"""A server over TLS: `PORT CERTIFICATE KEY` answers every GET with the name that the client asked for (SNI)."""

import http.server
import ssl
import sys

port, certificate, key = int(sys.argv[1]), sys.argv[2], sys.argv[3]
asked = {}


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = asked.get("name", "none").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def named(_socket, name, _context):
    asked["name"] = name or "none"


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.sni_callback = named
server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Answer)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
