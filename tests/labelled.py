"""The content store ``local``, and labels as the kernel keeps them, for as long as the object lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernel.metadata import fields
from plugin_sdk import content
from plugins_builtin.content import local


class Writer:
    def __init__(self, store: Store, ref: str, total: int, expected: str) -> None:
        self._store = store
        self._ref = ref
        self._writer = store.local.writer(ref, total, expected)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._writer.close()

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        kept = fields.checked(labels)
        digest = self._writer.commit(size, expected, labels)
        self._store.labels[digest] = kept
        return digest


class Store:
    """``local`` is the store below, ``labels`` those of each blob."""

    open_writer: Any = Writer

    def __init__(self, root: Path) -> None:
        self.local = local.Store(root)
        self.labels: dict[str, dict[str, str]] = {}
        self._updated: dict[str, int] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.local, name)

    def info(self, digest: str) -> content.Info:
        return self._told(self.local.info(digest))

    def update(self, info: content.Info, fieldpaths: Sequence[str] = ()) -> content.Info:
        with self._lock:
            current = self.info(info.digest)
            self.labels[info.digest] = fields.changed(info.digest, current.labels, info.labels, fieldpaths)
            self._updated[info.digest] = time.time_ns()
        return self.info(info.digest)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[content.Info]:
        return filter(content.matcher(filters), map(self._told, self.local.walk()))

    def delete(self, digest: str) -> None:
        self.local.delete(digest)
        self.labels.pop(digest, None)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Any:
        return self.open_writer(self, ref, total, expected)

    def _told(self, info: content.Info) -> content.Info:
        labels = dict(self.labels.get(info.digest, {}))
        return replace(info, labels=labels, updated_at=self._updated.get(info.digest, info.updated_at))
