"""For whom a call is made: a namespace, the caller's lease and its deadline, bound to an object and never ambient."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from plugin_sdk import errors


class Scope:
    """Immutable but for its cancellation.

    ``deadline`` is in seconds of ``time.monotonic()``; None means none. ``begun`` is when the call came, by the same
    clock. ``check()`` is called between the steps of a long read; a change that has begun is finished although nobody
    waits.
    """

    __slots__ = ("_canceled", "_lock", "_stops", "begun", "deadline", "lease", "namespace")

    def __init__(
        self, namespace: str, lease: str | None = None, deadline: float | None = None, begun: float | None = None
    ) -> None:
        self.namespace = namespace
        self.lease = lease
        self.deadline = deadline
        self.begun = time.monotonic() if begun is None else begun
        self._canceled = False
        self._lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []

    def check(self) -> None:
        """Raises Canceled when the caller has gone, DeadlineExceeded when its deadline has passed."""
        if self._canceled:
            raise errors.Canceled("the caller has gone away")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise errors.DeadlineExceeded("the caller's deadline has passed")

    def remaining(self, limit: float | None = None) -> float | None:
        """Seconds until the deadline, at most ``limit``; never negative, None when neither is set."""
        if self.deadline is None:
            return limit
        left = max(0.0, self.deadline - time.monotonic())
        return left if limit is None else min(left, limit)

    @contextmanager
    def within(self, timeout: float) -> Iterator[Scope]:
        """The same with a deadline ``timeout`` seconds from now, or the earlier one it has; cancelled with this one."""
        end = time.monotonic() + timeout
        end = end if self.deadline is None else min(end, self.deadline)
        inner = Scope(self.namespace, self.lease, end, self.begun)
        forget = self.on_cancel(inner.cancel)
        try:
            yield inner
        finally:
            forget()

    def on_cancel(self, stop: Callable[[], None]) -> Callable[[], None]:
        """Calls ``stop`` once when the caller goes away; at once if it has already gone. The answer, called, takes that
        back: a step that has ended need not be stopped any more."""
        with self._lock:
            if not self._canceled:
                self._stops.append(stop)
                return lambda: self._forget(stop)
        stop()
        return lambda: None

    def _forget(self, stop: Callable[[], None]) -> None:
        with self._lock:
            if stop in self._stops:
                self._stops.remove(stop)

    def cancel(self) -> None:
        with self._lock:
            self._canceled = True
            stops, self._stops = self._stops, []
        for stop in stops:
            stop()

    def __repr__(self) -> str:
        return f"Scope(namespace={self.namespace!r}, lease={self.lease!r}, deadline={self.deadline!r})"
