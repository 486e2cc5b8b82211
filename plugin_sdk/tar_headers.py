"""Writing headers of tar archives: ustar, with PAX records for what does not fit.

The same values give the same bytes. Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header";
extended attributes as star's ``SCHILY.xattr``. Standard library only.
"""

from __future__ import annotations

import struct

from plugin_sdk import tars
from plugin_sdk.tars import BLOCK, Entry

_SECOND = 1_000_000_000
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
END = bytes(2 * BLOCK)


def format(entry: Entry) -> bytes:
    """The blocks of the header; data are to follow, padded by ``padding``."""
    records: dict[bytes, bytes] = {}
    name, prefix = _split(entry.name)
    if not name:
        records[b"path"] = entry.name
        name = entry.name[:100]
    if len(entry.link) > 100 or not entry.link.isascii():
        records[b"linkpath"] = entry.link
    seconds, fraction = divmod(entry.mtime, _SECOND)
    if fraction or not 0 <= seconds <= _MAX_SIZE:
        records[b"mtime"] = _time(entry.mtime)
    for key, id in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if id > _MAX_ID:
            records[key] = b"%d" % id
    if entry.size > _MAX_SIZE:
        records[b"size"] = b"%d" % entry.size
    if entry.major > _MAX_ID or entry.minor > _MAX_ID:
        records[b"SCHILY.devmajor"], records[b"SCHILY.devminor"] = b"%d" % entry.major, b"%d" % entry.minor
    for attribute, value in (entry.xattrs or {}).items():
        records[tars.XATTR + attribute] = value
    own = _header(entry, name, prefix)
    return _extended(records, entry.name) + own if records else own


def padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Name and prefix of a ustar header; no name when it does not fit."""
    if not name.isascii():
        return b"", b""
    if len(name) <= 100:
        return name, b""
    slash = name.find(b"/", len(name) - 101, len(name) - 1)
    if slash <= 0 or slash > 155:
        return b"", b""
    return name[slash + 1 :], name[:slash]


def _header(entry: Entry, name: bytes, prefix: bytes) -> bytes:
    parts = struct.pack(
        "100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x",
        name,
        _octal(entry.mode, 8),
        _octal(entry.uid, 8),
        _octal(entry.gid, 8),
        _octal(entry.size, 12),
        _octal(max(entry.mtime // _SECOND, 0), 12),
        b" " * 8,
        entry.type,
        entry.link[:100],
        b"ustar\x0000",
        b"",
        b"",
        _octal(entry.major, 8),
        _octal(entry.minor, 8),
        prefix,
    )
    return parts[:148] + b"%06o\0 " % sum(parts) + parts[156:]


def _octal(value: int, width: int) -> bytes:
    """Zero where the number does not fit: a PAX record holds it then."""
    limit = 8 ** (width - 1)
    return b"%0*o\0" % (width - 1, value if value < limit else 0)


def _extended(records: dict[bytes, bytes], name: bytes) -> bytes:
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    entry = tars.file(b"PaxHeaders.0/" + name.rstrip(b"/").rpartition(b"/")[2][:80], len(data))
    entry.type = b"x"
    return _header(entry, entry.name, b"") + data + padding(len(data))


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, where LENGTH counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), _SECOND)
    text = b"%s%d.%09d" % (sign, seconds, fraction)
    return text.rstrip(b"0").rstrip(b".")
