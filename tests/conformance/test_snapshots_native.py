import os
from pathlib import Path

import pytest

from kernel.spawner import Spawner
from plugin_sdk import copying, errors, mounts, trees
from plugin_sdk.conformance import snapshot_targets, snapshots
from plugins_builtin.snapshots import native
from tests import remotes

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def snapshotter(root):
    made = native.Snapshotter(root)
    yield made
    made.close()


class Native:
    make = native.Snapshotter

    @pytest.fixture
    def opened(self):
        opened = []
        yield opened
        for snapshotter in opened:
            snapshotter.close()

    @pytest.fixture
    def reopen(self, root, opened):
        def reopen():
            opened.append(type(self).make(root))
            return opened[-1]

        return reopen

    @pytest.fixture
    def snapshotter(self, reopen):
        return reopen()

    @pytest.fixture
    def supports_sharing(self):
        return False


class TestNative(Native, snapshots.SnapshotSuite):
    """On a disk, unlike others: what is on tmpfs cannot be lost from memory."""


class TestRemote(Native, snapshot_targets.Targets):
    make = remotes.Snapshotter

    @pytest.fixture
    def supports_targets(self):
        return True

    @pytest.fixture
    def target(self):
        return remotes.target


class Forked:
    """Workers without a spawner."""

    def __init__(self):
        self.entries = []

    def start(self, entry, params, fds=()):
        self.entries.append(entry)
        pid = os.fork()
        if pid == 0:
            code = 9
            try:
                code = copying.main(params, fds)
            finally:
                os._exit(code)
        return ForkedWorker(pid)


class ForkedWorker:
    def __init__(self, pid):
        self.pid = pid

    def wait(self, timeout=None):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self):
        pass


def test_mounts_have_the_shapes_that_clients_parse(snapshotter, root):
    folders = root / "snapshots"
    assert snapshotter.prepare("a") == [mounts.Mount("bind", f"{folders}/1", "", ("rbind", "rw"))]
    assert snapshotter.view("v0") == [mounts.Mount("bind", f"{folders}/2", "", ("rbind", "ro"))]
    snapshotter.commit("l1", "a")
    assert snapshotter.prepare("b", "l1") == [mounts.Mount("bind", f"{folders}/3", "", ("rbind", "rw"))]
    assert snapshotter.view("v1", "l1") == [mounts.Mount("bind", f"{folders}/1", "", ("rbind", "ro"))]


def test_workers_do_the_copying(root):
    workers = Forked()
    snapshotter = native.Snapshotter(root, workers)
    try:
        snapshots.commit(snapshotter, "layer", a="1")
        assert snapshots.texts(snapshotter.prepare("key", "layer")) == {"a": "1"}
        assert workers.entries == ["plugin_sdk.copying:main"]
    finally:
        snapshotter.close()


def test_a_child_of_the_spawner_can_do_the_copying(root):
    workers = Spawner(Path(native.__file__).parent.parent.parent)
    snapshotter = native.Snapshotter(root, workers)
    try:
        with snapshots.shown(snapshotter.prepare("key")) as folder:
            snapshots.fill(folder)
            before = snapshots.appearance(folder)
        snapshotter.commit("layer", "key")
        with snapshots.shown(snapshotter.prepare("child", "layer")) as folder:
            assert snapshots.appearance(folder) == before
    finally:
        snapshotter.close()
        workers.close()


def test_a_copy_that_fails_in_its_worker_names_the_reason_and_leaves_nothing(root, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    snapshotter = native.Snapshotter(root, Forked())
    try:
        snapshots.commit(snapshotter, "layer", a="1")
        monkeypatch.setattr(copying, "tree", fail)
        with pytest.raises(errors.FailedPrecondition, match="No space left"):
            snapshotter.prepare("key", "layer")
        assert snapshots.names(snapshotter) == {"layer"}
        assert [path.name for path in (root / "snapshots").iterdir()] == ["1"]
    finally:
        snapshotter.close()


@pytest.mark.parametrize("missing", ["clone", "clone and copy_file_range"])
def test_a_copy_is_the_same_where_the_file_system_helps_less(tmp_path, monkeypatch, missing):
    def refuse(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(copying.fcntl, "ioctl", refuse)
    if "copy" in missing:
        monkeypatch.setattr(copying.os, "copy_file_range", refuse)
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    snapshots.fill(tmp_path / "source")
    copying.tree(tmp_path / "source", tmp_path / "target")
    assert snapshots.appearance(tmp_path / "target") == snapshots.appearance(tmp_path / "source")
    assert (tmp_path / "target" / "sparse").stat().st_blocks < 100


def test_a_tree_deeper_than_a_path_is_long_is_copied(tmp_path):
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    for _ in range(600):
        os.mkdir("directory", dir_fd=fd)
        below = os.open("directory", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    copying.tree(tmp_path / "source", tmp_path / "target")
    assert trees.usage(tmp_path / "target")[1] == 601
    trees.remove(tmp_path / "source")
    trees.remove(tmp_path / "target")
