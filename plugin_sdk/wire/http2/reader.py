"""Takes the bytes of a connection apart into frames, those of one header block put together. RFC 9113, sections 3.4, 4
and 6.10."""

from __future__ import annotations

from collections.abc import Iterator

from plugin_sdk.wire.http2 import frames, headers
from plugin_sdk.wire.http2.frames import Code, ConnectionFailure

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload. A payload of HEADERS is the whole block, without padding and priority."""

_PREFACE_SIZE = len(frames.PREFACE)


class Reader:
    """Raises ConnectionFailure."""

    __slots__ = ("_block", "_block_flags", "_block_size", "_greeted", "_only", "_rest")

    def __init__(self, *, preface: bool = True) -> None:
        """``preface`` is what clients send first, and servers do not."""
        self._rest = b""
        self._greeted = not preface
        self._only: tuple[int, int] | None = (frames.SETTINGS, 0)  # the frame that must come next
        self._block: list[bytes] = []
        self._block_size = self._block_flags = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. To be exhausted, or the connection is over."""
        if self._rest:
            data = self._rest + data
        at = 0
        if not self._greeted:
            if not self._greet(data):
                return
            at = _PREFACE_SIZE
        end = len(data)
        while end - at >= frames.HEADER_SIZE:
            high, low, kind, flags, number = frames.HEADER.unpack_from(data, at)
            begin = at + frames.HEADER_SIZE
            size = high << 8 | low
            if size > frames.FRAME_SIZE:
                raise ConnectionFailure(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            if end - begin < size:
                break
            at = begin + size
            frame = (kind, flags, number & frames.STREAM_MASK, data[begin:at])
            if kind in (frames.HEADERS, frames.CONTINUATION) or self._only is not None:
                yield from self._special(frame)
            else:
                yield frame
        self._rest = data[at:]

    def _greet(self, data: bytes) -> bool:
        """Whether the preface is complete."""
        if not frames.PREFACE.startswith(data[:_PREFACE_SIZE]):
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "this is not HTTP/2")
        self._greeted = len(data) >= _PREFACE_SIZE
        if not self._greeted:
            self._rest = data
        return self._greeted

    def _special(self, frame: Frame) -> Iterator[Frame]:
        """What belongs to a header block, and what comes first of all."""
        kind, flags, number, payload = frame
        if self._only is not None and self._only != (kind, number):
            raise ConnectionFailure(Code.PROTOCOL_ERROR, f"a frame of type {kind} where another was expected")
        if kind == frames.HEADERS:
            yield from self._begin_block(flags, number, payload)
        elif kind == frames.CONTINUATION:
            yield from self._continue_block(flags, number, payload)
        else:
            self._only = None
            yield frame

    def _begin_block(self, flags: int, number: int, payload: bytes) -> Iterator[Frame]:
        payload = frames.without_padding(flags, payload)
        if flags & frames.WITH_PRIORITY:
            if len(payload) < frames.PRIORITY_SIZE:
                raise ConnectionFailure(Code.FRAME_SIZE_ERROR, "headers end within their priority")
            payload = payload[frames.PRIORITY_SIZE :]
        if flags & frames.END_HEADERS:
            yield frames.HEADERS, flags, number, payload
        else:
            self._block, self._block_size, self._block_flags = [payload], len(payload), flags
            self._only = frames.CONTINUATION, number

    def _continue_block(self, flags: int, number: int, payload: bytes) -> Iterator[Frame]:
        if self._only is None:
            raise ConnectionFailure(Code.PROTOCOL_ERROR, "a continuation of nothing")
        self._block.append(payload)
        self._block_size += frames.HEADER_SIZE + len(payload)  # so that empty ones do not go on for ever
        if self._block_size > headers.MAX_BLOCK:
            raise ConnectionFailure(Code.ENHANCE_YOUR_CALM, "too many headers")
        if flags & frames.END_HEADERS:
            block, self._block, self._only = b"".join(self._block), [], None
            yield frames.HEADERS, self._block_flags, number, block
