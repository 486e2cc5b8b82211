"""Tasks, as clients see them: ``plugin_sdk.tasks`` over the runtime plugins and the table of tasks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from kernel.exits import Entry, Outcome
from kernel.metadata import tasks as records
from kernel.task_table import Table
from plugin_sdk import errors, filters, identifiers, plugin, runtime
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.runtime import Exit, Process, ProcessInfo, Stdio
from plugin_sdk.scope import Scope

log = logging.getLogger("tasks")


class Tasks(Table):
    """``bind`` gives the tasks of one namespace."""

    def bind(self, scope: Scope) -> BoundTasks:
        return BoundTasks(self, scope)


class BoundTasks:
    """``plugin_sdk.tasks.Manager`` of one namespace."""

    def __init__(self, tasks: Tasks, scope: Scope) -> None:
        self._tasks = tasks
        self._scope = scope

    def lane(self, id: str) -> str:
        """The threads in which the task's runtime is called; empty when there is no such task."""
        return self._tasks.lane(self._scope.namespace, id)

    def container_lane(self, id: str) -> str:
        """Those of the runtime that the container names; empty, for the metadata's, when there is none."""
        try:
            return f"{plugin.RUNTIME}.{self._tasks.container(self._scope, id).runtime.name}"
        except errors.NotFound:
            return ""

    def _find(self, id: str) -> Entry:
        """Clients tell a missing container from a missing task."""
        self._tasks.container(self._scope, id)
        return self._tasks.entry(self._scope.namespace, id)

    @contextmanager
    def _use(self, id: str) -> Iterator[tuple[Entry, runtime.Task]]:
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
        _validate_exec_id(exec_id)
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


def _validate_exec_id(exec_id: str) -> None:
    try:
        identifiers.validate(exec_id)
    except errors.InvalidArgument as err:
        raise errors.InvalidArgument(f"invalid exec id {exec_id}: {err.message}") from err


def _metrics_matcher(wanted: Sequence[str]) -> Callable[[records.Row], bool]:
    match = filters.compile(wanted)
    return lambda row: match(lambda path: {"id": row.id, "namespace": row.namespace}.get(filters.fields(path)))
