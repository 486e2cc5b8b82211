"""The suite for snapshotters at the height of the namespaced view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from kernel.metadata.database import Database
from kernel.metadata.store import Metadata
from plugin_sdk import plugin
from plugin_sdk import snapshots as contract
from plugin_sdk.conformance import snapshot_targets, snapshots
from plugin_sdk.scope import Scope
from plugins_builtin.snapshots import overlayfs
from tests import remotes
from tests.registries import FixedRegistry


class View:
    @pytest.fixture
    def opened(self) -> Iterator[list[Metadata]]:
        opened: list[Metadata] = []
        yield opened
        for metadata in opened:
            _close(metadata)

    def make(self, root: Path) -> contract.Snapshotter:
        return overlayfs.Snapshotter(root)

    @pytest.fixture
    def open_view(self, memory: Path, opened: list[Metadata]) -> Callable[[], contract.Snapshotter]:
        def open_view() -> contract.Snapshotter:
            while opened:
                _close(opened.pop())
            registry = FixedRegistry(made=self.make(memory / "snapshots"))
            opened.append(Metadata(Database(memory / "meta.db"), registry))
            opened[-1].settle()
            return opened[-1].view(Scope("ns")).snapshotter("made")

        return open_view

    @pytest.fixture
    def snapshotter(self, open_view: Callable[[], contract.Snapshotter]) -> contract.Snapshotter:
        return open_view()

    @pytest.fixture
    def reopen(self, open_view: Callable[[], contract.Snapshotter]) -> Callable[[], contract.Snapshotter]:
        return open_view


@pytest.mark.root
class TestView(View, snapshots.SnapshotSuite):
    pass


@pytest.mark.root
class TestViewOfARemoteSnapshotter(View, snapshot_targets.Targets):
    def make(self, root: Path) -> contract.Snapshotter:
        return remotes.Snapshotter(root)

    @pytest.fixture
    def supports_targets(self) -> bool:
        return True

    @pytest.fixture
    def target(self) -> Callable[[], Mapping[str, str]]:
        return remotes.target


def _close(metadata: Metadata) -> None:
    metadata.close()
    with metadata.backends.registry.use(plugin.SNAPSHOTTER, "made", Scope("ns")) as made:
        made.close()
    metadata.database.close()
