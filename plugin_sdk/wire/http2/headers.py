"""Headers: requests, and answers, which are a few constants. RFC 7541, and gRPC's PROTOCOL-HTTP2."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from plugin_sdk import errors
from plugin_sdk.wire.http2 import compression

MAX_BLOCK = 64 << 10
MAX_MESSAGE = 8000
"""Bytes of grpc-message: with the rest less than one frame, and less than what clients take."""

_KNOWN = 256  # blocks whose meaning a connection keeps
_PLAIN = string.printable[:95].replace("%", "")  # what grpc-message need not escape
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True, slots=True)
class Request:
    """``headers`` without those that HTTP/2 itself needs."""

    method: str
    path: str
    headers: Mapping[str, str]


class Decoder:
    """The header blocks of one connection, in the order in which they come.

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
