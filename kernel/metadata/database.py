"""The metadata database: SQLite, one thread at a time that writes, any number that read.

A write is a function on a ``Transaction``: SQL only, no I/O, quick. While nobody else writes, its own thread does it;
else it is queued, and what is queued when the other has ended is done as savepoints of one transaction and made durable
by one commit. The events that the functions emitted are then published, and only then are the callers answered::

    def rename(tx: Transaction) -> None:
        tx.execute("UPDATE …")
        tx.emit(namespace, "/images/update", "containerd.services.images.v1.ImageUpdate", payload)

    database.write(rename)

A function that raises undoes its own part only, and its caller gets the exception. To keep a change and still report
an error, return the error and raise it outside.

A change that settling would make again after a power cut need not be waited for: ``write(…, synced=False)`` leaves it
to the next commit that is waited for. It is never lost alone: what lasts is always a beginning of all commits.
"""

from __future__ import annotations

import enum
import logging
import os
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kernel.metadata import schema
from plugin_sdk import errors, runtime
from plugin_sdk.events import Envelope

if TYPE_CHECKING:
    from google.protobuf.message import Message

T = TypeVar("T")

GROUP = 64
"""Writes that share a commit, at most."""

CHECKPOINT = 100
"""Commits after which the write-ahead log is copied into the database."""

LOG_SIZE = 3 << 20
"""Bytes that the log has from the first write on, enough for so many commits. A commit that makes the file longer takes
four times as long as one that does not: its length has to be on disk too (measured on ext4)."""

NUMBERS = 100
"""One commit in so many numbers writes down which may have been given out, ahead of that. What a crash leaves unused is
less than the milliseconds that a start takes, so that the wall clock stays ahead."""

_RESTART_PATIENCE = 0.02  # seconds that writing waits, once in so many commits, for those who read the log

log = logging.getLogger(__name__)

_here = threading.local()


def forbid_transaction(what: str) -> None:
    """Raises Internal when this thread has a transaction open: no plugin may be called then."""
    if getattr(_here, "open", 0):
        raise errors.Internal(f"{what} while a transaction of the metadata is open")


@contextmanager
def _transaction_open() -> Iterator[None]:
    _here.open = getattr(_here, "open", 0) + 1
    try:
        yield
    finally:
        _here.open -= 1


class Transaction:
    """A write in progress. ``number`` is its birth number, ``now`` its time in nanoseconds."""

    __slots__ = ("_cursor", "_numbers", "events", "now", "number")

    def __init__(self, cursor: sqlite3.Cursor, numbers: Callable[[], int]) -> None:
        self._cursor = cursor
        self._numbers = numbers
        self.events: list[Envelope] = []
        self.now = time.time_ns()
        self.number = numbers()

    def next(self) -> int:
        """A number that was never given out and never will be again."""
        return self._numbers()

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._cursor.execute(sql, parameters)

    def each(self, sql: str, parameters: Iterable[Sequence[object]]) -> None:
        """Once with each."""
        self._cursor.executemany(sql, parameters)

    def one(self, sql: str, parameters: Sequence[object] = ()) -> Any:
        """The first row, or None."""
        return self._cursor.execute(sql, parameters).fetchone()

    def all(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        return self._cursor.execute(sql, parameters).fetchall()

    def emit(self, namespace: str, topic: str, type_url: str, payload: bytes) -> None:
        """Publishes an event once this write is durable."""
        self.events.append(Envelope(self.now, namespace, topic, runtime.Any(type_url, payload)))

    def announce(self, namespace: str, topic: str, message: Message) -> None:
        """As emit, with the event as a protobuf message."""
        self.emit(namespace, topic, message.DESCRIPTOR.full_name, message.SerializeToString(deterministic=True))


class _Job(Generic[T]):
    __slots__ = ("change", "done", "error", "result", "synced")

    def __init__(self, change: Callable[[Transaction], T], synced: bool) -> None:
        self.change = change
        self.synced = synced
        self.done = threading.Lock()
        self.done.acquire()
        self.result: T | None = None
        self.error: BaseException | None = None


class _Mark(enum.Enum):
    """In the queue, beside jobs."""

    END = enum.auto()
    CHECKPOINT = enum.auto()


class _Reader:
    """A thread's own read-only connection; ends with the thread or the database."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        self.connection.row_factory = sqlite3.Row
        self.depth = 0

    def close(self) -> None:
        self.connection.close()

    def __del__(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()


class Database:
    """Opens or makes the file ``path``. ``publish`` is called by who writes, in the order of the commits.

    Raises FailedPrecondition for a file that a newer Corten has written.
    """

    def __init__(self, path: str | Path, publish: Callable[[Sequence[Envelope]], None] | None = None) -> None:
        self.path = Path(path)
        self.publish = publish
        self._queue: queue.SimpleQueue[_Job[Any] | _Mark] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._writer_waits = False  # for its turn, with what was queued
        self._closed = False
        self._readers: weakref.WeakSet[_Reader] = weakref.WeakSet()
        self._own = threading.local()
        self._lock = threading.Lock()
        self._connection = _open_for_writing(self.path)
        self._seq = self._written_seq = _raise_seq(self._connection)
        self._syncs = True  # as the connection is set
        self._commits = 0
        self._checkpoint_due = threading.Event()
        self._threads: list[threading.Thread] = []

    @contextmanager
    def read(self) -> Iterator[sqlite3.Cursor]:
        """One snapshot of everything committed; read within it is the same snapshot. Rows can be indexed by name."""
        reader = self._reader()
        cursor = reader.connection.cursor()
        reader.depth += 1
        try:
            with _transaction_open():
                if reader.depth == 1:
                    cursor.execute("BEGIN")
                yield cursor
        finally:
            reader.depth -= 1
            cursor.close()
            if reader.depth == 0 and reader.connection.in_transaction:
                reader.connection.execute("ROLLBACK")

    def write(self, change: Callable[[Transaction], T], *, synced: bool = True) -> T:
        """Runs ``change``, here or in the writer's thread, and returns its result when it is durable.

        If not ``synced``, when all can read it: it survives the end of the daemon, and a power cut if a later one does.

        Raises what ``change`` raises; Unavailable when the database is closed or cannot be written.
        """
        forbid_transaction("a write was asked for")
        job = _Job(change, synced)
        with self._lock:
            if self._closed:
                raise errors.Unavailable("the metadata database is closed")
            if not self._threads:
                self._start()
            here = not self._writer_waits and self._queue.empty() and self._writing.acquire(blocking=False)
            if not here:
                self._queue.put(job)
        if here:
            try:
                self._do([job])
            finally:
                self._writing.release()
        job.done.acquire()
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    def close(self) -> None:
        """Finishes what is queued. No thread may be reading."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(_Mark.END)
        self._checkpoint_due.set()
        for thread in self._threads:
            thread.join()
        self._writing.acquire()  # who writes now is the last
        for reader in list(self._readers):
            reader.close()
        self._connection.close()

    def _start(self) -> None:
        _lengthen(Path(f"{self.path}-wal"))
        self._threads = [
            threading.Thread(target=self._write_queued, name="metadata-writer", daemon=True),
            threading.Thread(target=self._checkpoint, name="metadata-checkpoint", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _reader(self) -> _Reader:
        reader: _Reader | None = getattr(self._own, "reader", None)
        if reader is None:
            with self._lock:
                if self._closed:
                    raise errors.Unavailable("the metadata database is closed")
                reader = self._own.reader = _Reader(self.path)
                self._readers.add(reader)
        return reader

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _write_queued(self) -> None:
        while (first := self._queue.get()) is not _Mark.END:
            self._writer_waits = True
            with self._writing:
                self._writer_waits = False
                if first is _Mark.CHECKPOINT:
                    self._checkpoint_rest()
                else:
                    self._do(self._with_queued(first))

    def _do(self, batch: list[_Job[Any]]) -> None:
        try:
            done = self._commit(batch)
        except sqlite3.Error as err:
            _fail(batch, self._unavailable(err))
            with suppress(sqlite3.Error):
                self._connection.rollback()
            return
        self._announce([event for tx in done for event in tx.events])
        for job in batch:
            job.done.release()

    def _announce(self, events: list[Envelope]) -> None:
        if events and self.publish is not None:
            try:
                self.publish(events)
            except Exception:
                log.exception("events of a committed change were not published")

    def _with_queued(self, first: _Job[Any]) -> list[_Job[Any]]:
        batch = [first]
        while len(batch) < GROUP and not self._queue.empty():
            job = self._queue.get()
            if not isinstance(job, _Job):
                self._queue.put(job)
                break
            batch.append(job)
        return batch

    def _commit(self, batch: list[_Job[Any]]) -> list[Transaction]:
        cursor = self._connection.cursor()
        changes = self._connection.total_changes
        self._set_syncs(any(job.synced for job in batch))
        cursor.execute("BEGIN IMMEDIATE")
        done = [tx for job in batch if (tx := self._run(job, cursor, len(batch) == 1)) is not None]
        if done and self._connection.total_changes != changes:
            seq = self._written_seq
            if self._seq > seq:
                seq = self._seq + NUMBERS
                cursor.execute("UPDATE seq SET value = ?", (seq,))
            cursor.execute("COMMIT")
            self._written_seq = seq
            self._commits += 1
            if self._commits % CHECKPOINT == 0:
                self._checkpoint_due.set()
        else:
            cursor.execute("ROLLBACK")
        return done

    def _set_syncs(self, syncs: bool) -> None:
        if self._syncs is not syncs:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if syncs else 'NORMAL'}")
            self._syncs = syncs

    def _run(self, job: _Job[Any], cursor: sqlite3.Cursor, alone: bool) -> Transaction | None:
        """None when it has failed: what it did is undone, by the caller if it is ``alone``."""
        if not alone:
            cursor.execute("SAVEPOINT job")
        try:
            with _transaction_open():
                tx = Transaction(cursor, self._next)
                job.result = job.change(tx)
        except BaseException as err:  # noqa: BLE001 - it is the caller's
            job.error = self._unavailable(err) if isinstance(err, sqlite3.OperationalError) else err
            if not alone:
                cursor.execute("ROLLBACK TO job")
                cursor.execute("RELEASE job")
            return None
        if not alone:
            cursor.execute("RELEASE job")
        return tx

    def _unavailable(self, err: sqlite3.Error) -> errors.Unavailable:
        return errors.Unavailable(f"metadata database {self.path}: {err}")

    def _checkpoint(self) -> None:
        """Copies the log into the database beside the writer, which does not wait."""
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            while not self._closed:
                self._checkpoint_due.wait()
                with suppress(sqlite3.OperationalError):
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._checkpoint_due.clear()
                self._queue.put(_Mark.CHECKPOINT)
        finally:
            connection.close()

    def _checkpoint_rest(self) -> None:
        """The little that was written meanwhile. The log begins again from its start only when nothing is left and
        nobody reads it, and else it would grow as long as there is something to write."""
        with suppress(sqlite3.OperationalError), _patience(self._connection, _RESTART_PATIENCE):
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)")


@contextmanager
def _patience(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Waits for others that long, and not as otherwise."""
    (usual,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {usual}")


def _lengthen(log: Path) -> None:
    """By zeros, which SQLite takes for the end. Best effort; nobody may be writing to the database."""
    with suppress(OSError), log.open("ab") as file:
        file.write(bytes(max(0, LOG_SIZE - file.tell())))
        os.fdatasync(file.fileno())


def _fail(batch: list[_Job[Any]], error: errors.Error) -> None:
    for job in batch:
        job.error = job.error or error
        job.done.release()


def _open_for_writing(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        _bring_up_to_date(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > schema.VERSION:
        raise errors.FailedPrecondition(
            f"metadata database {path} has schema version {version}, and this Corten knows versions up to "
            f"{schema.VERSION}: start the newer Corten that wrote it, or give another root directory"
        )
    if version == 0:
        connection.executescript(f"BEGIN; {schema.TABLES} PRAGMA user_version = {schema.VERSION}; COMMIT;")
        return
    for step in range(version, schema.VERSION):
        connection.executescript(f"BEGIN; {schema.UPGRADES[step]} PRAGMA user_version = {step + 1}; COMMIT;")


def _raise_seq(connection: sqlite3.Connection) -> int:
    """So that no number returns, also when the file is new or was restored from an old copy."""
    clock = time.time_ns() // 1_000_000
    connection.execute("UPDATE seq SET value = max(value, ?)", (clock,))
    (value,) = connection.execute("SELECT value FROM seq").fetchone()
    return int(value)
