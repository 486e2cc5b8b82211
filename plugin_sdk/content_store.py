"""The helper for authors of content stores: refs, offsets, digests, restarts and crashes, all but where the blobs are.

A store is a subclass of a few methods. They are asked for a digest that is well-formed, and say FileNotFoundError for a
blob that is not there::

    class Shelf(content_store.Store):
        def _keep(self, digest, staged):                    # the bytes of an ingest become a blob
            staged.rename(self._blobs / digest)

        def _info(self, digest): ...                        # -> content.Info
        def _digests(self): ...                             # of all blobs
        def _open(self, digest): ...                        # -> a Reader, also a subclass of a few lines
        def _remove(self, digest): ...

Ingests are directories below ``<root>/ingest`` (``content_ingest``), one file of bytes each. What a commit does, in
order, so that a crash leaves the ingest or the blob:

| step | what | who waits |
|---|---|---|
| | the size and the digest are compared, the bytes are on disk | nobody |
| ``_stage`` | makes of them what is to be kept: compressed, encrypted; nothing by default | nobody |
| ``_keep`` | makes that the blob, at once and whole: a rename, a row | who opens, commits or aborts an ingest |
| ``_settle`` | returns when the blob would survive a power cut; nothing by default | nobody |
"""

from __future__ import annotations

import abc
import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from plugin_sdk import content, errors, identifiers
from plugin_sdk import content_ingest as ingest
from plugin_sdk.content_writer import Writer
from plugin_sdk.hashing import Digest


class Reader(abc.ABC):
    """Implements ``content.Reader`` but for the bytes. ``size`` is that of the blob; ``file``, an open file, is closed
    with the reader."""

    def __init__(self, size: int, file: BinaryIO | None = None) -> None:
        self.size = size
        self._file = file
        self._closed = False

    @abc.abstractmethod
    def _read(self, offset: int, size: int) -> bytes:
        """As ``read_at``; the offset is not negative."""

    def read_at(self, offset: int, size: int) -> bytes:
        self._require_open()
        if offset < 0:
            raise errors.OutOfRange(f"offset {offset} is negative")
        return self._read(offset, size)

    def fileno(self) -> int:
        raise errors.Unimplemented("this store keeps its blobs not as plain files")

    def close(self) -> None:
        self._closed = True
        if self._file is not None:
            self._file.close()

    def _require_open(self) -> None:
        if self._closed:
            raise errors.FailedPrecondition("the reader is closed")

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class Store(abc.ABC):
    """Implements ``content.Store`` but for where the blobs are. Labels need not be kept: the daemon does."""

    def __init__(self, root: Path) -> None:
        """The blobs must be there to be asked for: a subclass calls this last."""
        self._ingests = root / "ingest"
        # What looks at names and then changes them; never held while bytes are written.
        self._names = threading.Lock()
        self._hashing = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="digest")
        self._ingests.mkdir(parents=True, exist_ok=True)
        ingest.clean(self._ingests, self._has)

    @abc.abstractmethod
    def _info(self, digest: str) -> content.Info:
        """Of a blob."""

    @abc.abstractmethod
    def _digests(self) -> Iterable[str]:
        """Of all blobs; one that has just gone, or is none, does no harm."""

    @abc.abstractmethod
    def _open(self, digest: str) -> content.Reader:
        """A reader, which goes on when the blob is removed."""

    @abc.abstractmethod
    def _remove(self, digest: str) -> None:
        """The blob is gone, also after a power cut."""

    @abc.abstractmethod
    def _keep(self, digest: str, staged: Path) -> None:
        """Makes the file that ``_stage`` answered the blob, which does not exist. When it raises, the ingest stays."""

    def _stage(self, digest: str, data: Path) -> Path:
        """Makes of the ingest's bytes the file that is to be kept, beside ``data`` or ``data`` itself. It is synced."""
        return data

    def _label(self, digest: str, labels: Mapping[str, str]) -> None:  # noqa: B027 - many need none
        """Of a blob that is just about to appear, for a store that keeps labels; it overrides ``update`` too."""

    def _settle(self, digest: str) -> None:  # noqa: B027 - many need none
        """Returns when the blob is on disk."""

    def info(self, digest: str) -> content.Info:
        with _asked(digest):
            return self._info(digest)

    def update(self, info: content.Info, fieldpaths: Sequence[str] = ()) -> content.Info:
        raise errors.Unimplemented(f"content {info.digest}: this store keeps no labels")

    def walk(self, filters: Sequence[str] = ()) -> Iterator[content.Info]:
        return filter(content.matcher(filters), self._infos())

    def _infos(self) -> Iterator[content.Info]:
        for digest in self._digests():
            with contextlib.suppress(errors.NotFound, errors.InvalidArgument):
                yield self.info(digest)

    def delete(self, digest: str) -> None:
        with _asked(digest):
            self._remove(digest)

    def reader(self, digest: str) -> content.Reader:
        with _asked(digest):
            return self._open(digest)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> content.Writer:
        if not ref:
            raise errors.InvalidArgument("ref must not be empty")
        if expected and self._has(expected):
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
        sync(self._ingests)
        ingest.discard(trash)

    def _has(self, digest: str) -> bool:
        try:
            self.info(digest)
        except errors.NotFound:
            return False
        return True

    def _begin_digest(self, algorithm: str) -> Digest:
        return Digest(algorithm, self._hashing)

    def _publish(self, folder: Path, fd: int, digest: str, labels: Mapping[str, str]) -> None:
        """Makes the synced bytes of an ingest, open as ``fd``, the blob ``digest``. Raises FileNotFoundError when the
        ingest is gone."""
        staged = self._stage(digest, folder / "data")
        if staged != folder / "data":
            sync(staged)
            ingest.mark(folder, digest)
        with self._names:
            exists = self._has(digest)
            if not exists:
                ingest.require_same(folder, fd)
                self._label(digest, labels)
                self._keep(digest, staged)
            trash = ingest.retire(folder)
        self._settle(digest)
        ingest.discard(trash)
        if exists:
            raise _already_exists(digest)


@contextlib.contextmanager
def _asked(digest: str) -> Iterator[None]:
    identifiers.validate_digest(digest)
    try:
        yield
    except FileNotFoundError as err:
        raise errors.NotFound(f"content {digest}: not found") from err


def _already_exists(digest: str) -> errors.AlreadyExists:
    return errors.AlreadyExists(f"content {digest}: already exists")


def sync(path: Path) -> None:
    """fsync(2) of a file, or of a directory: the names in it are on disk then."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
