"""Tasks and the exits of their processes: the rows, and the events that go with each change.

Functions on transactions for ``kernel.tasks``. The exec id "" means init. An exit is recorded once for each incarnation
and exec, and only while the task's row is there.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace

from kernel.metadata.database import Transaction
from plugin_sdk import errors, runtime
from plugin_sdk.api.events import task_pb2
from plugin_sdk.wire import messages

CREATING, CREATED, STARTED = "creating", "created", "started"


@dataclass(frozen=True, slots=True)
class Row:
    incarnation: int
    namespace: str
    id: str
    runtime: str
    state: str = CREATING
    pid: int = 0


def rows(cursor: sqlite3.Cursor) -> list[Row]:
    return [
        Row(*found) for found in cursor.execute("SELECT incarnation, namespace, id, runtime, state, pid FROM tasks")
    ]


def exits(cursor: sqlite3.Cursor, incarnation: int) -> dict[str, tuple[int, int, int]]:
    """Pid, status and time by exec id."""
    found = cursor.execute("SELECT exec, pid, status, exited_at FROM exits WHERE incarnation = ?", (incarnation,))
    return {exec_id: (pid, status, exited_at) for exec_id, pid, status, exited_at in found}


def begin(tx: Transaction, namespace: str, id: str, runtime_name: str) -> Row:
    """Raises AlreadyExists."""
    if tx.one("SELECT 1 FROM tasks WHERE namespace = ? AND id = ?", (namespace, id)):
        raise errors.AlreadyExists(f"task {id}: already exists")
    row = Row(tx.next(), namespace, id, runtime_name)
    tx.execute(
        "INSERT INTO tasks (incarnation, namespace, id, runtime, state) VALUES (?, ?, ?, ?, ?)",
        (row.incarnation, namespace, id, runtime_name, CREATING),
    )
    return row


def created(tx: Transaction, row: Row, request: runtime.Create, pid: int) -> None:
    tx.execute("UPDATE tasks SET state = ?, pid = ? WHERE incarnation = ?", (CREATED, pid, row.incarnation))
    stdio = request.stdio
    event = task_pb2.TaskCreate(
        container_id=row.id,
        bundle=str(request.bundle),
        rootfs=messages.mount_messages(request.rootfs),
        io=task_pb2.TaskIO(stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr, terminal=stdio.terminal),
        pid=pid,
    )
    tx.announce(row.namespace, "/tasks/create", event)


def adopt(tx: Transaction, row: Row, state: str, pid: int) -> Row:
    """A task whose row was lost, found by its bundle."""
    row = replace(row, incarnation=tx.next(), state=state, pid=pid)
    tx.execute(
        "INSERT INTO tasks (incarnation, namespace, id, runtime, state, pid) VALUES (?, ?, ?, ?, ?, ?)",
        (row.incarnation, row.namespace, row.id, row.runtime, row.state, row.pid),
    )
    return row


def started(tx: Transaction, row: Row, pid: int) -> None:
    """Does nothing when the start is known."""
    changed = tx.execute(
        "UPDATE tasks SET state = ?, pid = ? WHERE incarnation = ? AND state <> ?",
        (STARTED, pid, row.incarnation, STARTED),
    )
    if changed.rowcount:
        tx.announce(row.namespace, "/tasks/start", task_pb2.TaskStart(container_id=row.id, pid=pid))


def exec_added(tx: Transaction, row: Row, exec_id: str) -> None:
    forget_exec(tx, row, exec_id)
    tx.announce(row.namespace, "/tasks/exec-added", task_pb2.TaskExecAdded(container_id=row.id, exec_id=exec_id))


def exec_started(tx: Transaction, row: Row, exec_id: str, pid: int) -> None:
    event = task_pb2.TaskExecStarted(container_id=row.id, exec_id=exec_id, pid=pid)
    tx.announce(row.namespace, "/tasks/exec-started", event)


def record_exit(tx: Transaction, row: Row, exit: runtime.Exit) -> bool:
    """False when it is known already, or the task has gone."""
    inserted = tx.execute(
        "INSERT INTO exits SELECT incarnation, ?, ?, ?, ? FROM tasks WHERE incarnation = ? ON CONFLICT DO NOTHING",
        (exit.exec_id, exit.pid, exit.status, exit.exited_at, row.incarnation),
    )
    if not inserted.rowcount:
        return False
    event = task_pb2.TaskExit(
        container_id=row.id,
        id=exit.exec_id or row.id,
        pid=exit.pid,
        exit_status=exit.status,
        exited_at=messages.timestamp(exit.exited_at),
    )
    tx.announce(row.namespace, "/tasks/exit", event)
    return True


def recorded(tx: Transaction, row: Row, exec_id: str = "") -> runtime.Exit | None:
    found = tx.one(
        "SELECT pid, status, exited_at FROM exits WHERE incarnation = ? AND exec = ?", (row.incarnation, exec_id)
    )
    return runtime.Exit(row.namespace, row.id, exec_id, *found) if found else None


def forget_exec(tx: Transaction, row: Row, exec_id: str) -> None:
    tx.execute("DELETE FROM exits WHERE incarnation = ? AND exec = ?", (row.incarnation, exec_id))


def abandon(tx: Transaction, row: Row) -> bool:
    """Without an event, for a task that nobody was told of. False when it has gone."""
    tx.execute("DELETE FROM exits WHERE incarnation = ?", (row.incarnation,))
    return bool(tx.execute("DELETE FROM tasks WHERE incarnation = ?", (row.incarnation,)).rowcount)


def delete(tx: Transaction, row: Row, exit: runtime.Exit) -> bool:
    """False when it has gone."""
    if not abandon(tx, row):
        return False
    event = task_pb2.TaskDelete(
        container_id=row.id, pid=exit.pid, exit_status=exit.status, exited_at=messages.timestamp(exit.exited_at)
    )
    tx.announce(row.namespace, "/tasks/delete", event)
    return True


def paused(tx: Transaction, row: Row) -> None:
    tx.announce(row.namespace, "/tasks/paused", task_pb2.TaskPaused(container_id=row.id))


def resumed(tx: Transaction, row: Row) -> None:
    tx.announce(row.namespace, "/tasks/resumed", task_pb2.TaskResumed(container_id=row.id))


def out_of_memory(tx: Transaction, row: Row) -> None:
    tx.announce(row.namespace, "/tasks/oom", task_pb2.TaskOOM(container_id=row.id))
