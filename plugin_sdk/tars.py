"""Reading tar archives: headers become entries, whatever dialect they are written in.

Knows V7, ustar, GNU (long names, base-256 numbers, sparse files) and PAX (also global headers, binary names, sparse
files of versions 0.0, 0.1 and 1.0, extended attributes as star and libarchive write them). Names stay bytes.
Sources: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Tar Internals";
libarchive's tar(5). Standard library only: it is loaded in the children of the spawner.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from plugin_sdk import errors

BLOCK = 512
REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
CONTIGUOUS, SPARSE = b"7", b"S"
FILES = frozenset((REGULAR, b"\0", CONTIGUOUS, SPARSE))
_EXTENSIONS = frozenset((b"x", b"X", b"g", b"L", b"K"))
_KNOWN = FILES | {HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO}

XATTR = b"SCHILY.xattr."
_XATTR_BASE64 = b"LIBARCHIVE.xattr."
_ZEROES = bytes(BLOCK)
_SPACES = 8 * 0x20
_MAX_NUMBER = (1 << 63) - 1
_MAX_ID = (1 << 32) - 2

_NAMES = (b"path", b"linkpath", b"GNU.sparse.name")

Pax = dict[bytes, bytes]
Segments = list[tuple[int, int]]


class Entry:
    """One member. ``size`` bytes of data follow in the archive; ``real_size`` is the file's, ``segments`` (offset,
    length) tell where a sparse file's data belong, None otherwise. Times are nanoseconds since the epoch."""

    __slots__ = (
        "atime",
        "gid",
        "link",
        "major",
        "minor",
        "mode",
        "mtime",
        "name",
        "real_size",
        "segments",
        "size",
        "type",
        "uid",
        "xattrs",
    )

    name: bytes
    link: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    real_size: int
    mtime: int
    atime: int
    major: int
    minor: int
    xattrs: dict[bytes, bytes] | None
    segments: Segments | None


def file(name: bytes, size: int, mode: int = 0o644) -> Entry:
    """A regular file of root's, from the beginning of time."""
    entry = Entry()
    entry.name, entry.type, entry.link, entry.mode = name, REGULAR, b"", mode
    entry.uid = entry.gid = entry.mtime = entry.atime = entry.major = entry.minor = 0
    entry.size = entry.real_size = size
    entry.xattrs = entry.segments = None
    return entry


class _Extension:
    """What the headers before an entry's own say of it."""

    def __init__(self) -> None:
        self.name = self.link = b""
        self.pax: Pax = {}
        self.segments: Segments = []

    def add(self, kind: bytes, data: bytes) -> None:
        if kind == b"L":
            self.name = _text(data)
        elif kind == b"K":
            self.link = _text(data)
        else:
            self.pax.update(parse_pax(data, self.segments))


class Reader:
    """Entries of a tar that ``take(n)`` delivers: exactly n bytes, fewer at the end of the stream.

    ``header_limit`` bounds in bytes what one entry's extended headers may take. Between two calls of ``next`` the
    caller takes exactly ``size`` bytes of the entry and the padding to the next 512. Raises InvalidArgument.
    """

    def __init__(self, take: Callable[[int], bytes], header_limit: int = 1 << 20) -> None:
        self._take = take
        self._limit = header_limit
        self._globals: Pax = {}

    def next(self) -> Entry | None:
        """The next entry; None at the end of the archive."""
        extension: _Extension | None = None
        spent = 0
        while True:
            header = self._take(BLOCK)
            if not header or header == _ZEROES:
                if extension is not None:
                    raise errors.InvalidArgument("the tar ends after an extended header")
                return None
            kind = _check(header)
            if kind not in _EXTENSIONS:
                return self._whole(_entry(header, kind), header, extension)
            size = number(header[124:136])
            spent += BLOCK + size
            if size < 0 or spent > self._limit:
                raise errors.InvalidArgument(f"extended headers of a tar entry exceed {self._limit} bytes")
            if kind == b"g":
                self._globals.update(parse_pax(self._padded(size), None))
            else:
                extension = extension or _Extension()
                extension.add(kind, self._padded(size))

    def _whole(self, entry: Entry, header: bytes, extension: _Extension | None) -> Entry:
        """The entry with all that the headers before its own say of it."""
        kind = entry.type
        if extension is not None or self._globals:
            self._extend(entry, extension or _Extension())
        if kind == SPARSE:
            self._sparse_gnu(entry, header)
        if kind not in FILES:
            entry.size = entry.real_size = 0
        elif entry.name.endswith(b"/") and kind in (REGULAR, b"\0"):  # as V7 marks directories
            entry.type = DIRECTORY
        if entry.size < 0 or entry.real_size < 0:
            raise errors.InvalidArgument(f"tar entry {show(entry.name)} has a negative size")
        if not 0 <= entry.uid <= _MAX_ID or not 0 <= entry.gid <= _MAX_ID:
            raise errors.InvalidArgument(f"tar entry {show(entry.name)} has an impossible owner")
        return entry

    def _extend(self, entry: Entry, extension: _Extension) -> None:
        entry.name = extension.name or entry.name
        entry.link = extension.link or entry.link
        pax = {**self._globals, **extension.pax} if self._globals else extension.pax
        _apply(entry, pax)
        self._sparse_pax(entry, pax, extension.segments)

    def _padded(self, size: int) -> bytes:
        data = self._take((size + BLOCK - 1) // BLOCK * BLOCK)
        if len(data) < size:
            raise errors.InvalidArgument("the tar is cut off within a header")
        return data[:size]

    def _sparse_gnu(self, entry: Entry, header: bytes) -> None:
        """The old GNU format: four places in the header, 21 in each block that follows it."""
        entry.real_size = number(header[483:495])
        segments = _places(header, 386, 4)
        more = header[482]
        while more:
            block = self._padded(BLOCK)
            segments += _places(block, 0, 21)
            more = block[504]
            if len(segments) * 24 > self._limit:
                raise errors.InvalidArgument(f"the sparse map of tar entry {show(entry.name)} is too long")
        entry.segments = _checked(entry, segments)

    def _sparse_pax(self, entry: Entry, pax: Pax, segments: Segments) -> None:
        if pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
            segments = self._sparse_map(entry)
        elif (text := pax.get(b"GNU.sparse.map")) is not None:
            numbers = [_decimal(part) for part in text.split(b",") if part]
            segments = list(zip(numbers[::2], numbers[1::2], strict=len(numbers) % 2 == 0))
        elif not segments:
            return
        entry.name = pax.get(b"GNU.sparse.name", entry.name)
        entry.real_size = _decimal(pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size") or b"0")
        entry.segments = _checked(entry, segments)

    def _sparse_map(self, entry: Entry) -> Segments:
        """Version 1.0: decimal numbers, a line each, in whole blocks before the data."""
        text, used = b"", 0
        wanted = 1
        while text.count(b"\n") < wanted:
            text += self._padded(BLOCK)
            used += BLOCK
            if used > self._limit or used > entry.size:
                raise errors.InvalidArgument(f"the sparse map of tar entry {show(entry.name)} is too long")
            if wanted == 1 and b"\n" in text:
                wanted = 1 + 2 * _decimal(text.partition(b"\n")[0])
        numbers = [_decimal(line) for line in text.split(b"\n")[1:wanted]]
        entry.size -= used
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def parse_pax(data: bytes, segments: Segments | None) -> Pax:
    """Records ``LENGTH KEY=VALUE\\n``. Repeated places of a sparse file (version 0.0) are added to ``segments``."""
    records: Pax = {}
    position = 0
    offset = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        end = position + _decimal(data[position:space]) if space > 0 else 0
        equals = data.find(b"=", space, end)
        if end > len(data) or equals < 0 or data[end - 1 : end] != b"\n":
            raise errors.InvalidArgument("malformed record in a tar's extended header")
        key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
        position = end
        if key == b"GNU.sparse.offset":
            offset = _decimal(value)
        elif key == b"GNU.sparse.numbytes" and segments is not None:
            segments.append((offset, _decimal(value)))
        else:
            records[key] = value
    return records


def show(name: bytes) -> str:
    """A name as messages show it."""
    text = name.decode("utf-8", "backslashreplace")
    return '"' + (text if len(text) <= 300 else text[:300] + "…") + '"'


def clean(name: bytes) -> bytes:
    """Relative to the root, without empty parts, ``.`` and ``..``. Raises InvalidArgument for one that climbs above."""
    if len(name) > 4096:
        raise errors.InvalidArgument(f"the name {show(name)} is too long")
    if b"/." not in name and b"//" not in name and name[:1] not in (b".", b"/"):
        return name.removesuffix(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise errors.InvalidArgument(f"the name {show(name)} leads out of the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


@lru_cache(maxsize=8192)
def number(field: bytes) -> int:
    """Octal digits, or GNU's base-256 when the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True)
        return value if field[0] == 0xFF else value + (1 << (8 * len(field) - 1))
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise errors.InvalidArgument(f"malformed number {field!r} in a tar header")
    return int(digits, 8)


def _check(header: bytes) -> bytes:
    """The type of a header whose checksum holds; some wrote it as a sum of signed bytes."""
    if len(header) < BLOCK:
        raise errors.InvalidArgument("the tar is cut off within a header")
    wanted = number(header[148:156])
    rest = header[:148] + header[156:]
    total = sum(rest) + _SPACES
    if total != wanted and total - 256 * sum(byte > 127 for byte in rest) != wanted:
        raise errors.InvalidArgument("the checksum of a tar header is wrong")
    return header[156:157]


def _entry(header: bytes, kind: bytes) -> Entry:
    entry = Entry()
    name = header[:100].partition(b"\0")[0]
    magic = header[257:263]
    if magic == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    entry.name = name
    entry.type = kind
    if kind not in _KNOWN:
        raise errors.InvalidArgument(f"tar entry {show(name)} has the unknown type {kind!r}")
    entry.link = header[157:257].partition(b"\0")[0]
    entry.mode = number(header[100:108]) & 0o7777
    entry.uid = number(header[108:116])
    entry.gid = number(header[116:124])
    entry.size = entry.real_size = number(header[124:136])
    entry.mtime = entry.atime = number(header[136:148]) * 1_000_000_000
    entry.xattrs = entry.segments = None
    entry.major = entry.minor = 0
    if kind in (CHARACTER, BLOCK_DEVICE):
        entry.major, entry.minor = number(header[329:337]), number(header[337:345])
    return entry


def _apply(entry: Entry, pax: Pax) -> None:
    """An empty value takes a global one back."""
    xattrs: dict[bytes, bytes] = {}
    for key, value in pax.items():
        if b"\0" in key or (b"\0" in value and key in _NAMES):
            raise errors.InvalidArgument(f"a zero byte in {show(key)} of a tar's extended header")
        if key.startswith(XATTR):
            xattrs[key[len(XATTR) :]] = value
        elif key.startswith(_XATTR_BASE64):
            xattrs.setdefault(unquote_to_bytes(key[len(_XATTR_BASE64) :]).replace(b"\0", b""), _base64(value))
        elif value and key in _KEYS:
            _KEYS[key](entry, value)
    if access := pax.get(b"atime"):
        entry.atime = nanoseconds(access)
    entry.xattrs = xattrs or None


def _set(*names: str, read: Callable[[bytes], int | bytes]) -> Callable[[Entry, bytes], None]:
    def apply(entry: Entry, value: bytes) -> None:
        for name in names:
            setattr(entry, name, read(value))

    return apply


def nanoseconds(text: bytes) -> int:
    """``-1.25`` → -1250000000; digits past the ninth are dropped."""
    whole, _, fraction = text.partition(b".")
    sign = -1 if whole.startswith(b"-") else 1
    digits = whole.lstrip(b"-+")
    if not (digits + fraction).isdigit() or len(digits) > 20:
        raise errors.InvalidArgument(f"malformed time {text[:40]!r} in a tar header")
    return sign * (int(digits or b"0") * 1_000_000_000 + int((fraction + b"000000000")[:9]))


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20 or int(text) > _MAX_NUMBER:
        raise errors.InvalidArgument(f"malformed number {text[:40]!r} in a tar header")
    return int(text)


_KEYS: Mapping[bytes, Callable[[Entry, bytes], None]] = {
    b"path": _set("name", read=bytes),
    b"linkpath": _set("link", read=bytes),
    b"size": _set("size", "real_size", read=_decimal),
    b"mtime": _set("mtime", "atime", read=nanoseconds),
    b"uid": _set("uid", read=_decimal),
    b"gid": _set("gid", read=_decimal),
    b"SCHILY.devmajor": _set("major", read=_decimal),
    b"SCHILY.devminor": _set("minor", read=_decimal),
}


def _base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        raise errors.InvalidArgument("malformed extended attribute in a tar header") from None


def _text(data: bytes) -> bytes:
    return data.partition(b"\0")[0]


def _places(block: bytes, start: int, count: int) -> Segments:
    places: Segments = []
    for at in range(start, start + 24 * count, 24):
        if not block[at] and not block[at + 12]:
            break
        places.append((number(block[at : at + 12]), number(block[at + 12 : at + 24])))
    return places


def _checked(entry: Entry, segments: Segments) -> Segments:
    """Places in order, within the file, and as many bytes as the archive holds."""
    position = total = 0
    for offset, length in segments:
        if offset < position or length < 0:
            raise errors.InvalidArgument(f"the sparse map of tar entry {show(entry.name)} is out of order")
        position = offset + length
        total += length
    if total != entry.size or position > entry.real_size:
        raise errors.InvalidArgument(f"the sparse map of tar entry {show(entry.name)} does not fit its size")
    return segments
