"""The suite for snapshotters: every sentence of ``plugin_sdk.snapshots`` has a test.

An implementation subclasses it and gives a ``snapshotter``; what it cannot do is a ``supports_…`` fixture::

    @pytest.mark.root
    class TestMine(snapshots.SnapshotSuite):
        @pytest.fixture
        def snapshotter(self, tmp_path):
            mine = Mine(tmp_path / "root")
            yield mine
            mine.close()

``reopen`` is for snapshotters that survive their process: it closes the first object and answers a second one over what
that has kept. The mounts are mounted here, which takes root.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin_sdk import errors, mounts, snapshots
from plugin_sdk.snapshots import Kind

_EXPECTED = errors.NotFound, errors.AlreadyExists, errors.InvalidArgument, errors.FailedPrecondition

SLACK = 2 * 10**9  # clocks of file systems tick coarsely


@contextlib.contextmanager
def shown(instructions: list[mounts.Mount]) -> Iterator[Path]:
    with mounts.temporary(instructions) as folder:
        yield Path(folder)


def commit(snapshotter: snapshots.Snapshotter, name: str, parent: str = "", **files: str) -> None:
    """A layer that holds these files."""
    with shown(snapshotter.prepare(f"prepare {name}", parent)) as folder:
        for file, text in files.items():
            (folder / file).write_text(text)
    snapshotter.commit(name, f"prepare {name}")


def names(snapshotter: snapshots.Snapshotter, *filters: str) -> set[str]:
    return {info.name for info in snapshotter.walk(filters)}


def texts(instructions: list[mounts.Mount]) -> dict[str, str]:
    with shown(instructions) as folder:
        return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def appearance(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that can be told of a tree, by path."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _attributes(path)}
        if stat.S_ISREG(status.st_mode):
            content: object = path.read_bytes()
        else:
            content = os.readlink(path) if path.is_symlink() else status.st_rdev
        owner = status.st_uid, status.st_gid
        # The links of a directory are not kept by every file system.
        links = 0 if path.is_dir() else status.st_nlink
        found[str(path.relative_to(folder))] = status.st_mode, owner, status.st_mtime_ns, links, attributes, content
    return found


def _attributes(path: Path) -> list[str]:
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if ".overlay." not in name)


def fill(folder: Path) -> None:
    """Every sort of file."""
    (folder / "sub" / "deeper").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(os.urandom(100_000))
    (folder / "sub" / "setuid").write_text("x")
    (folder / "sub" / "setuid").chmod(0o4755)
    os.chown(folder / "sub" / "deeper", 1234, 5678)
    (folder / "sub" / "deeper").chmod(0o1770)
    os.link(folder / "sub" / "file", folder / "sub" / "deeper" / "hard link")
    (folder / "link").symlink_to("sub/file")
    (folder / "dangling").symlink_to("/nowhere")
    os.lchown(folder / "link", 7, 8)
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(folder / "socket", stat.S_IFSOCK | 0o600)
    with (folder / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    os.setxattr(folder / "sub" / "file", "trusted.color", b"red")
    os.setxattr(folder / "sub", "trusted.color", b"\x00blue")
    os.utime(folder / "sub" / "file", ns=(1_000_000_007, 1_500_000_000_123_456_789))
    os.utime(folder / "link", ns=(5, 1_400_000_000_000_000_001), follow_symlinks=False)
    os.utime(folder / "sub", ns=(5, 1_300_000_000_000_000_003))
    folder.chmod(0o751)


class SnapshotSuite:
    @pytest.fixture
    def snapshotter(self) -> snapshots.Snapshotter:
        raise NotImplementedError("a subclass gives the snapshotter")

    @pytest.fixture
    def supports_cleanup(self) -> bool:
        return True

    @pytest.fixture
    def supports_sparse(self) -> bool:
        """Holes stay holes."""
        return True

    @pytest.fixture
    def layers(self) -> int:
        """How many layers must be possible, one upon the other."""
        return 20

    @pytest.fixture
    def reopen(self) -> Callable[[], snapshots.Snapshotter] | None:
        return None

    # One use from start to end

    def test_layers_a_container_and_their_removal(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "layer-1", a="1", b="1")
        commit(snapshotter, "layer-2", "layer-1", b="2", c="2")
        with shown(snapshotter.prepare("container", "layer-2")) as folder:
            assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "1", "b": "2", "c": "2"}
            (folder / "d").write_text("new")
        for key in ("container", "layer-2", "layer-1"):
            snapshotter.remove(key)
        assert names(snapshotter) == set()

    def test_a_change_shows_in_later_layers_only(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "base", a="1", b="1")
        with shown(snapshotter.prepare("key", "base")) as folder:
            (folder / "a").unlink()
            (folder / "b").write_text("2")
            (folder / "sub").mkdir()
        snapshotter.commit("top", "key")
        assert texts(snapshotter.view("see top", "top")) == {"b": "2"}
        assert texts(snapshotter.view("see base", "base")) == {"a": "1", "b": "1"}

    def test_siblings_do_not_see_each_other(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "base", a="base")
        with (
            shown(snapshotter.prepare("left", "base")) as left,
            shown(snapshotter.prepare("right", "base")) as right,
        ):
            (left / "a").write_text("left")
            assert (right / "a").read_text() == "base"

    def test_a_child_shows_its_parents_tree_in_every_respect(self, snapshotter: snapshots.Snapshotter) -> None:
        with shown(snapshotter.prepare("key")) as folder:
            fill(folder)
            before = appearance(folder)
        snapshotter.commit("layer", "key")
        with shown(snapshotter.view("view", "layer")) as folder:
            assert appearance(folder) == before
        with shown(snapshotter.prepare("child", "layer")) as folder:
            assert appearance(folder) == before
        snapshotter.commit("second", "child")
        with shown(snapshotter.view("view of two", "second")) as folder:
            assert appearance(folder) == before

    def test_holes_stay_holes(self, snapshotter: snapshots.Snapshotter, supports_sparse: bool) -> None:
        with shown(snapshotter.prepare("key")) as folder, (folder / "sparse").open("wb") as file:
            file.truncate(64 << 20)
        snapshotter.commit("layer", "key")
        with shown(snapshotter.prepare("child", "layer")) as folder:
            status = (folder / "sparse").stat()
            assert status.st_size == 64 << 20
            assert (status.st_blocks * 512 < 1 << 20) == supports_sparse

    def test_a_directory_replaces_a_file_and_a_file_a_directory(self, snapshotter: snapshots.Snapshotter) -> None:
        with shown(snapshotter.prepare("key")) as folder:
            (folder / "folder" / "below").mkdir(parents=True)
            (folder / "file").write_text("x")
        snapshotter.commit("base", "key")
        with shown(snapshotter.prepare("key", "base")) as folder:
            (folder / "folder" / "below").rmdir()
            (folder / "folder").rmdir()
            (folder / "folder").write_text("now a file")
            (folder / "file").unlink()
            (folder / "file").mkdir()
        snapshotter.commit("top", "key")
        with shown(snapshotter.view("view", "top")) as folder:
            assert (folder / "folder").read_text() == "now a file"
            assert list((folder / "file").iterdir()) == []

    def test_a_removed_and_remade_directory_is_empty(self, snapshotter: snapshots.Snapshotter) -> None:
        with shown(snapshotter.prepare("key")) as folder:
            (folder / "folder").mkdir()
            (folder / "folder" / "old").write_text("x")
        snapshotter.commit("base", "key")
        with shown(snapshotter.prepare("key", "base")) as folder:
            (folder / "folder" / "old").unlink()
            (folder / "folder").rmdir()
            (folder / "folder").mkdir()
        snapshotter.commit("top", "key")
        with shown(snapshotter.prepare("child", "top")) as folder:
            assert list((folder / "folder").iterdir()) == []

    def test_many_layers(self, snapshotter: snapshots.Snapshotter, layers: int) -> None:
        parent = ""
        for number in range(layers):
            commit(snapshotter, f"layer-{number}", parent, **{f"file-{number}": str(number), "last": str(number)})
            parent = f"layer-{number}"
        expected = {f"file-{number}": str(number) for number in range(layers)} | {"last": str(layers - 1)}
        assert texts(snapshotter.view("view", parent)) == expected
        with shown(snapshotter.prepare("key", parent)) as folder:
            (folder / "file-0").unlink()
            assert (folder / "last").read_text() == str(layers - 1)

    # Prepare, view, mounts

    def test_prepare_without_parent_is_empty_and_writable(self, snapshotter: snapshots.Snapshotter) -> None:
        with shown(snapshotter.prepare("key")) as folder:
            assert list(folder.iterdir()) == []
            assert stat.S_IMODE(folder.stat().st_mode) == 0o755
            (folder / "file").write_text("x")
        assert texts(snapshotter.mounts("key")) == {"file": "x"}

    def test_a_view_cannot_be_written(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "one", a="1")
        commit(snapshotter, "two", "one", b="2")
        for parent in ("", "one", "two"):
            view = snapshotter.view(f"view of {parent}", parent)
            with shown(view) as folder, pytest.raises(OSError, match="Read-only"):
                (folder / "file").write_text("x")

    def test_mounts_are_those_that_prepare_and_view_answered(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "one")
        commit(snapshotter, "two", "one")
        for parent in ("", "one", "two"):
            assert snapshotter.prepare(f"active {parent}", parent) == snapshotter.mounts(f"active {parent}")
            assert snapshotter.view(f"view {parent}", parent) == snapshotter.mounts(f"view {parent}")

    def test_mounts_of_a_missing_key_are_not_found(self, snapshotter: snapshots.Snapshotter) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            snapshotter.mounts("nobody")

    def test_a_committed_snapshot_has_no_mounts(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "layer")
        with pytest.raises(errors.FailedPrecondition, match="layer"):
            snapshotter.mounts("layer")

    @pytest.mark.parametrize("method", ["prepare", "view"])
    def test_an_existing_key_is_refused(self, snapshotter: snapshots.Snapshotter, method: str) -> None:
        commit(snapshotter, "layer")
        snapshotter.prepare("active")
        snapshotter.view("view")
        for key in ("layer", "active", "view"):
            with pytest.raises(errors.AlreadyExists, match=key):
                getattr(snapshotter, method)(key)
        assert names(snapshotter) == {"layer", "active", "view"}

    @pytest.mark.parametrize("method", ["prepare", "view"])
    def test_a_missing_parent_is_not_found(self, snapshotter: snapshots.Snapshotter, method: str) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            getattr(snapshotter, method)("key", "nobody")
        assert names(snapshotter) == set()

    @pytest.mark.parametrize("method", ["prepare", "view"])
    def test_a_parent_must_be_committed(self, snapshotter: snapshots.Snapshotter, method: str) -> None:
        snapshotter.prepare("active")
        snapshotter.view("view")
        for parent in ("active", "view"):
            with pytest.raises(errors.InvalidArgument, match=parent):
                getattr(snapshotter, method)("key", parent)
        assert names(snapshotter) == {"active", "view"}

    @pytest.mark.parametrize("method", ["prepare", "view"])
    def test_an_empty_key_is_refused(self, snapshotter: snapshots.Snapshotter, method: str) -> None:
        with pytest.raises(errors.InvalidArgument):
            getattr(snapshotter, method)("")

    @pytest.mark.parametrize(
        "key", ["/an/absolute/path", "extract-123-AbC sha256:0123", "../..", ".", "ä%\"'\\", "x" * 300]
    )
    def test_a_key_is_any_text(self, snapshotter: snapshots.Snapshotter, key: str) -> None:
        snapshotter.prepare(key)
        assert snapshotter.stat(key).name == key
        snapshotter.commit(f"{key} committed", key)
        snapshotter.remove(f"{key} committed")
        assert names(snapshotter) == set()

    def test_of_many_that_prepare_one_key_one_succeeds(self, snapshotter: snapshots.Snapshotter) -> None:
        outcomes: list[str] = []

        def work() -> None:
            try:
                snapshotter.prepare("key")
                outcomes.append("made")
            except errors.AlreadyExists:
                outcomes.append("exists")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["exists"] * 7 + ["made"]

    def test_many_threads_leave_a_tree_that_makes_sense(self, snapshotter: snapshots.Snapshotter) -> None:
        failures: list[BaseException] = []

        def work(seed: int) -> None:
            choose = random.Random(seed)
            for _ in range(25):
                key = choose.choice([*names(snapshotter), ""])
                try:
                    match choose.randrange(5):
                        case 0 | 1:
                            snapshotter.prepare(f"key-{choose.randrange(10)}", key)
                        case 2:
                            snapshotter.commit(f"layer-{choose.randrange(10)}", key)
                        case 3:
                            snapshotter.remove(key)
                        case 4:
                            snapshotter.usage(key)
                except _EXPECTED:
                    pass
                except BaseException as err:
                    failures.append(err)
                    raise

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        found = {info.name: info for info in snapshotter.walk()}
        assert all(found[info.parent].kind is Kind.COMMITTED for info in found.values() if info.parent)
        for key, info in found.items():
            if info.kind is Kind.ACTIVE:
                assert texts(snapshotter.mounts(key)) == {}

    # Commit

    def test_commit_removes_the_active_key(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "layer")
        assert names(snapshotter) == {"layer"}
        with pytest.raises(errors.NotFound):
            snapshotter.stat("prepare layer")
        snapshotter.prepare("prepare layer")

    def test_commit_to_an_existing_name_is_refused(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "layer", a="1")
        snapshotter.prepare("key")
        for name in ("layer", "key"):
            with pytest.raises(errors.AlreadyExists, match=name):
                snapshotter.commit(name, "key")
        assert snapshotter.stat("key").kind is Kind.ACTIVE
        assert texts(snapshotter.view("view", "layer")) == {"a": "1"}

    def test_commit_of_a_missing_key_is_not_found(self, snapshotter: snapshots.Snapshotter) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            snapshotter.commit("layer", "nobody")
        assert names(snapshotter) == set()

    def test_only_an_active_snapshot_is_committed(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "layer")
        snapshotter.view("view", "layer")
        for key in ("layer", "view"):
            with pytest.raises(errors.FailedPrecondition, match=key):
                snapshotter.commit("new", key)
        assert names(snapshotter) == {"layer", "view"}

    def test_a_repeated_commit_says_that_it_has_happened(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "layer")
        with pytest.raises((errors.AlreadyExists, errors.NotFound)):
            snapshotter.commit("layer", "prepare layer")
        assert snapshotter.stat("layer").kind is Kind.COMMITTED

    # Remove

    def test_remove_of_a_missing_key_is_not_found(self, snapshotter: snapshots.Snapshotter) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            snapshotter.remove("nobody")

    def test_a_parent_is_not_removed_before_its_children(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "layer")
        for key in ("active", "view"):
            getattr(snapshotter, "prepare" if key == "active" else "view")(key, "layer")
            with pytest.raises(errors.FailedPrecondition, match="child"):
                snapshotter.remove("layer")
            snapshotter.remove(key)
        commit(snapshotter, "child", "layer")
        with pytest.raises(errors.FailedPrecondition, match="child"):
            snapshotter.remove("layer")
        snapshotter.remove("child")
        snapshotter.remove("layer")
        assert names(snapshotter) == set()

    def test_a_removed_key_can_be_used_again_and_is_empty(self, snapshotter: snapshots.Snapshotter) -> None:
        with shown(snapshotter.prepare("key")) as folder:
            (folder / "old").write_text("x")
        snapshotter.remove("key")
        assert texts(snapshotter.prepare("key")) == {}

    def test_cleanup_leaves_what_exists(self, snapshotter: snapshots.Snapshotter, supports_cleanup: bool) -> None:
        commit(snapshotter, "layer", a="1")
        snapshotter.prepare("key", "layer")
        snapshotter.prepare("removed")
        snapshotter.remove("removed")
        if supports_cleanup:
            snapshotter.cleanup()
        else:
            with pytest.raises(errors.Unimplemented):
                snapshotter.cleanup()
        assert texts(snapshotter.mounts("key")) == {"a": "1"}

    # Stat, walk, usage

    def test_stat_tells_kind_parent_and_times(self, snapshotter: snapshots.Snapshotter) -> None:
        before = time.time_ns()
        commit(snapshotter, "layer")
        snapshotter.prepare("active", "layer")
        snapshotter.view("view", "layer")
        expected = {"layer": (Kind.COMMITTED, ""), "active": (Kind.ACTIVE, "layer"), "view": (Kind.VIEW, "layer")}
        for key, (kind, parent) in expected.items():
            info = snapshotter.stat(key)
            assert (info.name, info.kind, info.parent) == (key, kind, parent)
            assert before - SLACK <= info.created_at <= info.updated_at <= time.time_ns() + SLACK

    def test_a_committed_snapshot_has_the_parent_of_the_active_one(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "one")
        commit(snapshotter, "two", "one")
        assert snapshotter.stat("two").parent == "one"

    def test_stat_of_a_missing_key_is_not_found(self, snapshotter: snapshots.Snapshotter) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            snapshotter.stat("nobody")

    def test_walk_shows_everything_with_its_fields(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "layer")
        snapshotter.prepare("active", "layer", {"color": "red"})
        snapshotter.view("view", "layer")
        assert {info.name: info for info in snapshotter.walk()} == {
            key: snapshotter.stat(key) for key in ("layer", "active", "view")
        }

    def test_walk_takes_filters_of_which_one_must_match(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "layer")
        snapshotter.prepare("active", "layer", {"color": "red", "a.b/c": "d"})
        snapshotter.view("view", "layer")
        assert names(snapshotter, "kind==committed") == {"layer"}
        assert names(snapshotter, "kind==active", "kind==view") == {"active", "view"}
        assert names(snapshotter, "parent==layer") == {"active", "view"}
        assert names(snapshotter, "parent==layer,kind==view") == {"view"}
        assert names(snapshotter, "name~=^(layer|view)$") == {"layer", "view"}
        assert names(snapshotter, "labels.color==red") == {"active"}
        assert names(snapshotter, 'labels."a.b/c"==d') == {"active"}
        assert names(snapshotter, "labels.size") == set()

    def test_a_malformed_filter_is_refused(self, snapshotter: snapshots.Snapshotter) -> None:
        with pytest.raises(errors.InvalidArgument):
            list(snapshotter.walk(["name=="]))

    def test_usage_is_what_the_snapshot_itself_takes(self, snapshotter: snapshots.Snapshotter) -> None:
        with shown(snapshotter.prepare("key")) as folder:
            empty = snapshotter.usage("key")
            (folder / "file").write_bytes(os.urandom(1 << 20))
            os.link(folder / "file", folder / "link")
            (folder / "second").write_text("")
            os.sync()
        usage = snapshotter.usage("key")
        assert usage.inodes == empty.inodes + 2
        assert (1 << 20) <= usage.size - empty.size < (1 << 20) + (64 << 10)
        snapshotter.commit("layer", "key")
        assert snapshotter.usage("layer") == usage

    def test_usage_of_a_missing_key_is_not_found(self, snapshotter: snapshots.Snapshotter) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            snapshotter.usage("nobody")

    # Labels

    def test_labels_are_kept(self, snapshotter: snapshots.Snapshotter) -> None:
        labels = {"containerd.io/snapshot/color": "red", "containerd.io/snapshot.ref": "sha256:1"}
        snapshotter.prepare("active", "", labels)
        snapshotter.view("view", "", labels)
        assert snapshotter.stat("active").labels == snapshotter.stat("view").labels == labels

    def test_a_committed_snapshot_has_the_labels_of_the_commit_only(self, snapshotter: snapshots.Snapshotter) -> None:
        snapshotter.prepare("key", "", {"containerd.io/snapshot/old": "1"})
        snapshotter.commit("layer", "key", {"containerd.io/snapshot/new": "2"})
        assert snapshotter.stat("layer").labels == {"containerd.io/snapshot/new": "2"}

    def test_update_replaces_all_labels(self, snapshotter: snapshots.Snapshotter) -> None:
        snapshotter.prepare("key", "", {"a": "1", "b": "2"})
        changed = snapshots.Info("key", Kind.UNKNOWN, labels={"b": "3", "c": ""})
        assert snapshotter.update(changed) == snapshotter.stat("key")
        assert snapshotter.stat("key").labels == {"b": "3"}

    def test_update_changes_the_named_labels(self, snapshotter: snapshots.Snapshotter) -> None:
        snapshotter.prepare("key", "", {"a": "1", "b/c.d": "2", "e": "3"})
        changed = snapshots.Info("key", Kind.UNKNOWN, labels={"b/c.d": "4", "e": "", "f": "ignored"})
        assert snapshotter.update(changed, ["labels.b/c.d", "labels.e"]).labels == {"a": "1", "b/c.d": "4"}
        assert snapshotter.update(changed, ["labels"]).labels == {"b/c.d": "4", "f": "ignored"}

    def test_update_changes_labels_and_the_time_only(self, snapshotter: snapshots.Snapshotter) -> None:
        commit(snapshotter, "layer")
        before = snapshotter.stat("layer")
        after = snapshotter.update(snapshots.Info("layer", Kind.VIEW, "parent", {"a": "b"}, 1, 1))
        assert (after.kind, after.parent, after.created_at) == (before.kind, before.parent, before.created_at)
        assert after.updated_at >= before.updated_at

    def test_update_refuses_other_fields(self, snapshotter: snapshots.Snapshotter) -> None:
        snapshotter.prepare("key")
        with pytest.raises(errors.InvalidArgument, match="parent"):
            snapshotter.update(snapshots.Info("key", Kind.UNKNOWN, "other"), ["parent"])

    def test_update_of_a_missing_key_is_not_found(self, snapshotter: snapshots.Snapshotter) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            snapshotter.update(snapshots.Info("nobody", Kind.UNKNOWN, labels={"a": "b"}))

    # Restart

    def test_everything_survives_a_restart(
        self, snapshotter: snapshots.Snapshotter, reopen: Callable[[], snapshots.Snapshotter] | None
    ) -> None:
        if reopen is None:
            return
        commit(snapshotter, "layer", a="1")
        with shown(snapshotter.prepare("key", "layer", {"color": "red"})) as folder:
            (folder / "b").write_text("2")
        before = {info.name: info for info in snapshotter.walk()}
        again = reopen()
        try:
            assert {info.name: info for info in again.walk()} == before
            assert texts(again.mounts("key")) == {"a": "1", "b": "2"}
            assert again.usage("layer").inodes > 0
        finally:
            again.close()
