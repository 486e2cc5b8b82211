"""The suite for snapshotters on subvolumes: the object, its namespaced view, and over a socket."""

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
from plugin_sdk.wire import snapshots as wire
from proxy_plugins.btrfs.snapshotter import Snapshotter
from tests import loops
from tests.registries import FixedRegistry
from tests.serving import Serve

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def file_system() -> Iterator[Path]:
    with loops.file_system() as folder:
        yield folder


@pytest.fixture(scope="module")
def counted_file_system() -> Iterator[Path]:
    with loops.file_system() as folder:
        loops.enable_quota(folder)
        yield folder


@pytest.fixture
def root(file_system: Path, request: pytest.FixtureRequest) -> Path:
    return file_system / str(abs(hash(request.node.nodeid)))


class Suite(snapshots.SnapshotSuite):
    @pytest.fixture
    def opened(self) -> Iterator[list[Snapshotter]]:
        """The one that is open."""
        opened: list[Snapshotter] = []
        yield opened
        for snapshotter in opened:
            snapshotter.close()

    @pytest.fixture
    def layers(self) -> int:
        return 130

    @pytest.fixture
    def reopen(self, opened: list[Snapshotter], root: Path) -> Callable[[], contract.Snapshotter]:
        def again() -> contract.Snapshotter:
            while opened:
                opened.pop().close()
            opened.append(Snapshotter(root))
            return opened[0]

        return again

    @pytest.fixture
    def snapshotter(self, reopen: Callable[[], contract.Snapshotter]) -> contract.Snapshotter:
        return reopen()


class TestBtrfs(Suite):
    pass


class TestBtrfsWithQuota(Suite):
    @pytest.fixture
    def root(self, counted_file_system: Path, request: pytest.FixtureRequest) -> Path:
        return counted_file_system / str(abs(hash(request.node.nodeid)))


class TestBtrfsOverASocket(Suite):
    @pytest.fixture
    def snapshotter(self, reopen: Callable[[], contract.Snapshotter], serve: Serve) -> contract.Snapshotter:
        behind = reopen()
        return wire.Proxy(serve(wire.Servicer(lambda call, name: behind)), Scope("default"), "btrfs")


class TestBtrfsUnderTheKernel(Suite):
    @pytest.fixture
    def reopen(self, root: Path, opened: list[Snapshotter], tmp_path: Path) -> Iterator[Callable[[], object]]:
        kept: list[Metadata] = []

        def close() -> None:
            while kept:
                kept[0].close()
                kept.pop().database.close()
            while opened:
                opened.pop().close()

        def again() -> contract.Snapshotter:
            close()
            opened.append(Snapshotter(root))
            kept.append(Metadata(Database(tmp_path / "meta.db"), FixedRegistry(btrfs=opened[0])))
            kept[0].settle()
            return kept[0].view(Scope("ns")).snapshotter("btrfs")

        yield again
        close()


def test_the_suite_runs_on_the_class_that_registers_in_process(file_system: Path) -> None:
    from proxy_plugins.btrfs import plugin as registering

    (registration,) = registering.register_snapshotters()
    assert registration.name == f"{plugin.SNAPSHOTTER}.btrfs"
    context = plugin.PluginContext(None, file_system / "in-process", file_system, None, None, None)  # type: ignore[arg-type]
    made = registration.create(context)
    assert isinstance(made, Snapshotter)
    made.close()
