"""Bytes within a stream, as files: ``Data`` that is sent against credit, which the receiver gives by ``WindowUpdate``.

containerd's peers send 32 KiB at once, and as receivers keep a credit of 64 KiB or more: they give 64 KiB whenever less
is left. A receiver that gives more at once also takes larger messages.
"""

from __future__ import annotations

import io
from typing import Protocol

from plugin_sdk import errors
from plugin_sdk.api.types.transfer import streaming_pb2
from plugin_sdk.runtime import Any
from plugin_sdk.wire import streaming

CHUNK = 32 << 10
WINDOW = 64 << 10
"""containerd's."""

_OURS = 4 << 20  # the credit that we keep up
_LARGEST = 512 << 10  # bytes of one message
_PATIENCE = 2.0  # seconds for a receiver to give the credit that tells that it has everything


class Reader(io.RawIOBase):
    """What the other side writes; ends when that closes its half. Raises what the stream does."""

    def __init__(self, stream: streaming.Stream) -> None:
        self._stream = stream
        self._credit = 0
        self._rest = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest and not self._ended:
            self._receive()
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def _receive(self) -> None:
        if self._credit <= _OURS // 2:
            grant = _OURS - self._credit
            self._stream.send(streaming.pack(streaming_pb2.WindowUpdate(update=grant)))
            self._credit += grant
        message = self._stream.receive()
        if message is None:
            self._ended = True
        else:
            self._rest = memoryview(streaming.unpack(message, streaming_pb2.Data).data)
            self._credit -= len(self._rest)


def reader(stream: streaming.Stream) -> io.BufferedReader:
    return io.BufferedReader(Reader(stream), _LARGEST)


class Writer(io.RawIOBase):
    """What the other side reads. ``finish`` ends it; a mere ``close`` leaves out what is still held here."""

    _kept = 0  # bytes to hold back until the end

    def __init__(self, stream: streaming.Stream) -> None:
        self._stream = stream
        self._held = bytearray()
        self._credit = 0
        self._chunk = CHUNK

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _LARGEST):
            self._held += view[at : at + _LARGEST]
            if len(self._held) >= self._kept + self._chunk:  # a message is worth its cost
                self._send_down_to(self._kept)
        return len(view)

    def _send_down_to(self, left: int) -> None:
        while len(self._held) > left:
            while not self._credit:
                self._take(self._stream.receive())
            self._send(min(self._chunk, self._credit, len(self._held) - left))

    def _send(self, size: int) -> None:
        self._stream.send(streaming.pack(streaming_pb2.Data(data=bytes(memoryview(self._held)[:size]))))
        self._credit -= size
        del self._held[:size]

    def _take(self, message: Any | None) -> None:
        if message is None:
            raise errors.Canceled("the receiver of a stream of bytes has gone away")
        update = streaming.unpack(message, streaming_pb2.WindowUpdate).update
        self._credit += max(0, update)
        if update > WINDOW:
            self._chunk = max(CHUNK, min(_LARGEST, update // 4))

    def finish(self) -> None:
        """Sends the rest and closes the stream."""
        self._send_down_to(0)
        self._stream.close()


class Waiting(streaming.Stream, Protocol):
    def receive(self, timeout: float | None = None) -> Any | None: ...


class AckedWriter(Writer):
    """One whose ``finish`` returns when a receiver like containerd's has everything: such a one may end, with what it
    has not yet received, as soon as it is told that the transfer has been done.

    The last bytes go as one message that brings the receiver's credit below what it keeps up, so that it gives credit
    once more; that is the acknowledgement.
    """

    _kept = WINDOW

    def __init__(self, stream: Waiting) -> None:
        super().__init__(stream)
        self._waiting = stream

    def finish(self) -> None:
        self._send_down_to(self._kept)
        last = len(self._held)
        if last and self._chunk == CHUNK and self._wait_for(WINDOW) and self._credit - last < WINDOW:
            self._send(last)
            self._wait_for(WINDOW)
        super().finish()

    def _wait_for(self, credit: int) -> bool:
        """Whether there is so much credit, now or soon."""
        try:
            while self._credit < credit:
                self._take(self._waiting.receive(_PATIENCE))
        except (errors.DeadlineExceeded, errors.Canceled):
            return False
        return True
