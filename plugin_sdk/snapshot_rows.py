"""The rows of ``plugin_sdk.snapshot_store``: one SQLite table, and what is asked of it within a transaction.

What is required and not so raises the error that ``plugin_sdk.snapshots`` names for it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plugin_sdk import errors
from plugin_sdk.snapshots import Info, Kind, Usage

# Exclusive: without memory shared with other processes, in which a write dies of SIGBUS when a btrfs is full.
_SETTINGS = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,       -- AUTOINCREMENT: the id of a removed snapshot never returns
    key TEXT NOT NULL UNIQUE,
    kind INTEGER NOT NULL,
    parent INTEGER REFERENCES snapshots (id),
    labels TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    size INTEGER NOT NULL DEFAULT 0,
    inodes INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS children ON snapshots (parent);
"""
_SELECT = """
SELECT s.id, s.key, s.kind, p.key, s.labels, s.created, s.updated, s.size, s.inodes
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent
"""
_ANCESTORS = """
WITH RECURSIVE chain (id, depth) AS (
    SELECT parent, 1 FROM snapshots WHERE id = ?
    UNION ALL
    SELECT s.parent, depth + 1 FROM chain JOIN snapshots s ON s.id = chain.id
)
SELECT id FROM chain WHERE id IS NOT NULL ORDER BY depth
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A row. ``parents`` are ids, the nearest first; ``usage`` is of a committed one."""

    id: int
    info: Info
    parents: tuple[int, ...]
    usage: Usage


def connect(path: Path) -> sqlite3.Connection:
    made = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        made.executescript(f"{_SETTINGS}{_SCHEMA}")
    except BaseException:
        made.close()
        raise
    return made


def last(database: sqlite3.Connection) -> int:
    """The highest id there has been."""
    return int(database.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()[0])


def require_creatable(cursor: sqlite3.Cursor, key: str, parent: str) -> tuple[int, ...]:
    """Answers the ids of the parents."""
    _require_free(cursor, key)
    if not parent:
        return ()
    try:
        found = get(cursor, parent)
    except errors.NotFound as err:
        raise errors.NotFound(f"parent snapshot {parent} does not exist: not found") from err
    if found.info.kind is not Kind.COMMITTED:
        raise errors.InvalidArgument(f'parent "{parent}" is not committed snapshot')
    return (found.id, *found.parents)


def require_still_creatable(cursor: sqlite3.Cursor, key: str, parent: str, parents: Sequence[int]) -> None:
    _require_free(cursor, key)
    if parents and not cursor.execute("SELECT 1 FROM snapshots WHERE id = ?", (parents[0],)).fetchone():
        raise errors.NotFound(f"parent snapshot {parent} does not exist: not found")


def require_committable(cursor: sqlite3.Cursor, name: str, key: str) -> Snapshot:
    snapshot = get(cursor, key)
    if snapshot.info.kind is not Kind.ACTIVE:
        raise errors.FailedPrecondition(f'snapshot "{key}" is not active')
    _require_free(cursor, name)
    return snapshot


def require_same(cursor: sqlite3.Cursor, name: str, key: str, seen: Snapshot) -> None:
    _require_free(cursor, name)
    if find(cursor, key) != (seen.id, Kind.ACTIVE):
        raise not_found(key)


def require_removable(cursor: sqlite3.Cursor, key: str) -> int:
    """Answers its id."""
    number, _ = find(cursor, key)
    if cursor.execute("SELECT 1 FROM snapshots WHERE parent = ?", (number,)).fetchone():
        raise errors.FailedPrecondition(f'cannot remove snapshot "{key}" with child')
    return number


def _require_free(cursor: sqlite3.Cursor, key: str) -> None:
    if not key:
        raise errors.InvalidArgument("snapshot key must not be empty")
    if cursor.execute("SELECT 1 FROM snapshots WHERE key = ?", (key,)).fetchone():
        raise errors.AlreadyExists(f'snapshot "{key}": already exists')


def get(cursor: sqlite3.Cursor, key: str) -> Snapshot:
    row = cursor.execute(f"{_SELECT} WHERE s.key = ?", (key,)).fetchone()
    if row is None:
        raise not_found(key)
    parents = tuple(number for (number,) in cursor.execute(_ANCESTORS, (row[0],)))
    return Snapshot(row[0], _info(row), parents, Usage(row[7], row[8]))


def find(cursor: sqlite3.Cursor, key: str) -> tuple[int, int]:
    """Id and kind."""
    row: tuple[int, int] | None = cursor.execute("SELECT id, kind FROM snapshots WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise not_found(key)
    return row


def not_found(key: str) -> errors.NotFound:
    return errors.NotFound(f"snapshot {key} does not exist: not found")


def everything(cursor: sqlite3.Cursor) -> list[Info]:
    return [_info(row) for row in cursor.execute(_SELECT)]


def ids(cursor: sqlite3.Cursor) -> set[int]:
    return {number for (number,) in cursor.execute("SELECT id FROM snapshots")}


def remakable(cursor: sqlite3.Cursor) -> list[tuple[int, str]]:
    """Ids and keys of those that their parents are enough to make again."""
    return cursor.execute("SELECT id, key FROM snapshots WHERE kind != ?", (Kind.COMMITTED,)).fetchall()


def _info(row: tuple[int, str, int, str | None, str, int, int, int, int]) -> Info:
    _, key, kind, parent, labels, created, updated, _, _ = row
    return Info(key, Kind(kind), parent or "", json.loads(labels), created, updated)


def new_info(key: str, kind: Kind, parent: str, labels: Mapping[str, str] | None) -> Info:
    now = time.time_ns()
    return Info(key, kind, parent, _present(labels or {}), now, now)


def insert(cursor: sqlite3.Cursor, number: int, info: Info, parents: Sequence[int], usage: Usage) -> None:
    row = number, info.name, info.kind, parents[0] if parents else None, json.dumps(info.labels)
    columns = "id, key, kind, parent, labels, created, updated, size, inodes"
    values = (*row, info.created_at, info.updated_at, usage.size, usage.inodes)
    cursor.execute(f"INSERT INTO snapshots ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def set_committed(cursor: sqlite3.Cursor, number: int, name: str, labels: Mapping[str, str], usage: Usage) -> None:
    now = time.time_ns()
    changes = name, Kind.COMMITTED, json.dumps(_present(labels)), now, now, usage.size, usage.inodes, number
    columns = "key = ?, kind = ?, labels = ?, created = ?, updated = ?, size = ?, inodes = ?"
    cursor.execute(f"UPDATE snapshots SET {columns} WHERE id = ?", changes)


def set_usage(cursor: sqlite3.Cursor, number: int, usage: Usage) -> None:
    cursor.execute("UPDATE snapshots SET size = ?, inodes = ? WHERE id = ?", (usage.size, usage.inodes, number))


def set_labels(cursor: sqlite3.Cursor, number: int, labels: Mapping[str, str]) -> None:
    changes = json.dumps(labels), time.time_ns(), number
    cursor.execute("UPDATE snapshots SET labels = ?, updated = ? WHERE id = ?", changes)


def delete(cursor: sqlite3.Cursor, number: int) -> None:
    cursor.execute("DELETE FROM snapshots WHERE id = ?", (number,))


def changed(old: Info, new: Info, fieldpaths: Sequence[str]) -> dict[str, str]:
    labels = dict(old.labels) if fieldpaths else dict(new.labels)
    for path in fieldpaths:
        name, _, key = path.partition(".")
        if name != "labels":
            raise errors.InvalidArgument(f'cannot update "{path}" field on snapshot "{new.name}"')
        if key:
            labels[key] = new.labels.get(key, "")
        else:
            labels = dict(new.labels)
    return _present(labels)


def _present(labels: Mapping[str, str]) -> dict[str, str]:
    """Without the empty ones: setting a label to nothing is how callers remove it."""
    return {key: value for key, value in labels.items() if value}
