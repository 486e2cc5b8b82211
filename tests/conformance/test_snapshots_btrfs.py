"""The suite for snapshotters on subvolumes: the object, its namespaced view, and its program, which it kills."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.metadata.database import Database
from kernel.metadata.store import Metadata
from plugin_sdk import mounts, plugin
from plugin_sdk import snapshots as contract
from plugin_sdk.conformance import snapshots
from plugin_sdk.conformance.snapshot_records import Records
from plugin_sdk.conformance.snapshot_rig import Rig
from plugin_sdk.conformance.snapshot_threads import Threads
from plugin_sdk.scope import Scope
from plugin_sdk.wire import snapshots as wire
from plugin_sdk.wire import transport
from proxy_plugins.btrfs import plugin as registering
from proxy_plugins.btrfs.snapshotter import Snapshotter
from tests import forked, loops
from tests.registries import FixedRegistry

pytestmark = pytest.mark.root

LAYERS = 60  # each stands alone: there is no limit


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


class Opened(Rig):
    @pytest.fixture
    def opened(self) -> Iterator[list[Snapshotter]]:
        """The one that is open."""
        opened: list[Snapshotter] = []
        yield opened
        for snapshotter in opened:
            snapshotter.close()

    @pytest.fixture
    def layers(self) -> int:
        return LAYERS

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


class TestBtrfs(Opened, snapshots.SnapshotSuite):
    pass


class TestBtrfsWithQuota(Opened, Records, Threads):
    """The parts that quota has to do with."""

    @pytest.fixture
    def root(self, counted_file_system: Path, request: pytest.FixtureRequest) -> Path:
        return counted_file_system / str(abs(hash(request.node.nodeid)))


class Served:
    """The class in a process of its own, and a client of it. The program as it is started by people is what
    tests/unit/test_btrfs_program.py is about."""

    def __init__(self, nursery: forked.Nursery, root: Path, directory: Path) -> None:
        self._nursery = nursery
        self._root = root
        self._address = directory / "s"
        self._running = contextlib.ExitStack()

    def start(self) -> contract.Snapshotter:
        program = self._nursery.start("proxy_plugins.btrfs.snapshotter", self._address, self._root)
        self._running.callback(program.kill)
        channel = transport.connect(f"unix://{self._address}")
        self._running.callback(channel.close)
        return wire.Proxy(channel, Scope("default"), "btrfs")

    def crash(self) -> contract.Snapshotter:
        self.kill()
        return self.start()

    def kill(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def served(file_system: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with forked.nursery() as nursery:
        served = Served(nursery, file_system / "program", tmp_path_factory.mktemp("btrfs"))
        yield served
        served.kill()


@pytest.fixture(scope="module")
def proxies(served: Served) -> list[contract.Snapshotter]:
    """The newest is last."""
    return [served.start()]


class TestBtrfsProgram(snapshots.SnapshotSuite):
    @pytest.fixture
    def snapshotter(self, proxies: list[contract.Snapshotter]) -> contract.Snapshotter:
        return proxies[-1]

    @pytest.fixture
    def crash(self, served: Served, proxies: list[contract.Snapshotter]) -> Callable[[], contract.Snapshotter]:
        def crash() -> contract.Snapshotter:
            proxies.append(served.crash())
            return proxies[-1]

        return crash

    @pytest.fixture
    def supports_kill(self) -> bool:
        return True

    @pytest.fixture
    def layers(self) -> int:
        return LAYERS


class TestBtrfsUnderTheKernel(Opened, snapshots.SnapshotSuite):
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


def test_the_class_registers_in_process_too(file_system: Path, tmp_path: Path) -> None:
    (registration,) = registering.register_snapshotters()
    assert registration.name == f"{plugin.SNAPSHOTTER}.btrfs"
    made = registration.create(context(file_system / "in-process"))
    assert isinstance(made, Snapshotter)
    made.close()
    with (
        mounts.temporary([mounts.Mount("tmpfs", "tmpfs")]) as folder,
        pytest.raises(plugin.SkipPlugin, match="is not on btrfs"),
    ):
        registration.create(context(Path(folder) / "root"))


def context(root: Path) -> plugin.PluginContext:
    """What it needs of one."""
    return plugin.PluginContext(None, root, root, None, None, None)  # type: ignore[arg-type]
