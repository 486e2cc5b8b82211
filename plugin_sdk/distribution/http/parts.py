"""Parts of a blob that come at once, each in a thread, and are handed out in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from plugin_sdk import errors
from plugin_sdk.distribution.http import waiting
from plugin_sdk.distribution.http.connections import Failed

_SLICE = 0.1  # seconds between two looks

Fetch = Callable[[int, int, Callable[[], None]], Iterator[bytes]]
"""The bytes from one place to another; interrupted by what the function raises."""


class Part:
    """Its bytes can be taken while they come."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def run(self, fetch: Fetch, look: Callable[[], None]) -> None:
        try:
            for chunk in fetch(self.start, self.end, look):
                with self._changed:
                    self._chunks.append(chunk)
                    self._changed.notify()
        except Failed:
            pass  # what is missing is fetched by who takes the bytes
        except BaseException as err:  # noqa: BLE001  # raised again in that thread
            self._error = err
        with self._changed:
            self._ended = True
            self._changed.notify()

    def chunks(self, look: Callable[[], None]) -> Iterator[bytes]:
        """All that come, perhaps not up to the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks or self._ended, _SLICE)
                chunk = self._chunks.popleft() if self._chunks else b""
                if not chunk and self._ended:
                    break
            if chunk:
                yield chunk
            else:
                look()
        if self._error is not None:
            raise self._error


class Window(AbstractContextManager["Window"]):
    """Parts under way: at most ``count``, of ``size`` bytes each, which ``buffers`` has room for."""

    def __init__(self, count: int, size: int, buffers: waiting.Limit, look: Callable[[], None]) -> None:
        self._count = count
        self._size = size
        self._buffers = buffers
        self._look = look
        self._threads = ThreadPoolExecutor(count, "corten-fetch")
        self._parts: deque[Part] = deque()
        self._held = 0
        self._stopped = False

    def begin(self, start: int, end: int, fetch: Fetch) -> bool:
        """Answers whether there was room."""
        if self._held >= self._count or not self._buffers.try_take(self._size):
            return False
        self._held += 1
        self._parts.append(Part(start, end))
        self._threads.submit(self._parts[-1].run, fetch, self._look_up)
        return True

    def _look_up(self) -> None:
        if self._stopped:
            raise errors.Canceled("the download has ended")
        self._look()

    def reach(self, position: int, otherwise: int) -> tuple[int, Iterator[bytes]]:
        """The end of the part at ``position``, and what comes of it; ``otherwise`` and nothing if there is none."""
        while self._parts and self._parts[0].start < position:
            self._take(self._parts.popleft())
        if not self._parts:
            return otherwise, iter(())
        if self._parts[0].start > position:
            return self._parts[0].start, iter(())
        part = self._parts.popleft()
        return part.end, self._taken(part)

    def _taken(self, part: Part) -> Iterator[bytes]:
        yield from part.chunks(self._look)
        self._give()

    def _take(self, part: Part) -> None:
        """One that another host's answer has overtaken."""
        for _ in part.chunks(self._look):
            pass
        self._give()

    def _give(self) -> None:
        self._held -= 1
        self._buffers.give(self._size)

    def __exit__(self, *exc: object) -> None:
        self._stopped = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._buffers.give(self._held * self._size)
        self._held = 0
