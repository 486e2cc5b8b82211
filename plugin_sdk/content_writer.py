"""The open end of an ingest on disk: the writer of ``content_store``."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from plugin_sdk import content, errors, identifiers
from plugin_sdk import content_ingest as ingest
from plugin_sdk.hashing import Digest

_READ = 1 << 20  # bytes at a time when an ingest is hashed again

BeginDigest = Callable[[str], Digest]
"""Begins a digest by the named algorithm."""

Publish = Callable[[Path, int, str, Mapping[str, str]], None]
"""Makes the synced bytes of an ingest's folder, open as a descriptor, the blob of a digest with these labels."""


class Writer:
    """The open end of an ingest. Its lock on ``data`` goes with the descriptor."""

    def __init__(self, folder: Path, ref: str, fd: int, begin_digest: BeginDigest, publish: Publish) -> None:
        self._folder = folder
        self._ref = ref
        self._fd = fd
        self._begin_digest = begin_digest
        self._publish = publish
        try:
            status = self.status()
            self._offset = status.offset
            self._digest = self._hash_again(_algorithm(status.expected), self._offset)
        except BaseException:
            self.close()
            raise

    def status(self) -> content.Status:
        self._require_open()
        status = ingest.read_status(self._folder)
        if status is None:
            raise ingest.not_found(self._ref)
        return status

    def digest(self) -> str:
        return self._digest.text()

    def write(self, data: bytes | memoryview) -> int:
        self._require_open()
        self._digest.update(data)
        rest = memoryview(data).cast("B")
        end = self._offset + len(rest)
        try:
            while rest:
                rest = rest[os.pwrite(self._fd, rest, end - len(rest)) :]
        except OSError as err:
            self.truncate(self._offset)
            raise _write_error(err, self._ref) from err
        self._offset = end
        return len(data)

    def truncate(self, size: int) -> None:
        self._require_open()
        if not 0 <= size <= self._offset:
            raise errors.OutOfRange(f'ingest "{self._ref}" has {self._offset} bytes, cannot cut it to {size}')
        os.ftruncate(self._fd, size)
        self._offset = size
        self._digest = self._hash_again(self._digest.algorithm, size)

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        self._require_open()
        if expected:
            identifiers.validate_digest(expected)
        if size and size != self._offset:
            raise errors.FailedPrecondition(f"unexpected commit size {self._offset}, expected {size}")
        digest = self._verified(expected)
        self._sync()
        try:
            self._publish(self._folder, self._fd, digest, labels or {})
        except errors.AlreadyExists:
            self._release()
            raise
        except FileNotFoundError as err:
            raise ingest.not_found(self._ref) from err
        self._release()
        return digest

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as err:
            # What could not be written counts as clean now: a second fsync(2) would succeed and prove nothing.
            self.truncate(0)
            raise errors.DataLoss(f'ingest "{self._ref}" cannot be written to disk: {err.strerror}') from err

    def close(self) -> None:
        if self._fd < 0:
            return
        with contextlib.suppress(FileNotFoundError):
            ingest.require_same(self._folder, self._fd)
            ingest.touch(self._folder)
        self._release()

    def _release(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def _verified(self, expected: str) -> str:
        """The digest, by the algorithm of ``expected``; that may be another than the ingest was begun with."""
        algorithm = _algorithm(expected) if expected else self._digest.algorithm
        if algorithm != self._digest.algorithm:
            self._digest = self._hash_again(algorithm, self._offset)
        digest = self._digest.text()
        if expected and digest != expected:
            raise errors.FailedPrecondition(f"unexpected commit digest {digest}, expected {expected}")
        return digest

    def _hash_again(self, algorithm: str, size: int) -> Digest:
        digest = self._begin_digest(algorithm)
        for offset in range(0, size, _READ):
            digest.update(os.pread(self._fd, min(_READ, size - offset), offset))
        return digest

    def _require_open(self) -> None:
        if self._fd < 0:
            raise errors.FailedPrecondition(f'the writer of ref "{self._ref}" is closed')
        try:
            ingest.require_same(self._folder, self._fd)
        except FileNotFoundError as err:
            raise ingest.not_found(self._ref) from err

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def _algorithm(digest: str) -> str:
    return digest.partition(":")[0] or "sha256"


def _write_error(err: OSError, ref: str) -> Exception:
    if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return errors.ResourceExhausted(f'ingest "{ref}": {err.strerror}')
    return err
