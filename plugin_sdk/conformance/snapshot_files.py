"""The part of the suite for snapshotters on what snapshots show."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from plugin_sdk import mounts
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.snapshot_rig import Rig, Subject
from plugin_sdk.conformance.snapshot_trees import (
    appearance,
    commit,
    depth,
    fill,
    make_deep,
    names,
    shown,
    texts,
    unwritten,
)

CHANGES = (
    "An active snapshot shows its parent's tree with the changes made through its mounts, now and whenever they are "
    "mounted again."
)
EMPTY = "Without a parent it is an empty directory of mode 0755 at first."
KEPT = "A tree is kept in every respect: names, types, content, links, modes, owners, times and extended attributes."
APART = "Nothing done to a snapshot changes what its parents and siblings show."
READ_ONLY = "As prepare, but nothing can be written through the mounts."
VIEW = "A view shows its parent's tree, without a parent an empty directory."

LEVELS = 450  # of names of nine letters: more than PATH_MAX, path_resolution(7)
_DETACH = 2  # MNT_DETACH, umount2(2)


def _chmod(folder: Path) -> None:
    (folder / "sub" / "file").chmod(0o4711)


def _chown(folder: Path) -> None:
    os.lchown(folder / "link", 70, 80)
    os.chown(folder / "sub", 12, 34)


def _touch(folder: Path) -> None:
    os.utime(folder / "sub" / "file", ns=(1, 1_234_567_890_987_654_321))


def _set_attribute(folder: Path) -> None:
    os.setxattr(folder / "sub" / "file", "trusted.shape", b"round")


def _remove_attribute(folder: Path) -> None:
    os.removexattr(folder / "sub", "trusted.color")


def _append(folder: Path) -> None:
    with (folder / "sub" / "file").open("ab") as file:
        file.write(b"more")


def _truncate(folder: Path) -> None:
    os.truncate(folder / "sub" / "file", 10)


def _rename(folder: Path) -> None:
    (folder / "sub" / "setuid").rename(folder / "renamed")


def _link(folder: Path) -> None:
    os.link(folder / "sub" / "setuid", folder / "second name")


def _redirect(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("elsewhere")


def _change_root(folder: Path) -> None:
    folder.chmod(0o1777)
    os.chown(folder, 3, 4)


CHANGES_OF_A_TREE = (
    *(_chmod, _chown, _touch, _set_attribute, _remove_attribute, _append),
    *(_truncate, _link, _rename, _redirect, _change_root),
)


class Files(Rig):
    @holds(
        "One use from start to end, two layers and a container on them:",
        "An active snapshot and a view have a **key**, a committed one a **name**.",
    )
    def test_layers_a_container_and_their_removal(self, subject: Subject) -> None:
        commit(subject, "layer-1", a="1", b="1")
        commit(subject, "layer-2", "layer-1", b="2", c="2")
        with shown(subject.prepare("container", "layer-2")) as folder:
            assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "1", "b": "2", "c": "2"}
            (folder / "d").write_text("new")
        assert names(subject) == {"layer-1", "layer-2", "container"}
        for key in ("container", "layer-2", "layer-1"):
            subject.remove(key)
        assert names(subject) == set()

    @holds(CHANGES, VIEW)
    def test_a_change_shows_in_later_layers_only(self, subject: Subject) -> None:
        commit(subject, "base", a="1", b="1")
        with shown(subject.prepare("key", "base")) as folder:
            (folder / "a").unlink()
            (folder / "b").write_text("2")
            (folder / "sub").mkdir()
        subject.commit("top", "key")
        assert texts(subject.view("see top", "top")) == {"b": "2"}
        assert texts(subject.view("see base", "base")) == {"a": "1", "b": "1"}

    @holds(CHANGES)
    def test_what_was_written_is_there_when_it_is_mounted_again(self, subject: Subject) -> None:
        commit(subject, "base", a="1")
        for key, parent, below in (("alone", "", {}), ("child", "base", {"a": "1"})):
            with shown(subject.prepare(key, parent)) as folder:
                (folder / "b").write_text("2")
            with shown(subject.mounts(key)) as folder:
                (folder / "c").write_text("3")
            assert texts(subject.mounts(key)) == below | {"b": "2", "c": "3"}

    @holds(APART)
    def test_siblings_do_not_see_each_other(self, subject: Subject) -> None:
        commit(subject, "base", a="base")
        with shown(subject.prepare("left", "base")) as left, shown(subject.prepare("right", "base")) as right:
            (left / "a").write_text("left")
            (left / "b").write_text("left")
            assert (right / "a").read_text() == "base"
            assert not (right / "b").exists()

    @holds(APART, "Removes a snapshot of any kind, and its key or name is free.")
    def test_a_removed_sibling_takes_nothing_along(self, subject: Subject) -> None:
        commit(subject, "base", a="base")
        subject.prepare("left", "base")
        subject.prepare("right", "base")
        subject.view("view", "base")
        subject.remove("left")
        assert texts(subject.mounts("right")) == texts(subject.mounts("view")) == {"a": "base"}

    @holds(APART)
    def test_what_a_child_changes_stays_in_its_parent(self, subject: Subject) -> None:
        with shown(subject.prepare("key")) as folder:
            fill(folder)
            before = appearance(folder)
        subject.commit("base", "key")
        with shown(subject.prepare("child", "base")) as folder:
            for change in CHANGES_OF_A_TREE:
                change(folder)
        with shown(subject.view("view", "base")) as folder:
            assert appearance(folder) == before

    @holds(CHANGES, KEPT)
    @pytest.mark.parametrize("change", CHANGES_OF_A_TREE, ids=lambda change: change.__name__[1:])
    def test_a_change_of_a_parents_file_is_kept(self, subject: Subject, change: Callable[[Path], None]) -> None:
        with shown(subject.prepare("key")) as folder:
            fill(folder)
        subject.commit("base", "key")
        with shown(subject.prepare("child", "base")) as folder:
            before = appearance(folder)
            change(folder)
            changed = appearance(folder)
        subject.commit("top", "child")
        with shown(subject.view("view", "top")) as folder:
            assert appearance(folder) == changed != before

    @holds(KEPT, CHANGES, VIEW)
    def test_a_child_shows_its_parents_tree_in_every_respect(self, subject: Subject) -> None:
        with shown(subject.prepare("key")) as folder:
            fill(folder)
            before = appearance(folder)
        subject.commit("layer", "key")
        with shown(subject.view("view", "layer")) as folder:
            assert appearance(folder) == before
        with shown(subject.prepare("child", "layer")) as folder:
            assert appearance(folder) == before
        subject.commit("second", "child")
        with shown(subject.view("view of two", "second")) as folder:
            assert appearance(folder) == before

    @holds(KEPT)
    @pytest.mark.parametrize(
        "name", [b"\xff\xfe", b"line\nfeed", b"n" * 255, b".wh.file", b".wh..wh..opq", b" ", b"a:b,c=d\\"], ids=repr
    )
    def test_any_name_of_a_file_is_kept(self, subject: Subject, name: bytes) -> None:
        with shown(subject.prepare("key")) as folder:
            (folder / os.fsdecode(name)).write_text("1")
            (folder / "folder").mkdir()
            (folder / "folder" / os.fsdecode(name)).write_text("2")
        subject.commit("layer", "key")
        with shown(subject.prepare("child", "layer")) as folder:
            assert sorted(os.listdir(os.fsencode(folder))) == sorted([name, b"folder"])
            assert os.listdir(os.fsencode(folder / "folder")) == [name]
            assert (folder / "folder" / os.fsdecode(name)).read_text() == "2"

    @holds(KEPT, "Removes a snapshot of any kind, and its key or name is free.")
    def test_a_tree_deeper_than_a_path_is_long_is_kept_and_removed(self, subject: Subject) -> None:
        with shown(subject.prepare("key")) as folder:
            make_deep(folder, LEVELS)
        subject.commit("layer", "key")
        with shown(subject.prepare("child", "layer")) as folder:
            assert depth(folder) == LEVELS
        for key in ("child", "layer"):
            subject.remove(key)
        assert names(subject) == set()

    @holds("Holes in files stay holes where the file system has them.")
    def test_holes_stay_holes(self, subject: Subject, supports_sparse: bool) -> None:
        with shown(subject.prepare("key")) as folder, (folder / "sparse").open("wb") as file:
            file.truncate(64 << 20)
        subject.commit("layer", "key")
        with shown(subject.prepare("child", "layer")) as folder:
            status = (folder / "sparse").stat()
            assert status.st_size == 64 << 20
            assert (status.st_blocks * 512 < 1 << 20) == supports_sparse

    @holds(CHANGES)
    def test_a_directory_replaces_a_file_and_a_file_a_directory(self, subject: Subject) -> None:
        with shown(subject.prepare("key")) as folder:
            (folder / "folder" / "below").mkdir(parents=True)
            (folder / "file").write_text("x")
        subject.commit("base", "key")
        with shown(subject.prepare("key", "base")) as folder:
            (folder / "folder" / "below").rmdir()
            (folder / "folder").rmdir()
            (folder / "folder").write_text("now a file")
            (folder / "file").unlink()
            (folder / "file").mkdir()
        subject.commit("top", "key")
        with shown(subject.view("view", "top")) as folder:
            assert (folder / "folder").read_text() == "now a file"
            assert list((folder / "file").iterdir()) == []

    @holds(CHANGES)
    def test_a_removed_and_remade_directory_is_empty(self, subject: Subject) -> None:
        with shown(subject.prepare("key")) as folder:
            (folder / "folder").mkdir()
            (folder / "folder" / "old").write_text("x")
        subject.commit("base", "key")
        with shown(subject.prepare("key", "base")) as folder:
            (folder / "folder" / "old").unlink()
            (folder / "folder").rmdir()
            (folder / "folder").mkdir()
        subject.commit("top", "key")
        with shown(subject.prepare("child", "top")) as folder:
            assert list((folder / "folder").iterdir()) == []

    @holds(CHANGES, VIEW)
    def test_many_layers(self, subject: Subject, layers: int) -> None:
        parent = ""
        for number in range(layers):
            commit(subject, f"layer-{number}", parent, **{f"file-{number}": str(number), "last": str(number)})
            parent = f"layer-{number}"
        expected = {f"file-{number}": str(number) for number in range(layers)} | {"last": str(layers - 1)}
        assert texts(subject.view("view", parent)) == expected
        assert texts(subject.prepare("key", parent)) == expected
        with shown(subject.mounts("key")) as folder:
            (folder / "file-0").unlink()
        assert texts(subject.mounts("key")) == {name: text for name, text in expected.items() if name != "file-0"}

    @holds(EMPTY, "Makes an active snapshot.")
    def test_prepare_without_parent_is_empty_and_writable(self, subject: Subject) -> None:
        with shown(subject.prepare("key")) as folder:
            assert list(folder.iterdir()) == []
            assert stat.S_IMODE(folder.stat().st_mode) == 0o755
            (folder / "file").write_text("x")
        assert texts(subject.mounts("key")) == {"file": "x"}

    @holds(EMPTY)
    def test_the_mode_does_not_depend_on_the_umask(self, subject: Subject) -> None:
        before = os.umask(0o077)
        try:
            instructions = subject.prepare("key")
        finally:
            os.umask(before)
        with shown(instructions) as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o755

    @holds(READ_ONLY)
    @pytest.mark.parametrize("parent", ["", "one", "two"], ids=["no parent", "one layer", "two layers"])
    def test_a_view_cannot_be_written(self, subject: Subject, parent: str) -> None:
        commit(subject, "one", a="1")
        commit(subject, "two", "one", b="2")
        with shown(subject.view("view", parent)) as folder:
            with pytest.raises(OSError, match="Read-only"):
                (folder / "file").write_text("x")
            with pytest.raises(OSError, match="Read-only"):
                folder.chmod(0o700)
        assert texts(subject.mounts("view")) == {"": {}, "one": {"a": "1"}, "two": {"a": "1", "b": "2"}}[parent]

    @holds(VIEW)
    def test_a_view_is_mounted_at_two_places_at_once(self, subject: Subject) -> None:
        commit(subject, "one", a="1")
        commit(subject, "two", "one", b="2")
        view = subject.view("view", "two")
        with shown(view) as here, shown(view) as there:
            assert [(folder / "a").read_text() for folder in (here, there)] == ["1", "1"]
        assert texts(view) == {"a": "1", "b": "2"}

    @holds(VIEW)
    def test_a_view_without_parent_is_empty(self, subject: Subject) -> None:
        with shown(subject.view("view")) as folder:
            assert list(folder.iterdir()) == []

    @holds(
        "A snapshot is **active** (writable, in work), a **view** (read-only, of a committed one) or **committed** "
        "(immutable; only such a one can be a **parent**).",
        APART,
    )
    def test_a_committed_snapshot_stays_what_it_was(self, subject: Subject) -> None:
        commit(subject, "layer", a="1")
        view = subject.view("view", "layer")
        with shown(subject.prepare("prepare layer")) as folder:  # the key that it had
            (folder / "a").write_text("another")
        with shown(subject.prepare("child", "layer")) as folder:
            (folder / "a").unlink()
        assert texts(view) == {"a": "1"}

    @holds("When ``commit`` returns, the files are on disk: a power cut afterwards loses nothing.")
    def test_what_is_committed_is_on_disk(self, subject: Subject) -> None:
        """Memory and disk are told apart by cachestat(2); a file system in memory has nothing to write."""
        target = tempfile.mkdtemp(prefix="corten-mount-")
        fd = -1
        try:
            mounts.mount_all(subject.prepare("key"), target)
            try:
                Path(target, "file").write_bytes(os.urandom(1 << 20))
                fd = os.open(f"{target}/file", os.O_RDONLY)
            finally:
                mounts.unmount_all(target, _DETACH)
            subject.commit("layer", "key")
            pages = unwritten(fd)
        finally:
            if fd >= 0:
                os.close(fd)
            os.rmdir(target)
        if pages is None:
            pytest.skip("the linux kernel has no cachestat(2), so nobody tells what is on disk")
        assert pages == 0
