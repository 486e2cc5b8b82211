"""How processes end: who waits for it, and how it is recorded.

An exit is recorded once, in the database with its event, and only then told to those who wait for it: also when the
database cannot be written for a while.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernel.metadata import tasks as records
from kernel.metadata.database import Database, Transaction
from plugin_sdk import errors, runtime
from plugin_sdk.runtime import Exit

log = logging.getLogger("tasks")

_BATCH = 64
_RETRY = 1.0  # seconds


class Outcome:
    """Set once, by any thread; a wait on the event loop holds no thread, and a wait that is given up leaves nothing."""

    __slots__ = ("_lock", "_result", "_waiting")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._result: Exit | errors.Error | None = None
        self._waiting: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        return self._result is not None

    def set(self, result: Exit | errors.Error) -> None:
        """The first result stays."""
        with self._lock:
            if self._result is not None:
                return
            self._result = result
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def wait(self, timeout: float | None = None) -> Exit:
        """Raises DeadlineExceeded after ``timeout`` seconds, or the error that it was set to."""
        arrived = threading.Event()
        if self._add(arrived.set) and not arrived.wait(timeout):
            self._remove(arrived.set)
            raise errors.DeadlineExceeded("the process has not ended in time")
        return self._get()

    async def wait_async(self) -> Exit:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(arrived.set)

        if self._add(wake):
            try:
                await arrived.wait()
            finally:
                self._remove(wake)
        return self._get()

    def _add(self, wake: Callable[[], None]) -> bool:
        """False when there is no need to wait."""
        with self._lock:
            if self._result is None:
                self._waiting.append(wake)
            return self._result is None

    def _remove(self, wake: Callable[[], None]) -> None:
        with self._lock:
            if wake in self._waiting:
                self._waiting.remove(wake)

    def _get(self) -> Exit:
        result = self._result
        if isinstance(result, errors.Error):
            raise type(result)(result.message)
        assert result is not None
        return result


@dataclass(eq=False, slots=True)
class Entry:
    """A task of the daemon's table. ``task`` is None while it is being created, and when its runtime could not load
    it: then ``error`` says why."""

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


class Recorder:
    """Writes what runtimes report, all that waits in one transaction, in the order of the reports.

    A runtime's thread has others to serve: it only leaves its report here.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[_Report | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exits", daemon=True)
        self._thread.start()

    def exited(self, entry: Entry, exit: Exit) -> None:
        """Those who wait for the process are told when the exit is recorded."""
        self._queue.put(
            (lambda tx: records.record_exit(tx, entry.row, exit), lambda: entry.outcome(exit.exec_id).set(exit))
        )

    def out_of_memory(self, entry: Entry) -> None:
        self._queue.put((lambda tx: records.out_of_memory(tx, entry.row), lambda: None))

    def close(self) -> None:
        """Writes what is queued; what cannot be written is reported again after the next start."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        more = True
        while more:
            batch, more = self._take()
            while not self._record(batch) and not self._closing.wait(_RETRY):
                pass

    def _record(self, batch: Sequence[_Report]) -> bool:
        try:
            self._database.write(functools.partial(_write, batch))
        except (errors.Error, sqlite3.Error) as err:
            log.error("%d reports of runtimes are not recorded yet: %s", len(batch), err)
            return False
        for _, tell in batch:
            tell()
        return True

    def _take(self) -> tuple[list[_Report], bool]:
        batch: list[_Report] = []
        report = self._queue.get()
        while report is not None:
            batch.append(report)
            if self._queue.empty() or len(batch) == _BATCH:
                return batch, True
            report = self._queue.get()
        return batch, False


_Report = tuple[Callable[[Transaction], object], Callable[[], None]]


def _write(batch: Sequence[_Report], tx: Transaction) -> None:
    for change, _ in batch:
        change(tx)
