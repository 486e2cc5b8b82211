"""Lanes: the threads in which one plugin is called, so that a plugin that hangs stops only those who use it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from plugin_sdk import errors

P = ParamSpec("P")
T = TypeVar("T")

Job = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Lane(Executor):
    """At most ``threads`` calls run and ``waiting`` more wait; the next raises ResourceExhausted by name.

    Threads are made when needed, and the one that was idle last is taken first: its connection to the database is
    warm. They are daemon threads: one that hangs in a plugin does not keep the process from ending, which is why this
    is no ThreadPoolExecutor.
    """

    def __init__(self, name: str, threads: int = 16, waiting: int = 16) -> None:
        self.name = name
        self._threads = threads
        self._waiting = waiting
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Job | None]] = []  # of the threads that wait, the last one last
        self._jobs: deque[Job] = deque()  # for which no thread is free
        self._taken = 0  # jobs that run or wait
        self._started = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        job = (future, fn, args, kwargs)
        with self._lock:
            self._admit()
            self._taken += 1
            if self._idle:
                self._idle.pop().put(job)
            elif self._started < self._threads:
                self._started += 1
                threading.Thread(
                    target=self._work, args=(job,), name=f"{self.name}-{self._started}", daemon=True
                ).start()
            else:
                self._jobs.append(job)
        return future

    def _admit(self) -> None:
        if self._closed:
            raise errors.Unavailable(f'"{self.name}" has been stopped')
        if self._taken >= self._threads + self._waiting:
            raise errors.ResourceExhausted(
                f'"{self.name}" is busy: {self._threads} calls run and {self._waiting} wait, try later'
            )

    @property
    def full(self) -> bool:
        """Whether all threads are busy and calls wait."""
        with self._lock:
            return self._taken > self._threads

    def _work(self, job: Job | None) -> None:
        inbox: SimpleQueue[Job | None] = SimpleQueue()
        while job is not None:
            _settle(*job)
            del job  # an idle thread keeps no result alive
            job = self._next(inbox) or inbox.get()

    def _next(self, inbox: SimpleQueue[Job | None]) -> Job | None:
        """None when the thread is to wait for its inbox."""
        with self._lock:
            self._taken -= 1
            if self._jobs:
                return self._jobs.popleft()
            if self._closed:
                inbox.put(None)
            else:
                self._idle.append(inbox)
            return None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Lets what runs and waits end, without waiting for it; ``cancel_futures`` drops what waits."""
        with self._lock:
            self._closed = True
            dropped = list(self._jobs) if cancel_futures else []
            for inbox in self._idle:
                inbox.put(None)
            self._idle.clear()
            if cancel_futures:
                self._taken -= len(self._jobs)
                self._jobs.clear()
        for future, *_ in dropped:
            future.cancel()


def _settle(future: Future[Any], work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work(*args, **kwargs)
    except BaseException as err:  # noqa: BLE001  # the caller gets it, whatever it is
        future.set_exception(err)
    else:
        future.set_result(result)
