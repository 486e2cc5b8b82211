"""Outcomes: ends of processes that callers wait for, in a thread or on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from plugin_sdk import errors
from plugin_sdk.runtime import Exit


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
