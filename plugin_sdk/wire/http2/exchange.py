"""The client's side of a connection, which has one call at a time: in the caller's own threads, with blocking sockets.

No thread tells the frames of one call from those of another, and none wakes another up: of a short call that is most of
the cost. What a server sends ahead waits in the socket, so the windows for it are as large as they can be.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

from plugin_sdk import errors
from plugin_sdk.wire import status
from plugin_sdk.wire.http2 import frames, headers
from plugin_sdk.wire.http2.assembly import Assembler, Limits
from plugin_sdk.wire.http2.frames import PREFIX, PREFIX_SIZE, WORD, Code, ConnectionFailure
from plugin_sdk.wire.http2.headers import is_grpc
from plugin_sdk.wire.http2.reader import Reader
from plugin_sdk.wire.rpc import Lost

_GREETING = (
    frames.PREFACE
    + frames.settings({frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})
    + frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)
)
_SETTINGS_ACK = frames.frame(frames.SETTINGS, frames.ACK, 0)
_OWED = 1 << 30  # bytes received after which a window is given back
_CHUNK, _LARGEST_CHUNK = 64 << 10, 1 << 20  # bytes to receive at once
_LAST_NUMBER = frames.STREAM_MASK - 2

Request = tuple[tuple[headers.Field, ...], Sequence[headers.Field]]
"""The headers of a call: those that come again with others, and those that do not."""

# What gRPC's clients make of statuses and of codes that are not gRPC's.
_OF_HTTP: Mapping[str, type[errors.Error]] = {
    "400": errors.Internal,
    "401": errors.Unauthenticated,
    "403": errors.PermissionDenied,
    "404": errors.Unimplemented,
    **dict.fromkeys(("429", "502", "503", "504"), errors.Unavailable),
}
_OF_RESETS: Mapping[int, type[errors.Error]] = {
    Code.REFUSED_STREAM: Lost,
    Code.CANCEL: errors.Canceled,
    Code.ENHANCE_YOUR_CALM: errors.ResourceExhausted,
}


class Socket(socket.socket):
    """Closes itself without a word: a stream that its caller drops ends so at the server, too."""

    def __del__(self) -> None:
        self.close()


class Exchange:
    """What has come for one call. ``error`` is set at the end, or when it breaks off; ``done`` at the end of either."""

    __slots__ = ("assembler", "begun", "deadline", "done", "error", "messages", "number", "received", "sent", "window")

    def __init__(self, number: int, limits: Limits, deadline: float | None, window: int) -> None:
        self.number = number
        self.assembler = Assembler(limits)
        self.messages: deque[bytes] = deque()
        self.deadline = deadline
        self.window = window  # for what we send
        self.received = 0
        self.begun = self.done = self.sent = False
        self.error: errors.Error | None = None

    def is_late(self) -> bool:
        """Whether the deadline has passed: a server that gives up by then says so in many ways."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def finish(self, error: errors.Error | None) -> None:
        """The first end counts."""
        if not self.done:
            self.done, self.error = True, error


class Connection:
    """``peer`` is how messages call the far end. One thread receives, another may send, and any may cancel."""

    def __init__(self, connected: Socket, peer: str, limits: Limits) -> None:
        self._socket = connected
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._peer = peer
        self._limits = limits
        self._reader = Reader(preface=False)
        self._encoder, self._decoder = headers.Encoder(), headers.Answers()
        self._frame_size = frames.FRAME_SIZE
        self._initial_window = self._window = frames.DEFAULT_WINDOW
        self._received = 0
        self._chunk = _CHUNK
        self._lock = threading.Lock()
        self._grown = threading.Condition(self._lock)
        self._number = -1
        self._current: Exchange | None = None
        self._canceled = False
        self._greeting = _GREETING
        self.usable = True

    # --- calls

    def begin(self, request: Request, deadline: float | None, message: bytes | None = None) -> Exchange:
        """Opens a call with its headers; ``message`` is the only one that is sent. Raises Lost."""
        self._number += 2
        exchange = Exchange(self._number, self._limits, deadline, self._initial_window)
        self._canceled = False
        self._current = exchange
        block = self._encoder.encode(*request)
        head = self._greeting + frames.frame(frames.HEADERS, frames.END_HEADERS, exchange.number, block)
        self._greeting = b""
        if message is None:
            self._send(exchange, head)
            return exchange
        try:
            self._begin_with(exchange, head, message)
        except Lost:  # a server may answer and go before it has been told all: then that is its answer
            while not exchange.done:
                self._receive(exchange)
        return exchange

    def _begin_with(self, exchange: Exchange, head: bytes, message: bytes) -> None:
        self._limits.check_sent(len(message))
        size = PREFIX_SIZE + len(message)
        if size <= min(exchange.window, self._window, self._frame_size):
            self._spend(exchange, size)
            exchange.sent = True
            data = frames.frame(frames.DATA, frames.END_STREAM, exchange.number, PREFIX.pack(0, len(message)) + message)
            self._send(exchange, head + data)
        else:
            self._send(exchange, head)
            self.send(exchange, message, self._receive)
            self.end(exchange)

    def send(self, exchange: Exchange, message: bytes, wait: Callable[[Exchange], object] | None = None) -> None:
        """``wait`` is called until a window has grown. What comes after the server's answer is not sent."""
        self._limits.check_sent(len(message))
        view, at, end = memoryview(message), 0, PREFIX_SIZE + len(message)
        while at < end and not exchange.done:
            room = min(exchange.window, self._window, end - at)
            if room <= 0:
                (wait or self._await_growth)(exchange)
                continue
            self._spend(exchange, room)
            self._send(exchange, b"".join(frames.data_frames(exchange.number, view, at, at + room, self._frame_size)))
            at += room

    def end(self, exchange: Exchange) -> None:
        """Nothing more is sent; nobody needs to be told after the server's answer."""
        if not exchange.done:
            exchange.sent = True
            self._send(exchange, frames.frame(frames.DATA, frames.END_STREAM, exchange.number))

    def receive(self, exchange: Exchange) -> bytes | None:
        """The next message, None after the last. Raises what the server says, Lost, DeadlineExceeded and Canceled."""
        while not exchange.messages:
            if exchange.done:
                if exchange.error is not None:
                    raise self._late() if exchange.is_late() else exchange.error
                return None
            self._receive(exchange)
        return exchange.messages.popleft()

    def release(self, exchange: Exchange) -> bool:
        """The call is over for its caller. Whether another can be made."""
        with self._lock:
            self._current = None
        self.usable = self.usable and exchange.done and exchange.sent and self._number < _LAST_NUMBER
        exchange.finish(_gone())  # for a thread that still sends
        return self.usable

    def cancel(self, exchange: Exchange) -> None:
        """From any thread. The connection ends with it: the server takes that as the caller's going away."""
        with self._lock:
            if self._current is not exchange or exchange.done:
                return
            self._canceled = True
            self._grown.notify_all()
        self.shut_down()

    def shut_down(self) -> None:
        """Whoever waits for the server is told that it has gone."""
        self.usable = False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.usable = False
        self._socket.close()

    def is_alive(self) -> bool:
        """Whether a new call can be made, between two calls: sees to what the server has sent since. Does not block."""
        try:
            while self.usable and self._poll.poll(0):
                self._take()
        except (errors.Error, OSError):
            self.usable = False
        return self.usable

    # --- receiving

    def _receive(self, exchange: Exchange) -> None:
        """Once, and sees to what has come."""
        self._limit(exchange)
        try:
            self._take()
        except TimeoutError:
            raise self._late() from None
        except errors.Error as err:
            exchange.finish(_gone() if self._canceled else err)

    def _limit(self, exchange: Exchange) -> None:
        left = None if exchange.deadline is None else exchange.deadline - time.monotonic()
        if left is not None and left <= 0:
            raise self._late()
        try:
            self._socket.settimeout(left)
        except OSError as err:
            raise self._failed(err) from None

    def _take(self) -> None:
        """Raises Lost and TimeoutError."""
        try:
            data = self._socket.recv(self._chunk)
        except TimeoutError:
            raise
        except ConnectionResetError:  # closed, with something of ours unread
            data = b""
        except OSError as err:
            raise self._lost(err.strerror or str(err)) from err
        if not data:
            raise self._lost("it has closed the connection")
        self._chunk = min(2 * self._chunk, _LARGEST_CHUNK) if len(data) == self._chunk else _CHUNK
        try:
            for kind, flag, number, payload in self._reader.feed(data):
                if kind < len(_HANDLERS):
                    _HANDLERS[kind](self, flag, number, payload)
        except ConnectionFailure as err:
            raise self._lost(f"it does not speak HTTP/2 as it should: {err.reason}") from err

    def _lost(self, reason: str) -> Lost:
        self.usable = False
        return Lost(f'"{self._peer}" does not answer: {reason}')

    def _of(self, number: int) -> Exchange | None:
        """The call that runs, if the frame is for it."""
        exchange = self._current
        return exchange if exchange is not None and exchange.number == number and not exchange.done else None

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        exchange = self._of(number)
        self._owe(len(payload), exchange)
        if exchange is None:
            return
        try:
            exchange.messages.extend(exchange.assembler.feed(frames.without_padding(flags, payload)))
        except errors.Error as err:
            self.usable = False
            exchange.finish(err)
        if flags & frames.END_STREAM:
            exchange.finish(errors.Internal("the server has ended the call without a status"))

    def _owe(self, size: int, exchange: Exchange | None) -> None:
        self._received += size
        if self._received > _OWED:
            self._acknowledge(frames.window_update(0, self._received))
            self._received = 0
        if exchange is not None:
            exchange.received += size
            if exchange.received > _OWED:
                self._acknowledge(frames.window_update(exchange.number, exchange.received))
                exchange.received = 0

    def _on_headers(self, flags: int, number: int, block: bytes) -> None:
        fields = self._decoder.decode(block)  # in any case: later blocks refer to it
        exchange = self._of(number)
        if exchange is None:
            return
        if not exchange.begun:
            code = fields.get(":status", "")
            if code.startswith("1"):
                return
            exchange.begun = True
            if (refused := _refused(code, fields)) is not None:
                self.usable = False
                exchange.finish(refused)
        if flags & frames.END_STREAM:
            exchange.finish(self._said(exchange, fields))

    def _said(self, exchange: Exchange, fields: Mapping[str, str]) -> errors.Error | None:
        """The status of the call."""
        code = fields.get("grpc-status", "")
        if not code.isdecimal():
            return errors.Internal("the server has ended the call without a status")
        if int(code) != status.OK:
            return status.error(int(code), unquote(fields.get("grpc-message", ""), errors="replace"))
        if exchange.assembler.is_within:
            return errors.Internal("the server has ended the call within a message")
        return None

    def _on_rst_stream(self, flags: int, number: int, payload: bytes) -> None:
        exchange = self._of(number)
        if exchange is not None and len(payload) == WORD.size:
            (code,) = WORD.unpack(payload)
            kind = _OF_RESETS.get(code, errors.Internal)
            exchange.finish(kind(f'"{self._peer}" has reset the call with code {code}'))

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        if len(payload) % frames.SETTING.size:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "malformed settings")
        for name, value in frames.SETTING.iter_unpack(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                self._grow(self._current, value - self._initial_window)
                self._initial_window = value
            elif name == frames.HEADER_TABLE_SIZE:
                self._encoder.resize(value)
            elif name == frames.MAX_FRAME_SIZE:
                self._frame_size = min(max(value, frames.FRAME_SIZE), frames.LARGEST_FRAME)
        self._acknowledge(_SETTINGS_ACK)

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self._acknowledge(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        """Calls that the server has not begun are as if they were lost."""
        self.usable = False
        exchange = self._current
        if exchange is not None and len(payload) >= WORD.size and WORD.unpack_from(payload)[0] < exchange.number:
            exchange.finish(self._lost("it takes no more calls"))

    def _on_window_update(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != WORD.size:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "a malformed window update")
        size = WORD.unpack(payload)[0] & frames.STREAM_MASK
        if number:
            self._grow(self._of(number), size)
            return
        with self._lock:
            self._window += size
            self._grown.notify_all()

    def _on_other(self, flags: int, number: int, payload: bytes) -> None:
        """A priority means nothing here; a promise has not been asked for."""

    # --- sending

    def _grow(self, exchange: Exchange | None, size: int) -> None:
        with self._lock:
            if exchange is not None:
                exchange.window += size
            self._grown.notify_all()

    def _spend(self, exchange: Exchange, size: int) -> None:
        with self._lock:
            exchange.window -= size
            self._window -= size

    def _await_growth(self, exchange: Exchange) -> None:
        """In a thread that does not receive."""
        with self._lock:
            if min(exchange.window, self._window) <= 0 and not (exchange.done or self._canceled):
                self._grown.wait(_PATIENCE)
        if self._canceled or not self.usable:
            raise _gone()

    def _send(self, exchange: Exchange, data: bytes) -> None:
        self._limit(exchange)
        self._write(data)

    def _acknowledge(self, data: bytes) -> None:
        """A server that has gone meanwhile may have answered before: what it has sent is still read."""
        try:
            self._write(data)
        except errors.Error:
            self.usable = False

    def _write(self, data: bytes) -> None:
        try:
            with self._lock:
                self._socket.sendall(data)
        except TimeoutError:
            raise self._late() from None
        except OSError as err:
            raise self._failed(err) from None

    def _late(self) -> errors.DeadlineExceeded:
        self.usable = False
        return errors.DeadlineExceeded(f'"{self._peer}" does not answer: the call has timed out')

    def _failed(self, err: OSError) -> errors.Error:
        """The socket does not work any more."""
        return _gone() if self._canceled else self._lost(err.strerror or str(err))


_PATIENCE = 1.0  # seconds after which a thread that waits for a window looks whether the call still runs

_HANDLERS: Sequence[Callable[[Connection, int, int, bytes], None]] = (
    Connection._on_data,
    Connection._on_headers,
    Connection._on_other,
    Connection._on_rst_stream,
    Connection._on_settings,
    Connection._on_other,
    Connection._on_ping,
    Connection._on_goaway,
    Connection._on_window_update,
)


def _refused(code: str, fields: Mapping[str, str]) -> errors.Error | None:
    """Why this is no answer of gRPC."""
    kind = fields.get("content-type", "")
    if code != "200":
        return _OF_HTTP.get(code, errors.Unknown)(f"the server answers with the HTTP status {code}")
    if not is_grpc(kind):
        return errors.Unknown(f'the server answers with the content type "{kind}"')
    return None


def _gone() -> errors.Canceled:
    return errors.Canceled("the caller has gone away")
