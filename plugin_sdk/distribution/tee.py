"""One download, two readers: the content writer, and the differ that unpacks the layer meanwhile.

::

    tee = Tee(layer, check)
    made = differ.apply(layer, mounts, TeeStore(store, tee))        # in one thread
    for chunk in download:                                          # in another
        writer.write(chunk); tee.put(chunk)
    tee.end()

Memory is bounded: who downloads waits while ``LIMIT`` bytes have not been read. A differ in another process does not
read here at all; then the tee is left, and the layer is unpacked from the store afterwards.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from plugin_sdk import content, errors
from plugin_sdk.oci import Descriptor

LIMIT = 8 << 20  # bytes that are downloaded and not yet read
_LOOK = 0.1  # seconds between two looks at whether anybody still waits
_PATIENCE = 10.0  # seconds for the differ to begin to read


class Voided(Exception):
    """What was read was not the blob. It has come again since, and is in the store."""


class Tee:
    """The bytes of one blob on their way. ``check`` raises when nobody wants them any more."""

    def __init__(self, of: Descriptor, check: Callable[[], None]) -> None:
        self.descriptor = of
        self.opened = False
        self.voided = False
        self._check = check
        self._chunks: deque[bytes] = deque()
        self._held = 0  # bytes in chunks
        self._left = False
        self._ended = False
        self._failure: BaseException | None = None
        self._decided = threading.Event()
        self._taken = False
        self._changed = threading.Condition()

    # --- who downloads

    def take(self, taken: bool) -> None:
        """Says whether the download goes through this tee, which it does from its first byte or not at all."""
        self._taken = taken
        self._decided.set()

    def put(self, chunk: bytes) -> None:
        """Waits for the reader; forgets the chunk when there is none, or when nobody waits for it any more: others may
        want the download, too."""
        patience = time.monotonic() + _PATIENCE
        with self._changed:
            while self._held >= LIMIT and not self._left:
                self._changed.wait(_LOOK)
                if not self._is_awaited() or (not self.opened and time.monotonic() > patience):
                    self._leave()
            if not self._left:
                self._chunks.append(chunk)
                self._held += len(chunk)
                self._changed.notify_all()

    def _is_awaited(self) -> bool:
        try:
            self._check()
        except Exception:  # noqa: BLE001 - whoever reads raises it, in its own thread
            return False
        return True

    def end(self, failure: BaseException | None = None) -> None:
        """That was all, or all that could be had."""
        self._decided.set()
        with self._changed:
            if not self._ended:
                self._ended, self._failure = True, failure
                self._changed.notify_all()

    def void(self) -> None:
        """What went through was not the blob, which comes again, but not through here."""
        self.voided = True
        self.leave()

    # --- who reads

    def is_taken(self) -> bool:
        """Waits until the download says so."""
        while not self._decided.wait(_LOOK):
            self._check()
        return self._taken and not self._failure

    def leave(self) -> None:
        with self._changed:
            self._leave()

    def _leave(self) -> None:
        self._left = True
        self._chunks.clear()
        self._held = 0
        self._changed.notify_all()

    def next(self) -> bytes:
        """The next chunk, empty at the end. Raises what the download has failed with."""
        with self._changed:
            while not self._chunks and not self._ended and not self._left:
                self._changed.wait(_LOOK)
                self._check()
            if self._chunks:
                chunk = self._chunks.popleft()
                self._held -= len(chunk)
                self._changed.notify_all()
                return chunk
            if self._left:
                raise errors.Unavailable(f"the download of {self.descriptor.digest} is read no more")
            if self._failure is not None:
                raise errors.Unavailable(f"the download of {self.descriptor.digest} has failed") from self._failure
        return b""

    def open(self) -> bool:
        """Once, before ``next``; False when it was left or opened before."""
        with self._changed:
            first = not self.opened and not self._left and self._taken
            self.opened = self.opened or first
        return first

    @property
    def failed(self) -> bool:
        """Whether the download has."""
        return self._failure is not None

    def look(self) -> None:
        self._check()


class Reader:
    """Implements ``content.Reader`` for who reads from the beginning to the end. The writer sees to the digest."""

    verified = True

    def __init__(self, tee: Tee) -> None:
        self._tee = tee
        self._chunk = memoryview(b"")
        self._start = 0  # of the chunk, in the blob

    @property
    def size(self) -> int:
        return self._tee.descriptor.size

    def read_at(self, offset: int, size: int) -> bytes:
        """Raises Unimplemented for an offset that is not where the last read ended, or in what it answered."""
        if not size:
            self._tee.look()
            return b""
        if offset >= self._start + len(self._chunk):
            self._start += len(self._chunk)
            self._chunk = memoryview(self._tee.next())
        at = offset - self._start
        if not 0 <= at <= len(self._chunk):
            raise errors.Unimplemented(f"blob {self._tee.descriptor.digest} is read while it comes, from its beginning")
        if at == 0 and len(self._chunk) <= size:
            return self._chunk.obj  # type: ignore[return-value]  # the chunk as it came
        return bytes(self._chunk[at : at + size])

    def fileno(self) -> int:
        raise errors.Unimplemented("a download has no file")

    def close(self) -> None:
        self._tee.leave()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class _Store:
    """Implements ``content.Store`` by another one, for a reader of its own."""

    def __init__(self, store: content.Store) -> None:
        self._store = store

    def reader(self, digest: str) -> content.Reader:
        return self._store.reader(digest)

    def info(self, digest: str) -> content.Info:
        return self._store.info(digest)

    def update(self, info: content.Info, fieldpaths: Sequence[str] = ()) -> content.Info:
        return self._store.update(info, fieldpaths)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[content.Info]:
        return self._store.walk(filters)

    def delete(self, digest: str) -> None:
        self._store.delete(digest)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> content.Writer:
        return self._store.writer(ref, total, expected)

    def status(self, ref: str) -> content.Status:
        return self._store.status(ref)

    def list_statuses(self, filters: Sequence[str] = ()) -> list[content.Status]:
        return self._store.list_statuses(filters)

    def abort(self, ref: str) -> None:
        self._store.abort(ref)


class TeeStore(_Store):
    """The store, but the tee's blob can be read once, while it comes."""

    def __init__(self, store: content.Store, tee: Tee) -> None:
        super().__init__(store)
        self._tee = tee

    def reader(self, digest: str) -> content.Reader:
        if digest == self._tee.descriptor.digest and self._tee.open():
            return Reader(self._tee)
        return super().reader(digest)


class VerifiedStore(_Store):
    """The store, of blobs whose digests were verified a moment ago."""

    def reader(self, digest: str) -> content.Reader:
        return _Verified(super().reader(digest))


class _Verified:
    """Implements ``content.Reader`` by another one."""

    verified = True

    def __init__(self, reader: content.Reader) -> None:
        self._reader = reader

    @property
    def size(self) -> int:
        return self._reader.size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._reader.read_at(offset, size)

    def fileno(self) -> int:
        return self._reader.fileno()

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> _Verified:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
