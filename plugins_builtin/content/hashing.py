"""Digests computed beside the writing, so that a writer is as fast as the slower of the two."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from concurrent.futures import Executor

_WORTH_A_THREAD = 256 << 10  # bytes; below, handing over costs more than hashing
_AHEAD = 8  # chunks that a writer may be ahead of its digest


class Digest:
    """Of one stream of bytes; one thread updates it, chunks are hashed in order by at most one thread of the pool."""

    def __init__(self, algorithm: str, pool: Executor) -> None:
        self.algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._pool = pool
        self._chunks: deque[bytes] = deque()
        self._running = False
        self._changed = threading.Condition()

    def update(self, data: bytes | memoryview) -> None:
        if len(data) < _WORTH_A_THREAD or not isinstance(data, bytes):  # a view's bytes may change when we return
            self._settle(0)
            self._hash.update(data)
            return
        self._settle(_AHEAD - 1)
        with self._changed:
            self._chunks.append(data)
            if self._running:
                return
            self._running = True
        self._pool.submit(self._drain)

    def text(self) -> str:
        """``ALGORITHM:HEX`` of everything so far."""
        self._settle(0)
        return f"{self.algorithm}:{self._hash.hexdigest()}"

    def _settle(self, chunks: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._chunks) <= chunks and (chunks > 0 or not self._running))

    def _drain(self) -> None:
        while True:
            with self._changed:
                if not self._chunks:
                    self._running = False
                    self._changed.notify_all()
                    return
                data = self._chunks[0]
            self._hash.update(data)
            with self._changed:
                self._chunks.popleft()
                self._changed.notify_all()
