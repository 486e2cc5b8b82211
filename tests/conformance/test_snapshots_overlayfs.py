import errno
import os
import shutil

import pytest

from plugin_sdk import errors, mounts, snapshot_store, trees
from plugin_sdk.conformance import crash, snapshots
from plugin_sdk.plugin import SkipPlugin
from plugin_sdk.snapshots import Kind
from plugins_builtin.snapshots import overlayfs

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def snapshotter(root):
    made = overlayfs.Snapshotter(root)
    yield made
    made.close()


class TestOverlayfs(snapshots.SnapshotSuite):
    @pytest.fixture
    def opened(self):
        opened = []
        yield opened
        for snapshotter in opened:
            snapshotter.close()

    @pytest.fixture
    def reopen(self, memory, opened):
        def reopen():
            opened.append(overlayfs.Snapshotter(memory / "root"))
            return opened[-1]

        return reopen

    @pytest.fixture
    def snapshotter(self, reopen):
        return reopen()

    @pytest.fixture
    def layers(self):
        return 220


def folder_of(snapshotter, key):
    return snapshotter.store.path(snapshotter.store.get(key).id)


def test_mounts_have_the_shapes_that_clients_parse(snapshotter, root):
    folders = root / "snapshots"
    index = ("index=off",) if os.path.exists("/sys/module/overlay/parameters/index") else ()
    assert snapshotter.prepare("a") == [mounts.Mount("bind", f"{folders}/1/fs", "", ("rw", "rbind"))]
    assert snapshotter.view("v0") == [mounts.Mount("bind", f"{folders}/2/fs", "", ("ro", "rbind"))]
    snapshotter.commit("l1", "a")
    upper = f"workdir={folders}/3/work", f"upperdir={folders}/3/fs", f"lowerdir={folders}/1/fs"
    assert snapshotter.prepare("b", "l1") == [mounts.Mount("overlay", "overlay", "", (*index, *upper))]
    assert snapshotter.view("v1", "l1") == [mounts.Mount("bind", f"{folders}/1/fs", "", ("ro", "rbind"))]
    snapshotter.commit("l2", "b")
    lower = f"lowerdir={folders}/3/fs:{folders}/1/fs"
    assert snapshotter.view("v2", "l2") == [mounts.Mount("overlay", "overlay", "", (*index, lower))]


def test_an_opaque_root_hides_only_what_is_below_its_layer(snapshotter):
    snapshots.commit(snapshotter, "one", a="1")
    snapshotter.prepare("key", "one")
    os.setxattr(folder_of(snapshotter, "key") / "fs", "trusted.overlay.opaque", b"y")
    snapshotter.commit("two", "key")
    snapshots.commit(snapshotter, "three", "two", b="3")
    assert "trusted.overlay.opaque" not in os.listxattr(folder_of(snapshotter, "three") / "fs")


def test_a_root_on_an_overlay_is_skipped_with_the_reason(tmp_path):
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = (f"lowerdir={tmp_path}/lower", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work")
    with mounts.temporary([mounts.Mount("overlay", "overlay", "", options)]) as merged:
        with pytest.raises(SkipPlugin, match="cannot hold overlays"):
            overlayfs.Snapshotter(tmp_path.__class__(merged) / "root")
        assert os.listdir(f"{merged}/root") == []


def test_a_file_system_without_entry_types_is_skipped(root, monkeypatch):
    class Entry:
        def __init__(self, path):
            self.path = path

        def is_file(self, follow_symlinks=True):
            return os.path.isfile(self.path)

    class Entries:
        def __init__(self, folder):
            self.folder = folder

        def __enter__(self):
            return iter([Entry(os.path.join(self.folder, "file"))])

        def __exit__(self, *failure):
            pass

    root.mkdir()
    monkeypatch.setattr(overlayfs.os, "scandir", Entries)
    with pytest.raises(SkipPlugin, match="types"):
        overlayfs._check_entry_types(_with_file(root))


def _with_file(root):
    (root / "check" / "lower").mkdir(parents=True)
    (root / "check" / "lower" / "file").touch()
    return root / "check" / "lower"


def test_a_root_in_use_is_refused(snapshotter, root):
    with pytest.raises(errors.FailedPrecondition, match="in use"):
        overlayfs.Snapshotter(root)


def test_the_check_leaves_nothing(snapshotter, root):
    assert sorted(path.name for path in root.iterdir() if not path.name.startswith("snapshots.db")) == [
        "lock",
        "snapshots",
    ]
    assert not [point for point in mounts.mount_points() if point.startswith(str(root))]


def test_what_a_killed_check_has_left_is_cleared(root):
    left = root / "check-1" / "target"
    left.mkdir(parents=True)
    mounts.mount(mounts.Mount("tmpfs", "tmpfs"), left)
    overlayfs.Snapshotter(root).close()
    assert not left.parent.exists()


def test_commit_syncs_before_it_says_so(snapshotter, monkeypatch):
    calls = []
    monkeypatch.setattr(snapshot_store, "sync_file_system", lambda path: calls.append((path, snapshotter.stat("key"))))
    snapshotter.prepare("key")
    path = folder_of(snapshotter, "key")
    snapshotter.commit("layer", "key")
    assert [(synced, info.kind) for synced, info in calls] == [(path, Kind.ACTIVE)]


def test_a_commit_that_cannot_be_synced_changes_nothing(snapshotter, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    snapshotter.prepare("key")
    monkeypatch.setattr(snapshot_store, "sync_file_system", fail)
    with pytest.raises(errors.DataLoss, match="key"):
        snapshotter.commit("layer", "key")
    assert snapshots.names(snapshotter) == {"key"}


def test_a_directory_lost_in_a_power_cut_is_made_again(snapshotter, root):
    snapshots.commit(snapshotter, "layer", a="1")
    snapshotter.prepare("key", "layer")
    lost = folder_of(snapshotter, "key")
    snapshotter.close()
    shutil.rmtree(lost)
    again = overlayfs.Snapshotter(root)
    try:
        assert snapshots.texts(again.mounts("key")) == {"a": "1"}
    finally:
        again.close()


def test_ids_never_return(snapshotter, root):
    for _ in range(3):
        snapshotter.prepare("key")
        last = snapshotter.store.get("key").id
        snapshotter.remove("key")
    snapshotter.close()
    again = overlayfs.Snapshotter(root)
    try:
        again.prepare("key")
        assert again.store.get("key").id > last
    finally:
        again.close()


def test_a_remove_that_fails_halfway_is_finished_by_cleanup(snapshotter, root, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    snapshotter.prepare("key")
    snapshotter.store._destroy = fail
    snapshotter.remove("key")
    assert snapshots.names(snapshotter) == set()
    assert len(list((root / "snapshots").iterdir())) == 1
    snapshotter.store._destroy = trees.remove
    snapshotter.cleanup()
    assert list((root / "snapshots").iterdir()) == []


def test_cleanup_leaves_what_is_being_made(snapshotter, root):
    def make(folder, kind, parents):
        made(folder, kind, parents)
        snapshotter.cleanup()

    made, snapshotter.store._make = snapshotter.store._make, make
    assert snapshots.texts(snapshotter.prepare("key")) == {}


def test_a_parent_that_is_made_again_meanwhile_is_another_one(snapshotter):
    def make(folder, kind, parents):
        snapshotter.store._make = made
        snapshotter.remove("layer")
        snapshots.commit(snapshotter, "layer")
        made(folder, kind, parents)

    snapshots.commit(snapshotter, "layer", a="1")
    made, snapshotter.store._make = snapshotter.store._make, make
    with pytest.raises(errors.NotFound, match="layer"):
        snapshotter.prepare("key", "layer")
    assert snapshots.names(snapshotter) == {"layer"}


def test_a_key_that_is_made_again_meanwhile_is_another_one(snapshotter, monkeypatch):
    def gone(snapshot):
        monkeypatch.undo()
        snapshotter.remove("key")
        with snapshots.shown(snapshotter.prepare("key")) as folder:
            (folder / "file").write_bytes(bytes(4096))
        return measure(snapshot)

    snapshotter.prepare("key")
    measure = snapshotter._measure
    monkeypatch.setattr(snapshotter, "_measure", gone)
    assert snapshotter.usage("key").inodes == 2
    monkeypatch.setattr(snapshotter, "_measure", gone)
    with pytest.raises(errors.NotFound, match="key"):
        snapshotter.commit("layer", "key")
    assert snapshotter.stat("key").kind is Kind.ACTIVE


def test_a_directory_that_is_lost_is_data_loss(snapshotter):
    snapshotter.prepare("key")
    shutil.rmtree(folder_of(snapshotter, "key"))
    with pytest.raises(errors.DataLoss, match="key"):
        snapshotter.usage("key")


@pytest.mark.parametrize("change", ["prepare", "view", "commit", "remove"])
def test_a_crash_at_any_step_leaves_the_state_before_or_after(root, change):
    changes = {
        "prepare": (lambda it: it.prepare("new", "layer"), {"new"}, set()),
        "view": (lambda it: it.view("new", "layer"), {"new"}, set()),
        "commit": (lambda it: it.commit("new", "key"), {"new"}, {"key"}),
        "remove": (lambda it: it.remove("key"), set(), {"key"}),
    }
    work, added, removed = changes[change]
    before = {"layer", "key"}
    after = before - removed | added
    seen = set()

    def open_with_layers():
        snapshotter = overlayfs.Snapshotter(root)
        there = snapshots.names(snapshotter)
        if "layer" not in there:
            snapshotter.prepare("first")
            snapshotter.commit("layer", "first")
        if "key" not in there:
            snapshotter.prepare("key", "layer")
        return snapshotter

    def run():
        snapshotter = overlayfs.Snapshotter(root)
        work(snapshotter)
        os.utime(root)  # a last step: it dies before it can say that it is done

    def check():
        snapshotter = overlayfs.Snapshotter(root)
        snapshotter.cleanup()
        there = snapshots.names(snapshotter)
        assert there in (before, after)
        seen.add(frozenset(there))
        ids = {str(snapshotter.store.get(name).id) for name in there}
        assert {path.name for path in (root / "snapshots").iterdir()} == ids
        for info in snapshotter.walk():
            assert (folder_of(snapshotter, info.name) / "fs").is_dir()
        for name in there - before:
            snapshotter.remove(name)
        snapshotter.close()
        open_with_layers().close()

    open_with_layers().close()
    assert crash.at_every_step(run, check, [(snapshot_store, "sync_file_system")]) > 10
    assert seen == {frozenset(before), frozenset(after)}
