"""The suite for snapshotters at the height of the namespaced view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.metadata.database import Database
from kernel.metadata.store import Metadata
from plugin_sdk import plugin
from plugin_sdk import snapshots as contract
from plugin_sdk.conformance import snapshots
from plugin_sdk.scope import Scope
from plugins_builtin.snapshots import overlayfs
from tests.registries import FixedRegistry


@pytest.mark.root
class TestView(snapshots.SnapshotSuite):
    @pytest.fixture
    def opened(self) -> Iterator[list[Metadata]]:
        opened: list[Metadata] = []
        yield opened
        for metadata in opened:
            _close(metadata)

    @pytest.fixture
    def open_view(self, tmp_path: Path, opened: list[Metadata]) -> Callable[[], contract.Snapshotter]:
        def open_view() -> contract.Snapshotter:
            while opened:
                _close(opened.pop())
            registry = FixedRegistry(overlayfs=overlayfs.Snapshotter(tmp_path / "snapshots"))
            opened.append(Metadata(Database(tmp_path / "meta.db"), registry))
            opened[-1].settle()
            return opened[-1].view(Scope("ns")).snapshotter("overlayfs")

        return open_view

    @pytest.fixture
    def snapshotter(self, open_view: Callable[[], contract.Snapshotter]) -> contract.Snapshotter:
        return open_view()

    @pytest.fixture
    def reopen(self, open_view: Callable[[], contract.Snapshotter]) -> Callable[[], contract.Snapshotter]:
        return open_view


def _close(metadata: Metadata) -> None:
    metadata.close()
    with metadata.backends.registry.use(plugin.SNAPSHOTTER, "overlayfs", Scope("ns")) as made:
        made.close()
    metadata.database.close()
