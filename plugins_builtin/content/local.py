"""Content in files of the local file system, at containerd's layout.

::

    blobs/ALGORITHM/HEX     a blob, never changed
    ingest/…                see ``ingest.py``

A commit is fsync of the bytes, rename into ``blobs`` and fsync of that directory. Labels are not kept here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plugin_sdk import content, errors, identifiers
from plugins_builtin.content import ingest
from plugins_builtin.content.hashing import Digest
from plugins_builtin.content.writer import Writer


class Store:
    """Implements ``content.Store`` below ``root``."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._ingests = root / "ingest"
        # What looks at names and then changes them; never held while bytes are written.
        self._names = threading.Lock()
        self._hashing = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="digest")
        for folder in (self._blobs / "sha256", self._ingests):
            folder.mkdir(parents=True, exist_ok=True)
        ingest.clean(self._ingests)

    def info(self, digest: str) -> content.Info:
        try:
            return _info(digest, os.stat(self.path(digest)))
        except FileNotFoundError as err:
            raise _not_found(digest) from err

    def update(self, info: content.Info, fieldpaths: Sequence[str] = ()) -> content.Info:
        raise errors.Unimplemented(f"content {info.digest}: this store keeps no labels")

    def walk(self, filters: Sequence[str] = ()) -> Iterator[content.Info]:
        return filter(content.matcher(filters), self._infos())

    def delete(self, digest: str) -> None:
        path = self.path(digest)
        try:
            path.unlink()
        except FileNotFoundError as err:
            raise _not_found(digest) from err
        _sync_folder(path.parent)

    def reader(self, digest: str) -> Reader:
        try:
            return Reader(os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError as err:
            raise _not_found(digest) from err

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Writer:
        if not ref:
            raise errors.InvalidArgument("ref must not be empty")
        if expected and self.path(expected).exists():
            raise _already_exists(expected)
        folder = ingest.locate(self._ingests, ref)
        with self._names:
            fd = ingest.open_locked(folder, ref, total, expected)
        return Writer(folder, ref, fd, self._begin_digest, self._publish)

    def status(self, ref: str) -> content.Status:
        status = ingest.read_status(ingest.locate(self._ingests, ref))
        if status is None:
            raise ingest.not_found(ref)
        return status

    def list_statuses(self, filters: Sequence[str] = ()) -> list[content.Status]:
        matches = content.status_matcher(filters)
        found = (ingest.read_status(folder) for folder in self._ingests.iterdir())
        return [status for status in found if status and matches(status)]

    def abort(self, ref: str) -> None:
        folder = ingest.locate(self._ingests, ref)
        with self._names:
            if not (folder / "data").exists():
                raise ingest.not_found(ref)
            trash = ingest.retire(folder)
        _sync_folder(self._ingests)
        ingest.discard(trash)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be. Raises InvalidArgument."""
        identifiers.validate_digest(digest)
        algorithm, _, digits = digest.partition(":")
        return self._blobs / algorithm / digits

    def _begin_digest(self, algorithm: str) -> Digest:
        return Digest(algorithm, self._hashing)

    def _publish(self, folder: Path, fd: int, digest: str) -> None:
        """Makes the synced bytes of an ingest, open as ``fd``, the blob ``digest``. Raises FileNotFoundError when the
        ingest is gone."""
        path = self.path(digest)
        path.parent.mkdir(exist_ok=True)
        with self._names:
            exists = path.exists()
            if not exists:
                ingest.require_same(folder, fd)
                os.fchmod(fd, 0o444)
                os.rename(folder / "data", path)
            trash = ingest.retire(folder)
        _sync_folder(path.parent)
        ingest.discard(trash)
        if exists:
            raise _already_exists(digest)

    def _infos(self) -> Iterator[content.Info]:
        for path in self._blobs.glob("*/*"):
            digest = f"{path.parent.name}:{path.name}"
            try:
                identifiers.validate_digest(digest)
                yield _info(digest, path.stat())
            except (errors.InvalidArgument, FileNotFoundError):
                continue


class Reader:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        if offset < 0:
            raise errors.OutOfRange(f"offset {offset} is negative")
        return os.pread(self.fileno(), size, offset)

    def fileno(self) -> int:
        if self._fd < 0:
            raise errors.FailedPrecondition("the reader is closed")
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def _info(digest: str, stat: os.stat_result) -> content.Info:
    return content.Info(digest, stat.st_size, stat.st_mtime_ns, stat.st_mtime_ns)


def _not_found(digest: str) -> errors.NotFound:
    return errors.NotFound(f"content {digest}: not found")


def _already_exists(digest: str) -> errors.AlreadyExists:
    return errors.AlreadyExists(f"content {digest}: already exists")


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
