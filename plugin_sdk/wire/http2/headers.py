"""Headers: requests, and answers, which are a few constants; both halves. RFC 7541, and gRPC's PROTOCOL-HTTP2."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from plugin_sdk import errors
from plugin_sdk.wire.http2 import compression

MAX_BLOCK = 64 << 10
MAX_MESSAGE = 8000
"""Bytes of grpc-message: with the rest less than one frame, and less than what clients take."""

_KNOWN = 256  # blocks whose meaning a connection keeps
_MOST = 0x7F - compression.FIRST_DYNAMIC  # fields of which each is one byte

Field = tuple[bytes, bytes]
_INDICES: Mapping[Field, bytes] = {(b":method", b"POST"): b"\x83", (b":scheme", b"http"): b"\x86"}
_PLAIN = string.printable[:95].replace("%", "")  # what grpc-message need not escape
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True, slots=True)
class Request:
    """``headers`` without those that HTTP/2 itself needs."""

    method: str
    path: str
    headers: Mapping[str, str]


class Decoder:
    """The header blocks of one connection at the server, in the order in which they come.

    Clients repeat themselves. A block of indices changes no state: its meaning is kept until another kind comes."""

    __slots__ = ("_decoder", "_known")

    def __init__(self) -> None:
        self._decoder = compression.Decoder()
        self._known: dict[bytes, Request] = {}

    def decode(self, block: bytes) -> Request:
        """Raises ConnectionFailure."""
        known = self._known.get(block)
        if known is None:
            known = _request(self._decoder.decode(block))
            if not block or min(block) < 0x80 or max(block) == 0xFF or len(self._known) >= _KNOWN:
                self._known.clear()
            else:
                self._known[block] = known
        return known


class Answers:
    """The header blocks of one connection at the client, in the order in which they come."""

    __slots__ = ("_decoder", "_known")

    def __init__(self) -> None:
        self._decoder = compression.Decoder()
        self._known: dict[bytes, dict[str, str]] = {}

    def decode(self, block: bytes) -> Mapping[str, str]:
        """Raises ConnectionFailure."""
        fields = _CONSTANT.get(block) or self._known.get(block)
        if fields is None:
            fields = self._decoder.decode(block)
            if not block or min(block) < 0x80 or max(block) == 0xFF or len(self._known) >= _KNOWN:
                self._known.clear()
            else:
                self._known[block] = fields
        return fields


class Encoder:
    """The header blocks of one connection at the client: what is said again becomes one byte, and a server that keeps
    the meaning of blocks need not take those apart. Nothing is ever evicted: what has no room is not indexed."""

    __slots__ = ("_blocks", "_known", "_room", "_shrinks")

    def __init__(self) -> None:
        self._known: dict[Field, int] = {}  # how many entered the table before it
        self._blocks: dict[tuple[Field, ...], bytes] = {}
        self._room = compression.MAX_TABLE
        self._shrinks = False

    def encode(self, fields: tuple[Field, ...], once: Sequence[Field] = ()) -> bytes:
        """``once`` are those that will hardly be said again."""
        size = b"\x20" if self._shrinks else b""
        self._shrinks = False
        block = self._blocks.get(fields) or self._encode(fields)
        return size + block + b"".join([field(*one) for one in once])

    def _encode(self, fields: tuple[Field, ...]) -> bytes:
        known = len(self._known)
        block = b"".join(map(self._field, fields))
        if len(self._known) != known:  # all indices have moved
            self._blocks.clear()
        elif len(self._blocks) < _KNOWN:
            self._blocks[fields] = block
        return block

    def resize(self, room: int) -> None:
        """The server has said how large a table it keeps. Less than what is assumed: then none is used."""
        if room < compression.MAX_TABLE:
            self._shrinks = self._shrinks or bool(self._known)
            self._room = 0
            self._known.clear()
            self._blocks.clear()

    def _field(self, one: Field) -> bytes:
        if (static := _INDICES.get(one)) is not None:
            return static
        before = self._known.get(one)
        if before is not None:
            return bytes((0x80 | compression.FIRST_DYNAMIC + len(self._known) - 1 - before,))
        size = len(one[0]) + len(one[1]) + compression.OVERHEAD
        if size > self._room or len(self._known) == _MOST:
            return field(*one)
        self._room -= size
        self._known[one] = len(self._known)
        return b"\x40" + field(*one)[1:]  # section 6.2.1


def _request(fields: dict[str, str]) -> Request:
    method, path = fields.pop(":method", ""), fields.pop(":path", "")
    for name in (":scheme", ":authority"):
        fields.pop(name, None)
    return Request(method, path, fields)


def timeout(text: str) -> float:
    """Seconds of a grpc-timeout. Raises Internal when malformed, as gRPC's own servers answer."""
    number, factor = text[:-1], _UNITS.get(text[-1:])
    if factor is None or not (number.isascii() and number.isdigit() and len(number) <= 8):
        raise errors.Internal(f'malformed grpc-timeout "{text}"')
    return int(number) * factor


def is_grpc(content_type: str) -> bool:
    return content_type == "application/grpc" or content_type.startswith(("application/grpc+", "application/grpc;"))


def field(name: bytes, value: bytes) -> bytes:
    """A literal without indexing and without Huffman's code; RFC 7541, section 6.2.2."""
    return b"\0" + _string(name) + _string(value)


def _string(value: bytes) -> bytes:
    return _length(len(value)) + value


def _length(number: int) -> bytes:
    """With a prefix of 7 bits; RFC 7541, section 5.1."""
    if number < 0x7F:
        return bytes((number,))
    out = bytearray((0x7F,))
    number -= 0x7F
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


BEGIN = b"\x88" + field(b"content-type", b"application/grpc")
"""What an answer begins with; 0x88 is ``:status: 200``."""
OK = field(b"grpc-status", b"0")
"""What it ends with."""


_CONSTANT: Mapping[bytes, dict[str, str]] = {
    BEGIN: {":status": "200", "content-type": "application/grpc"},
    OK: {"grpc-status": "0"},
}


def trailers(code: int, message: str) -> bytes:
    return field(b"grpc-status", b"%d" % code) + (field(b"grpc-message", _escape(message)) if message else b"")


def refusal(status: int, code: int, message: str) -> bytes:
    """The whole answer to what is not gRPC."""
    return field(b":status", b"%d" % status) + BEGIN[1:] + trailers(code, message)


def _escape(message: str) -> bytes:
    escaped = quote(message, safe=_PLAIN, errors="replace")
    if len(escaped) > MAX_MESSAGE:
        escaped = escaped[:MAX_MESSAGE]
        cut = escaped.rfind("%", MAX_MESSAGE - 2)
        escaped = escaped[:cut] if cut >= 0 else escaped
    return escaped.encode()
