"""Digests computed beside the writing, so that a writer is as fast as the slower of the two."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from concurrent.futures import Executor

_BATCH = 256 << 10  # bytes worth a thread; below, handing over costs more than hashing
_AHEAD = 8  # batches that a writer may be ahead of its digest


class Digest:
    """Of one stream of bytes; one thread updates it, batches are hashed in order by at most one thread of the pool."""

    def __init__(self, algorithm: str, pool: Executor) -> None:
        self.algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._pool = pool
        self._begun: list[bytes] = []
        self._begun_size = 0
        self._batches: deque[list[bytes]] = deque()
        self._running = False
        self._changed = threading.Condition()

    def update(self, data: bytes | memoryview) -> None:
        if not isinstance(data, bytes):  # a view's bytes may change when we return
            self._finish()
            self._hash.update(data)
            return
        self._begun.append(data)
        self._begun_size += len(data)
        if self._begun_size >= _BATCH:
            self._hand_over()

    def text(self) -> str:
        """``ALGORITHM:HEX`` of everything so far."""
        self._finish()
        return f"{self.algorithm}:{self._hash.hexdigest()}"

    def _hand_over(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._batches) < _AHEAD)
            self._batches.append(self._begun)
            self._begun, self._begun_size = [], 0
            if self._running:
                return
            self._running = True
        self._pool.submit(self._drain)

    def _finish(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        for data in self._begun:
            self._hash.update(data)
        self._begun, self._begun_size = [], 0

    def _drain(self) -> None:
        while True:
            with self._changed:
                if not self._batches:
                    self._running = False
                    self._changed.notify_all()
                    return
                batch = self._batches[0]
            for data in batch:
                self._hash.update(data)
            with self._changed:
                self._batches.popleft()
                self._changed.notify_all()
