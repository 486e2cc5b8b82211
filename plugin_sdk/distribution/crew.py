"""The threads of one transfer: they begin, fail and end together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from plugin_sdk import errors

_LOOK = 0.1  # seconds between two looks at whether anybody still waits

Work = Callable[[], object]


class Crew:
    """Leaving the context waits for all of it, and raises the first error.

    After an error, or when ``check`` raises, ``check()`` of the crew raises in all its threads, and what has not begun
    does not begin. ``at_once`` bounds the threads for what is queued.
    """

    def __init__(self, check: Callable[[], None], at_once: int = 4) -> None:
        self._outer = check
        self._at_once = at_once
        self._failure: BaseException | None = None
        self._queued: deque[Work] = deque()
        self._queues = 0  # threads that work off the queue
        self._running = 0
        self._changed = threading.Condition()

    def check(self) -> None:
        if self._failure is not None:
            raise errors.Canceled("another part of the transfer has failed")
        self._outer()

    def start(self, work: Work) -> None:
        """In a thread of its own."""
        with self._changed:
            self._running += 1
        try:
            threading.Thread(target=self._run, args=(work,), name="transfer", daemon=True).start()
        except RuntimeError as err:  # there are too many threads
            with self._changed:
                self._running -= 1
            raise errors.ResourceExhausted("no more threads can be started") from err

    def queue(self, work: Work) -> None:
        """In a thread that takes what is queued, in order."""
        with self._changed:
            self._queued.append(work)
            if self._queues >= self._at_once:
                return
            self._queues += 1
        self.start(self._work_off)

    def _work_off(self) -> None:
        while True:
            with self._changed:
                if not self._queued or self._failure is not None:
                    self._queues -= 1
                    return
                work = self._queued.popleft()
            work()

    def _run(self, work: Work) -> None:
        try:
            work()
        except BaseException as err:  # noqa: BLE001 - raised again by the thread that waits
            self._fail(err)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _fail(self, err: BaseException) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = err

    def _join(self) -> None:
        """Whatever comes meanwhile, KeyboardInterrupt too, the threads see it and end before it is raised."""
        while True:
            try:
                with self._changed:
                    if self._changed.wait_for(lambda: not self._running, _LOOK):
                        return
                self._outer()
            except BaseException as err:  # noqa: BLE001 - raised at the end
                self._fail(err)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        if failure is not None:
            self._fail(failure)
        self._join()
        if self._failure is not None and self._failure is not failure:
            raise self._failure
