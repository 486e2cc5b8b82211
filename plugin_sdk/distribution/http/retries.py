"""Repeating what failed: how often, and how long to wait in between."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from plugin_sdk.distribution.http import waiting
from plugin_sdk.distribution.http.connections import Failed

PROGRESS = 1 << 20
"""Bytes after which earlier failures are forgotten."""

_DOUBLINGS = 10

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """``retries`` follow the first attempt, after ``backoff`` seconds, twice as many before each next one, but at most
    ``longest``. A host that wants a longer wait than ``longest`` is given up. A host that is not there gets ``absent``
    retries, if that is fewer."""

    retries: int
    backoff: float
    longest: float
    absent: int | None = None

    def delay(self, attempt: int, after: float | None = None) -> float:
        """Seconds before the retry after ``attempt`` failures in a row, somewhat by chance; ``after`` is the least."""
        wait = min(self.backoff * (1 << min(attempt - 1, _DOUBLINGS)), self.longest) * random.uniform(0.5, 1.0)
        return max(wait, after or 0.0)

    def spent(self, attempt: int, failed: Failed) -> bool:
        """Whether no retry follows ``attempt`` failures, the last of them ``failed``."""
        most = self.retries
        if failed.absent and self.absent is not None:
            most = min(most, self.absent)
        return not failed.again or attempt > most or (failed.after or 0.0) > self.longest

    def call(self, step: Callable[[], T], look: Callable[[], None], moved: Callable[[], int] = lambda: 0) -> T:
        """Raises the last Failed. Earlier ones are forgotten when ``moved``, a number of bytes, has grown well."""
        attempt, before = 0, 0
        while True:
            try:
                return step()
            except Failed as failed:
                if moved() - before >= PROGRESS:
                    attempt, before = 0, moved()
                attempt += 1
                if self.spent(attempt, failed):
                    raise
                waiting.pause(self.delay(attempt, failed.after), look)
