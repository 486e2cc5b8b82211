"""HTTP/2's frames: their numbers, and their bytes. RFC 9113, sections 4, 6 and 7."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6

HEADER = struct.Struct(">HBBBI")
"""Length in 16 and 8 bits, type, flags, stream."""
HEADER_SIZE = HEADER.size
PRIORITY_SIZE = 5
SETTING = struct.Struct(">HI")
WORD = struct.Struct(">I")
PREFIX = struct.Struct(">BI")
"""Before each message of gRPC: whether it is compressed, and its length."""
PREFIX_SIZE = PREFIX.size

FRAME_SIZE = 16384
"""The least that MAX_FRAME_SIZE may say; its default, and what we take."""
LARGEST_FRAME = (1 << 24) - 1
LARGEST_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65535
STREAM_MASK = (1 << 31) - 1


class Code(enum.IntEnum):
    """Why a stream or a connection ends; section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionFailure(Exception):
    """The peer broke the protocol such that the connection ends, with GOAWAY."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.reason = reason


class StreamFailure(Exception):
    """The peer broke it such that the stream ends, with RST_STREAM."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(name, value) for name, value in values.items()))


def goaway(last_stream: int, code: Code, reason: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, WORD.pack(last_stream) + WORD.pack(code) + reason.encode())


def rst_stream(stream: int, code: Code) -> bytes:
    return frame(RST_STREAM, 0, stream, WORD.pack(code))


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, WORD.pack(size))


def data_frames(stream: int, message: memoryview, begin: int, end: int, largest: int) -> Iterator[bytes | memoryview]:
    """Bytes ``begin`` to ``end`` of a message with its prefix, the prefix counted, as DATA without END_STREAM.

    The message itself is not copied: joining the pieces does."""
    prefix = PREFIX.pack(0, len(message))
    for start in range(begin, end, largest):
        stop = min(start + largest, end)
        size = stop - start
        yield HEADER.pack(size >> 8, size & 0xFF, DATA, 0, stream)
        if start < PREFIX_SIZE:
            yield prefix[start:stop]
        yield message[max(0, start - PREFIX_SIZE) : max(0, stop - PREFIX_SIZE)]


def without_padding(flags: int, payload: bytes) -> bytes:
    """Raises ConnectionFailure when there is more padding than payload; section 6.1."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailure(Code.PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[1 : len(payload) - payload[0]]
