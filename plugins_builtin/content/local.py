"""Content in files of the local file system, at containerd's layout.

::

    blobs/ALGORITHM/HEX     a blob, never changed
    ingest/…                see ``plugin_sdk/content_ingest.py``

A commit is fsync of the bytes, rename into ``blobs`` and fsync of that directory. Labels are not kept here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from plugin_sdk import content, content_store, identifiers


class Store(content_store.Store):
    """Implements ``content.Store`` below ``root``."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        (self._blobs / "sha256").mkdir(parents=True, exist_ok=True)
        super().__init__(root)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be. Raises InvalidArgument."""
        identifiers.validate_digest(digest)
        algorithm, _, digits = digest.partition(":")
        return self._blobs / algorithm / digits

    def _info(self, digest: str) -> content.Info:
        return _info(digest, os.stat(self.path(digest)))

    def _digests(self) -> Iterator[str]:
        return (f"{path.parent.name}:{path.name}" for path in self._blobs.glob("*/*"))

    def _open(self, digest: str) -> Reader:
        return Reader(self.path(digest).open("rb", buffering=0))

    def _remove(self, digest: str) -> None:
        path = self.path(digest)
        path.unlink()
        content_store.sync(path.parent)

    def _keep(self, digest: str, staged: Path) -> None:
        path = self.path(digest)
        path.parent.mkdir(exist_ok=True)
        staged.chmod(0o444)
        staged.rename(path)

    def _settle(self, digest: str) -> None:
        content_store.sync(self.path(digest).parent)


class Reader(content_store.Reader):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(os.fstat(file.fileno()).st_size, file)
        self._fd = file.fileno()

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def fileno(self) -> int:
        self._require_open()
        return self._fd


def _info(digest: str, stat: os.stat_result) -> content.Info:
    return content.Info(digest, stat.st_size, stat.st_mtime_ns, stat.st_mtime_ns)
