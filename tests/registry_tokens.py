"""A token server, as the token authentication of registries needs one: it signs JSON web tokens.

See https://distribution.github.io/distribution/spec/auth/token and /oauth.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from tests import certificates

SERVICE = "registry.test"
ISSUER = "issuer.test"
LIFETIME = 300  # seconds


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a token. ``by`` is basic, password, refresh_token or anonymous; ``status`` the answer."""

    method: str
    by: str
    user: str
    scopes: tuple[str, ...]
    status: int


@dataclass(slots=True)
class Tokens:
    """A running server. ``users`` are passwords by name; those of ``readers`` may only pull.

    ``anonymous`` gives tokens for pulling to everyone; ``posts`` is whether POST is known, else it is 405. ``issued``
    has all tokens, of both kinds.
    """

    certificates: certificates.Files
    users: Mapping[str, str]
    readers: tuple[str, ...] = ()
    anonymous: bool = False
    posts: bool = True
    asked: list[Asked] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)
    refreshing: dict[str, str] = field(default_factory=dict)
    port: int = 0

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    def identity(self, user: str) -> str:
        """An identity token of ``user``: what a client exchanges for bearer tokens."""
        token = secrets.token_urlsafe(24)
        self.refreshing[token] = user
        self.issued.append(token)
        return token

    def sign(self, user: str, scopes: tuple[str, ...]) -> str:
        now = int(time.time())
        access = [one for scope in scopes if (one := self._access(user, scope))["actions"]]
        claims = {"iss": ISSUER, "sub": user, "aud": SERVICE, "access": access, "jti": secrets.token_hex(8)}
        times = {"iat": now, "nbf": now - 60, "exp": now + LIFETIME}
        certificate = x509.load_pem_x509_certificate(self.certificates.server.read_bytes())
        chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
        text = f"{_part({'typ': 'JWT', 'alg': 'ES256', 'x5c': chain})}.{_part({**claims, **times})}"
        key = serialization.load_pem_private_key(self.certificates.server_key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        r, s = utils.decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        token = f"{text}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
        self.issued.append(token)
        return token

    def _access(self, user: str, scope: str) -> dict[str, object]:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        only_pull = user in self.readers or not user
        allowed = [one for one in actions.split(",") if one == "pull" or not only_pull]
        return {"type": kind, "name": name, "actions": allowed if user or self.anonymous else []}


@contextlib.contextmanager
def serving(tokens: Tokens) -> Iterator[Tokens]:
    class Handler(_Handler):
        server_of = tokens

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        tokens.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield tokens
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_of: Tokens

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        user, by, allowed = self._basic()
        self._answer(by, user, query, allowed, "offline_token" in query)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        by = form.get("grant_type", [""])[0]
        if not self.server_of.posts:
            self._answer(by, "", form, False, False, 405)
        elif by == "refresh_token":
            user = self.server_of.refreshing.get(form["refresh_token"][0], "")
            self._answer(by, user, form, bool(user), True)
        else:
            user = form["username"][0]
            allowed = self.server_of.users.get(user) == form["password"][0]
            self._answer(by, user, form, allowed, form.get("access_type") == ["offline"])

    def _basic(self) -> tuple[str, str, bool]:
        header = self.headers.get("Authorization", "")
        if not header:
            return "", "anonymous", True
        user, _, secret = base64.b64decode(header.partition(" ")[2]).decode().partition(":")
        return user, "basic", self.server_of.users.get(user) == secret

    def _answer(
        self, by: str, user: str, query: Mapping[str, list[str]], allowed: bool, offline: bool, refusal: int = 401
    ) -> None:
        scopes = tuple(one for text in query.get("scope", []) for one in text.split())
        status = 200 if allowed else refusal
        self.server_of.asked.append(Asked(self.command, by, user, scopes, status))
        answer: dict[str, Any] = {"errors": [{"code": "UNAUTHORIZED"}]}
        if allowed:
            token = self.server_of.sign(user, scopes)
            answer = {"token": token, "access_token": token, "expires_in": LIFETIME}
            if offline and user:
                answer["refresh_token"] = self.server_of.identity(user)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: ``asked`` tells."""


def _part(value: object) -> str:
    return _encoded(json.dumps(value).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
