"""Content of one namespace: SQLite tells which blobs are visible here, the content plugin has the bytes.

Blobs are shared: one that another namespace has already is not written again, its row here is enough.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn, TypeVar

from kernel.metadata import content_rows, fields, graves, homes, settling
from kernel.metadata.backends import OUTCOME_UNKNOWN, UNCLEAR, Backends, named, unbounded
from kernel.metadata.database import Transaction, forbid_transaction
from plugin_sdk import content, errors, identifiers, plugin
from plugin_sdk.content import Info, Status
from plugin_sdk.scope import Scope

T = TypeVar("T")

_CHUNK = 1 << 20  # bytes at a time when shared bytes are copied


class Content:
    """Implements ``plugin_sdk.content.Store``."""

    def __init__(self, backends: Backends, scope: Scope) -> None:
        self._backends = backends
        self._database = backends.database
        self._scope = scope
        self._namespace = scope.namespace

    # --- blobs

    def info(self, digest: str) -> Info:
        with self._database.read() as cursor:
            row = cursor.execute(
                "SELECT * FROM blobs WHERE namespace = ? AND digest = ?", (self._namespace, digest)
            ).fetchone()
        if row is None:
            raise content_rows.no_blob(digest)
        return content_rows.info(row)

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        return self._database.write(lambda tx: content_rows.update(tx, self._namespace, info, list(fieldpaths)))

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        match = content.matcher(filters)
        with self._database.read() as cursor:
            rows = cursor.execute(
                "SELECT * FROM blobs WHERE namespace = ? ORDER BY digest", (self._namespace,)
            ).fetchall()
        return filter(match, map(content_rows.info, rows))

    def delete(self, digest: str) -> None:
        store = self._backends.content_id()
        with self._backends.claims.hold(self._scope, graves.claim(graves.CONTENT, store, digest)):
            self._database.write(lambda tx: content_rows.delete(tx, store, self._namespace, digest))
        self._kick()

    def reader(self, digest: str) -> Reader:
        self.info(digest)
        return Reader(self._backends, self._scope, digest)

    # --- ingests

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Writer:
        if not ref:
            raise errors.InvalidArgument("ref must not be empty")
        if expected:
            identifiers.validate_digest(expected)
        store = self._backends.content_id()
        while True:
            row = self._begin(store, ref, total, expected)
            claimed = self._ingest(ref)
            if claimed is not None and (claimed["backend"], claimed["state"]) == (row["backend"], content_rows.OPEN):
                return Writer(self._backends, self._scope, store, claimed)
            self._backends.claims.drop(_claim(row))  # ended by its last writer before it was claimed

    def _begin(self, store: str, ref: str, total: int, expected: str) -> sqlite3.Row:
        """The row of the ingest, which is claimed since; the row may be older than the claim."""
        row = self._database.write(lambda tx: content_rows.begin_ingest(tx, self._scope, store, ref, total, expected))
        if isinstance(row, errors.Error):
            self._kick()
            raise row
        if not self._backends.claims.take(_claim(row)):
            raise errors.Unavailable(f'ref "{ref}" locked: unavailable')
        return row

    def _ingest(self, ref: str) -> sqlite3.Row | None:
        with self._database.read() as cursor:
            row: sqlite3.Row | None = cursor.execute(
                "SELECT * FROM ingests WHERE namespace = ? AND ref = ?", (self._namespace, ref)
            ).fetchone()
        return row

    def status(self, ref: str) -> Status:
        row = self._ingest(ref)
        if row is None:
            raise content_rows.no_ingest(ref)
        with self._use(self._scope) as made:
            return _status(made, row)

    def list_statuses(self, filters: Sequence[str] = ()) -> list[Status]:
        match = content.status_matcher(filters)
        with self._database.read() as cursor:
            rows = cursor.execute(
                "SELECT * FROM ingests WHERE namespace = ? ORDER BY ref", (self._namespace,)
            ).fetchall()
        if not rows:
            return []
        with self._use(self._scope) as made:
            return [status for row in rows if match(status := _status(made, row))]

    def abort(self, ref: str) -> None:
        store = self._backends.content_id()
        self._database.write(lambda tx: content_rows.abort(tx, store, self._namespace, ref))
        self._kick()

    def _use(self, scope: Scope) -> Any:
        return self._backends.use(plugin.CONTENT, self._backends.content_id(), scope)

    def _kick(self) -> None:
        self._backends.kick(plugin.CONTENT, self._backends.content_id())


class Reader:
    """Implements ``plugin_sdk.content.Reader``; counts as a call in flight until it is closed."""

    def __init__(self, backends: Backends, scope: Scope, digest: str) -> None:
        self._scope = scope
        there = _at_home(backends, scope, digest)
        with ExitStack() as stack:
            made = stack.enter_context(backends.use(plugin.CONTENT, backends.content_id(), there))
            self._reader: content.Reader = stack.enter_context(made.reader(digest))
            self._stack = stack.pop_all()

    @property
    def size(self) -> int:
        return self._reader.size

    def read_at(self, offset: int, size: int) -> bytes:
        """Also raises Canceled or DeadlineExceeded."""
        self._scope.check()
        return self._reader.read_at(offset, size)

    def fileno(self) -> int:
        return self._reader.fileno()

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class Writer:
    """Implements ``plugin_sdk.content.Writer`` over the plugin's.

    While a blob of another namespace stands for the bytes there is no writer of the plugin's; to write something else
    opens one. The caller has taken the claim of the ingest, and closing drops it.
    """

    def __init__(self, backends: Backends, scope: Scope, store: str, row: sqlite3.Row) -> None:
        self._backends = backends
        self._scope = scope
        self._row = row
        self._ref: str = row["ref"]
        self._store = store
        self._shared = bool(row["shared"])
        self._made_by = ""
        self._adopted = False  # the plugin has the bytes, and no other namespace need have them
        self._open = True
        self._unsettled = False
        self._writer: Any = None
        with ExitStack() as stack:
            stack.callback(backends.claims.drop, _claim(row))
            self._made = stack.enter_context(backends.use(plugin.CONTENT, self._store, unbounded(scope)))
            if not self._shared:
                self._writer = self._open_backend(stack)
            self._stack = stack.pop_all()

    def status(self) -> Status:
        self._require_open()
        if self._shared:
            return _shared_status(self._row)
        with self._named():
            return _told(self._writer.status(), self._row)

    def digest(self) -> str:
        self._require_open()
        if self._shared:
            return str(self._row["expected"])
        with self._named():
            return str(self._writer.digest())

    def write(self, data: bytes | memoryview) -> int:
        self._require_open()
        if self._shared:
            self._leave_shared(self._row["total"])
        with self._named():
            written: int = self._writer.write(data)
            return written

    def truncate(self, size: int) -> None:
        self._require_open()
        if self._shared:
            total = self._row["total"]
            if not 0 <= size <= total:
                raise errors.OutOfRange(f'ingest "{self._ref}" has {total} bytes, cannot cut it to {size}')
            self._leave_shared(size)
            return
        with self._named():
            self._writer.truncate(size)

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        self._require_open()
        kept = fields.checked(labels)
        self._made_by = kept.pop(fields.MADE, "")
        if expected:
            identifiers.validate_digest(expected)
        digest = expected or self.digest()
        try:
            with self._backends.claims.hold(self._scope, graves.claim(graves.CONTENT, self._store, digest)):
                if self._shared:
                    self._commit_shared(size, digest, kept)
                else:
                    self._commit(size, digest, kept)
        finally:
            if self._unsettled:
                self.close()
                self._backends.kick(plugin.CONTENT, self._store)
        self.close()
        return digest

    def close(self) -> None:
        if self._open:
            self._open = False
            self._stack.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    # --- commit

    def _commit(self, size: int, digest: str, labels: Mapping[str, str]) -> None:
        row = self._begin_commit(digest, labels)
        self._unsettled = True
        forbid_transaction("a commit of content")
        try:
            with self._named():
                self._writer.commit(size, digest)
        except errors.AlreadyExists:  # the bytes are there, and that is what counts
            ours = not self._backends.registry.is_remote(plugin.CONTENT, self._store)
            self._outcome(lambda tx: content_rows.finish_commit(tx, *_key(row), ours=ours))
        except OUTCOME_UNKNOWN as err:
            raise errors.Unavailable(f'ref "{self._ref}": the commit was not answered: {err.message}') from err
        except UNCLEAR:
            # the answer is in, so looking is enough: the blob is there, or the ingest goes on
            there = settling.settle_commit(self._backends, self._made, self._store, row, answered=True)
            self._unsettled = False
            if not there:
                raise
        except errors.Error:
            self._outcome(lambda tx: content_rows.reopen(tx, self._store, *_key(row)))
            raise
        else:
            self._outcome(lambda tx: content_rows.finish_commit(tx, *_key(row)), synced=False)

    def _begin_commit(self, digest: str, labels: Mapping[str, str]) -> sqlite3.Row:
        size = self.status().offset
        row = self._write(
            digest,
            lambda tx: content_rows.begin_commit(tx, self._scope, self._store, self._row, digest, size, labels),
        )
        if isinstance(row, errors.Error):
            self._end(row)
        return row

    def _write(self, digest: str, change: Callable[[Transaction], T]) -> T:
        """A removal of the digest that has begun ends first."""
        try:
            return self._backends.database.write(change)
        except graves.Begun as begun:
            self._adopted = False
            if not graves.attempt(self._backends, graves.CONTENT, self._store, digest):
                raise errors.Unavailable(f"content {digest} is being removed") from begun
            return self._backends.database.write(change)

    def _end(self, error: errors.Error) -> NoReturn:
        """The blob exists and the ingest is buried: nothing is left to write."""
        self._unsettled = True  # the grave
        raise error

    def _commit_shared(self, size: int, digest: str, labels: Mapping[str, str]) -> None:
        total, wanted = self._row["total"], self._row["expected"]
        if size and size != total:
            raise errors.FailedPrecondition(f"unexpected commit size {total}, expected {size}")
        if digest != wanted:
            raise errors.FailedPrecondition(f"unexpected commit digest {wanted}, expected {digest}")
        ours = False
        if self._adopted:
            found = dict(self._made.info(digest).labels)
            made_by = found.pop(fields.MADE, "")
            ours = not self._backends.registry.is_remote(plugin.CONTENT, self._store) or made_by == self._made_by != ""
            labels = {**found, **labels}
        error = self._write(
            digest,
            lambda tx: content_rows.commit_shared(
                tx, self._scope, self._store, self._row, labels, there=self._adopted, ours=ours
            ),
        )
        self._unsettled = self._adopted  # its own ingest's grave
        if error is not None:
            self._end(error)

    def _outcome(self, change: Callable[[Transaction], None], *, synced: bool = True) -> None:
        """Not ``synced`` where settling would come to the same after a power cut."""
        self._backends.database.write(change, synced=synced)
        self._unsettled = False

    # --- parts

    def _open_backend(self, stack: ExitStack) -> Any:
        """None when the plugin has the bytes already: as after a diff by a program with a store of its own."""
        backend, total, expected = self._row["backend"], self._row["total"], self._row["expected"]
        with self._named():
            try:
                return stack.enter_context(self._made.writer(backend, total, expected))
            except errors.AlreadyExists:
                if self._adopt(expected, total):
                    return None
                # of another size, or about to be removed: commit will tell
                return stack.enter_context(self._made.writer(backend, total))

    def _adopt(self, digest: str, total: int) -> bool:
        try:
            size = self._made.info(digest).size
        except errors.NotFound:  # it has just been removed
            return False
        if total not in (0, size):
            return False
        row = self._backends.database.write(lambda tx: content_rows.adopt(tx, self._store, self._row, size))
        if row is None:
            return False
        self._row = row
        self._shared = self._adopted = True
        return True

    def _leave_shared(self, size: int) -> None:
        """Opens a writer of the plugin's and gives it the first ``size`` of the shared bytes."""
        namespace = self._row["namespace"]
        self._backends.database.write(lambda tx: content_rows.become_real(tx, namespace, self._ref))
        with self._named():
            self._writer = self._stack.enter_context(self._made.writer(self._row["backend"], self._row["total"]))
            self._shared = False
            if size:
                self._copy(size)

    def _copy(self, size: int) -> None:
        digest = self._row["expected"]
        there = _at_home(self._backends, unbounded(self._scope), digest)
        with self._backends.use(plugin.CONTENT, self._store, there) as made, made.reader(digest) as reader:
            for offset in range(0, size, _CHUNK):
                self._writer.write(reader.read_at(offset, min(_CHUNK, size - offset)))

    def _named(self) -> Any:
        return named(self._row["backend"], self._ref)

    def _require_open(self) -> None:
        if not self._open:
            raise errors.FailedPrecondition(f'the writer of ref "{self._ref}" is closed')


def _at_home(backends: Backends, scope: Scope, digest: str) -> Scope:
    """The same caller, where the plugin has the blob."""
    with backends.database.read() as cursor:
        home = homes.find(cursor, digest, scope.namespace)
    return scope if home == scope.namespace else Scope(home, None, scope.deadline, scope.begun)


def _key(row: sqlite3.Row) -> tuple[str, str, str]:
    return (row["namespace"], row["ref"], row["backend"])


def _claim(row: sqlite3.Row) -> str:
    """An ingest is open once; by the backend's ref, so that an aborted one does not hold up its successor."""
    return f'ingest "{row["backend"]}"'


def _status(made: Any, row: sqlite3.Row) -> Status:
    if row["shared"]:
        return _shared_status(row)
    try:
        return _told(made.status(row["backend"]), row)
    except errors.NotFound:
        return Status(row["ref"], 0, row["total"], row["expected"], row["started_at"], row["started_at"])


def _shared_status(row: sqlite3.Row) -> Status:
    return Status(row["ref"], row["total"], row["total"], row["expected"], row["started_at"], row["started_at"])


def _told(status: Status, row: sqlite3.Row) -> Status:
    return Status(
        row["ref"],
        status.offset,
        row["total"] or status.total,
        row["expected"] or status.expected,
        row["started_at"],
        status.updated_at,
    )
