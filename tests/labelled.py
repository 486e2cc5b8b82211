"""The content store ``local``, and labels as the kernel keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from plugin_sdk import content
from plugins_builtin.content import local


class Store:
    def __init__(self, root: Path) -> None:
        self._store = local.Store(root)
        self._labels: dict[str, dict[str, str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def info(self, digest: str) -> content.Info:
        return replace(self._store.info(digest), labels=dict(self._labels.get(digest, {})))

    def update(self, info: content.Info, fieldpaths: Sequence[str] = ()) -> content.Info:
        assert all(path.startswith("labels.") for path in fieldpaths)
        keys = [path.removeprefix("labels.") for path in fieldpaths]
        self._labels.setdefault(info.digest, {}).update({key: info.labels[key] for key in keys})
        return self.info(info.digest)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Writer:
        return Writer(self._store.writer(ref, total, expected), self._labels)


class Writer:
    def __init__(self, writer: content.Writer, labels: dict[str, dict[str, str]]) -> None:
        self._writer = writer
        self._labels = labels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        digest = self._writer.commit(size, expected, labels)
        self._labels[digest] = dict(labels or {})
        return digest
