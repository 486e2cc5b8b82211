"""The SQLite helper for authors of snapshotters: keys, kinds, parents, labels, ids, usage, and their directories.

A snapshotter is a subclass of a few lines::

    class Stars(snapshot_store.Snapshotter):
        def _make(self, folder, kind, parents):             # an empty directory becomes a snapshot
            (folder / "fs").mkdir()

        def _mounts(self, snapshot):
            return [Mount("bind", str(self.store.path(snapshot.id) / "fs"), "", ("rbind", "rw"))]

        def _tree(self, folder):                            # what is synced and measured
            return folder / "fs"

Each snapshot has an id, which never returns, and the directory ``<root>/snapshots/<id>``. Directory and row change in
this order, so that a crash leaves at most a directory without a row, which the next start removes:

| change | before | transaction | after |
|---|---|---|---|
| prepare, view | directory made under a temporary name | row in, directory renamed | |
| commit | files synced and measured | row changed | |
| replace | directory of the committed snapshot made | its row in, the active one's out | the active one's removed |
| remove | | row out | directory renamed away, removed |

Prepare does not wait for the directory to be on disk, only for the row: a directory that a power cut took away is made
again at the next start. One process at a time has a root open, else FailedPrecondition.

Where a file system makes and removes whole trees at once, as btrfs does subvolumes, ``Store(…, atomic=True)`` needs no
temporary names: ``make`` is told a path where nothing is, and may leave nothing there.
"""

from __future__ import annotations

import abc
import contextlib
import fcntl
import json
import logging
import os
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plugin_sdk import errors, snapshots, trees
from plugin_sdk.mounts import Mount, sync_file_system
from plugin_sdk.snapshots import Info, Kind, Usage

_log = logging.getLogger("corten.snapshots")

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
_LAST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence"
_NEW = "new-"
REMOVED = "rm-"
"""With this the names of directories begin that nobody needs; the next start and ``clean`` destroy them."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A row. ``parents`` are ids, the nearest first; ``usage`` is that at commit."""

    id: int
    info: Info
    parents: tuple[int, ...]
    usage: Usage


_NOTHING = Usage(0, 0)
_RESERVE = 1 << 20  # bytes
_PRIMARY = 0xFF  # of a code of SQLite, https://sqlite.org/rescode.html
_NO_ROOM = sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR
_PATIENCE = 1.0  # seconds to wait at the end for a directory that is being destroyed

Make = Callable[[Path, Kind, Sequence[int]], None]
"""Fills an empty directory, which may still have a temporary name; takes the kind and the ids of the parents."""


class Store:
    """Rows and directories below ``root``; may be used from several threads.

    Raises OSError, and the errors of ``plugin_sdk.errors``: ResourceExhausted when the disk is full.
    """

    def __init__(
        self, root: Path, make: Make, destroy: Callable[[Path], None] = trees.remove, atomic: bool = False
    ) -> None:
        self._root = root
        self._folders = root / "snapshots"
        self._make = make
        self._destroy = destroy
        self._atomic = atomic
        self._lock = threading.Lock()
        self._unfinished: set[int] = set()  # ids whose directory may be there and whose row is not yet
        self._unwanted: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._destroying = threading.Thread(target=self._destroy_unwanted, name="snapshot-leftovers", daemon=True)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folders.mkdir(mode=0o700, exist_ok=True)
        self._owned = _own(root)
        self._reserve = root / "snapshots.db-reserve"
        self._keep_reserve()
        with self._explained():
            self._db = self._connect()
            (self._last,) = self._db.execute(_LAST).fetchone()

    def recover(self) -> None:
        """Makes directories again that a power cut took away, and clears what crashes have left. Call it once."""
        for snapshot in self._without_folder():
            self._settle(self._build(snapshot.id, snapshot.info.kind, snapshot.parents), snapshot.id)
        with self._transaction() as cursor:
            self._retire_unknown(cursor, (_NEW,))
        self._destroying.start()

    def close(self) -> None:
        self._unwanted.put(None)
        if self._destroying.is_alive():
            self._destroying.join(_PATIENCE)
        with self._lock:
            self._db.close()
            if self._owned >= 0:
                os.close(self._owned)
                self._owned = -1

    def path(self, number: int) -> Path:
        return self._folders / str(number)

    def get(self, key: str) -> Snapshot:
        """Raises NotFound."""
        with self._reading() as cursor:
            return _get(cursor, key)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        matches = snapshots.matcher(filters)
        with self._reading() as cursor:
            rows = cursor.execute(_SELECT).fetchall()
        return filter(matches, map(_info, rows))

    def create(self, key: str, kind: Kind, parent: str = "", labels: Mapping[str, str] | None = None) -> Snapshot:
        with self._reading() as cursor:
            parents = _require_creatable(cursor, key, parent)
        with self._new_id() as number:
            with self._blaming(lambda cursor: _require_creatable(cursor, key, parent)):
                folder = self._build(number, kind, parents)
            try:
                with self._transaction() as cursor:
                    _require_still_creatable(cursor, key, parent, parents)
                    info = _new_info(key, kind, parent, labels)
                    _insert(cursor, number, info, parents, _NOTHING)
                    folder = self._settle(folder, number)
            except BaseException:
                self._destroy(folder)
                raise
        return Snapshot(number, info, parents, _NOTHING)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None, seal: Callable[[Snapshot], Usage]) -> None:
        """``seal`` syncs and measures the files; no transaction is open meanwhile."""
        with self._reading() as cursor:
            snapshot = _require_committable(cursor, name, key)
        with self._blaming(lambda cursor: _require_committable(cursor, name, key)):
            usage = seal(snapshot)
        with self._transaction() as cursor:
            _require_same(cursor, name, key, snapshot)
            _set_committed(cursor, snapshot.id, name, labels or {}, usage)

    def replace(
        self, name: str, key: str, labels: Mapping[str, str] | None, copy: Callable[[Snapshot, Path], Usage]
    ) -> None:
        """As commit, for an ``atomic`` store: ``copy`` makes the committed snapshot's directory from the active one's,
        and all of it is on disk when that returns."""
        with self._reading() as cursor:
            old = _require_committable(cursor, name, key)
        with self._new_id() as number:
            with self._blaming(lambda cursor: _require_committable(cursor, name, key)):
                usage = copy(old, self.path(number))
            try:
                with self._transaction() as cursor:
                    _require_same(cursor, name, key, old)
                    info = _new_info(name, Kind.COMMITTED, old.info.parent, labels)
                    _insert(cursor, number, info, old.parents, usage)
                    cursor.execute("DELETE FROM snapshots WHERE id = ?", (old.id,))
            except BaseException:
                self._destroy(self.path(number))
                raise
        self._unwanted.put(self.path(old.id))  # nobody waits for its space

    def measured(self, number: int, usage: Usage) -> None:
        """Keeps the usage of a committed snapshot that was measured after its commit."""
        with self._transaction() as cursor:
            cursor.execute("UPDATE snapshots SET size = ?, inodes = ? WHERE id = ?", (usage.size, usage.inodes, number))

    def remove(self, key: str) -> None:
        try:
            number = self._forget(key)
        except errors.ResourceExhausted:
            self._spend_reserve()
            number = self._forget(key)
        self._destroy_quietly(self.path(number) if self._atomic else self._retire(self.path(number)))
        self._keep_reserve()

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        with self._transaction() as cursor:
            old = _get(cursor, info.name)
            labels = _changed(old.info, info, fieldpaths)
            changes = json.dumps(labels), time.time_ns(), old.id
            cursor.execute("UPDATE snapshots SET labels = ?, updated = ? WHERE id = ?", changes)
            return _get(cursor, info.name).info

    def clean(self) -> None:
        """Removes directories that no row names."""
        with self._transaction() as cursor:
            self._retire_unknown(cursor, ())
        self._destroy_retired()

    def _connect(self) -> sqlite3.Connection:
        try:
            return _connect(self._root / "snapshots.db")
        except sqlite3.OperationalError as err:
            if err.sqlite_errorcode & _PRIMARY not in _NO_ROOM:
                raise
            self._spend_reserve()
            return _connect(self._root / "snapshots.db")

    def _forget(self, key: str) -> int:
        with self._transaction() as cursor:
            number, _ = _find(cursor, key)
            if cursor.execute("SELECT 1 FROM snapshots WHERE parent = ?", (number,)).fetchone():
                raise errors.FailedPrecondition(f'cannot remove snapshot "{key}" with child')
            cursor.execute("DELETE FROM snapshots WHERE id = ?", (number,))
        return number

    def _keep_reserve(self) -> None:
        """On a full disk nothing could be opened or removed, for both are written down; so this room is held for it."""
        with contextlib.suppress(OSError):
            fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(fd).st_size < _RESERVE:
                    os.posix_fallocate(fd, 0, _RESERVE)
            finally:
                os.close(fd)

    def _spend_reserve(self) -> None:
        self._reserve.unlink(missing_ok=True)
        sync_file_system(self._root)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as err:
            text = f"the records of the snapshots in {self._root} cannot be written: {err}"
            if err.sqlite_errorcode & _PRIMARY == sqlite3.SQLITE_FULL:
                raise errors.ResourceExhausted(text) from err
            raise errors.FailedPrecondition(text) from err

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Cursor]:
        """Several statements see one state: nobody else writes."""
        with self._lock, self._explained():
            yield self._db.cursor()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._lock, self._explained():
            cursor = self._db.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _blaming(self, require: Callable[[sqlite3.Cursor], object]) -> Iterator[None]:
        """Work on files of rows that others may remove meanwhile: then that is what the caller is told."""
        try:
            yield
        except (OSError, errors.Error):
            with self._reading() as cursor:
                require(cursor)
            raise

    @contextlib.contextmanager
    def _new_id(self) -> Iterator[int]:
        with self._lock:
            self._last += 1
            number = self._last
            self._unfinished.add(number)
        try:
            yield number
        finally:
            with self._lock:
                self._unfinished.remove(number)

    def _build(self, number: int, kind: Kind, parents: Sequence[int]) -> Path:
        folder = self.path(number) if self._atomic else self._folders / f"{_NEW}{number}"
        if not self._atomic:
            folder.mkdir(mode=0o700)
        try:
            self._make(folder, kind, parents)
        except BaseException:
            self._destroy(folder)
            raise
        return folder

    def _settle(self, folder: Path, number: int) -> Path:
        return folder if self._atomic else folder.rename(self.path(number))

    def _without_folder(self) -> list[Snapshot]:
        with self._reading() as cursor:
            keys = cursor.execute("SELECT id, key FROM snapshots WHERE kind != ?", (Kind.COMMITTED,)).fetchall()
            return [_get(cursor, key) for number, key in keys if not self.path(number).exists()]

    def _retire_unknown(self, cursor: sqlite3.Cursor, also: tuple[str, ...]) -> None:
        known = {str(number) for (number,) in cursor.execute("SELECT id FROM snapshots")}
        known |= {str(number) for number in self._unfinished}
        for folder in list(self._folders.iterdir()):
            if folder.name.startswith(also) if not folder.name.isdecimal() else folder.name not in known:
                self._retire(folder)

    def _retire(self, folder: Path) -> Path:
        try:
            return folder.rename(self._folders / f"{REMOVED}{secrets.token_hex(8)}")
        except FileNotFoundError:
            return folder

    def _destroy_retired(self) -> None:
        for folder in self._folders.glob(f"{REMOVED}*"):
            self._destroy_quietly(folder)

    def _destroy_unwanted(self) -> None:
        self._destroy_retired()
        for folder in iter(self._unwanted.get, None):
            self._destroy_quietly(folder)

    def _destroy_quietly(self, folder: Path) -> None:
        """The snapshot is gone already; what cannot be removed now is left to ``clean``."""
        try:
            self._destroy(folder)
        except (OSError, errors.Error) as err:
            _log.warning("left over of a removed snapshot: %s", err)


class Snapshotter(abc.ABC):
    """Implements ``snapshots.Snapshotter`` but for the three methods that make the difference."""

    def __init__(self, root: Path) -> None:
        self.store = self._open(root)
        try:
            self.store.recover()
        except BaseException:
            self.store.close()
            raise

    @abc.abstractmethod
    def _make(self, folder: Path, kind: Kind, parents: Sequence[int]) -> None:
        """Fills the directory of a new snapshot; its name still changes."""

    def _open(self, root: Path) -> Store:
        return Store(root, self._make)

    @abc.abstractmethod
    def _mounts(self, snapshot: Snapshot) -> list[Mount]:
        """Of an active snapshot or a view."""

    @abc.abstractmethod
    def _tree(self, folder: Path) -> Path:
        """Where in the snapshot's directory its files are."""

    def stat(self, key: str) -> Info:
        return self.store.get(key).info

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        return self.store.update(info, fieldpaths)

    def usage(self, key: str) -> Usage:
        snapshot = self.store.get(key)
        if snapshot.info.kind is not Kind.ACTIVE:
            return snapshot.usage
        try:
            return self._measure(snapshot)
        except FileNotFoundError:  # removed, or committed under another name, meanwhile
            return self.store.get(key).usage

    def mounts(self, key: str) -> list[Mount]:
        snapshot = self.store.get(key)
        if snapshot.info.kind is Kind.COMMITTED:
            raise errors.FailedPrecondition(f"requested snapshot {key} not active or view")
        return self._mounts(snapshot)

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        return self._mounts(self.store.create(key, Kind.ACTIVE, parent, labels))

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        return self._mounts(self.store.create(key, Kind.VIEW, parent, labels))

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        self.store.commit(name, key, labels, self._seal)

    def remove(self, key: str) -> None:
        self.store.remove(key)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        return self.store.walk(filters)

    def cleanup(self) -> None:
        self.store.clean()

    def close(self) -> None:
        self.store.close()

    def _seal(self, snapshot: Snapshot) -> Usage:
        try:
            sync_file_system(self.store.path(snapshot.id))
        except OSError as err:
            raise errors.DataLoss(f'snapshot "{snapshot.info.name}" cannot be written to disk: {err.strerror}') from err
        return self._measure(snapshot)

    def _measure(self, snapshot: Snapshot) -> Usage:
        return Usage(*trees.usage(self._tree(self.store.path(snapshot.id))))


def _connect(path: Path) -> sqlite3.Connection:
    made = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        made.executescript(f"{_SETTINGS}{_SCHEMA}")
    except BaseException:
        made.close()
        raise
    return made


def _own(root: Path) -> int:
    """Two processes would take each other's new directories for leftovers."""
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        os.close(fd)
        raise errors.FailedPrecondition(f"the snapshots in {root} are in use by another process") from err
    return fd


def _require_creatable(cursor: sqlite3.Cursor, key: str, parent: str) -> tuple[int, ...]:
    """Answers the ids of the parents."""
    _require_free(cursor, key)
    if not parent:
        return ()
    try:
        found = _get(cursor, parent)
    except errors.NotFound as err:
        raise errors.NotFound(f"parent snapshot {parent} does not exist: not found") from err
    if found.info.kind is not Kind.COMMITTED:
        raise errors.InvalidArgument(f'parent "{parent}" is not committed snapshot')
    return (found.id, *found.parents)


def _require_still_creatable(cursor: sqlite3.Cursor, key: str, parent: str, parents: Sequence[int]) -> None:
    _require_free(cursor, key)
    if parents and not cursor.execute("SELECT 1 FROM snapshots WHERE id = ?", (parents[0],)).fetchone():
        raise errors.NotFound(f"parent snapshot {parent} does not exist: not found")


def _require_committable(cursor: sqlite3.Cursor, name: str, key: str) -> Snapshot:
    snapshot = _get(cursor, key)
    if snapshot.info.kind is not Kind.ACTIVE:
        raise errors.FailedPrecondition(f'snapshot "{key}" is not active')
    _require_free(cursor, name)
    return snapshot


def _require_same(cursor: sqlite3.Cursor, name: str, key: str, seen: Snapshot) -> None:
    _require_free(cursor, name)
    if _find(cursor, key) != (seen.id, Kind.ACTIVE):
        raise _not_found(key)


def _require_free(cursor: sqlite3.Cursor, key: str) -> None:
    if not key:
        raise errors.InvalidArgument("snapshot key must not be empty")
    if cursor.execute("SELECT 1 FROM snapshots WHERE key = ?", (key,)).fetchone():
        raise errors.AlreadyExists(f'snapshot "{key}": already exists')


def _get(cursor: sqlite3.Cursor, key: str) -> Snapshot:
    row = cursor.execute(f"{_SELECT} WHERE s.key = ?", (key,)).fetchone()
    if row is None:
        raise _not_found(key)
    parents = tuple(number for (number,) in cursor.execute(_ANCESTORS, (row[0],)))
    return Snapshot(row[0], _info(row), parents, Usage(row[7], row[8]))


def _find(cursor: sqlite3.Cursor, key: str) -> tuple[int, int]:
    """Id and kind."""
    row: tuple[int, int] | None = cursor.execute("SELECT id, kind FROM snapshots WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise _not_found(key)
    return row


def _not_found(key: str) -> errors.NotFound:
    return errors.NotFound(f"snapshot {key} does not exist: not found")


def _info(row: tuple[int, str, int, str | None, str, int, int, int, int]) -> Info:
    _, key, kind, parent, labels, created, updated, _, _ = row
    return Info(key, Kind(kind), parent or "", json.loads(labels), created, updated)


def _new_info(key: str, kind: Kind, parent: str, labels: Mapping[str, str] | None) -> Info:
    now = time.time_ns()
    return Info(key, kind, parent, _present(labels or {}), now, now)


def _insert(cursor: sqlite3.Cursor, number: int, info: Info, parents: Sequence[int], usage: Usage) -> None:
    row = number, info.name, info.kind, parents[0] if parents else None, json.dumps(info.labels)
    columns = "id, key, kind, parent, labels, created, updated, size, inodes"
    values = (*row, info.created_at, info.updated_at, usage.size, usage.inodes)
    cursor.execute(f"INSERT INTO snapshots ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def _set_committed(cursor: sqlite3.Cursor, number: int, name: str, labels: Mapping[str, str], usage: Usage) -> None:
    now = time.time_ns()
    changes = name, Kind.COMMITTED, json.dumps(_present(labels)), now, now, usage.size, usage.inodes, number
    columns = "key = ?, kind = ?, labels = ?, created = ?, updated = ?, size = ?, inodes = ?"
    cursor.execute(f"UPDATE snapshots SET {columns} WHERE id = ?", changes)


def _changed(old: Info, new: Info, fieldpaths: Sequence[str]) -> dict[str, str]:
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
