"""When to stop asking: the breaker for a plugin that does not answer, the growing delays for one that does not stay."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

THRESHOLD = 5
"""Failures in a row after which a breaker opens."""

_FIRST, _LONGEST, _FACTOR = 0.25, 30.0, 2.0  # seconds of a delay, and its growth
_JITTER = 0.2  # of a delay, up or down: plugins that failed together do not come back together
_HEALTHY = 60.0  # seconds after which delays begin anew

Clock = Callable[[], float]


class Delays:
    """Each longer than the one before, until ``healthy`` has been true for a minute."""

    def __init__(self, first: float = _FIRST, longest: float = _LONGEST, clock: Clock = time.monotonic) -> None:
        self._first = first
        self._longest = longest
        self._clock = clock
        self._healthy_since: float | None = None
        self.attempt = 0

    def healthy(self) -> None:
        """Said once when it begins."""
        self._healthy_since = self._clock()

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        if self._healthy_since is not None and self._clock() - self._healthy_since >= _HEALTHY:
            self.attempt = 0
        self._healthy_since = None
        self.attempt += 1
        delay = min(self._longest, self._first * _FACTOR ** min(self.attempt - 1, 32))
        return delay * random.uniform(1 - _JITTER, 1 + _JITTER)


class Breaker:
    """Opens after ``THRESHOLD`` calls in a row without an answer; while it is open nobody is to call.

    A probe closes it again. Until a call has been answered after that, one more failure opens it, for longer.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._delays = Delays(1.0, clock=clock)
        self._failures = 0
        self._retry_at: float | None = None

    @property
    def is_open(self) -> bool:
        return self._retry_at is not None

    @property
    def attempt(self) -> int:
        """How often it has opened in a row."""
        return self._delays.attempt

    @property
    def remaining(self) -> float:
        """Seconds until the next probe; 0 when it is due, or when the breaker is closed."""
        retry_at = self._retry_at
        return 0.0 if retry_at is None else max(0.0, retry_at - self._clock())

    def answered(self) -> None:
        """A call was answered, with whatever."""
        if self._failures == 0 and self._retry_at is None:  # the common case, without the lock
            return
        with self._lock:
            if self._retry_at is None:
                self._failures = 0
                self._delays.attempt = 0

    def failed(self) -> bool:
        """A call was not answered. True when that opens the breaker."""
        with self._lock:
            self._failures += 1
            if self._failures < THRESHOLD or self._retry_at is not None:
                return False
            self._open()
            return True

    def probed(self, answered: bool) -> None:
        """The outcome of a probe, made when ``remaining`` is 0."""
        with self._lock:
            if answered:
                self._retry_at = None
                self._failures = THRESHOLD - 1
            else:
                self._open()

    def reset(self) -> None:
        """The plugin has begun anew."""
        with self._lock:
            self._failures, self._retry_at, self._delays.attempt = 0, None, 0

    def _open(self) -> None:
        self._retry_at = self._clock() + self._delays.next()
