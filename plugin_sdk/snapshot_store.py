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
import logging
import os
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from plugin_sdk import errors, snapshots, trees
from plugin_sdk import snapshot_rows as rows
from plugin_sdk.mounts import Mount, sync_file_system
from plugin_sdk.snapshot_rows import Snapshot as Snapshot
from plugin_sdk.snapshots import Info, Kind, Usage

_log = logging.getLogger("corten.snapshots")

_NEW = "new-"
REMOVED = "rm-"
"""With this the names of directories begin that nobody needs; the next start and ``clean`` destroy them."""

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
        self._sweeping = threading.Lock()  # so that what another thread destroys is gone too when ``clean`` returns
        self._destroying = threading.Thread(target=self._destroy_unwanted, name="snapshot-leftovers", daemon=True)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folders.mkdir(mode=0o700, exist_ok=True)
        self._reserve = root / "snapshots.db-reserve"
        self._owned = _own(root)
        try:
            self._keep_reserve()
            with self._explained():
                self._db = self._connect()
                self._last = rows.last(self._db)
        except BaseException:
            os.close(self._owned)
            raise

    def recover(self) -> None:
        """Clears what crashes have left, and makes directories again that a power cut took away. Call it once."""
        with self._reading() as cursor:
            self._retire_unknown(cursor, (_NEW,))
        for snapshot in self._without_folder():
            self._settle(self._build(snapshot.id, snapshot.info.kind, snapshot.parents), snapshot.id)
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
            return rows.get(cursor, key)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        matches = snapshots.matcher(filters)
        with self._reading() as cursor:
            found = rows.everything(cursor)
        return filter(matches, found)

    def create(self, key: str, kind: Kind, parent: str = "", labels: Mapping[str, str] | None = None) -> Snapshot:
        with self._reading() as cursor:
            parents = rows.require_creatable(cursor, key, parent)
        with self._new_id() as number:
            with self._blaming(lambda cursor: rows.require_still_creatable(cursor, key, parent, parents)):
                folder = self._build(number, kind, parents)
            try:
                with self._transaction() as cursor:
                    rows.require_still_creatable(cursor, key, parent, parents)
                    info = rows.new_info(key, kind, parent, labels)
                    rows.insert(cursor, number, info, parents, _NOTHING)
                    folder = self._settle(folder, number)
            except BaseException:
                self._destroy(folder)
                raise
        return Snapshot(number, info, parents, _NOTHING)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None, seal: Callable[[Snapshot], Usage]) -> None:
        """``seal`` syncs and measures the files; no transaction is open meanwhile."""
        with self._reading() as cursor:
            snapshot = rows.require_committable(cursor, name, key)
        with self._blaming(lambda cursor: rows.require_same(cursor, name, key, snapshot)):
            usage = seal(snapshot)
        with self._transaction() as cursor:
            rows.require_same(cursor, name, key, snapshot)
            rows.set_committed(cursor, snapshot.id, name, labels or {}, usage)

    def replace(
        self, name: str, key: str, labels: Mapping[str, str] | None, copy: Callable[[Snapshot, Path], Usage]
    ) -> None:
        """As commit, for an ``atomic`` store: ``copy`` makes the committed snapshot's directory from the active one's,
        and all of it is on disk when that returns."""
        with self._reading() as cursor:
            old = rows.require_committable(cursor, name, key)
        with self._new_id() as number:
            with self._blaming(lambda cursor: rows.require_same(cursor, name, key, old)):
                usage = copy(old, self.path(number))
            try:
                with self._transaction() as cursor:
                    rows.require_same(cursor, name, key, old)
                    info = rows.new_info(name, Kind.COMMITTED, old.info.parent, labels)
                    rows.insert(cursor, number, info, old.parents, usage)
                    rows.delete(cursor, old.id)
            except BaseException:
                self._destroy(self.path(number))
                raise
        self._unwanted.put(self.path(old.id))  # nobody waits for its space

    def measured(self, number: int, usage: Usage) -> None:
        """Keeps the usage of a committed snapshot that was measured after its commit."""
        with self._transaction() as cursor:
            rows.set_usage(cursor, number, usage)

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
            old = rows.get(cursor, info.name)
            rows.set_labels(cursor, old.id, rows.changed(old.info, info, fieldpaths))
            return rows.get(cursor, info.name).info

    def clean(self) -> None:
        """Removes directories that no row names."""
        with self._reading() as cursor:
            self._retire_unknown(cursor, ())
        self._destroy_retired()

    def _connect(self) -> sqlite3.Connection:
        try:
            return rows.connect(self._root / "snapshots.db")
        except sqlite3.OperationalError as err:
            if err.sqlite_errorcode & _PRIMARY not in _NO_ROOM:
                raise
            self._spend_reserve()
            return rows.connect(self._root / "snapshots.db")

    def _forget(self, key: str) -> int:
        with self._transaction() as cursor:
            number = rows.require_removable(cursor, key)
            rows.delete(cursor, number)
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
            missing = [key for number, key in rows.remakable(cursor) if not self.path(number).exists()]
            return [rows.get(cursor, key) for key in missing]

    def _retire_unknown(self, cursor: sqlite3.Cursor, also: tuple[str, ...]) -> None:
        known = {str(number) for number in rows.ids(cursor) | self._unfinished}
        for folder in list(self._folders.iterdir()):
            if folder.name.startswith(also) if not folder.name.isdecimal() else folder.name not in known:
                self._retire(folder)

    def _retire(self, folder: Path) -> Path:
        try:
            return folder.rename(self._folders / f"{REMOVED}{secrets.token_hex(8)}")
        except FileNotFoundError:
            return folder

    def _destroy_retired(self) -> None:
        with self._sweeping:
            for folder in self._folders.glob(f"{REMOVED}*"):
                self._destroy_quietly(folder)

    def _destroy_unwanted(self) -> None:
        self._destroy_retired()
        for folder in iter(self._unwanted.get, None):
            with self._sweeping:
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
        except FileNotFoundError as err:
            if self.store.get(key).id != snapshot.id:  # removed or committed, and made again, meanwhile
                return self.usage(key)
            raise errors.DataLoss(f'{err.filename} of snapshot "{key}" is missing') from err

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


def _own(root: Path) -> int:
    """Two processes would take each other's new directories for leftovers."""
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        os.close(fd)
        raise errors.FailedPrecondition(f"the snapshots in {root} are in use by another process") from err
    return fd
