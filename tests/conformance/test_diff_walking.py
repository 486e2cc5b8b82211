"""The suite for differs with ``walking``, and what only it promises."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest

from kernel.spawner import Spawner
from plugin_sdk import errors, mounts, oci
from plugin_sdk.conformance import diff
from plugin_sdk.conformance.content import put
from plugin_sdk.conformance.layers import Stack, hard_link, member, tar
from plugin_sdk.oci import Descriptor
from plugins_builtin.diff.plugin import Config
from plugins_builtin.diff.walking import Differ
from tests import labelled, pace


@pytest.fixture(scope="module")
def spawner():
    spawner = Spawner()
    yield spawner
    spawner.close()


class TestWalking(diff.DiffSuite):
    @pytest.fixture
    def store(self, folder):
        return labelled.Store(folder / "content")

    @pytest.fixture
    def differ(self, folder, spawner):
        return Differ(spawner, folder / "state", Config())

    @pytest.mark.parametrize("seed", range(12))
    def test_applying_a_difference_makes_the_upper_tree(self, differ, store, stack, seed):
        """As in the suite, with more seeds; also the next two."""
        super().test_applying_a_difference_makes_the_upper_tree(differ, store, stack, seed)

    @pytest.mark.parametrize("seed", range(20))
    def test_any_layers_look_the_same_on_any_stack(self, apply, folder, seed):
        super().test_any_layers_look_the_same_on_any_stack(apply, folder, seed)

    @pytest.mark.parametrize("seed", range(6))
    def test_damaged_tars_end_in_an_error_or_inside(self, apply, folder, overlay, seed):
        super().test_damaged_tars_end_in_an_error_or_inside(apply, folder, overlay, seed)


class Streamed:
    """A store whose readers have no descriptor."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    def reader(self, digest):
        return StreamedReader(self._store.reader(digest))


class StreamedReader:
    def __init__(self, reader):
        self._reader = reader

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._reader.close()

    def fileno(self):
        raise errors.Unimplemented("no descriptor")

    def read_at(self, offset, size):
        return self._reader.read_at(offset, size)


class Slow(StreamedReader):
    def read_at(self, offset, size):
        time.sleep(0.02)
        return self._reader.read_at(offset, size)


class Gone(StreamedReader):
    """Nobody waits for it, from the second look on."""

    def __init__(self, reader):
        super().__init__(reader)
        self._canceled = threading.Event()

    def read_at(self, offset, size):
        if size:
            self._canceled.wait(20)
        elif not self._canceled.is_set():
            self._canceled.set()
            return b""
        raise errors.Canceled("the caller has gone away")


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="corten-diff-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def store(folder):
    return labelled.Store(folder / "content")


@pytest.fixture
def differ(folder, spawner):
    return Differ(spawner, folder / "state", Config())


@pytest.fixture
def overlay(folder):
    return Stack(folder, "overlay")


@pytest.mark.parametrize("media_type", [oci.LAYER, oci.LAYER_GZIP])
@pytest.mark.root
def test_a_blob_that_is_not_its_digest_is_data_loss(folder, differ, store, overlay, media_type):
    data = tar(member("a", b"data"))
    digest = put(store, data)
    path = folder / "content" / "blobs" / digest.replace(":", "/")
    path.chmod(0o644)
    path.write_bytes(data[:700])
    with pytest.raises(errors.DataLoss, match=digest):
        differ.apply(Descriptor(media_type, digest, len(data)), overlay.push(), store)


@pytest.mark.parametrize("seconds", [0, 0.02, 0.1])
@pytest.mark.root
def test_a_killed_worker_is_unavailable_and_leaves_no_mount(folder, spawner, store, overlay, seconds):
    data = tar(member("a", os.urandom(60_000_000)))
    layer = Descriptor(oci.LAYER, put(store, data), len(data))
    killers = Killers(spawner, seconds)
    slow = Streamed(store)
    slow.reader = lambda digest: Slow(store.reader(digest))
    with pytest.raises(errors.Unavailable, match="killed by SIGKILL"):
        Differ(killers, folder / "state", Config()).apply(layer, overlay.push(), slow)
    assert not [point for point in mounts.mount_points() if point.startswith(str(folder))]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Config(layer_limit=100_000), "exceeds 100000 bytes"),
        (Config(entry_limit=3), "more than 3 entries"),
    ],
)
@pytest.mark.root
def test_limits_are_kept(folder, spawner, store, overlay, config, words):
    data = tar(*(member(str(number), bytes(100_000)) for number in range(5)))
    layer = Descriptor(oci.LAYER, put(store, data), len(data))
    with pytest.raises(errors.ResourceExhausted, match=words):
        Differ(spawner, folder / "state", config).apply(layer, overlay.push(), store)


@pytest.mark.root
def test_memory_is_limited(folder, spawner, store, overlay):
    data = tar(member("a", pax={"comment": "x" * 50_000_000}))
    layer = Descriptor(oci.LAYER, put(store, data), len(data))
    config = Config(memory_limit=64 << 20, header_limit=1 << 30)
    with pytest.raises(errors.ResourceExhausted, match="memory"):
        Differ(spawner, folder / "state", config).apply(layer, overlay.push(), store)


@pytest.mark.root
def test_many_layers_are_looked_through(folder, differ, store):
    stack = Stack(folder, "overlay")
    for number in range(60):
        data = tar(member(f"d/{number}", b"x"), member(f"d/.wh.{number - 3}"), member(f"l{number}"))
        differ.apply(Descriptor(oci.LAYER, put(store, data), len(data)), stack.push(), store)
    assert {path for path in stack.tree() if path.startswith("d/")} == {"d/57", "d/58", "d/59"}


@pytest.mark.root
def test_the_mounts_of_a_worker_are_its_own(folder, spawner, store, overlay):
    """Also while it works: seen from here there is nothing."""
    data = tar(member("a", os.urandom(30_000_000)))
    layer = Descriptor(oci.LAYER, put(store, data), len(data))
    differ = Differ(spawner, folder / "state", Config())
    thread = threading.Thread(target=differ.apply, args=(layer, overlay.push(), store))
    thread.start()
    seen = set()
    while thread.is_alive():
        seen.update(mounts.mount_points())
    thread.join()
    assert not [point for point in seen if point.startswith(str(folder))]


@pytest.mark.root
def test_reading_and_writing_without_codecs_of_others(folder, spawner, store, overlay):
    """gzip is of the standard library then, zstd Unimplemented."""
    bare = Differ(WithoutSite(spawner), folder / "state", Config())
    put_in = overlay.push()
    layer = Descriptor(oci.LAYER, put(store, tar(member("a", b"x" * 5000))), 0)
    assert bare.apply(layer, put_in, store).size == len(tar(member("a", b"x" * 5000)))
    packed = bare.compare([], overlay.mounts(), store)
    assert bare.apply(packed, Stack(Path(overlay.beside("copy")), "plain").push(), store)
    with pytest.raises(errors.Unimplemented, match="zstd"):
        bare.compare([], overlay.mounts(), store, media_type=oci.LAYER_ZSTD)


@pytest.mark.root
def test_any_number_of_directories_can_be_in_work(differ, store, overlay):
    """More than a process may hold open: of those with whiteouts, with links, and in an opaque one."""
    count = 4200

    def apply(stack, *members):
        data = tar(*members)
        differ.apply(Descriptor(oci.LAYER, put(store, data), len(data)), stack.push(), store)

    old = [member(f"{top}/{number}/old", time=None) for top in "abc" for number in range(count)]
    apply(overlay, *old)
    removed = [member(f"a/{number}/.wh.old", time=None) for number in range(count)]
    linked = [hard_link(f"links/{number}", f"b/{number}/old", time=None) for number in range(count)]
    made = [member(f"c/{number}/new", time=None) for number in range(count)]
    apply(overlay, *removed, *linked, *made, member("c/.wh..wh..opq"))
    tree = overlay.tree(times=False)
    assert not {f"a/{number}/old" for number in range(count)} & tree.keys()
    assert all(tree[f"links/{number}"] == tree[f"b/{number}/old"] for number in range(count))
    assert [path for path in tree if path.startswith("c/") and path.endswith("/old")] == []
    assert f"c/{count - 1}/new" in tree


@pytest.mark.root
def test_a_worker_is_ended_when_the_caller_goes_away(folder, differ, store, overlay):
    """Though it hangs: this one waits for a pipe that nobody writes."""
    layer = Descriptor(oci.LAYER, put(store, tar(member("a", bytes(9000)))), 0)
    gone = Streamed(store)
    gone.reader = lambda digest: Gone(store.reader(digest))
    begin = time.monotonic()
    with pytest.raises(errors.Canceled):
        differ.apply(layer, overlay.push(), gone)
    assert pace.within(time.monotonic() - begin, 5)


class WithoutSite:
    def __init__(self, workers):
        self._workers = workers

    def start(self, entry, params, fds=()):
        return self._workers.start(entry, {**params, "site": []}, fds)


class Killers:
    """Workers that are killed soon."""

    def __init__(self, workers, seconds):
        self._workers = workers
        self._seconds = seconds

    def start(self, entry, params, fds=()):
        worker = self._workers.start(entry, params, fds)
        if self._seconds:
            threading.Timer(self._seconds, worker.kill).start()
        else:
            worker.kill()
        return worker
