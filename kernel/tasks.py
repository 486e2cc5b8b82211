"""Tasks: which containers run, and how their processes ended.

The runtime plugins run tasks; the table here, kept in the metadata database, knows which there are. A change is written
with its event: create, start, exit, delete in this order for each task. An exit is recorded once, and only then told to
those who wait for it. One that is reported while its start is being written waits for that.

At the daemon's start ``recover`` has each bundle loaded by its runtime: a task whose creation was never answered is
undone, exits of the time between are recorded, tasks that have vanished are recorded as killed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kernel.metadata import tasks as records
from kernel.metadata.containers import Containers
from kernel.metadata.database import Database, Transaction
from kernel.outcomes import Outcome
from plugin_sdk import containers, errors, filters, identifiers, plugin, runtime
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.runtime import Exit, Process, ProcessInfo, Stdio
from plugin_sdk.scope import Scope

BUNDLES = "io.containerd.runtime.v2.task"
"""Below the daemon's state directory; in it NAMESPACE/ID."""

KILLED = 137
"""The status of a process of whose end nobody was told."""

_KILL_TIMEOUT = 10.0  # seconds

log = logging.getLogger("tasks")

T = TypeVar("T")


class Plugins(Protocol):
    """What is needed of the registry."""

    def use(self, kind: str, id: str, scope: Scope | None = None) -> AbstractContextManager[Any]: ...

    def ids(self, kind: str) -> list[str]: ...

    def lane(self, name: str) -> Any: ...


@dataclass(eq=False, slots=True)
class _Entry:
    """A task of the table. ``task`` is None while it is being created, and when its runtime could not load it: then
    ``error`` says why."""

    row: records.Row
    bundle: Path
    task: runtime.Task | None = None
    error: errors.Error | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    held: dict[str, list[Exit]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def outcome(self, exec_id: str) -> Outcome:
        with self.lock:
            return self.outcomes.setdefault(exec_id, Outcome())

    def renew(self, exec_id: str) -> None:
        """A process of this id is new: what another one of it ended with is no answer any more."""
        with self.lock:
            if exec_id in self.outcomes and self.outcomes[exec_id].done:
                del self.outcomes[exec_id]

    def forget(self, exec_id: str, result: Exit | errors.Error) -> None:
        with self.lock:
            outcome = self.outcomes.pop(exec_id, None)
        if outcome is not None:
            outcome.set(result)

    def end(self, result: Exit | errors.Error) -> None:
        """Nothing more can be waited for."""
        with self.lock:
            outcomes, self.outcomes = self.outcomes, {}
        gone = errors.NotFound(f"task {self.row.id} not found")
        for exec_id, outcome in outcomes.items():
            outcome.set(gone if exec_id and isinstance(result, Exit) else result)


class Tasks:
    """All tasks of the daemon; ``bind`` gives those of one namespace."""

    def __init__(self, database: Database, plugins: Plugins, state: Path) -> None:
        self._database = database
        self._plugins = plugins
        self._bundles = state / BUNDLES
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], _Entry] = {}

    def bind(self, scope: Scope) -> BoundTasks:
        return BoundTasks(self, scope)

    def close(self) -> None:
        """Those who wait get Unavailable; tasks go on."""
        with self._lock:
            entries, self._entries = list(self._entries.values()), {}
        for entry in entries:
            entry.end(errors.Unavailable("the daemon is stopping"))

    # -- the table

    def container(self, scope: Scope, id: str) -> containers.Container:
        return Containers(self._database, scope).get(id)

    def entries(self, namespace: str) -> list[_Entry]:
        with self._lock:
            return [entry for key, entry in sorted(self._entries.items()) if key[0] == namespace]

    def entry(self, namespace: str, id: str) -> _Entry:
        """Raises NotFound, Unavailable for a task that its runtime could not load."""
        with self._lock:
            entry = self._entries.get((namespace, id))
        if entry is None or (entry.task is None and entry.error is None):
            raise errors.NotFound(f"task {id} not found")
        if entry.error is not None:
            raise errors.Unavailable(f"task {id} cannot be reached: {entry.error.message}")
        return entry

    @contextmanager
    def using(self, entry: _Entry, scope: Scope) -> Iterator[runtime.Task]:
        with self._plugins.use(plugin.RUNTIME, entry.row.runtime, scope):
            assert entry.task is not None
            yield entry.task

    def write(self, change: Callable[..., T], *args: object) -> T:
        return self._database.write(lambda tx: change(tx, *args))

    def _add(self, row: records.Row) -> _Entry:
        entry = _Entry(row, self._bundles / row.namespace / row.id)
        entry.outcome("")
        with self._lock:
            self._entries[row.namespace, row.id] = entry
        return entry

    def _remove(self, entry: _Entry) -> None:
        key = entry.row.namespace, entry.row.id
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]

    def submit(self, entry: _Entry, work: Callable[..., T], *args: object) -> Future[T]:
        """In a thread of the entry's runtime."""
        future: Future[T] = self._plugins.lane(f"{plugin.RUNTIME}.{entry.row.runtime}").submit(work, *args)
        return future

    # -- exits

    @contextmanager
    def holding(self, entry: _Entry, exec_id: str) -> Iterator[None]:
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
                self._record(entry, exit)

    def _exited(self, entry: _Entry, exit: Exit) -> None:
        with entry.lock:
            if exit.exec_id in entry.held:
                entry.held[exit.exec_id].append(exit)
                return
        self._record(entry, exit)

    def _record(self, entry: _Entry, exit: Exit) -> None:
        try:
            self.write(records.record_exit, entry.row, exit)
        except errors.Unavailable as err:
            log.warning("the exit of %s is not recorded yet: %s", entry.row.id, err.message)
            return  # the runtime reports it again after the next start
        entry.outcome(exit.exec_id).set(exit)

    def _out_of_memory(self, entry: _Entry, namespace: str, id: str) -> None:
        with suppress(errors.Unavailable):
            self.write(records.out_of_memory, entry.row)

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

    def _make(self, entry: _Entry, engine: runtime.Runtime, request: runtime.Create) -> int:
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

    def _callbacks(self, entry: _Entry) -> tuple[Callable[[Exit], None], Callable[[str, str], None]]:
        return functools.partial(self._exited, entry), functools.partial(self._out_of_memory, entry)

    def bundle(self, namespace: str, id: str) -> Path:
        return self._bundles / namespace / id

    def delete(self, entry: _Entry, scope: Scope) -> Exit:
        with self.using(entry, scope) as task:
            exit = task.delete()
        if not self.write(_ended, entry.row, exit):
            raise errors.NotFound(f"task {entry.row.id} not found")
        self._remove(entry)
        entry.end(exit)
        return exit

    # -- after a restart

    def recover(self) -> None:
        """Finds the tasks again. One that cannot be loaded is logged and answers Unavailable until the next start."""
        with self._database.read() as cursor:
            known = [(row, records.exits(cursor, row.incarnation)) for row in records.rows(cursor)]
        for row, exits in known:
            entry = self._add(row)
            for exec_id, (pid, status, exited_at) in exits.items():
                entry.outcome(exec_id).set(Exit(row.namespace, row.id, exec_id, pid, status, exited_at))
            self._reload(entry)
        for bundle in self._unknown_bundles():
            self._take_in(bundle)

    def _reload(self, entry: _Entry) -> None:
        row = entry.row
        try:
            with (
                self._plugins.use(plugin.RUNTIME, row.runtime, Scope(row.namespace)) as engine,
                self.holding(entry, ""),
            ):
                task = engine.load(entry.bundle, *self._callbacks(entry))
                if task is None or row.state == records.CREATING:
                    self._give_up(entry, task)
                    return
                if row.state == records.CREATED and task.state().status != runtime.Status.CREATED:
                    self.write(records.started, row, task.pid)
                entry.task = task
        except errors.Error as err:
            log.error("task %s in namespace %s cannot be loaded: %s", row.id, row.namespace, err.message)
            entry.error = err

    def _give_up(self, entry: _Entry, task: runtime.Task | None) -> None:
        """Nobody was told of the task, or it has vanished, as after a restart of the machine."""
        row = entry.row
        if task is not None:
            _undo(task)
        if row.state == records.CREATING:
            self.write(records.abandon, row)
        else:
            self.write(_vanished, row)
        self._remove(entry)
        entry.end(errors.NotFound(f"task {row.id} not found"))
        log.info("task %s in namespace %s has gone", row.id, row.namespace)

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
        if container is None and bundle.exists():
            shutil.rmtree(bundle, ignore_errors=True)

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


def _undo(task: runtime.Task) -> None:
    """Ends and forgets a task of which nobody was told."""
    with suppress(errors.Error):
        task.kill(9)
    deadline = time.monotonic() + _KILL_TIMEOUT
    while True:
        try:
            task.delete()
        except errors.FailedPrecondition as err:
            if time.monotonic() > deadline:
                log.error("task %s cannot be undone: %s", task.id, err.message)
                return
            time.sleep(0.02)
        except errors.Error as err:
            log.error("task %s cannot be undone: %s", task.id, err.message)
            return
        else:
            return


def _ended(tx: Transaction, row: records.Row, exit: Exit) -> bool:
    records.record_exit(tx, row, exit)
    return records.delete(tx, row, exit)


def _vanished(tx: Transaction, row: records.Row) -> None:
    exit = records.recorded(tx, row)
    if exit is None:
        exit = Exit(row.namespace, row.id, "", row.pid, KILLED, tx.now)
        records.record_exit(tx, row, exit)
    records.delete(tx, row, exit)


class BoundTasks:
    """``plugin_sdk.tasks.Manager`` of one namespace."""

    def __init__(self, tasks: Tasks, scope: Scope) -> None:
        self._tasks = tasks
        self._scope = scope

    def _find(self, id: str) -> _Entry:
        """Clients tell a missing container from a missing task."""
        self._tasks.container(self._scope, id)
        return self._tasks.entry(self._scope.namespace, id)

    @contextmanager
    def _use(self, id: str) -> Iterator[tuple[_Entry, runtime.Task]]:
        entry = self._find(id)
        with self._tasks.using(entry, self._scope) as task:
            yield entry, task

    def create(
        self,
        id: str,
        rootfs: Sequence[Mount] = (),
        stdio: Stdio | None = None,
        options: runtime.Any | None = None,
        runtime_path: str = "",
        checkpoint: Descriptor | None = None,
    ) -> int:
        container = self._tasks.container(self._scope, id)
        if runtime_path:
            raise errors.Unimplemented(f'runtime path "{runtime_path}": not implemented')
        if checkpoint is not None and checkpoint.digest:
            raise errors.Unimplemented(f"task {id}: restoring a checkpoint is not implemented")
        given = options is not None and (options.type_url or options.value)
        request = runtime.Create(
            namespace=self._scope.namespace,
            id=id,
            bundle=self._tasks.bundle(self._scope.namespace, id),
            spec=container.spec.value,
            rootfs=tuple(rootfs),
            stdio=stdio or Stdio(),
            options=options if options is not None and given else container.runtime.options,
        )
        return self._tasks.create(self._scope, container, request)

    def start(self, id: str, exec_id: str = "") -> int:
        with self._use(id) as (entry, task), self._tasks.holding(entry, exec_id):
            pid = task.start(exec_id)
            if exec_id:
                self._tasks.write(records.exec_started, entry.row, exec_id, pid)
            else:
                self._tasks.write(records.started, entry.row, pid)
        return pid

    def delete(self, id: str, exec_id: str = "") -> Exit:
        entry = self._find(id)
        if not exec_id:
            return self._tasks.delete(entry, self._scope)
        with self._tasks.using(entry, self._scope) as task:
            exit = task.delete(exec_id)
        self._tasks.write(records.forget_exec, entry.row, exec_id)
        entry.forget(exec_id, exit)
        return exit

    def get(self, id: str, exec_id: str = "") -> Process:
        with self._use(id) as (_, task):
            return task.state(exec_id)

    def list(self, filter: str = "") -> Sequence[Process]:
        """``filter`` is kept for later use; containerd does not look at it either."""
        found = []
        for entry in self._tasks.entries(self._scope.namespace):
            if entry.task is None:
                continue
            try:
                with self._tasks.using(entry, self._scope) as task:
                    found.append(task.state())
            except errors.Error as err:
                log.warning("task %s is left out of the list: %s", entry.row.id, err.message)
        return found

    def kill(self, id: str, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        with self._use(id) as (_, task):
            task.kill(signal, exec_id, all=all)

    def exec(self, id: str, exec_id: str, spec: runtime.Any, stdio: Stdio) -> None:
        identifiers.validate(exec_id)
        with self._use(id) as (entry, task):
            task.exec(exec_id, spec.value, stdio)
            entry.renew(exec_id)
            entry.outcome(exec_id)
            self._tasks.write(records.exec_added, entry.row, exec_id)

    def resize_pty(self, id: str, width: int, height: int, exec_id: str = "") -> None:
        with self._use(id) as (_, task):
            task.resize_pty(width, height, exec_id)

    def close_io(self, id: str, exec_id: str = "", *, stdin: bool = True) -> None:
        with self._use(id) as (_, task):
            if stdin:
                task.close_io(exec_id)

    def pause(self, id: str) -> None:
        with self._use(id) as (entry, task):
            task.pause()
            self._tasks.write(records.paused, entry.row)

    def resume(self, id: str) -> None:
        with self._use(id) as (entry, task):
            task.resume()
            self._tasks.write(records.resumed, entry.row)

    def pids(self, id: str) -> Sequence[ProcessInfo]:
        with self._use(id) as (_, task):
            return task.pids()

    def checkpoint(self, id: str, parent: str = "", options: runtime.Any | None = None) -> Sequence[Descriptor]:
        self._find(id)
        raise errors.Unimplemented(f"task {id}: checkpoints are not implemented")

    def update(self, id: str, resources: runtime.Any, annotations: Mapping[str, str] | None = None) -> None:
        with self._use(id) as (_, task):
            task.update(resources.value, annotations or {})

    def metrics(self, filters: Sequence[str] = ()) -> Sequence[tuple[str, int, runtime.Any]]:
        match = _metrics_matcher(filters)
        found = []
        for entry in self._tasks.entries(self._scope.namespace):
            if entry.task is None or not match(entry.row):
                continue
            try:
                with self._tasks.using(entry, self._scope) as task:
                    found.append((entry.row.id, time.time_ns(), task.metrics()))
            except errors.Error as err:
                log.warning("the figures of task %s are left out: %s", entry.row.id, err.message)
        return found

    def wait(self, id: str, exec_id: str = "", timeout: float | None = None) -> Exit:
        return self._outcome(id, exec_id).wait(timeout)

    async def wait_async(self, id: str, exec_id: str = "") -> Exit:
        """As wait, on the event loop; a thread is used for a process that is not known yet only."""
        entry = self._tasks.entry(self._scope.namespace, id)
        outcome = entry.outcomes.get(exec_id)
        if outcome is None:
            outcome = await asyncio.wrap_future(self._tasks.submit(entry, self._outcome, id, exec_id))
        return await outcome.wait_async()

    def _outcome(self, id: str, exec_id: str) -> Outcome:
        entry = self._tasks.entry(self._scope.namespace, id)
        if exec_id not in entry.outcomes:
            with self._tasks.using(entry, self._scope) as task:
                now = task.state(exec_id)
            if now.status == runtime.Status.STOPPED:
                exit = Exit(self._scope.namespace, id, exec_id, now.pid, now.exit_status, now.exited_at)
                entry.outcome(exec_id).set(exit)
        return entry.outcome(exec_id)


def _metrics_matcher(wanted: Sequence[str]) -> Callable[[records.Row], bool]:
    match = filters.compile(wanted)
    return lambda row: match(lambda path: {"id": row.id, "namespace": row.namespace}.get(filters.fields(path)))
