"""Lanes: the threads in which the daemon calls one plugin, so that a plugin that hangs stops only those who use it."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
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
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()  # whose hand-over to a thread takes no lock of Python's
        self._lock = threading.Lock()
        self._taken = 0  # jobs that run or wait
        self._started = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            self._admit()
            self._taken += 1
            starts = self._started < min(self._taken, self._threads)
            self._started += starts
            self._jobs.put((future, functools.partial(fn, *args, **kwargs)))
        if starts:
            threading.Thread(target=self._work, name=f"{self.name}-{self._started}", daemon=True).start()
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

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                _settle(future, work)
            del job, future, work  # an idle thread keeps no result alive
            with self._lock:
                self._taken -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Lets what runs and waits end, without waiting for it; ``cancel_futures`` drops what waits."""
        with self._lock:
            self._closed = True
            started = self._started
        if cancel_futures:
            self._drop()
        for _ in range(started):
            self._jobs.put(None)

    def _drop(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job[0].cancel()


def _settle(future: Future[Any], work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work(*args, **kwargs)
    except BaseException as err:  # noqa: BLE001  # the caller gets it, whatever it is
        future.set_exception(err)
    else:
        future.set_result(result)
