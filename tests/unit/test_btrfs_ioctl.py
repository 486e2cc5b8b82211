"""Each request of ``proxy_plugins.btrfs.ioctl`` on a real btrfs."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy_plugins.btrfs import ioctl
from tests import loops

pytestmark = pytest.mark.root

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def file_system() -> Iterator[Path]:
    with loops.file_system() as folder:
        yield folder


@pytest.fixture(scope="module")
def counted() -> Iterator[Path]:
    with loops.file_system() as folder:
        loops.enable_quota(folder)
        yield folder


@pytest.fixture
def folder(file_system: Path) -> Path:
    made = file_system / str(next(NUMBERS))
    made.mkdir()
    return made


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def create(path: Path) -> Path:
    with opened(path.parent) as beside:
        ioctl.create(beside, path.name)
    return path


def snapshot(source: Path, target: Path, read_only: bool = False) -> Path:
    with opened(source) as fd, opened(target.parent) as beside:
        ioctl.snapshot(fd, beside, target.name, read_only)
    return target


def destroy(path: Path) -> None:
    with opened(path.parent) as beside:
        ioctl.destroy(beside, path.name)


def subvolume(path: Path) -> ioctl.Subvolume:
    with opened(path) as fd:
        return ioctl.subvolume(fd)


def own(path: Path, since: int = 0) -> tuple[int, int]:
    with opened(path) as fd:
        ioctl.sync(fd)
        return ioctl.own(fd, since)


def test_btrfs_is_told_from_others(folder: Path, tmp_path: Path) -> None:
    for path, expected in ((folder, True), (Path("/proc"), False), (Path("/dev/shm"), False), (Path("/sys"), False)):
        with opened(path) as fd:
            assert ioctl.is_btrfs(fd) is expected


def test_a_created_subvolume_is_an_empty_file_system_of_its_own(folder: Path) -> None:
    made = create(folder / "made")
    assert list(made.iterdir()) == []
    assert made.stat().st_ino == ioctl.ROOT_FOLDER
    assert made.stat().st_dev != folder.stat().st_dev


def test_what_exists_is_not_made_again(folder: Path) -> None:
    create(folder / "made")
    for again in (lambda: create(folder / "made"), lambda: snapshot(folder / "made", folder / "made")):
        with pytest.raises(FileExistsError):
            again()


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "a b\n'\"%"])
def test_a_name_is_whatever_a_file_may_be_called(folder: Path, name: str) -> None:
    snapshot(create(folder / name), folder / "second")
    assert {path.name for path in folder.iterdir()} == {name, "second"}
    destroy(folder / name)
    assert [path.name for path in folder.iterdir()] == ["second"]


def test_a_name_too_long_is_refused(folder: Path) -> None:
    for name in ("x" * 256, "ä" * 128, "x" * 5000):
        for request in (ioctl.create, ioctl.destroy):
            with opened(folder) as fd, pytest.raises(OSError, match="too long") as caught:
                request(fd, name)
            assert caught.value.errno == errno.ENAMETOOLONG


def test_a_snapshot_shows_what_was_there_and_can_be_written(folder: Path) -> None:
    source = create(folder / "source")
    (source / "file").write_text("before")
    copy = snapshot(source, folder / "copy")
    (source / "file").write_text("after")
    assert (copy / "file").read_text() == "before"
    (copy / "file").write_text("changed")
    assert (source / "file").read_text() == "after"


def test_a_read_only_snapshot_cannot_be_written_until_it_is_made_writable(folder: Path) -> None:
    source = create(folder / "source")
    (source / "file").write_text("1")
    copy = snapshot(source, folder / "copy", read_only=True)
    with pytest.raises(OSError, match="Read-only"):
        (copy / "file").write_text("2")
    with opened(copy) as fd, opened(source) as other:
        assert (ioctl.is_read_only(fd), ioctl.is_read_only(other)) == (True, False)
        ioctl.set_read_only(fd, False)
        assert not ioctl.is_read_only(fd)
        (copy / "file").write_text("2")
        ioctl.set_read_only(fd, True)
    with pytest.raises(OSError, match="Read-only"):
        (copy / "file").write_text("3")


def test_a_destroyed_subvolume_is_gone_whatever_is_in_it(folder: Path) -> None:
    made = create(folder / "made")
    (made / "folder").mkdir()
    (made / "folder" / "file").write_text("x")
    snapshot(made, folder / "copy", read_only=True)
    destroy(made)
    destroy(folder / "copy")
    assert list(folder.iterdir()) == []


def test_destroying_says_what_is_wrong(folder: Path) -> None:
    create(create(folder / "outer") / "inner")
    with pytest.raises(OSError, match="not empty") as caught:
        destroy(folder / "outer")
    assert caught.value.errno == errno.ENOTEMPTY
    with pytest.raises(FileNotFoundError):
        destroy(folder / "nobody")
    (folder / "plain").mkdir()
    with pytest.raises(OSError, match="Invalid argument"):
        destroy(folder / "plain")


def test_a_subvolume_knows_its_number_and_when_it_was_made(folder: Path) -> None:
    first = subvolume(create(folder / "first"))
    second = subvolume(snapshot(folder / "first", folder / "second", read_only=True))
    third = subvolume(snapshot(folder / "second", folder / "third"))
    assert first.id < second.id < third.id
    assert 0 < first.born <= second.born < third.born
    assert subvolume(folder / "second") == second


def test_own_counts_files_once_and_holes_never(folder: Path) -> None:
    made = create(folder / "made")
    assert own(made) == (0, 1)
    (made / "file").write_bytes(os.urandom(1 << 20))
    os.link(made / "file", made / "link")
    with (made / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert own(made) == (1 << 20, 3)


def test_own_counts_an_extent_once_when_its_middle_was_replaced(folder: Path) -> None:
    made = create(folder / "made")
    (made / "file").write_bytes(os.urandom(1 << 20))
    own(made)
    with (made / "file").open("r+b") as file:
        file.seek(1 << 19)
        file.write(os.urandom(4096))
    assert own(made) == ((1 << 20) + 4096, 2)


def test_own_counts_small_files_by_their_bytes(folder: Path) -> None:
    made = create(folder / "made")
    (made / "file").write_bytes(b"x" * 100)
    assert own(made) == (100, 2)


def test_own_since_a_snapshot_leaves_out_what_it_shares(folder: Path) -> None:
    base = create(folder / "base")
    (base / "shared").write_bytes(os.urandom(1 << 20))
    (base / "changed").write_bytes(os.urandom(1 << 16))
    parent = snapshot(base, folder / "parent", read_only=True)
    child = snapshot(parent, folder / "child")
    since = subvolume(parent).born
    assert own(child, since) == (0, 0)
    (child / "new").write_bytes(os.urandom(1 << 18))
    with (child / "changed").open("r+b") as file:
        file.write(os.urandom(4096))
    assert own(child, since) == ((1 << 18) + 4096, 1)
    snapshot(child, folder / "frozen", read_only=True)
    snapshot(folder / "frozen", folder / "grandchild")
    assert own(folder / "frozen", since) == ((1 << 18) + 4096, 1)
    assert own(folder / "grandchild", subvolume(folder / "frozen").born) == (0, 0)


def test_own_reads_trees_of_many_answers(folder: Path) -> None:
    made = create(folder / "made")
    for number in range(3000):
        (made / f"{'x' * 100}{number}").write_bytes(b"x" * 10)
    assert own(made) == (30_000, 3001)


def test_nested_subvolumes_are_found_by_folder_and_name(folder: Path) -> None:
    outer = create(folder / "outer")
    (outer / "a" / "b").mkdir(parents=True)
    inner, deep = create(outer / "inner"), create(outer / "a" / "b" / "ä b")
    create(inner / "below")
    with opened(outer) as fd:
        found = {nested.id: nested for nested in ioctl.nested(fd, ioctl.subvolume(fd).id)}
        assert set(found) == {subvolume(inner).id, subvolume(deep).id}
        one, two = found[subvolume(inner).id], found[subvolume(deep).id]
        assert (ioctl.path(fd, one.folder), os.fsdecode(one.name)) == ("", "inner")
        assert (ioctl.path(fd, two.folder), os.fsdecode(two.name)) == ("a/b", "ä b")


def test_a_path_may_be_longer_than_a_system_call_takes(folder: Path) -> None:
    made = create(folder / "made")
    name, depth = "x" * 100, 60
    fd = os.open(made, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    inode = os.fstat(fd).st_ino
    os.close(fd)
    with opened(made) as fd:
        assert ioctl.path(fd, inode) == "/".join([name] * depth)
        with pytest.raises(FileNotFoundError):
            ioctl.path(fd, inode + 1000)


def test_without_quota_nobody_counts(folder: Path) -> None:
    with opened(create(folder / "made")) as fd:
        assert not ioctl.quota(fd)
        with pytest.raises(FileNotFoundError):
            ioctl.exclusive(fd, ioctl.subvolume(fd).id)


def test_with_quota_a_subvolume_knows_what_is_its_own(counted: Path) -> None:
    base = create(counted / "base")
    (base / "file").write_bytes(os.urandom(1 << 20))
    with opened(base) as fd:
        assert ioctl.quota(fd)
        ioctl.sync(fd)
        one = ioctl.subvolume(fd).id
        alone = ioctl.exclusive(fd, one)
        assert alone is not None
        assert (1 << 20) <= alone < (1 << 20) + (1 << 16)
    snapshot(base, counted / "copy")
    with opened(base) as fd:
        ioctl.sync(fd)
        shared = ioctl.exclusive(fd, one)
        assert shared is not None
        assert shared < 1 << 16
        assert ioctl.exclusive(fd, 1 << 40) is None


def test_no_write_is_lost_on_a_sound_disk(folder: Path) -> None:
    with opened(folder) as fd:
        assert ioctl.lost_writes(fd) == 0


def test_other_threads_run_while_a_snapshot_waits_for_the_disk(folder: Path) -> None:
    source = create(folder / "source")
    ticks, during, calls = itertools.count(), 0, 20
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            time.sleep(0)
            next(ticks)

    thread = threading.Thread(target=tick)
    thread.start()
    with opened(source) as fd, opened(folder) as beside:
        for number in range(calls):
            (source / str(number)).write_bytes(os.urandom(1 << 20))
            before = next(ticks)
            ioctl.snapshot(fd, beside, f"copy {number}")
            during += next(ticks) - before - 1
    done.set()
    thread.join()
    assert during > 5 * calls  # at the edges of a call that holds the lock there may be one or two
