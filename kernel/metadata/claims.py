"""Claims: who may change an object now. In memory; what a crash leaves half-done is told by the rows' states."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from plugin_sdk import errors
from plugin_sdk.scope import Scope

LIMIT = 60.0
"""Seconds that a change waits for another of the same object, at most."""


class Claims:
    """Names are any text; each is held by one at a time."""

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit = limit
        self._held: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, scope: Scope, *names: str) -> Iterator[None]:
        """Waits until all are free. Raises Canceled, DeadlineExceeded, or Unavailable after a minute."""
        wanted = frozenset(names)
        if not self.take(*wanted):
            self._wait(scope, wanted)
        try:
            yield
        finally:
            self.drop(*wanted)

    def take(self, *names: str) -> bool:
        """All of them now, or none."""
        with self._changed:
            if not self._held.isdisjoint(names):
                return False
            self._held.update(names)
            return True

    def drop(self, *names: str) -> None:
        with self._changed:
            self._held.difference_update(names)
            self._changed.notify_all()

    def _wait(self, scope: Scope, wanted: frozenset[str]) -> None:
        scope.on_cancel(self._wake)
        limit = time.monotonic() + self._limit
        with self._changed:
            while not self._held.isdisjoint(wanted):
                scope.check()
                left = limit - time.monotonic()
                if left <= 0:
                    held = min(wanted & self._held)
                    raise errors.Unavailable(f"{held}: another change of it is still under way")
                self._changed.wait(scope.remaining(left))
            self._held.update(wanted)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
