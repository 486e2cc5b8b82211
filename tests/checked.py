"""A program to be checked: ``python -m tests.checked native,local --address SOCKET --root DIR`` serves these parts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from kernel.spawner import Spawner
from plugin_sdk import errors, serve
from plugins_builtin.content import local
from plugins_builtin.diff.plugin import Config
from plugins_builtin.diff.walking import Differ
from plugins_builtin.snapshots import native
from tests import labelled


class Wrong(native.Snapshotter):
    """Breaks one sentence: what it raises of a snapshot that is not there."""

    def mounts(self, key: str) -> Any:
        try:
            return super().mounts(key)
        except errors.NotFound as err:
            raise errors.FailedPrecondition(err.message) from err


class Mortal(native.Snapshotter):
    """Ends its program with the second snapshot."""

    def prepare(self, key: str, parent: str = "", labels: Any = None) -> Any:
        if list(self.walk()):
            os._exit(3)
        return super().prepare(key, parent, labels)


PARTS: dict[str, tuple[str, Callable[[serve.Options], Any]]] = {
    "native": ("snapshotter", lambda options: native.Snapshotter(options.root / "snapshots")),
    "wrong": ("snapshotter", lambda options: Wrong(options.root / "snapshots")),
    "mortal": ("snapshotter", lambda options: Mortal(options.root / "snapshots")),
    "local": ("content", lambda options: local.Store(options.root / "content")),
    "labelled": ("content", lambda options: labelled.Store(options.root / "content")),
    "walking": ("differ", lambda options: Differ(Spawner(), options.root / "state", Config())),
}

if __name__ == "__main__":
    serve.main("checked", **dict(PARTS[name] for name in sys.argv[1].split(",")), arguments=sys.argv[2:])  # type: ignore[arg-type]
