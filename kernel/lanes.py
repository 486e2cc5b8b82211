"""Lanes: the threads in which the daemon calls one plugin, so that a plugin that hangs stops only those who name it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from plugin_sdk import errors

P = ParamSpec("P")
T = TypeVar("T")

Job = tuple[Future[Any], Callable[[], Any]]


class Lane(Executor):
    """At most ``threads`` calls run and ``waiting`` more wait; the next raises ResourceExhausted by name.

    Threads are made when needed. They are daemon threads: one that hangs in a plugin does not keep the process from
    ending, which is why this is no ThreadPoolExecutor.
    """

    def __init__(self, name: str, threads: int = 16, waiting: int = 16) -> None:
        self.name = name
        self._threads = threads
        self._waiting = waiting
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._running = 0
        self._started = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            self._admit()
            self._jobs.append((future, lambda: fn(*args, **kwargs)))
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif self._started < self._threads:
                self._started += 1
                threading.Thread(target=self._work, name=f"{self.name}-{self._started}", daemon=True).start()
        return future

    def _admit(self) -> None:
        if self._closed:
            raise errors.Unavailable(f'"{self.name}" has been stopped')
        if self._running + len(self._jobs) >= self._threads + self._waiting:
            raise errors.ResourceExhausted(
                f'"{self.name}" is busy: {self._threads} calls run and {self._waiting} wait, try later'
            )

    @property
    def full(self) -> bool:
        """Whether all threads are busy and calls wait."""
        with self._changed:
            return self._running >= self._threads and bool(self._jobs)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                _settle(future, work)
            del job, future, work  # an idle thread keeps no result alive
            with self._changed:
                self._running -= 1

    def _next(self) -> Job | None:
        with self._changed:
            self._idle += 1
            while not self._jobs and not self._closed:
                self._changed.wait()
            self._idle -= 1
            if not self._jobs:
                return None
            self._running += 1
            return self._jobs.popleft()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Lets what runs and waits end, without waiting for it; ``cancel_futures`` drops what waits."""
        with self._changed:
            self._closed = True
            if cancel_futures:
                while self._jobs:
                    self._jobs.popleft()[0].cancel()
            self._changed.notify_all()


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        result = work()
    except BaseException as err:  # noqa: BLE001  # the caller gets it, whatever it is
        future.set_exception(err)
    else:
        future.set_result(result)
