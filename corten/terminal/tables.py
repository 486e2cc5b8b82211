"""What commands print: tables for people, JSON for programs.

JSON has the fields of ``plugin_sdk``'s values by their names. Times are RFC 3339 in UTC, enumerations their names in
lower case, a spec is what it says, and other bytes are base64.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

_UNITS = ("B", "kB", "MB", "GB", "TB")
_TIMES = frozenset({"created_at", "updated_at", "started_at", "exited_at", "since", "timestamp"})
_AGES = ((86400 * 2, 86400, "days"), (3600 * 2, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns that are as wide as what is in them; the last one ends where it ends."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("   ".join(cells).rstrip())


def show_names(names: Sequence[str]) -> None:
    click.echo("".join(f"{name}\n" for name in names), nl=False)


def show_json(value: object) -> None:
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def show_json_line(value: object) -> None:
    """For a stream of documents."""
    click.echo(json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False))


def plain(value: object, name: str = "") -> Any:
    """What JSON can hold; ``name`` is that of the field."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {field: plain(getattr(value, field), field) for field in names if not field.startswith("_")}
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, bytes):
        return _from_bytes(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each, str(key)) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if name in _TIMES and isinstance(value, int):
        return moment(value)
    return value


def _from_bytes(value: bytes) -> Any:
    if value.startswith(b"{"):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return base64.b64encode(value).decode()


def moment(nanoseconds: int) -> str:
    """RFC 3339 in UTC with microseconds; empty for 0."""
    if not nanoseconds:
        return ""
    seconds, rest = divmod(nanoseconds, 10**9)
    made = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return made.isoformat(timespec="microseconds").replace("+00:00", "Z")


def age(nanoseconds: int, now: float | None = None) -> str:
    """How long ago, as people say it: ``5 minutes``."""
    if not nanoseconds:
        return "-"
    seconds = max(0, int((time.time() if now is None else now) - nanoseconds / 10**9))
    _, unit, word = next(each for each in _AGES if seconds >= each[0])
    count = seconds // unit
    return f"{count} {word if count != 1 else word[:-1]}"


def size(count: float) -> str:
    """Of bytes, in powers of 1000: ``4.2 MB``."""
    for unit in _UNITS:
        if count < 999.5 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"


def short(digest: str) -> str:
    """Twelve digits of a digest, enough to tell one from another."""
    return digest.partition(":")[2][:12] or digest


def labels(of: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(of.items())) or "-"
