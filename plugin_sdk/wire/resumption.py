"""How work in threads comes back to the event loop: with one wake-up for all that has ended, and one turn for each."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context


class Resumption:
    """A future of asyncio, for one task, without a result: ``resume`` goes on with the task at once, not in the loop's
    next turn. To be called in the loop's thread, outside of any task."""

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_context", "_done", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False  # what makes it a future: asyncio.isfuture
        self._loop = loop
        self._callback: Callable[[object], object] | None = None
        self._context: Context | None = None
        self._done = self._cancelled = False

    def __await__(self) -> Generator[Resumption, None, None]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        self.result()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, callback: Callable[[object], object], *, context: Context | None = None) -> None:
        self._callback, self._context = callback, context

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError

    def cancel(self, msg: object = None) -> bool:
        if self._done:
            return False
        self._done = self._cancelled = True
        if self._callback is not None:
            self._loop.call_soon(self._callback, self, context=self._context)
        return True

    def resume(self) -> None:
        if self._done:
            return
        self._done = True
        if self._callback is not None and self._context is not None:
            self._context.run(self._callback, self)


class Wakeups:
    """From any thread to the loop. Those that come while the loop is being woken share the wake-up."""

    __slots__ = ("_coming", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Resumption] = deque()
        self._coming = False

    def resume(self, resumption: Resumption) -> None:
        self._waiting.append(resumption)
        if not self._coming:  # what is appended after this is seen by the turn that is coming, which resets it first
            self._coming = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                resumption.get_loop().call_soon_threadsafe(self._run)

    def _run(self) -> None:
        self._coming = False
        while self._waiting:
            self._waiting.popleft().resume()
