"""The shim's socket: JSON lines in, JSON lines out. Standard library only."""

from __future__ import annotations

import _socket
import os
import select

from plugin_sdk import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plugins_builtin.runtime.loop import Loop

    Message = Mapping[str, object]
    Request = Callable[["Message", "Reply"], None]

_CHUNK = 1 << 16


class Clients:
    """Those connected to ``listener``, which is owned. ``request`` is called with each line and the way to answer it,
    ``left`` when the last client has gone."""

    def __init__(self, loop: Loop, listener: int, request: Request, left: Callable[[], None]) -> None:
        self._loop = loop
        self._listener = _socket.socket(fileno=listener)
        self._listener.setblocking(False)
        self._request = request
        self._left = left
        self._connected: list[Connection] = []
        loop.watch(listener, select.EPOLLIN, self._accept)

    def tell(self, message: Message) -> None:
        """To all who have said hello."""
        for connection in list(self._connected):
            if connection.subscribed:
                connection.send(message)

    def _accept(self, _: int) -> None:
        try:
            fd, _address = self._listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        os.set_blocking(fd, False)
        self._connected.append(Connection(self._loop, fd, self._request, self._gone))

    def _gone(self, connection: Connection) -> None:
        self._connected.remove(connection)
        if not self._connected:
            self._left()


class Connection:
    """One client. What it does not take at once is kept."""

    def __init__(self, loop: Loop, fd: int, request: Request, gone: Callable[[Connection], None]) -> None:
        self.subscribed = False
        self._loop = loop
        self._fd = fd
        self._request = request
        self._gone = gone
        self._in = b""
        self._out = b""
        self._blocked = False
        loop.watch(fd, select.EPOLLIN, self._ready)

    def send(self, message: Message) -> None:
        if self._fd >= 0:
            self._out += lines.encode(message) + b"\n"
            self._flush()

    def _ready(self, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._flush()
        if mask & ~select.EPOLLOUT and self._fd >= 0:
            self._receive()

    def _receive(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        *complete, self._in = (self._in + data).split(b"\n")
        for line in complete:
            message = lines.decode(line)
            if isinstance(message, dict):
                self._request(message, Reply(self, message.get("id")))

    def _flush(self) -> None:
        try:
            self._out = self._out[os.write(self._fd, self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return
        if self._blocked != bool(self._out):
            self._blocked = bool(self._out)
            self._loop.watch(self._fd, select.EPOLLIN | (select.EPOLLOUT if self._out else 0), self._ready)

    def _close(self) -> None:
        if self._fd >= 0:
            self._loop.close(self._fd)
            self._fd = -1
            self._gone(self)


class Reply:
    """The answer to one request, given now or later."""

    __slots__ = ("_id", "connection")

    def __init__(self, connection: Connection, id: object) -> None:
        self.connection = connection
        self._id = id

    def __call__(self, result: Message) -> None:
        self.connection.send({"id": self._id, "result": result})

    def fail(self, code: str, message: str) -> None:
        self.connection.send({"id": self._id, "error": {"code": code, "message": message}})

    def done(self, error: str | None) -> None:
        if error is None:
            self({})
        else:
            self.fail("FailedPrecondition", error)
