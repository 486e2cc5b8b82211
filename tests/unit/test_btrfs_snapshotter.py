"""What subvolumes add to the suite: mounts, quota, crashes, power cuts, full disks, subvolumes that containers make."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin_sdk import errors, mounts, trees
from plugin_sdk.conformance import crash, snapshots
from plugin_sdk.mounts import Mount
from plugin_sdk.plugin import SkipPlugin
from plugin_sdk.snapshots import Kind, Usage
from proxy_plugins.btrfs import ioctl
from proxy_plugins.btrfs.snapshotter import Snapshotter
from tests import loops

pytestmark = pytest.mark.root

NUMBERS = itertools.count()
NOBODY = 65534


@pytest.fixture(scope="module")
def file_system() -> Iterator[Path]:
    with loops.file_system() as folder:
        yield folder


@pytest.fixture
def root(file_system: Path) -> Path:
    return file_system / str(next(NUMBERS))


@pytest.fixture
def snapshotter(root: Path) -> Iterator[Snapshotter]:
    made = Snapshotter(root)
    yield made
    made.close()


def folder_of(snapshotter: Snapshotter, key: str) -> Path:
    return snapshotter.store.path(snapshotter.store.get(key).id)


def subvolume(path: Path, name: str) -> Path:
    with opened(path) as fd:
        ioctl.create(fd, name)
    return path / name


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def subvolumes(root: Path) -> set[str]:
    """The names of all below the file system's own that belong to this root."""
    with opened(root.parent) as fd:
        found = ioctl.nested(fd, ioctl.subvolume(fd).id)
        return {
            os.fsdecode(nested.name) for nested in found if ioctl.path(fd, nested.folder) == f"{root.name}/snapshots"
        }


def settled(root: Path, expected: set[str]) -> None:
    """What a commit replaces is destroyed a moment later."""
    deadline = time.monotonic() + 60
    while subvolumes(root) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert subvolumes(root) == expected


# Mounts


def test_mounts_have_the_shapes_that_clients_parse(snapshotter: Snapshotter, root: Path) -> None:
    folders = root / "snapshots"
    assert snapshotter.prepare("a") == [Mount("bind", f"{folders}/1", "", ("rbind", "rw"))]
    assert snapshotter.view("v0") == [Mount("bind", f"{folders}/2", "", ("rbind", "ro"))]
    snapshotter.commit("l1", "a")
    assert snapshotter.prepare("b", "l1") == [Mount("bind", f"{folders}/4", "", ("rbind", "rw"))]
    assert snapshotter.view("v1", "l1") == [Mount("bind", f"{folders}/3", "", ("rbind", "ro"))]


def test_mounts_are_absolute_where_the_root_is_not(
    file_system: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file_system)
    snapshotter = Snapshotter(Path(root.name))
    try:
        assert snapshotter.prepare("a") == [Mount("bind", f"{root}/snapshots/1", "", ("rbind", "rw"))]
    finally:
        snapshotter.close()


def test_a_view_costs_no_subvolume_but_when_it_has_no_parent(snapshotter: Snapshotter, root: Path) -> None:
    snapshots.commit(snapshotter, "layer")
    snapshotter.view("view", "layer")
    snapshotter.view("empty")
    settled(root, {folder_of(snapshotter, "layer").name, folder_of(snapshotter, "empty").name})
    snapshotter.remove("view")
    snapshotter.remove("empty")
    settled(root, {folder_of(snapshotter, "layer").name})


def test_who_still_has_a_file_open_cannot_change_what_was_committed(snapshotter: Snapshotter) -> None:
    mounted = snapshotter.prepare("key")
    with snapshots.shown(mounted) as folder, (folder / "file").open("w") as file:
        file.write("before")
        file.flush()
        snapshotter.commit("layer", "key")
        file.write("after")
        file.flush()
    assert snapshots.texts(snapshotter.view("view", "layer")) == {"file": "before"}


def test_a_committed_snapshot_cannot_be_written_even_by_its_path(snapshotter: Snapshotter) -> None:
    snapshots.commit(snapshotter, "layer", a="1")
    with pytest.raises(OSError, match="Read-only"):
        (folder_of(snapshotter, "layer") / "a").write_text("2")


# Usage


def test_usage_of_a_committed_snapshot_is_measured_once(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with snapshots.shown(snapshotter.prepare("key")) as folder:
        (folder / "file").write_bytes(os.urandom(1 << 20))
    snapshotter.commit("layer", "key")
    assert snapshotter.usage("layer") == Usage(1 << 20, 2)
    monkeypatch.setattr(ioctl, "own", None)
    assert snapshotter.usage("layer") == Usage(1 << 20, 2)


def test_usage_of_an_active_snapshot_sees_what_is_not_yet_on_disk(snapshotter: Snapshotter) -> None:
    snapshots.commit(snapshotter, "layer", a="1")
    with snapshots.shown(snapshotter.prepare("key", "layer")) as folder:
        (folder / "file").write_bytes(os.urandom(1 << 20))
        assert snapshotter.usage("key") == Usage(1 << 20, 1)
        (folder / "file").unlink()
        assert snapshotter.usage("key") == Usage(0, 0)


def test_usage_is_the_quota_groups_where_the_file_system_counts() -> None:
    with loops.file_system() as folder:
        loops.enable_quota(folder)
        snapshotter = Snapshotter(folder / "root")
        try:
            snapshots.commit(snapshotter, "layer", a="1")
            with snapshots.shown(snapshotter.prepare("key", "layer")) as shown:
                (shown / "file").write_bytes(os.urandom(1 << 20))
            path = folder_of(snapshotter, "key")
            usage = snapshotter.usage("key")
            with opened(path) as fd:
                assert usage == Usage(ioctl.exclusive(fd, ioctl.subvolume(fd).id) or 0, 1)
            assert usage.size > 1 << 20  # the trees count as well
            snapshotter.commit("second", "key")
            snapshotter.prepare("child", "second")
            assert snapshotter.usage("second") == usage
        finally:
            snapshotter.close()


def test_a_subvolume_that_somebody_removed_is_named(snapshotter: Snapshotter) -> None:
    snapshotter.prepare("key")
    path = folder_of(snapshotter, "key")
    with opened(path.parent) as fd:
        ioctl.destroy(fd, path.name)
    for call in (snapshotter.usage, lambda key: snapshotter.commit("layer", key)):
        with pytest.raises(errors.DataLoss, match="key"):
            call("key")
    snapshotter.remove("key")


# Subvolumes that containers make


def test_subvolumes_within_go_with_the_snapshot(snapshotter: Snapshotter, root: Path) -> None:
    with snapshots.shown(snapshotter.prepare("key")) as folder:
        (folder / "a" / "b").mkdir(parents=True)
        below = subvolume(subvolume(folder / "a" / "b", "inner"), "below")
        (below / "file").write_text("x")
        subvolume(folder, "second")
    snapshotter.remove("key")
    assert subvolumes(root) == set()


def test_read_only_subvolumes_within_go_with_the_snapshot(snapshotter: Snapshotter, root: Path) -> None:
    with snapshots.shown(snapshotter.prepare("key")) as folder:
        inner = subvolume(folder, "inner")
        below = subvolume(inner, "below")
        for path in (below, inner):
            with opened(path) as fd:
                ioctl.set_read_only(fd, True)
    snapshotter.remove("key")
    assert subvolumes(root) == set()


def test_subvolumes_within_at_a_path_too_long_go_with_the_snapshot(snapshotter: Snapshotter, root: Path) -> None:
    path = folder_of(snapshotter, _prepared(snapshotter, "key"))
    fd = os.open(path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("x" * 100, dir_fd=fd)
        below = os.open("x" * 100, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    ioctl.create(fd, "inner")
    os.close(fd)
    snapshotter.remove("key")
    assert subvolumes(root) == set()


def test_what_another_thread_is_destroying_is_gone_when_a_cleanup_returns(snapshotter: Snapshotter, root: Path) -> None:
    for number in range(20):
        key = _prepared(snapshotter, f"key-{number}")
        for name in range(4):
            subvolume(subvolume(folder_of(snapshotter, key), str(name)), "below")
        snapshotter.commit(f"layer-{number}", key)
        snapshotter.cleanup()
        assert subvolumes(root) == {folder_of(snapshotter, f"layer-{it}").name for it in range(number + 1)}


def test_many_levels_of_subvolumes_go_with_the_snapshot(snapshotter: Snapshotter, root: Path) -> None:
    fd = os.open(folder_of(snapshotter, _prepared(snapshotter, "key")), os.O_RDONLY)
    for _ in range(300):
        ioctl.create(fd, "inner")
        below = os.open("inner", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    snapshotter.remove("key")
    assert subvolumes(root) == set()


def test_subvolumes_within_are_not_part_of_the_layer(snapshotter: Snapshotter, root: Path) -> None:
    with snapshots.shown(snapshotter.prepare("key")) as folder:
        (folder / "file").write_text("x")
        (subvolume(folder, "inner") / "file").write_text("x")
    snapshotter.commit("layer", "key")
    with snapshots.shown(snapshotter.view("view", "layer")) as folder:
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == ["file", "inner"]
    settled(root, {folder_of(snapshotter, "layer").name})


def test_a_large_snapshot_is_removed_at_once(snapshotter: Snapshotter, root: Path) -> None:
    with snapshots.shown(snapshotter.prepare("key")) as folder:
        for number in range(100):
            (folder / str(number)).mkdir()
            for name in range(100):
                (folder / str(number) / str(name)).touch()
    snapshotter.commit("layer", "key")
    began = time.monotonic()
    trees.usage(folder_of(snapshotter, "layer"))
    walked = time.monotonic() - began
    began = time.monotonic()
    snapshotter.remove("layer")
    assert time.monotonic() - began < 10 * walked
    settled(root, set())


def _prepared(snapshotter: Snapshotter, key: str) -> str:
    snapshotter.prepare(key)
    return key


# Crashes


CHANGES: dict[str, tuple[Callable[[Snapshotter], object], set[str], set[str]]] = {
    "prepare": (lambda it: it.prepare("new", "layer"), {"new"}, set()),
    "prepare without parent": (lambda it: it.prepare("new"), {"new"}, set()),
    "view": (lambda it: it.view("new", "layer"), {"new"}, set()),
    "view without parent": (lambda it: it.view("new"), {"new"}, set()),
    "commit": (lambda it: it.commit("new", "key"), {"new"}, {"key"}),
    "remove": (lambda it: it.remove("key"), set(), {"key"}),
    "update": (lambda it: it.update(it.stat("key")), set(), set()),
    "measure": (lambda it: it.usage("layer"), set(), set()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_crash_at_any_step_leaves_the_state_before_or_after(root: Path, change: str) -> None:
    work, added, removed = CHANGES[change]
    before = {"layer", "key"}
    after = before - removed | added
    seen = set()

    def open_with_layers() -> Snapshotter:
        snapshotter = Snapshotter(root)
        there = snapshots.names(snapshotter)
        if "layer" not in there:
            snapshotter.prepare("first")
            snapshotter.commit("layer", "first")
        if "key" not in there:
            snapshotter.prepare("key", "layer")
            path = folder_of(snapshotter, "key")
            (path / "file").write_text("x")
            subvolume(path, "inner")
        return snapshotter

    def run() -> None:
        snapshotter = Snapshotter(root)
        work(snapshotter)
        os.utime(root)  # a last step: it dies before it can say that it is done

    def check() -> None:
        snapshotter = Snapshotter(root)
        snapshotter.cleanup()
        there = snapshots.names(snapshotter)
        assert there in (before, after)
        seen.add(frozenset(there))
        kinds = {name: snapshotter.store.get(name) for name in there}
        expected = {str(row.id) for row in kinds.values() if row.info.kind is not Kind.VIEW or not row.parents}
        assert subvolumes(root) == expected
        assert {path.name for path in (root / "snapshots").iterdir()} == expected
        for name in there & {"new", "key"} - ({"new"} if change != "commit" else set()):
            assert (folder_of(snapshotter, name) / "file").read_text() == "x"
        for name in there - before:
            snapshotter.remove(name)
        snapshotter.close()
        open_with_layers().close()

    open_with_layers().close()
    steps = crash.at_every_step(run, check, [(ioctl, "_call")])
    assert steps > 10
    assert seen == {frozenset(before), frozenset(after)}


def test_what_crashes_have_left_is_removed_at_the_next_start(root: Path) -> None:
    snapshotter = Snapshotter(root)
    snapshots.commit(snapshotter, "layer", a="1")
    snapshotter.close()
    left = root / "snapshots"
    with opened(left) as fd, opened(left / "2") as layer:
        ioctl.create(fd, "77")
        ioctl.snapshot(layer, fd, "78", read_only=True)
        ioctl.snapshot(layer, fd, "rm-1")
    subvolume(subvolume(left / "77", "inner"), "below")
    again = Snapshotter(root)
    try:
        settled(root, {"2"})
        assert snapshots.texts(again.view("view", "layer")) == {"a": "1"}
    finally:
        again.close()


def test_a_subvolume_lost_in_a_power_cut_is_made_again(root: Path) -> None:
    snapshotter = Snapshotter(root)
    snapshots.commit(snapshotter, "layer", a="1")
    snapshotter.prepare("key", "layer")
    lost = folder_of(snapshotter, "key")
    snapshotter.close()
    with opened(lost.parent) as fd:
        ioctl.destroy(fd, lost.name)
    again = Snapshotter(root)
    try:
        assert snapshots.texts(again.mounts("key")) == {"a": "1"}
    finally:
        again.close()


class PowerCuts:
    """Copies of the disk as it was at some moments: what was on it then, and nothing that was still in memory."""

    def __init__(self, image: Path) -> None:
        self._image = image
        self.taken: list[tuple[Path, list[dict[str, dict[str, str] | None]]]] = []

    def take(self, *states: dict[str, dict[str, str] | None]) -> None:
        copy = self._image.with_name(f"cut-{len(self.taken)}")
        with self._image.open("rb") as source, copy.open("wb") as target:
            size = os.fstat(source.fileno()).st_size
            target.truncate(size)
            for start, end in _written(source.fileno(), size):
                os.copy_file_range(source.fileno(), target.fileno(), end - start, start, start)
        self.taken.append((copy, list(states)))


def _written(fd: int, size: int) -> Iterator[tuple[int, int]]:
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _state(root: Path) -> dict[str, dict[str, str] | None]:
    """Keys and names, with the files of the committed ones."""
    snapshotter = Snapshotter(root)
    try:
        found: dict[str, dict[str, str] | None] = {}
        for info in list(snapshotter.walk()):
            if info.kind is Kind.COMMITTED:
                found[info.name] = snapshots.texts(snapshotter.view("look", info.name))
                snapshotter.remove("look")
            else:
                snapshots.texts(snapshotter.mounts(info.name))
                found[info.name] = None
        return found
    finally:
        snapshotter.close()


def test_a_power_cut_loses_nothing_of_what_was_answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At each answer it is as after; before and after each request to the linux kernel, as before or as after."""
    with loops.file_system() as folder:
        cuts = PowerCuts(folder.parent / "image")
        snapshotter = Snapshotter(folder / "root")
        state: dict[str, dict[str, str] | None] = {}
        call = ioctl._call

        def change(after: dict[str, dict[str, str] | None], work: Callable[[], object]) -> None:
            nonlocal state
            before, state = state, after

            def counted(fd: int, request: int, arguments: bytearray) -> None:
                cuts.take(before, after)
                call(fd, request, arguments)
                cuts.take(before, after)

            monkeypatch.setattr(ioctl, "_call", counted)
            work()
            monkeypatch.setattr(ioctl, "_call", call)
            cuts.take(after)

        text = "x" * 300_000
        change({"one": None}, lambda: snapshotter.prepare("one"))
        (folder_of(snapshotter, "one") / "file").write_text(text)
        layer = {"layer": {"file": text}}
        change(layer, lambda: snapshotter.commit("layer", "one"))
        change({**layer, "two": None}, lambda: snapshotter.prepare("two", "layer"))
        (folder_of(snapshotter, "two") / "second").write_text(text)
        second = {**layer, "top": {"file": text, "second": text}}
        change(second, lambda: snapshotter.commit("top", "two"))
        change({**second, "view": None}, lambda: snapshotter.view("view", "layer"))
        change(second, lambda: snapshotter.remove("view"))
        change(layer, lambda: snapshotter.remove("top"))
        snapshotter.close()
        assert len(cuts.taken) > 25
        for copy, states in cuts.taken:
            mounts.mount(Mount("btrfs", str(copy), "", ("loop",)), tmp_path)
            try:
                assert _state(tmp_path / "root") in states, copy.name
            finally:
                mounts.unmount_all(tmp_path)


def test_a_commit_whose_files_a_device_refused_changes_nothing(
    snapshotter: Snapshotter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshotter.prepare("key")
    with monkeypatch.context() as failing:
        failing.setattr(ioctl, "lost_writes", lambda fd: 1)
        with pytest.raises(errors.DataLoss, match="key"):
            snapshotter.commit("layer", "key")
        assert snapshots.names(snapshotter) == {"key"}
        settled(root, {folder_of(snapshotter, "key").name})
        snapshotter.prepare("later")
        snapshotter.commit("later layer", "later")
    assert snapshots.names(snapshotter) == {"key", "later layer"}


def test_a_disk_that_fails_is_said_and_nothing_is_committed() -> None:
    with (
        mounts.temporary([Mount("tmpfs", "tmpfs", "", ("size=48M",))]) as small,
        loops.file_system(parent=small) as folder,
    ):
        snapshotter = Snapshotter(folder / "root")
        try:
            with snapshots.shown(snapshotter.prepare("key")) as shown:
                (shown / "file").write_bytes(os.urandom(64 << 20))
                with pytest.raises(errors.DataLoss, match="key"):
                    snapshotter.commit("layer", "key")
            assert snapshots.names(snapshotter) == {"key"}
        finally:
            snapshotter.close()


# Roots that cannot be


def test_a_root_that_is_not_on_btrfs_is_skipped_with_the_reason(tmp_path: Path) -> None:
    with mounts.temporary([Mount("tmpfs", "tmpfs")]) as folder, pytest.raises(SkipPlugin, match="not on btrfs"):
        Snapshotter(Path(folder) / "root")


def test_a_root_in_use_is_refused(snapshotter: Snapshotter, root: Path) -> None:
    with pytest.raises(errors.FailedPrecondition, match="in use"):
        Snapshotter(root)


def test_a_read_only_root_is_refused(file_system: Path, root: Path) -> None:
    Snapshotter(root).close()
    with mounts.temporary([Mount("bind", str(file_system), "", ("rbind", "ro"))]) as folder:
        for name in (root.name, "new"):
            with pytest.raises(errors.FailedPrecondition, match=f"{name}.*Read-only file system"):
                Snapshotter(Path(folder) / name)


def test_a_root_without_rights_is_refused(file_system: Path) -> None:
    file_system.parent.chmod(0o755)
    private, public = file_system / "private", file_system / "public"
    private.mkdir(mode=0o700)
    public.mkdir()
    os.chown(public, NOBODY, NOBODY)
    assert as_nobody(lambda: Snapshotter(private / "root")) == (
        f"PermissionDenied: the root of the snapshots, {private}/root, cannot be used: Permission denied"
    )
    assert as_nobody(lambda: Snapshotter(public)) == (
        f"PermissionDenied: the snapshots in {public} need the capability CAP_SYS_ADMIN"
    )


def as_nobody(work: Callable[[], object]) -> str:
    """What it raises, in a child without rights."""
    answer, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
        except errors.Error as err:
            os.write(told, f"{type(err).__name__}: {err}".encode())
        finally:
            os._exit(0)
    os.close(told)
    with open(answer) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def test_a_root_that_is_a_file_is_refused(file_system: Path) -> None:
    (file_system / "file").touch()
    with pytest.raises(errors.FailedPrecondition, match="File exists"):
        Snapshotter(file_system / "file")


def test_nothing_can_be_made_on_a_full_disk_but_removed() -> None:
    with loops.file_system(size=128 << 20) as folder:
        snapshotter = Snapshotter(folder / "root")
        try:
            snapshots.commit(snapshotter, "layer", a="1")
            for number in range(5):
                snapshotter.prepare(f"key-{number}", "layer")
            _fill(folder_of(snapshotter, "key-0"), _DATA, _TREES)
            for call in (snapshotter.prepare, snapshotter.view):
                with pytest.raises(errors.ResourceExhausted, match=r"full|No space"):
                    for number in range(50):  # what is left is not the same each time
                        call(f"new {call.__name__} {number}", "layer")
            with pytest.raises(errors.ResourceExhausted, match=r"full|No space"):
                snapshotter.commit("second", "key-1")
            assert snapshotter.stat("key-1").kind is Kind.ACTIVE
            for number in (4, 3, 2, 1, 0):
                snapshotter.remove(f"key-{number}")
            _until(lambda: snapshotter.prepare("key", "layer"))
        finally:
            snapshotter.close()


def test_a_root_whose_disk_filled_up_can_be_opened_to_remove_something() -> None:
    with loops.file_system(size=128 << 20) as folder:
        snapshotter = Snapshotter(folder / "root")
        snapshotter.prepare("key")
        _fill(folder_of(snapshotter, "key"), _DATA)
        snapshotter.close()
        _fill(folder / "root", _DATA)  # what closing has freed
        again = Snapshotter(folder / "root")
        try:
            again.remove("key")
            _until(lambda: again.prepare("key"))
        finally:
            again.close()


_DATA, _TREES = (1 << 20, 1 << 12), (2000,)  # sizes of files; btrfs keeps small ones in its trees


def _fill(folder: Path, *sizes: tuple[int, ...]) -> None:
    for size in itertools.chain(*sizes):
        with contextlib.suppress(OSError):
            for number in itertools.count():
                with (folder / f"{size}-{number}").open("wb") as file:
                    file.write(b"x" * size)
                    file.flush()
                    if size in _DATA:
                        os.fsync(file.fileno())


def _until(work: Callable[[], object]) -> None:
    """The space of a removed subvolume comes back later."""
    deadline = time.monotonic() + 60
    while True:
        try:
            work()
            return
        except errors.ResourceExhausted:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_a_root_can_be_moved(root: Path) -> None:
    snapshotter = Snapshotter(root)
    snapshots.commit(snapshotter, "layer", a="1")
    snapshotter.close()
    moved = root.with_name(f"{root.name}-moved")
    shutil.move(root, moved)
    again = Snapshotter(moved)
    try:
        assert snapshots.texts(again.prepare("key", "layer")) == {"a": "1"}
    finally:
        again.close()
