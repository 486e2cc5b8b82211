"""One connection: takes frames apart, and keeps what all its streams share. RFC 9113, sections 3.4 to 6.10."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import cast

from plugin_sdk import errors
from plugin_sdk.wire import status
from plugin_sdk.wire.http2 import frames, headers
from plugin_sdk.wire.http2.assembly import Limits
from plugin_sdk.wire.http2.frames import WORD, Code, ConnectionFailure, StreamFailure
from plugin_sdk.wire.http2.reader import Reader
from plugin_sdk.wire.http2.routes import Route, Routes
from plugin_sdk.wire.http2.stream import WINDOW, Stream

MAX_STREAMS = 10_000
MAX_UNREAD = 4 << 20
"""Bytes that may wait for a client that does not read, of what is no message: those wait in their calls."""

PATIENCE = 2.0
"""Seconds that a client has to read what has been written for it when the connection closes."""

_CONNECTION_WINDOW = 16 << 20
_SOCKET_BUFFER = 256 << 10  # bytes that wait for the socket before streams pause
_PING_DELAY = 0.01  # seconds
_MOST_HELD = 4096
_UNAVAILABLE = status.CODES[errors.Unavailable]

_GREETING = frames.settings(
    {
        frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        frames.INITIAL_WINDOW_SIZE: WINDOW,
        frames.MAX_HEADER_LIST_SIZE: headers.MAX_BLOCK,
    }
) + frames.window_update(0, _CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
_SETTINGS_ACK = frames.frame(frames.SETTINGS, frames.ACK, 0)

_log = logging.getLogger("corten.http2")


class Connection(asyncio.Protocol):
    def __init__(self, routes: Routes, limits: Limits, connections: set[Connection]) -> None:
        self._routes = routes
        self._connections = connections
        self.limits = limits
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._decoder = headers.Decoder()
        self._streams: dict[int, Stream] = {}
        self._blocked: dict[int, asyncio.Future[None]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._leaving = self._over = False
        self._last = 0
        self._out: list[bytes] | None = None  # what to write when the bytes that came have been seen
        self._held, self._holds = b"", False
        self._receive_window = _CONNECTION_WINDOW
        self._initial_window = frames.DEFAULT_WINDOW
        self.send_window = frames.DEFAULT_WINDOW
        self.frame_size = frames.FRAME_SIZE
        self.paused = False

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_SOCKET_BUFFER)
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._connections.add(self)
        self._transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._out = []
        goes_on = self._take(data)
        out, self._out = self._out, None
        if out:
            self._send(b"".join(out))
        if not goes_on:
            self.close()

    def _take(self, data: bytes) -> bool:
        """Whether the connection goes on."""
        try:
            for kind, flags, number, payload in self._reader.feed(data):
                self._frame(kind, flags, number, payload)
        except ConnectionFailure as err:
            self._fail(err)
            return False
        return True

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._wake_all()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._connections.discard(self)
        self._abandon_all()
        self.lost.set_result(None)

    # Frames

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind >= len(_HANDLERS):
            return  # section 4.1: unknown ones are ignored
        try:
            _HANDLERS[kind](self, flags, number, payload)
        except StreamFailure as err:
            self._reset(number, err.code)
        except errors.Error as err:
            if number in self._streams:
                self._streams[number].break_off(status.code(err), err.message)

    def _reset(self, number: int, code: Code) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            stream.abandon()
        self.write(frames.rst_stream(number, code))

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._take_window(size)
        stream = self._stream(number)
        payload = frames.without_padding(flags, payload)
        if stream is not None:
            stream.receive(payload, size, bool(flags & frames.END_STREAM))
            self._start_if_ended(stream)

    def _take_window(self, size: int) -> None:
        """The window of the connection is given back at once: those of the streams hold clients back."""
        self._receive_window -= size
        if self._receive_window < 0:
            raise ConnectionFailure(Code.FLOW_CONTROL_ERROR, "more data than the connection's window")
        owed = _CONNECTION_WINDOW - self._receive_window
        if owed >= _CONNECTION_WINDOW // 4:
            self._receive_window = _CONNECTION_WINDOW
            self.write(frames.window_update(0, owed))

    def _stream(self, number: int) -> Stream | None:
        """None when it is over. Raises ConnectionFailure when it has never been opened; section 5.1.1."""
        if number > self._last or not number & 1:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, f"stream {number} is not open")
        return self._streams.get(number)

    def _on_headers(self, flags: int, number: int, block: bytes) -> None:
        if not number & 1:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, f"clients do not open stream {number}")
        request, ends = self._decoder.decode(block), bool(flags & frames.END_STREAM)
        stream = self._streams.get(number)
        if stream is not None and ends:
            stream.receive(b"", 0, True)  # the client's trailers
        elif number > self._last:
            stream = self._open(number, request, ends)
        elif not ends:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, f"stream {number} is opened again")
        if stream is not None:
            self._start_if_ended(stream)

    def _on_priority(self, flags: int, number: int, payload: bytes) -> None:
        if number == 0:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "a priority of the connection")
        if len(payload) != frames.PRIORITY_SIZE:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "a malformed priority")

    def _on_rst_stream(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "a malformed reset")
        stream = self._stream(number)
        if stream is not None:
            stream.abandon()

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "settings of a stream")
        if len(payload) % frames.SETTING.size or (flags & frames.ACK and payload):
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "malformed settings")
        if not flags & frames.ACK:
            for name, value in frames.SETTING.iter_unpack(payload):
                self._set(name, value)
            self.write(_SETTINGS_ACK)

    def _set(self, name: int, value: int) -> None:
        if name == frames.INITIAL_WINDOW_SIZE:
            if value > frames.LARGEST_WINDOW:
                raise ConnectionFailure(Code.FLOW_CONTROL_ERROR, f"a window of {value} bytes")
            self._grow_all(value - self._initial_window)
            self._initial_window = value
        elif name == frames.MAX_FRAME_SIZE:
            if not frames.FRAME_SIZE <= value <= frames.LARGEST_FRAME:
                raise ConnectionFailure(Code.PROTOCOL_ERROR, f"frames of {value} bytes")
            self.frame_size = value
        elif name == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, f"a push of {value}")

    def _on_push_promise(self, flags: int, number: int, payload: bytes) -> None:
        raise ConnectionFailure(Code.PROTOCOL_ERROR, "clients promise nothing")

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "a ping of a stream")
        if len(payload) != 8:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "a malformed ping")
        if not flags & frames.ACK:
            self._hold(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "a farewell of a stream")

    def _on_window_update(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "a malformed window update")
        size = WORD.unpack(payload)[0] & frames.STREAM_MASK
        if number:
            stream = self._stream(number)
            if size == 0:
                raise StreamFailure(Code.PROTOCOL_ERROR)
            if stream is not None:
                self._grow(stream, size)
            return
        self.send_window += size
        if size == 0:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "a window update of 0 bytes")
        if self.send_window > frames.LARGEST_WINDOW:
            raise ConnectionFailure(Code.FLOW_CONTROL_ERROR, "the window is too large")
        self._wake_all()

    def _grow(self, stream: Stream, size: int) -> None:
        stream.send_window += size
        if stream.send_window > frames.LARGEST_WINDOW:
            raise StreamFailure(Code.FLOW_CONTROL_ERROR)
        self._wake(stream.id)

    def _grow_all(self, size: int) -> None:
        """Also by less than nothing; section 6.9.2."""
        try:
            for stream in self._streams.values():
                self._grow(stream, size)
        except StreamFailure as err:
            raise ConnectionFailure(err.code, "the windows are too large") from None

    # Streams

    def _open(self, number: int, request: headers.Request, ends: bool) -> Stream | None:
        self._last = number
        if self._leaving:
            return None  # the client has been told; section 6.8
        if max(len(self._streams), len(self.tasks)) >= MAX_STREAMS:  # calls that were reset may still be running
            raise StreamFailure(Code.REFUSED_STREAM)
        stream = Stream(self, number, request.headers, self.peer, self._initial_window)
        stream.ended = ends
        self._streams[number] = stream
        self._admit(stream, request)
        return stream

    def _admit(self, stream: Stream, request: headers.Request) -> None:
        """Raises Unimplemented for an unknown path, Internal for a malformed timeout."""
        content_type = request.headers.get("content-type", "")
        if request.method != "POST":
            return stream.refuse(405, f'method "{request.method}" is not POST')
        if not headers.is_grpc(content_type):
            return stream.refuse(415, f'invalid gRPC request content-type "{content_type}"')
        stream.route = route = self._routes.find(request.path)
        timeout = request.headers.get("grpc-timeout")
        if timeout is not None:
            stream.timeout = headers.timeout(timeout)
            stream.timer = self._loop.call_later(stream.timeout, stream.expire)
        if route.takes_stream:
            self._start(stream, route)
        return None

    def _start_if_ended(self, stream: Stream) -> None:
        """A call with one request begins when that is complete."""
        if stream.ended and stream.task is None and stream.route is not None and not stream.closed:
            self._start(stream, stream.route)

    def _start(self, stream: Stream, route: Route) -> None:
        stream.task = task = self._loop.create_task(route.serve(stream))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def forget(self, stream: Stream) -> None:
        self._streams.pop(stream.id, None)
        self._wake(stream.id)
        if self._leaving and not self._streams:
            self._loop.call_soon(self.close)

    def peer(self) -> str:
        name = self._transport.get_extra_info("peername")
        if not isinstance(name, tuple):
            return "unix:"
        host, port = name[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    # Writing

    def write(self, data: bytes) -> None:
        if self._out is not None:
            self._out.append(data)
        else:
            self._send(data)

    def _send(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self.paused and self._transport.get_write_buffer_size() > MAX_UNREAD:
            _log.debug("connection of %s: it asks and does not read", self.peer())
            self._over = True
            self._transport.abort()

    def _hold(self, data: bytes) -> None:
        """Sent with what is written next, or soon: clients ping after each answer to measure their bandwidth, and both
        sides would wake up for that alone."""
        self._held += data
        if len(self._held) > _MOST_HELD:
            self._send(b"")
        elif not self._holds:
            self._holds = True
            self._loop.call_later(_PING_DELAY, self._release)

    def _release(self) -> None:
        self._holds = False
        if self._held:
            self._send(b"")

    async def writable(self, stream: Stream) -> None:
        waiter = self._blocked[stream.id] = self._loop.create_future()
        try:
            await waiter
        finally:
            self._blocked.pop(stream.id, None)

    def _wake(self, number: int) -> None:
        waiter = self._blocked.get(number)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake_all(self) -> None:
        for waiter in self._blocked.values():
            if not waiter.done():
                waiter.set_result(None)

    # The end

    def _fail(self, err: ConnectionFailure) -> None:
        _log.debug("connection of %s: %s", self.peer(), err)
        self.write(frames.goaway(self._last, err.code, err.reason))
        self._abandon_all()

    def _abandon_all(self) -> None:
        for stream in list(self._streams.values()):
            stream.abandon()

    def go_away(self) -> None:
        """Takes no more calls; closes when those that run have ended."""
        if not (self._leaving or self._over):
            self.write(frames.goaway(self._last, Code.NO_ERROR))
            self._leaving = True
            if not self._streams:
                self.close()

    def break_off(self, *, streams_only: bool = False) -> None:
        """Ends the calls that run; ``streams_only`` leaves those with one request and one answer."""
        for stream in list(self._streams.values()):
            if not (streams_only and stream.route is not None and stream.route.is_unary):
                stream.break_off(_UNAVAILABLE, "the server is stopping")

    def close(self) -> None:
        """What has been written is sent first, if the client reads."""
        self._over = True
        if not self._transport.is_closing():
            self._transport.close()
            self._loop.call_later(PATIENCE, self._transport.abort)


_HANDLERS: Sequence[Callable[[Connection, int, int, bytes], None]] = (
    Connection._on_data,
    Connection._on_headers,
    Connection._on_priority,
    Connection._on_rst_stream,
    Connection._on_settings,
    Connection._on_push_promise,
    Connection._on_ping,
    Connection._on_goaway,
    Connection._on_window_update,
)
