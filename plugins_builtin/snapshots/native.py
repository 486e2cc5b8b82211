"""Snapshots as full copies: slow and large, on every file system.

``snapshots/<id>`` is the tree itself. A view of a committed snapshot has no copy: its mount is the parent's directory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from plugin_sdk import copying, errors, snapshot_store
from plugin_sdk.mounts import Mount
from plugin_sdk.snapshots import Kind
from plugin_sdk.workers import Workers

_ENTRY = "plugin_sdk.copying:main"


class Snapshotter(snapshot_store.Snapshotter):
    """``workers`` run the copying; without them it runs in the caller's thread."""

    def __init__(self, root: Path, workers: Workers | None = None) -> None:
        self._workers = workers
        super().__init__(root)

    def _make(self, folder: Path, kind: Kind, parents: Sequence[int]) -> None:
        folder.chmod(0o755)
        if parents and kind is Kind.ACTIVE:
            self._copy(self.store.path(parents[0]), folder)

    def _mounts(self, snapshot: snapshot_store.Snapshot) -> list[Mount]:
        if snapshot.info.kind is Kind.VIEW:
            shown = snapshot.parents[0] if snapshot.parents else snapshot.id
            return [Mount("bind", str(self.store.path(shown)), "", ("rbind", "ro"))]
        return [Mount("bind", str(self.store.path(snapshot.id)), "", ("rbind", "rw"))]

    def _tree(self, folder: Path) -> Path:
        return folder

    def _copy(self, source: Path, target: Path) -> None:
        try:
            if self._workers is None:
                copying.tree(source, target)
            else:
                _copy_in_child(self._workers, source, target)
        except OSError as err:
            raise errors.FailedPrecondition(f"cannot copy {source}: {err}") from err


def _copy_in_child(workers: Workers, source: Path, target: Path) -> None:
    answer, told = os.pipe2(os.O_CLOEXEC)
    try:
        worker = workers.start(_ENTRY, {"source": str(source), "target": str(target)}, [told])
    except BaseException:
        os.close(answer)
        raise
    finally:
        os.close(told)
    try:
        with open(answer, "rb") as file:
            failure = file.read().decode(errors="replace")
        code = worker.wait()
    finally:
        worker.close()
    if code != 0:
        raise OSError(failure or f"the copying process ended with {code}")
