"""A content store for tests of differs: plain files, and labels for as long as the object lives.

As a program, for a differ that is one: ``python -m plugin_sdk.conformance.blobs --address SOCKET --root DIRECTORY``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from plugin_sdk import content, content_store, errors, identifiers, serve


class Store(content_store.Store):
    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._labels: dict[str, tuple[dict[str, str], int]] = {}  # and when they were changed
        super().__init__(root)

    def _info(self, digest: str) -> content.Info:
        found = (self._blobs / digest).stat()
        labels, changed = self._labels.get(digest, ({}, found.st_mtime_ns))
        return content.Info(digest, found.st_size, found.st_mtime_ns, changed, labels)

    def _digests(self) -> Iterable[str]:
        return os.listdir(self._blobs)

    def _open(self, digest: str) -> content.Reader:
        return Reader((self._blobs / digest).open("rb", buffering=0))

    def _remove(self, digest: str) -> None:
        (self._blobs / digest).unlink()
        self._labels.pop(digest, None)

    def _keep(self, digest: str, staged: Path) -> None:
        staged.rename(self._blobs / digest)

    def _label(self, digest: str, labels: Mapping[str, str]) -> None:
        identifiers.validate_labels(labels)
        self._labels[digest] = {key: value for key, value in labels.items() if value}, time.time_ns()

    def update(self, info: content.Info, fieldpaths: Sequence[str] = ()) -> content.Info:
        labels = dict(self.info(info.digest).labels) if fieldpaths else dict(info.labels)
        for path in fieldpaths:
            name, _, key = path.partition(".")
            if name != "labels":
                raise errors.InvalidArgument(f'cannot update "{path}" of content {info.digest}')
            labels = {**labels, key: info.labels.get(key, "")} if key else dict(info.labels)
        self._label(info.digest, labels)
        return self.info(info.digest)


class Reader(content_store.Reader):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(os.fstat(file.fileno()).st_size, file)
        self._fd = file.fileno()

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)


if __name__ == "__main__":
    serve.main("blobs", content=lambda options: Store(options.root))
