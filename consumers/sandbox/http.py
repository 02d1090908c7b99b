"""A small threaded HTTP/1.1 server on loopback: keep-alive, whole or chunked answers, an orderly stop.

It knows nothing of AWS; `answer` gets a `Request` and returns a `Response` or a `Streamed`. Callers that do not name a
loopback host are refused (a web page that rebinds its name to 127.0.0.1 must not read the mailbox).
"""

import ipaddress
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from bridge.contracts.errors import BadInput
from consumers.sandbox.wire import Request, Response

MAX_BODY_BYTES = 32 * 1024 * 1024
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer of unknown length, written as it is made."""

    content_type: str
    chunks: Iterator[bytes]
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[Request], Response | Streamed | None]
"""None ends the connection without a word."""


def is_loopback(host: str) -> bool:
    """Say whether `host` (a name or an address, no port) is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class LoopbackServer:
    """Serves `answer` until it is closed."""

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        if not is_loopback(host):
            raise BadInput(f"sandbox host {host!r}: only a loopback address, for example 127.0.0.1")
        try:
            self._server = _Server(host, port, answer)
        except OSError as error:
            raise BadInput(f"sandbox port {port}: {error.strerror}; choose another, or 0 for a free one") from None
        self.port: int = self._server.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let requests in progress finish, then return."""
        self._server.shutdown()
        self._thread.join()
        self._server.finish_connections()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for requests in progress
    request_queue_size = 128

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answer = answer
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__((host, port), _Handler)

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]  # socketserver types the request as a union
        with self._open_lock:
            self._open.add(request)
        super().process_request_thread(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Let a caller go away at any moment; whatever else escapes a connection's thread is a bug, and shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def finish_connections(self) -> None:
        """Close the reading side of every connection: an idle one ends, a busy one still gets its answer."""
        with self._open_lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RD)
                except OSError:  # the caller was faster
                    continue


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024  # head and body leave together
    server_version = "tocsin-sandbox"
    sys_version = ""

    def _serve(self) -> None:
        host = self.headers.get("host", "")
        if not is_loopback(urlsplit(f"//{host}").hostname or ""):
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
            return
        length = self.headers.get("content-length", "0")
        if "transfer-encoding" in self.headers or not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED)
            return
        if int(length) > MAX_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):  # the caller went away in the middle of its request
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.answer(Request(self.command, self.path, headers, body, f"http://{host}"))
        if answer is None:
            self.close_connection = True
            return
        try:
            if isinstance(answer, Response):
                self._write(answer)
            else:
                self._stream(answer)
            self.wfile.flush()
        except ConnectionError:  # gone before the answer: what was taken stays taken, as in AWS
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  http.server's names

    def _write(self, response: Response) -> None:
        self._head(response.status, response.content_type, dict(response.headers))
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)

    def _stream(self, streamed: Streamed) -> None:
        self._head(200, streamed.content_type, streamed.headers)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pending = bytearray()
        for chunk in streamed.chunks:
            pending += chunk
            if len(pending) >= CHUNK_BYTES:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(pending), pending))
                pending.clear()
        if pending:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(pending), pending))
        self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: int, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self.send_header(name, value)

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True  # the body was not read
        self._write(Response(status, "text/plain; charset=utf-8", status.phrase.encode(), {"Connection": "close"}))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's signature
        """Write nothing: request lines hold addresses."""
