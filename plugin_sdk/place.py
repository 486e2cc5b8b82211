"""Where a program listens: a unix socket with its rights, TCP with TLS, or what the service manager hands over."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plugin_sdk import errors, systemd
from plugin_sdk.wire import address as address_
from plugin_sdk.wire.http2.server import Server


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM, for a TCP address: the program's certificate with its key, and what the certificates of those who
    may call are signed by."""

    cert: str
    key: str
    ca: str

    def context(self) -> ssl.SSLContext:
        """Raises FailedPrecondition for a file that cannot be used, by name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        with _named(f"certificate {self.cert} with key {self.key}"):
            context.load_cert_chain(self.cert, self.key)
        with _named(f"client CA {self.ca}"):
            context.load_verify_locations(self.ca)
        return context


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise errors.FailedPrecondition(f"{what} cannot be used: {err.strerror}") from err


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program listens. Owner and mode are for a unix socket, ``tls`` for a TCP address.

    An empty address: the sockets that the service manager hands over, which go before any other."""

    address: str = ""
    uid: int = 0
    gid: int = 0
    mode: int = 0o600
    tls: Tls | None = None

    def check(self) -> None:
        """Raises InvalidArgument for a malformed address, and for TLS where it is not, or is not where it must be."""
        if not self.address:
            return
        _, is_path = address_.split(self.address)
        if is_path and self.tls is not None:
            raise errors.InvalidArgument(f'address "{self.address}" is a socket, which has no TLS')
        if not is_path and self.tls is None:
            raise errors.InvalidArgument(f'address "{self.address}" is TCP, which needs TLS: certificate, key and CA')

    def listen(self, server: Server) -> str:
        """Answers where, for people. Raises FailedPrecondition when another server lives there, and for what cannot
        be used."""
        tls = self.tls.context() if self.tls is not None else None
        inherited = systemd.listeners()
        for listener in inherited:
            server.adopt(_checked(listener, tls), None if listener.family == socket.AF_UNIX else tls)
        if inherited:
            return ", ".join(str(listener.getsockname()) for listener in inherited)
        target, is_path = address_.split(self.address)
        if is_path:
            _make_parent(target)
        server.listen(self.address, uid=self.uid, gid=self.gid, mode=self.mode, tls=tls)
        return self.address


def _checked(listener: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
    """Raises FailedPrecondition for what no calls can come from, or those of anybody."""
    if listener.type != socket.SOCK_STREAM:
        raise errors.FailedPrecondition("what the service manager hands over is no stream socket")
    if listener.family != socket.AF_UNIX and tls is None:
        raise errors.FailedPrecondition("the service manager hands over TCP, which needs TLS: certificate, key and CA")
    return listener


def _make_parent(path: str) -> None:
    parent = Path(path).parent
    try:
        parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as err:
        raise errors.FailedPrecondition(f"directory {parent} of the socket cannot be made: {err.strerror}") from err
