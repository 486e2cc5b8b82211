"""JSON for processes that must stay small: one value a line, by the C parts of ``json`` alone.

``json`` itself imports ``re`` and ``enum``, whose memory would be copied into every child of the spawner. What
cannot be read raises ValueError.
"""

from __future__ import annotations

import _json


class _Context:
    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the C scanner's own


_scan = _json.make_scanner(_Context())  # type: ignore[arg-type]


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


_parts = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, True)


def decode(line: bytes) -> object:
    try:
        return _scan(line.decode(), 0)[0]
    except StopIteration:
        raise ValueError(f"{line[:40]!r} is not JSON") from None


def encode(value: object) -> bytes:
    """Without the end of the line."""
    return "".join(_parts(value, 0)).encode()
