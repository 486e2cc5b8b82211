"""The table of tasks: which there are, in memory and in the metadata database.

A change is written with its event: create, start, exit, delete in this order for each task. An exit that is reported
while its start is being written waits for that.

At the daemon's start ``recover`` has each bundle loaded by its runtime: a task whose creation was never answered is
undone, exits of the time between are recorded, tasks that have vanished are recorded as killed.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kernel.exits import Entry, Recorder
from kernel.metadata import tasks as records
from kernel.metadata.database import Database, Transaction
from plugin_sdk import containers, errors, plugin, runtime
from plugin_sdk.runtime import Exit
from plugin_sdk.scope import Scope

BUNDLES = "io.containerd.runtime.v2.task"
"""Below the daemon's state directory; in it NAMESPACE/ID."""

KILLED = 137
"""The status of a process of whose end nobody was told."""

_KILL_TIMEOUT = 10.0  # seconds
_PATIENCE = 1.0  # seconds; a daemon should serve within two
_LOADERS = 8

log = logging.getLogger("tasks")

T = TypeVar("T")

Store = Callable[[Scope], containers.Store]


class Plugins(Protocol):
    """What is needed of the registry."""

    def use(self, kind: str, id: str, scope: Scope | None = None) -> AbstractContextManager[Any]: ...

    def ids(self, kind: str) -> list[str]: ...

    def lane(self, name: str) -> Any: ...


class Table:
    """All tasks of the daemon."""

    def __init__(self, database: Database, plugins: Plugins, store: Store, state: Path) -> None:
        self._database = database
        self._plugins = plugins
        self._store = store
        self._bundles = state / BUNDLES
        self._recorder = Recorder(database)
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], Entry] = {}

    def close(self) -> None:
        """Those who wait get Unavailable; tasks go on."""
        self._recorder.close()
        with self._lock:
            entries = list(self._entries.values())
        for entry in entries:
            entry.end(errors.Unavailable("the daemon is stopping"))

    # -- the table

    def container(self, scope: Scope, id: str) -> containers.Container:
        return self._store(scope).get(id)

    def entries(self, namespace: str) -> list[Entry]:
        with self._lock:
            return [entry for key, entry in sorted(self._entries.items()) if key[0] == namespace]

    def entry(self, namespace: str, id: str) -> Entry:
        """Raises NotFound, Unavailable for a task that its runtime could not load."""
        with self._lock:
            entry = self._entries.get((namespace, id))
        if entry is None or (entry.task is None and entry.error is None):
            raise errors.NotFound(f"task {id} not found")
        if entry.error is not None:
            raise errors.Unavailable(f"task {id} cannot be reached: {entry.error.message}")
        return entry

    def lane(self, namespace: str, id: str) -> str:
        """Empty when there is no such task."""
        with self._lock:
            entry = self._entries.get((namespace, id))
        return "" if entry is None else f"{plugin.RUNTIME}.{entry.row.runtime}"

    @contextmanager
    def using(self, entry: Entry, scope: Scope) -> Iterator[runtime.Task]:
        with self._plugins.use(plugin.RUNTIME, entry.row.runtime, scope):
            assert entry.task is not None
            yield entry.task

    def write(self, change: Callable[..., T], *args: object) -> T:
        return self._database.write(lambda tx: change(tx, *args))

    def _add(self, row: records.Row) -> Entry:
        entry = Entry(row, self._bundles / row.namespace / row.id)
        entry.outcome("")
        with self._lock:
            self._entries[row.namespace, row.id] = entry
        return entry

    def _remove(self, entry: Entry) -> None:
        key = entry.row.namespace, entry.row.id
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]

    def submit(self, entry: Entry, work: Callable[..., T], *args: object) -> Future[T]:
        """In a thread of the entry's runtime."""
        future: Future[T] = self._plugins.lane(f"{plugin.RUNTIME}.{entry.row.runtime}").submit(work, *args)
        return future

    # -- exits

    @contextmanager
    def holding(self, entry: Entry, exec_id: str) -> Iterator[None]:
        """An exit that is reported meanwhile is recorded at the end. Raises FailedPrecondition within another one."""
        with entry.lock:
            if exec_id in entry.held:
                raise errors.FailedPrecondition(f"process {exec_id or entry.row.id} is being started already")
            entry.held[exec_id] = []
        try:
            yield
        finally:
            with entry.lock:
                exits = entry.held.pop(exec_id)
            for exit in exits:
                self._recorder.exited(entry, exit)

    def _exited(self, entry: Entry, exit: Exit) -> None:
        """Called in the runtime's thread, which has others to serve: the writing is left to the recorder."""
        with entry.lock:
            if exit.exec_id in entry.held:
                entry.held[exit.exec_id].append(exit)
                return
        self._recorder.exited(entry, exit)

    def _out_of_memory(self, entry: Entry, namespace: str, id: str) -> None:
        self._recorder.out_of_memory(entry)

    # -- making and removing

    def create(self, scope: Scope, container: containers.Container, request: runtime.Create) -> int:
        name = container.runtime.name
        with self._plugins.use(plugin.RUNTIME, name, scope) as engine:
            row = self.write(records.begin, scope.namespace, container.id, name)
            entry = self._add(row)
            try:
                return self._make(entry, engine, request)
            except BaseException:
                self.write(records.abandon, row)
                self._remove(entry)
                entry.end(errors.NotFound(f"task {container.id} not found"))
                raise

    def _make(self, entry: Entry, engine: runtime.Runtime, request: runtime.Create) -> int:
        request.bundle.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        with self.holding(entry, ""):
            task = engine.create(request, *self._callbacks(entry))
            try:
                self.write(records.created, entry.row, request, task.pid)
            except BaseException:
                _undo(task)
                raise
            entry.task = task
        return task.pid

    def _callbacks(self, entry: Entry) -> tuple[Callable[[Exit], None], Callable[[str, str], None]]:
        return functools.partial(self._exited, entry), functools.partial(self._out_of_memory, entry)

    def bundle(self, namespace: str, id: str) -> Path:
        return self._bundles / namespace / id

    def delete(self, entry: Entry, scope: Scope) -> Exit:
        with self.using(entry, scope) as task:
            exit = task.delete()
        if not self.write(_ended, entry.row, exit):
            raise errors.NotFound(f"task {entry.row.id} not found")
        self._remove(entry)
        entry.end(exit)
        return exit

    # -- after a restart

    def recover(self, patience: float = _PATIENCE) -> None:
        """Finds the tasks again. One whose shim does not answer within ``patience`` seconds is left to threads of its
        own; until then, and if it cannot be loaded at all, it answers Unavailable."""
        with self._database.read() as cursor:
            known = [(row, records.exits(cursor, row.incarnation)) for row in records.rows(cursor)]
        unloaded: queue.SimpleQueue[Entry] = queue.SimpleQueue()
        for row, exits in known:
            entry = self._add(row)
            entry.error = errors.Unavailable("it is being loaded")
            for exec_id, (pid, status, exited_at) in exits.items():
                entry.outcome(exec_id).set(Exit(row.namespace, row.id, exec_id, pid, status, exited_at))
            unloaded.put(entry)
        self._reload_all(unloaded, patience)
        for bundle in self._unknown_bundles():
            self._take_in(bundle)

    def _reload_all(self, unloaded: queue.SimpleQueue[Entry], patience: float) -> None:
        def work() -> None:
            with suppress(queue.Empty):
                while True:
                    self._reload(unloaded.get_nowait())

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_LOADERS, unloaded.qsize()))]
        for thread in threads:
            thread.start()
        end = time.monotonic() + patience
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _reload(self, entry: Entry) -> None:
        row = entry.row
        try:
            with (
                self._plugins.use(plugin.RUNTIME, row.runtime, Scope(row.namespace)) as engine,
                self.holding(entry, ""),
            ):
                task = engine.load(entry.bundle, *self._callbacks(entry))
                if task is None or row.state == records.CREATING or not self._has_container(row):
                    self._give_up(entry, task)
                    return
                if row.state == records.CREATED and task.state().status != runtime.Status.CREATED:
                    self.write(records.started, row, task.pid)
                entry.task, entry.error = task, None
        except errors.Error as err:
            log.error("task %s in namespace %s cannot be loaded: %s", row.id, row.namespace, err.message)
            entry.error = err

    def _give_up(self, entry: Entry, task: runtime.Task | None) -> None:
        """Nobody was told of the task; or it has vanished, as after a restart of the machine; or nobody can get it by
        its id any more, since its container has gone."""
        row = entry.row
        exit = None if task is None else _undo(task)
        if row.state == records.CREATING:
            self.write(records.abandon, row)
        else:
            self.write(_vanished, row, exit)
        self._remove(entry)
        entry.end(errors.NotFound(f"task {row.id} not found"))
        log.info("task %s in namespace %s has gone", row.id, row.namespace)

    def _has_container(self, row: records.Row) -> bool:
        try:
            self.container(Scope(row.namespace), row.id)
        except errors.NotFound:
            return False
        return True

    def _unknown_bundles(self) -> list[Path]:
        return [
            bundle for bundle in self._bundles.glob("*/*") if (bundle.parent.name, bundle.name) not in self._entries
        ]

    def _take_in(self, bundle: Path) -> None:
        """A bundle without row: the database is new or of an earlier time. Kept if there is such a container."""
        scope = Scope(bundle.parent.name)
        try:
            container = self.container(scope, bundle.name)
        except errors.Error:
            container = None
        names = [container.runtime.name] if container is not None else self._plugins.ids(plugin.RUNTIME)
        for name in names:
            try:
                self._take_in_by(name, bundle, keep=container is not None)
            except errors.Error as err:
                log.error("bundle %s cannot be loaded by %s: %s", bundle, name, err.message)

    def _take_in_by(self, name: str, bundle: Path, *, keep: bool) -> None:
        entry = self._add(records.Row(0, bundle.parent.name, bundle.name, name, records.STARTED))
        with self._plugins.use(plugin.RUNTIME, name, Scope(bundle.parent.name)) as engine, self.holding(entry, ""):
            task: runtime.Task | None = engine.load(bundle, *self._callbacks(entry))
            if task is not None and keep:
                state = records.CREATED if task.state().status == runtime.Status.CREATED else records.STARTED
                entry.row = self.write(records.adopt, entry.row, state, task.pid)
                entry.task = task
                return
        self._remove(entry)
        if task is not None:
            _undo(task)


def _undo(task: runtime.Task) -> Exit | None:
    """Ends and forgets a task, if that can be done; answers how it ended."""
    with suppress(errors.Error):
        task.kill(9)
    deadline = time.monotonic() + _KILL_TIMEOUT
    while True:
        try:
            return task.delete()
        except errors.FailedPrecondition as err:
            if time.monotonic() > deadline:
                log.error("task %s cannot be undone: %s", task.id, err.message)
                return None
            time.sleep(0.02)
        except errors.Error as err:
            log.error("task %s cannot be undone: %s", task.id, err.message)
            return None


def _ended(tx: Transaction, row: records.Row, exit: Exit) -> bool:
    records.record_exit(tx, row, exit)
    return records.delete(tx, row, exit)


def _vanished(tx: Transaction, row: records.Row, exit: Exit | None) -> None:
    """``exit`` is None when its runtime does not know the task either."""
    known = records.recorded(tx, row)
    if known is None:
        known = exit or Exit(row.namespace, row.id, "", row.pid, KILLED, tx.now)
        records.record_exit(tx, row, known)
    records.delete(tx, row, known)
