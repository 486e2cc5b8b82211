"""One call on a connection: its messages in and out, within the windows. RFC 9113, sections 5.1, 5.2 and 8.1."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from plugin_sdk import errors
from plugin_sdk.wire import status
from plugin_sdk.wire.http2 import frames, headers
from plugin_sdk.wire.http2.assembly import Assembler, Limits, is_whole
from plugin_sdk.wire.http2.frames import HEADERS, PREFIX_SIZE, Code, StreamFailure

if TYPE_CHECKING:
    from plugin_sdk.wire.http2.routes import Route

WINDOW = 1 << 20
"""What a client may send ahead of the handler; a message that is longer is let in while it is assembled."""

_BATCH = 256 << 10  # bytes of one message that are written in one step
_INTERNAL = status.CODES[errors.Internal]

_BEGIN = (0, len(headers.BEGIN), HEADERS, frames.END_HEADERS)
_END = (0, len(headers.OK), HEADERS, frames.END_HEADERS | frames.END_STREAM)


class Connection(Protocol):
    """What a stream needs of its connection."""

    limits: Limits
    send_window: int
    frame_size: int
    paused: bool

    def write(self, data: bytes) -> None: ...

    def forget(self, stream: Stream) -> None:
        """The stream has been closed."""
        ...

    async def writable(self, stream: Stream) -> None:
        """Returns when a window may have grown, or the socket takes more."""
        ...


class Stream:
    """``timeout`` is the caller's, in seconds from the arrival of its headers."""

    __slots__ = (
        "_assembler",
        "_begun",
        "_connection",
        "_messages",
        "_receive_window",
        "_waiter",
        "closed",
        "ended",
        "headers",
        "id",
        "peer",
        "route",
        "send_window",
        "task",
        "timeout",
        "timer",
    )

    def __init__(
        self, connection: Connection, id: int, headers: Mapping[str, str], peer: Callable[[], str], send_window: int
    ) -> None:
        self._connection = connection
        self._assembler: Assembler | None = None
        self._messages: deque[bytes] = deque()
        self._receive_window = WINDOW
        self._waiter: asyncio.Future[None] | None = None
        self._begun = False
        self.id = id
        self.headers = headers
        self.peer = peer
        self.send_window = send_window
        self.route: Route | None = None
        self.timeout: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.ended = False  # the client has sent all
        self.closed = False  # we have, or somebody has given up

    # What the client sends

    def receive(self, data: bytes, size: int, end: bool) -> None:
        """``size`` counts the padding too. Raises StreamFailure, Internal when the end cuts a message, and what
        ``Assembler.feed`` does."""
        self._receive_window -= size
        if self._receive_window < 0:
            raise StreamFailure(Code.FLOW_CONTROL_ERROR)
        if self.ended:
            raise StreamFailure(Code.STREAM_CLOSED)
        self.ended = end
        if data:
            self._take_apart(data)
        if end and self._assembler is not None and self._assembler.is_within:
            raise errors.Internal("the stream ends within a message")
        self._acknowledge()
        self._wake()

    def _take_apart(self, data: bytes) -> None:
        if self._assembler is None and is_whole(data):
            self._connection.limits.check_received(len(data) - PREFIX_SIZE)
            self._messages.append(data[PREFIX_SIZE:])
        else:
            if self._assembler is None:
                self._assembler = Assembler(self._connection.limits)
            self._messages.extend(self._assembler.feed(data))

    def _acknowledge(self) -> None:
        """Gives the client its window back, unless a message waits for the handler."""
        owed = WINDOW - self._receive_window
        if owed >= WINDOW // 2 and not (self._messages or self.ended or self.closed):
            self._receive_window = WINDOW
            self._connection.write(frames.window_update(self.id, owed))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> bytes:
        """The message of a call that has one. Raises Internal when it has none or more."""
        if len(self._messages) != 1:
            raise errors.Internal(f"the call has {len(self._messages)} requests instead of one")
        return self._messages.popleft()

    async def next(self) -> bytes | None:
        """The next message, None after the last one."""
        while not self._messages:
            if self.ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._messages.popleft()
        self._acknowledge()
        return message

    # What we send

    async def answer(self, message: bytes) -> None:
        """The only message, and the end: one write when the windows allow it."""
        self._connection.limits.check_sent(len(message))
        if not self._answer_at_once(message):
            await self.send(message)
            self.end()

    def _answer_at_once(self, message: bytes) -> bool:
        size = PREFIX_SIZE + len(message)
        connection = self._connection
        if connection.paused or size > min(self.send_window, connection.send_window, _BATCH):
            return False
        if not self.closed:
            self.send_window -= size
            connection.send_window -= size
            begin = frames.HEADER.pack(*_BEGIN, self.id)
            data = frames.data_frames(self.id, memoryview(message), 0, size, connection.frame_size)
            end = frames.HEADER.pack(*_END, self.id)
            self._close(b"".join((begin, headers.BEGIN, *data, end, headers.OK)))
        return True

    async def send(self, message: bytes) -> None:
        """Returns when the socket has it all, or the loop does. Raises ResourceExhausted for a message that is too
        large, Canceled when the call is over."""
        self._connection.limits.check_sent(len(message))
        view, at, end = memoryview(message), 0, PREFIX_SIZE + len(message)
        while at < end:
            if self.closed:
                raise errors.Canceled("the caller has gone away")
            room = min(self.send_window, self._connection.send_window, _BATCH, end - at)
            if room <= 0 or self._connection.paused:
                await self._connection.writable(self)
            else:
                self._send(view, at, at + room)
                at += room

    def _send(self, message: memoryview, begin: int, end: int) -> None:
        self.send_window -= end - begin
        self._connection.send_window -= end - begin
        data = frames.data_frames(self.id, message, begin, end, self._connection.frame_size)
        self._connection.write(b"".join((self._beginning(), *data)))

    def _beginning(self) -> bytes:
        """The headers of the answer, once."""
        if self._begun:
            return b""
        self._begun = True
        return frames.frame(HEADERS, frames.END_HEADERS, self.id, headers.BEGIN)

    def end(self, code: int = status.OK, message: str = "") -> None:
        """The status of the call; the first one counts."""
        if self.closed:
            return
        if code == status.OK:
            self._close(self._beginning() + self._last(headers.OK))
        else:
            block = headers.trailers(code, message)
            self._close(self._last(block if self._begun else headers.BEGIN + block))

    def refuse(self, http_status: int, message: str) -> None:
        """The answer to what is not gRPC."""
        self._close(self._last(headers.refusal(http_status, _INTERNAL, message)))

    def _last(self, block: bytes) -> bytes:
        return frames.frame(HEADERS, frames.END_HEADERS | frames.END_STREAM, self.id, block)

    def _close(self, data: bytes) -> None:
        if not self.ended:  # what is still to come is not wanted; section 8.1
            data += frames.rst_stream(self.id, Code.NO_ERROR)
        self._connection.write(data)
        self._leave()

    def expire(self) -> None:
        """The caller's deadline has passed."""
        self.end(status.CODES[errors.DeadlineExceeded], "the caller's deadline has passed")
        self._cancel()

    def break_off(self, code: int, message: str) -> None:
        """Ends it from our side although it runs."""
        self.end(code, message)
        self._cancel()

    def abandon(self) -> None:
        """The client does not want it any more, or is gone: nothing is sent."""
        if not self.closed:
            self._leave()
        self._cancel()

    def _leave(self) -> None:
        self.closed = True
        if self.timer is not None:
            self.timer.cancel()
        self._connection.forget(self)

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()
