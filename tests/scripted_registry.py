"""A registry in threads of the test process that misbehaves as a test says.

It keeps blobs and manifests in memory, by the OCI distribution specification. Each request is noted, then ``faults``
are asked in turn; the first that returns true has answered it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from plugin_sdk import oci

Fault = Callable[["Handler"], bool]


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request; ``path`` is without its query."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @property
    def span(self) -> str:
        return self.headers.get("range", "")


@dataclass(slots=True)
class Registry:
    """``blobs`` are by repository and digest, ``manifests`` by repository and tag or digest: media type and bytes."""

    address: str = ""
    scheme: str = "http"
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    has_referrers: bool = False
    knows_ranges: bool = True
    served: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def add_blob(self, data: bytes, repository: str = "a/b", algorithm: str = "sha256") -> oci.Descriptor:
        named = digest(data, algorithm)
        self.blobs[repository, named] = data
        return oci.Descriptor(oci.LAYER_GZIP, named, len(data))

    def add_manifest(
        self, data: bytes, tag: str = "1", media_type: str = oci.MANIFEST, repository: str = "a/b"
    ) -> oci.Descriptor:
        of = oci.Descriptor(media_type, digest(data), len(data))
        self.manifests[repository, tag] = self.manifests[repository, of.digest] = (media_type, data)
        return of

    def requests(self, method: str = "", part: str = "") -> list[Seen]:
        """Those so far whose path or method is this."""
        return [seen for seen in self.seen if method in ("", seen.method) and part in seen.path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry
    timeout = 60

    def log_message(self, *args: object) -> None:
        """The registry has notes of its own."""

    def setup(self) -> None:
        super().setup()
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # -- what faults may use

    @property
    def where(self) -> str:
        return urlsplit(self.path).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> bool:
        """``Content_Type`` names a header as a keyword."""
        self.swallow()
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def refuse(self, status: int, code: str, **headers: str) -> bool:
        body = json.dumps({"errors": [{"code": code, "message": "a text of a stranger"}]}).encode()
        return self.answer(status, body, Content_Type="application/json", **headers)

    def cut(self) -> bool:
        """Ends the connection at once."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        return True

    def swallow(self) -> bytes:
        """The body of the request, once."""
        size, self.unread = getattr(self, "unread", 0), 0
        return self.rfile.read(size) if size else b""

    # -- requests

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            super().handle_one_request()
            return
        self.close_connection = True

    def dispatch(self) -> None:
        self.unread = int(self.headers.get("Content-Length", "0"))
        headers = {name.lower(): value for name, value in self.headers.items()}
        registry = self.registry
        with registry.lock:
            registry.seen.append(Seen(self.command, self.where, self.query, headers))
        if any(fault(self) for fault in list(registry.faults)):
            return
        for pattern, act in ROUTES:
            if match := re.fullmatch(pattern, self.where):
                act(self, *match.groups())
                return
        self.refuse(404, "NAME_UNKNOWN")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = dispatch

    def manifest(self, repository: str, name: str) -> None:
        if self.command == "PUT":
            data = self.swallow()
            media_type = self.headers["Content-Type"]
            self.registry.manifests[repository, name] = (media_type, data)
            self.registry.manifests[repository, digest(data)] = (media_type, data)
            subject = json.loads(data).get("subject") if self.registry.has_referrers else None
            more = {"OCI_Subject": subject["digest"]} if subject else {}
            self.answer(201, Docker_Content_Digest=digest(data), **more)
            return
        found = self.registry.manifests.get((repository, name))
        if found is None:
            self.refuse(404, "MANIFEST_UNKNOWN")
            return
        self.answer(200, found[1], Content_Type=found[0], Docker_Content_Digest=digest(found[1]))

    def blob(self, repository: str, name: str) -> None:
        data = self.registry.blobs.get((repository, name))
        if data is None:
            self.refuse(404, "BLOB_UNKNOWN")
            return
        self.bytes_of(data)

    def bytes_of(self, data: bytes) -> None:
        """Answers ``data``, or the range that is asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None or not self.registry.knows_ranges:
            self.count(len(data))
            self.answer(200, data)
            return
        start, end = int(match[1]), min(int(match[2] or len(data)) + 1, len(data))
        if start >= len(data):
            self.refuse(416, "RANGE_INVALID")
            return
        self.count(end - start)
        self.answer(206, data[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(data)}")

    def count(self, size: int) -> None:
        if self.command == "GET":
            with self.registry.lock:
                self.registry.served += size

    def referrers(self, repository: str, subject: str) -> None:
        if not self.registry.has_referrers:
            self.refuse(404, "NOT_FOUND")
            return
        entries = []
        for (of, name), (media_type, data) in self.registry.manifests.items():
            document = json.loads(data)
            if of == repository and name.startswith("sha256:") and document.get("subject", {}).get("digest") == subject:
                kind = document.get("artifactType") or document["config"]["mediaType"]
                entries.append({"mediaType": media_type, "digest": name, "size": len(data), "artifactType": kind})
        index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": entries}
        self.answer(200, json.dumps(index).encode(), Content_Type=oci.INDEX)

    # -- uploads

    def begin(self, repository: str) -> None:
        if "mount" in self.query:
            data = self.registry.blobs.get((self.query["from"][0], self.query["mount"][0]))
            if data is not None:
                self.registry.blobs[repository, self.query["mount"][0]] = data
                self.answer(201, Location=f"/v2/{repository}/blobs/{self.query['mount'][0]}")
                return
        name = secrets.token_hex(8)
        self.registry.uploads[name] = bytearray()
        self.at(repository, name, 202)

    def at(self, repository: str, name: str, status: int) -> None:
        last = max(len(self.registry.uploads[name]) - 1, 0)
        self.answer(status, Location=f"/v2/{repository}/blobs/uploads/{name}?state={last}", Range=f"0-{last}")

    def upload(self, repository: str, name: str) -> None:
        kept = self.registry.uploads.get(name)
        if kept is None:
            self.refuse(404, "BLOB_UPLOAD_UNKNOWN")
        elif self.command == "DELETE":
            del self.registry.uploads[name]
            self.answer(204)
        elif self.command == "GET":
            self.at(repository, name, 204)
        elif not self.receive(kept):
            self.refuse(416, "RANGE_INVALID")
        elif self.command == "PATCH":
            self.at(repository, name, 202)
        else:
            self.commit(repository, name, bytes(kept))

    def receive(self, kept: bytearray) -> bool:
        """Keeps what comes as it comes, also if the client goes away."""
        match = re.fullmatch(r"(\d+)-(\d+)", self.headers.get("Content-Range", ""))
        if match and int(match[1]) != len(kept):
            return False
        while self.unread:
            part = self.rfile.read1(min(self.unread, 1 << 16))
            if not part:
                raise ConnectionResetError
            self.unread -= len(part)
            kept += part
        return True

    def commit(self, repository: str, name: str, data: bytes) -> None:
        wanted = self.query["digest"][0]
        del self.registry.uploads[name]
        if digest(data, wanted.partition(":")[0]) != wanted:
            self.refuse(400, "DIGEST_INVALID")
            return
        self.registry.blobs[repository, wanted] = data
        self.answer(201, Docker_Content_Digest=wanted, Location=f"/v2/{repository}/blobs/{wanted}")


ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"/v2/(.+)/manifests/([^/]+)", Handler.manifest),
    (r"/v2/(.+)/blobs/uploads/", Handler.begin),
    (r"/v2/(.+)/blobs/uploads/([^/]+)", Handler.upload),
    (r"/v2/(.+)/blobs/([^/]+)", Handler.blob),
    (r"/v2/(.+)/referrers/([^/]+)", Handler.referrers),
    (r"/v2/", lambda handler: handler.answer(200, b"{}")),
]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is not None:
            with contextlib.suppress(OSError):
                request.settimeout(30)
                with self.context.wrap_socket(request, server_side=True) as secured:
                    super().finish_request(secured, client_address)
            return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none."""


@contextlib.contextmanager
def serve(context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Registry]:
    """A registry at a port of its own; over TLS with a ``context``."""
    registry = Registry(scheme="https" if context else "http")
    server = _Server((host, 0), type("Bound", (Handler,), {"registry": registry}))
    server.context = context
    registry.address = f"{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# -- faults --------------------------------------------------------------------------------------------------------


def times(count: int, part: str, act: Fault, method: str = "GET") -> Fault:
    """``act`` for the first ``count`` requests whose path has ``part``."""
    left = [count]

    def fault(handler: Handler) -> bool:
        if left[0] <= 0 or part not in handler.where or handler.command != method:
            return False
        left[0] -= 1
        return act(handler)

    return fault


def cut_after(data: bytes, size: int) -> Fault:
    """A blob of ``data`` of which ``size`` bytes come, from the offset asked for, before the connection ends."""

    def act(handler: Handler) -> bool:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        end = int(match[2]) + 1 if match and match[2] else len(data)
        handler.send_response(206 if match else 200)
        handler.send_header("Content-Length", str(end - start))
        if match:
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(data[start : min(start + size, end)])
        handler.count(min(size, end - start))
        return handler.cut()

    return act


def stall(until: threading.Event) -> Fault:
    """No answer before ``until``, then the connection ends."""

    def act(handler: Handler) -> bool:
        until.wait(60)
        return handler.cut()

    return act


def trickle(data: bytes, until: threading.Event) -> Fault:
    """A blob that comes at 10 bytes a tenth of a second."""

    def act(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for start in range(0, len(data), 10):
            if until.is_set():
                break
            handler.wfile.write(data[start : start + 10])
            time.sleep(0.1)
        return handler.cut()

    return act


def basic(username: str, secret: str) -> Fault:
    expected = "Basic " + base64.b64encode(f"{username}:{secret}".encode()).decode()

    def fault(handler: Handler) -> bool:
        if handler.headers.get("Authorization") == expected:
            return False
        return handler.refuse(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="registry"')

    return fault


@dataclass(slots=True)
class Tokens:
    """A token server at ``/token`` of the registry, and the check of its tokens: a fault.

    Anonymous clients get tokens if ``anonymous``; ``users`` have secrets, ``refreshes`` are identity tokens by user.
    A token is good for ``uses`` requests. ``told`` has what was asked for: the parameters, and whose token it is.
    """

    users: dict[str, str] = field(default_factory=dict)
    refreshes: dict[str, str] = field(default_factory=dict)
    anonymous: bool = False
    takes_get: bool = True
    takes_anybody: bool = False
    uses: int = 1 << 30
    expires_in: int = 300
    realm: str = ""
    delay: float = 0.0
    told: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)
    given: dict[str, tuple[list[str], int]] = field(default_factory=dict)

    def __call__(self, handler: Handler) -> bool:
        if handler.where == "/token":
            return self.issue(handler)
        scheme, _, token = handler.headers.get("Authorization", "").partition(" ")
        scopes, left = self.given.get(token, ([], 0)) if scheme == "Bearer" else ([], 0)
        wanted, action = self.needed(handler)
        if left and any(scope.startswith(f"repository:{wanted}:") and action in scope for scope in scopes):
            self.given[token] = (scopes, left - 1)
            return False
        realm = self.realm or f"{handler.registry.url}/token"
        challenge = f'Bearer realm="{realm}",service="test",scope="repository:{wanted}:{action}"'
        if left:
            challenge += ',error="insufficient_scope"'
        return handler.refuse(401, "UNAUTHORIZED", WWW_Authenticate=challenge)

    def needed(self, handler: Handler) -> tuple[str, str]:
        match = re.match(r"/v2/(.+)/(?:manifests|blobs|referrers)/", handler.where)
        return match[1] if match else "", "pull" if handler.command in ("GET", "HEAD") else "push"

    def issue(self, handler: Handler) -> bool:
        form = handler.query if handler.command == "GET" else parse_qs(handler.swallow().decode())
        user = self.who(handler, form)
        self.told.append((user or "", form))
        time.sleep(self.delay)
        if handler.command == "GET" and not self.takes_get:
            return handler.refuse(405, "UNSUPPORTED")
        if user is None:
            return handler.refuse(401, "UNAUTHORIZED")
        token = secrets.token_hex(16)
        asked = [scope for text in form.get("scope", []) for scope in text.split()]
        allowed = asked if user or self.takes_anybody else [scope for scope in asked if "push" not in scope]
        self.given[token] = (allowed, self.uses)
        return handler.answer(200, json.dumps({"token": token, "expires_in": self.expires_in}).encode())

    def who(self, handler: Handler, form: dict[str, list[str]]) -> str | None:
        """ "" for anybody, None for one with wrong credentials."""
        name, secret = form.get("username", [""])[0], form.get("password", [""])[0]
        if "refresh_token" in form:
            return next((user for user, token in self.refreshes.items() if token == form["refresh_token"][0]), None)
        if header := handler.headers.get("Authorization"):
            name, _, secret = base64.b64decode(header.partition(" ")[2]).decode().partition(":")
        if not name:
            return "" if self.anonymous else None
        return name if self.users.get(name) == secret else None
