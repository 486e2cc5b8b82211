"""HPACK, the receiving half: RFC 7541. Code and static table are hpack's; its own decoder takes five times as long, and
is most of what a short connection costs."""

from __future__ import annotations

import functools
from collections import deque

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from plugin_sdk.wire.http2.frames import Code, ConnectionFailure

MAX_LIST = 64 << 10
"""Bytes of all names and values of one block, with what the table counts for each; section 4.1."""

MAX_TABLE = 4096  # what HEADER_TABLE_SIZE is when nothing is said of it
OVERHEAD = 32
FIRST_DYNAMIC = 62
_SHORT = 128  # encoded bytes of strings whose meaning is kept
_MAX_INTEGER = 1 << 28

Field = tuple[str, str, int]
"""Name, value, and their size in the table."""


def _text(raw: bytes) -> str:
    """A character for a byte: gRPC's own are ASCII."""
    return raw.decode("latin-1")


_STATIC: tuple[Field, ...] = tuple(
    (_text(name), _text(value), len(name) + len(value) + OVERHEAD) for name, value in HeaderTable.STATIC_TABLE
)


class Decoder:
    """The header blocks of one connection, in the order in which they come."""

    __slots__ = ("_limit", "_size", "_table")

    def __init__(self) -> None:
        self._table: deque[Field] = deque()
        self._size, self._limit = 0, MAX_TABLE

    def decode(self, block: bytes) -> dict[str, str]:
        """Of a name that is repeated the last value. Raises ConnectionFailure: the state is lost then."""
        try:
            return self._decode(block)
        except (IndexError, HPACKDecodingError):
            raise ConnectionFailure(Code.COMPRESSION_ERROR, "headers cannot be read") from None

    def _decode(self, block: bytes) -> dict[str, str]:
        fields: dict[str, str] = {}
        at, end, total = 0, len(block), 0
        while at < end:
            first = block[at]
            if first & 0x80:
                index, at = (first & 0x7F, at + 1) if first != 0xFF else _integer(block, at, 0x7F)
                name, value, size = self._field(index)
            elif first & 0xE0 == 0x20:
                if fields:
                    raise HPACKDecodingError("the size of the table changes within a block")
                at = self._resize(block, at)
                continue
            else:
                (name, value, size), at = self._literal(block, at, 0x3F if first & 0x40 else 0x0F)
            fields[name] = value
            total += size
            if total > MAX_LIST:
                raise ConnectionFailure(Code.ENHANCE_YOUR_CALM, "too many headers")
        return fields

    def _field(self, index: int) -> Field:
        """Raises IndexError."""
        if index > len(_STATIC):
            return self._table[index - len(_STATIC) - 1]
        if index == 0:
            raise IndexError
        return _STATIC[index - 1]

    def _resize(self, block: bytes, at: int) -> int:
        self._limit, at = _integer(block, at, 0x1F)
        if self._limit > MAX_TABLE:
            raise HPACKDecodingError("the table is larger than agreed")
        self._evict()
        return at

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        """``mask`` is that of the index of its name; the one with 6 bits is for those that enter the table."""
        index, at = _integer(block, at, mask)
        if index:
            name = self._field(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        field = (name, value, len(name) + len(value) + OVERHEAD)
        if mask == 0x3F:
            self._table.appendleft(field)
            self._size += field[2]
            self._evict()
        return field, at

    def _evict(self) -> None:
        """An entry that is larger than the whole table empties it; section 4.4."""
        while self._size > self._limit:
            self._size -= self._table.pop()[2]


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """The number at ``at`` and where the next thing is; section 5.1. Raises IndexError when it is cut."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if value > _MAX_INTEGER or shift > 35:
            raise HPACKDecodingError("a number is too large")
        if byte < 0x80:
            return value, at


def _string(block: bytes, at: int) -> tuple[str, int]:
    """The text, and where the next thing is; section 5.2. Raises IndexError when it is cut."""
    packed = block[at] & 0x80
    size, at = _integer(block, at, 0x7F)
    end = at + size
    raw = block[at:end]
    if len(raw) != size:
        raise IndexError
    if not packed:
        return _text(raw), end
    return _unpacked(raw) if size <= _SHORT else _unpack(raw), end


def _unpack(raw: bytes) -> str:
    return _text(decode_huffman(raw))


_unpacked = functools.lru_cache(1024)(_unpack)
"""Clients say the same: the paths of methods, the name of a namespace."""
