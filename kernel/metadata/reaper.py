"""The reaper: for each plugin a thread that settles what was cut off and closes graves.

Nobody waits for it, and a plugin that does not answer delays only its own thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from plugin_sdk import errors

log = logging.getLogger(__name__)

GATHERING = 0.1
"""Seconds from the first thing that there is to do to the attempt: removing gets out of the way of those who wait for
something else, and is done for several at once."""

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
"""Seconds between attempts; each failure doubles them."""

Work = Callable[[str, str], int]
"""Does one attempt at all there is for the plugin ``kind, id`` and answers how much is left."""


class Reaper:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._threads: dict[tuple[str, str], _Thread] = {}
        self._closed = False

    def kick(self, kind: str, id: str) -> None:
        """There is something to do for this plugin."""
        with self._lock:
            if self._closed:
                return
            thread = self._threads.get((kind, id))
            if thread is None or not thread.is_alive():
                thread = self._threads[kind, id] = _Thread(self._work, kind, id)
                thread.start()
        thread.wake()

    def close(self, timeout: float = 5.0) -> None:
        """Waits ``timeout`` seconds for each attempt under way; one that hangs is left behind."""
        with self._lock:
            self._closed = True
            threads = list(self._threads.values())
        for thread in threads:
            thread.end()
        for thread in threads:
            thread.join(timeout)


class _Thread(threading.Thread):
    def __init__(self, work: Work, kind: str, id: str) -> None:
        super().__init__(name=f"reaper-{id}", daemon=True)
        self._work = work
        self._kind = kind
        self._id = id
        self._woken = threading.Event()
        self._ending = threading.Event()

    def wake(self) -> None:
        self._woken.set()

    def end(self) -> None:
        self._ending.set()
        self._woken.set()

    def run(self) -> None:
        delay: float | None = None
        while True:
            woken = self._woken.wait(delay)
            if woken:
                self._ending.wait(GATHERING)
            self._woken.clear()
            if self._ending.is_set():
                return
            delay = self._next_delay(self._attempt(), None if woken else delay)

    def _attempt(self) -> int:
        try:
            return self._work(self._kind, self._id)
        except errors.Error as err:
            log.warning("reaper of %s.%s: %s", self._kind, self._id, err)
            return 1
        except Exception:  # a defect must not end the only one who removes
            log.exception("reaper of %s.%s", self._kind, self._id)
            return 1

    @staticmethod
    def _next_delay(left: int, delay: float | None) -> float | None:
        if not left:
            return None
        return FIRST_DELAY if delay is None else min(LONGEST_DELAY, 2 * delay)
