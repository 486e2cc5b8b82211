"""A reverse proxy in front of a registry that does to answers what bad networks and bad registries do.

    with registries.proxy(registries["plain"]) as proxy:            # proxy.host stands for the registry, or is a mirror
        proxy.on("/blobs/sha256:", faults.cut(1000), times=2)       # the first two of those requests
        proxy.on("/manifests/", faults.status(429, {"Retry-After": "1"}), times=1)
        ...                                                         # pull proxy.reference("team/something:1")
        proxy.seen          # method, path, range, authorization, status and bytes sent of each request
        proxy.count(digest), proxy.sent(digest)                     # requests; bytes of bodies

The first fault that fits a request and has not been used up is applied. tests/registry_faults.py has the faults.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests import certificates, registry_faults

PER_HOP = ("connection", "keep-alive", "transfer-encoding", "te", "upgrade")


@dataclass(slots=True)
class Seen:
    """One request, with ``received`` bytes. ``status`` is that of the answer, 0 before it; ``sent`` how many bytes of
    its body have gone."""

    method: str
    path: str
    range: str
    authorization: str
    status: int = 0
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class Rule:
    path: str
    fault: registry_faults.Fault
    times: int
    method: str

    def fits(self, method: str, path: str) -> bool:
        return self.times != 0 and bool(re.search(self.path, path)) and method == (self.method or method)


@dataclass(slots=True)
class Proxy:
    """A running one. ``host`` is ``127.0.0.1:PORT``."""

    of: str
    context: ssl.SSLContext | None
    scheme: str
    host: str = ""
    rules: list[Rule] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def reference(self, name: str) -> str:
        return f"{self.host}/{name}"

    def on(self, path: str, fault: registry_faults.Fault, times: int = -1, method: str = "GET") -> None:
        """``path`` is a pattern found in the path; ``times`` -1 means always, ``method`` "" any."""
        self.rules.append(Rule(path, fault, times, method))

    def count(self, part: str, method: str = "GET") -> int:
        """How many requests had ``part`` in their path."""
        return sum(part in one.path and one.method == method for one in self.seen)

    def sent(self, part: str) -> int:
        """Bytes of bodies of good answers to such requests."""
        return sum(one.sent for one in self.seen if part in one.path and one.status in (200, 206))

    def fault(self, method: str, path: str) -> registry_faults.Fault | None:
        with self._lock:
            found = next((rule for rule in self.rules if rule.fits(method, path)), None)
            if found is None:
                return None
            found.times -= found.times > 0
            return found.fault


class _Server(ThreadingHTTPServer):
    """Each connection's TLS begins in its own thread."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, proxy: Proxy, tls: ssl.SSLContext | None) -> None:
        self.proxy, self.tls = proxy, tls
        super().__init__(("127.0.0.1", 0), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with contextlib.suppress(OSError):  # the client went, or refuses our certificate
            if self.tls is not None:
                request = self.tls.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
            request.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # pieces go as they come
    server: _Server

    def handle_any(self) -> None:
        proxy = self.server.proxy
        headers = {name: value for name, value in self.headers.items() if name.lower() not in PER_HOP}
        exchange = registry_faults.Exchange(self.command, self.path, headers, self._forward, proxy.over)
        seen = Seen(self.command, self.path, headers.get("Range", ""), headers.get("Authorization", ""))
        proxy.seen.append(seen)
        with contextlib.ExitStack() as self.held:
            try:
                self.body = self._read()
                seen.received = len(self.body or b"")
                (proxy.fault(self.command, self.path) or self._forward)(exchange)
                self._send(exchange, seen)
            except (registry_faults.Cut, OSError, http.client.HTTPException):
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def _send(self, exchange: registry_faults.Exchange, seen: Seen) -> None:
        """What is counted is counted before it is sent, so that who has read an answer can rely on it."""
        seen.status = exchange.status
        self.send_response_only(exchange.status)
        for name, value in exchange.answered.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in exchange.pieces if self.command != "HEAD" else ():
            seen.sent += len(piece)
            self.wfile.write(piece)

    def _forward(self, exchange: registry_faults.Exchange) -> None:
        """Asks the registry; ``Host`` stays, so that its absolute addresses lead here."""
        proxy = self.server.proxy
        made = http.client.HTTPSConnection if proxy.context else http.client.HTTPConnection
        connection = made(proxy.of, **({"context": proxy.context} if proxy.context else {}))
        self.held.enter_context(contextlib.closing(connection))
        headers = {**exchange.headers, "X-Forwarded-Proto": proxy.scheme}
        headers.pop("Content-Length", None)
        connection.request(self.command, self.path, self.body, headers)
        answer = connection.getresponse()
        exchange.status = answer.status
        exchange.answered = {name: value for name, value in answer.getheaders() if name.lower() not in PER_HOP}
        exchange.pieces = iter(lambda: answer.read(registry_faults.PIECE), b"")

    def _read(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            return b"".join(self._chunks())
        size = self.headers.get("Content-Length")
        return None if size is None else self.rfile.read(int(size))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: ``seen`` tells."""


@contextlib.contextmanager
def serving(of: str, context: ssl.SSLContext | None, files: certificates.Files | None = None) -> Iterator[Proxy]:
    """In front of the registry at ``of``, with the TLS of ``files``. Faults that wait are ended at the end."""
    tls = None
    if files is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(files.server, files.server_key)
    proxy = Proxy(of, context, "https" if tls else "http")
    with _Server(proxy, tls) as server:
        proxy.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.over.set()
            server.shutdown()
            thread.join()
