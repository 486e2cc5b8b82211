"""The server: sockets, and the connections that come in by them. Interface and semantics of ``transport.Server``."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable

from plugin_sdk import errors
from plugin_sdk.scope import Scope
from plugin_sdk.wire import address as address_
from plugin_sdk.wire import edge, rpc
from plugin_sdk.wire.http2.assembly import MAX_MESSAGE, Limits
from plugin_sdk.wire.http2.connection import Connection
from plugin_sdk.wire.http2.routes import Routes

_BACKLOG = 1024
_PATIENCE = 2.0  # seconds that cancelled calls have to end


class Server:
    """Made, used and stopped within one event loop."""

    def __init__(
        self,
        lane: Callable[[str], edge.Lane],
        check_lease: Callable[[Scope], None] | None = None,
        *,
        max_receive: int = MAX_MESSAGE,
        max_send: int = MAX_MESSAGE,
    ) -> None:
        """``max_receive`` and ``max_send`` bound a message, in bytes."""
        self._routes = Routes(edge.Edge(lane, check_lease))
        self._limits = Limits(max_receive, max_send)
        self._sockets: list[tuple[socket.socket, ssl.SSLContext | None]] = []
        self._paths: list[tuple[str, int]] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()

    def mount(self, servicer: rpc.Servicer) -> None:
        """Also while serving. A method without handler answers Unimplemented."""
        self._routes.mount(servicer)

    def listen(
        self, address: str, *, uid: int = 0, gid: int = 0, mode: int = 0o660, tls: ssl.SSLContext | None = None
    ) -> int:
        """Answers the port of TCP, 0 for a unix socket; owner and mode are for the latter, ``tls`` for the former.

        A socket that a dead server left is replaced. Raises FailedPrecondition when one lives there or the address
        cannot be used."""
        target, is_path = address_.split(address)
        if not is_path:
            listener = _listen_tcp(target)
            self._sockets.append((listener, tls))
            return int(listener.getsockname()[1])
        with address_.owned(target, uid, gid, mode):
            self._sockets.append((_listen_unix(target), None))
        self._paths.append((target, os.stat(target).st_ino))
        return 0

    def adopt(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """A socket that whoever started the process has bound; its path stays at the end."""
        self._sockets.append((listener, tls))

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for listener, tls in self._sockets:
            self._servers.append(await loop.create_server(self._connect, sock=listener, backlog=_BACKLOG, ssl=tls))

    def _connect(self) -> Connection:
        return Connection(self._routes, self._limits, self._connections)

    async def stop(self, grace: float = 0.0, *, streams: float | None = None) -> None:
        """Takes no more calls, gives those that run ``grace`` seconds, cancels the rest, removes its sockets.

        Streams, which may be open for ever, have ``streams`` seconds if that is less."""
        for server in self._servers:
            server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.go_away()
        if streams is not None and streams < grace:
            await _ended(connections, streams)
            grace -= streams
            for connection in connections:
                connection.break_off(streams_only=True)
        await _ended(connections, grace)
        for connection in connections:
            connection.break_off()
        await _ended(connections, _PATIENCE)
        await _closed(connections)
        self._remove()

    def _remove(self) -> None:
        for listener, _ in self._sockets:
            listener.close()
        for path, inode in self._paths:
            address_.unlink(path, inode)
        self._paths.clear()


async def _ended(connections: list[Connection], timeout: float) -> None:
    """Waits for calls to end."""
    tasks = [task for connection in connections for task in connection.tasks]
    if tasks and timeout:
        await asyncio.wait(tasks, timeout=timeout)


async def _closed(connections: list[Connection]) -> None:
    """A call that has not ended although it was cancelled waits for its thread: it is cancelled again, and does not."""
    for task in [task for connection in connections for task in connection.tasks]:
        task.cancel()
    for connection in connections:
        connection.close()
    lost = [connection.lost for connection in connections]
    if lost:
        await asyncio.wait(lost)


def _listen_unix(path: str) -> socket.socket:
    return _bound(socket.socket(socket.AF_UNIX), path, path)


def _listen_tcp(target: str) -> socket.socket:
    host, colon, port = target.rpartition(":")
    if not (colon and port.isdigit()):
        raise errors.InvalidArgument(f'address "{target}": neither a path nor host:port')
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as err:
        raise errors.FailedPrecondition(f'cannot listen on "{target}": {err.strerror}') from err
    family, kind, protocol, _, place = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _bound(listener, target, place)


def _bound(listener: socket.socket, target: str, place: object) -> socket.socket:
    try:
        listener.bind(place)  # type: ignore[arg-type]
    except OSError as err:
        listener.close()
        raise errors.FailedPrecondition(f'cannot listen on "{target}": {err.strerror}') from err
    return listener
