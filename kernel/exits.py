"""How processes end: who waits for it, and how it is recorded.

An exit is recorded once, in the database with its event, and only then told to those who wait for it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import queue
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
    """Writes exits, all that wait in one transaction, then tells those who wait for them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[tuple[Entry, Exit] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="exits", daemon=True)
        self._thread.start()

    def put(self, entry: Entry, exit: Exit) -> None:
        self._queue.put((entry, exit))

    def close(self) -> None:
        """Writes what is queued."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        more = True
        while more:
            batch, more = self._take()
            try:
                self._database.write(functools.partial(_record, batch))
            except errors.Error as err:
                # the runtime reports them again after the next start
                log.error("%d exits are not recorded: %s", len(batch), err.message)
                continue
            for entry, exit in batch:
                entry.outcome(exit.exec_id).set(exit)

    def _take(self) -> tuple[list[tuple[Entry, Exit]], bool]:
        batch: list[tuple[Entry, Exit]] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if self._queue.empty() or len(batch) == _BATCH:
                return batch, True
            item = self._queue.get()
        return batch, False


def _record(batch: Sequence[tuple[Entry, Exit]], tx: Transaction) -> None:
    for entry, exit in batch:
        records.record_exit(tx, entry.row, exit)
