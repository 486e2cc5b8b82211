"""Layers that others made, and others that read ours: GNU tar and containerd's own differ."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import corten
from kernel.spawner import Spawner
from plugin_sdk import errors, mounts, oci
from plugin_sdk.conformance import layers
from plugin_sdk.conformance.content import digest_of, get, put
from plugin_sdk.conformance.layers import Stack, Tree, directory, hard_link, member, symlink, tar
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugins_builtin.diff.plugin import Config
from plugins_builtin.diff.walking import Differ
from tests import labelled

pytestmark = [pytest.mark.root]
KEPT = {"containerd.io/gc.root": "test"}


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="corten-layers-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def differ(folder: Path, spawner: Spawner) -> Differ:
    return Differ(spawner, folder / "state", Config())


@pytest.fixture
def store(folder: Path) -> labelled.Store:
    return labelled.Store(folder / "content")


@pytest.fixture
def tree(folder: Path) -> Path:
    """One of everything."""
    root = folder / "tree"
    (root / "d" / ("long" * 40) / ("name" * 50)).mkdir(parents=True)
    (root / "d" / "file").write_bytes(os.urandom(100_000))
    os.link(root / "d" / "file", root / "again")
    (root / ("ümlaut" * 20)).write_text("x")
    (root / "link").symlink_to("t" * 180)
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    os.chown(root / "d", 2_100_000, 5)
    (root / "d").chmod(0o2775)
    (root / "d" / "suid").write_text("x")
    (root / "d" / "suid").chmod(0o4711)
    with (root / "sparse").open("wb") as file:
        for place in range(40):
            file.seek(place * 300_000)
            file.write(b"data")
        file.truncate(20_000_000)
    for path in root.rglob("*"):
        os.utime(path, ns=(1_500_000_000_123_456_789, 1_500_000_000_123_456_789), follow_symlinks=False)
    return root


def unpacked(differ: Differ, store: labelled.Store, data: bytes, folder: Path) -> Stack:
    stack = Stack(folder, "plain")
    differ.apply(Descriptor(oci.LAYER, put(store, data), len(data)), stack.push(), store)
    return stack


@pytest.mark.parametrize("sparse", [[], ["--sparse"], ["--sparse", "--sparse-version=0.1"]])
@pytest.mark.parametrize("format", ["gnu", "oldgnu", "posix"])
def test_what_gnu_tar_writes_is_unpacked(
    differ: Differ, store: labelled.Store, folder: Path, tree: Path, format: str, sparse: list[str]
) -> None:
    more = ["--xattrs", "--xattrs-include=*"] if format == "posix" else []
    if more:
        os.setxattr(tree / "d" / "file", "trusted.binary", b"\0\xff=\n")
    command = ["tar", "--numeric-owner", f"--format={format}", *sparse, *more, "-C", str(tree), "-c", "."]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    found = unpacked(differ, store, data, folder).tree(times=format == "posix")
    assert found == layers.scan(tree, times=format == "posix")
    if sparse:
        assert (folder / "layer-0" / "sparse").stat().st_blocks * 512 < 1_000_000


def test_gnu_tar_reads_what_is_written(differ: Differ, store: labelled.Store, folder: Path, tree: Path) -> None:
    os.setxattr(tree / "d" / "file", "trusted.binary", b"\0\xff=\n")
    layer = differ.compare([], [Mount("bind", str(tree), "", ("rbind",))], store, media_type=oci.LAYER)
    (folder / "out").mkdir()
    command = ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", str(folder / "out"), "-xp"]
    done = subprocess.run(command, input=get(store, layer.digest), capture_output=True, check=True)
    assert done.stderr == b""
    assert layers.scan(folder / "out") == layers.scan(tree)


# containerd's differ

D, F = directory("d"), directory("d/e")
CASES = {
    "kinds": [
        [D, member("d/a", b"x", owner=(1, 2), mode=0o4755), symlink("l", "d"), hard_link("h", "d/a")],
        [member("p", kind=tarfile.FIFOTYPE), member("null", kind=tarfile.CHRTYPE, device=(1, 3)), member("n" * 200)],
    ],
    "implicit parents": [[member("x/y/z", b"1")], [member("x/y/w", b"2")]],
    "whiteouts": [[member("a"), D, F, member("d/e/f"), symlink("l", "a")], [member(".wh.a"), member("d/.wh.e")]],
    "opaque": [[D, member("d/a"), F, member("d/e/b")], [D, member("d/.wh..wh..opq"), F, member("d/e/n")]],
    "opaque at last": [[D, member("d/a"), F, member("d/e/b")], [D, F, member("d/e/n"), member("d/.wh..wh..opq")]],
    "through a link": [[directory("u"), symlink("l", "u"), member("l/a")]],
    "a file for a directory": [[D, member("d/a")], [member("d", b"x")]],
    "a directory for a file": [[member("d", b"x")], [D, member("d/a")]],
    "a directory for a link": [[directory("a"), symlink("l", "a")], [directory("l"), member("l/x")]],
    "absolute names": [[member("/a/b")]],
    "links that climb": [[symlink("l", "../../../.."), member("l/inside")]],
    "setgid": [[directory("d", 0o2775, owner=(0, 50)), F, member("d/f")]],
    "aufs": [[member(".wh..wh.aufs"), directory(".wh..wh.plnk", 0o700), member("a")]],
    "capabilities": [[member("f", owner=(1, 1), xattrs={"security.capability": bytes([1, 0, 0, 2] + [0] * 16)})]],
}


@contextmanager
def snapshot(view: corten.Client, snapshotter: str, found: list[Descriptor], name: str) -> Iterator[list[Mount]]:
    storage = view.snapshotter(snapshotter)
    parent = ""
    for number, layer in enumerate(found):
        made = storage.prepare(f"{name} {number} active", parent, KEPT)
        view.differ().apply(layer, made, view.content)
        storage.commit(f"{name} {number}", f"{name} {number} active", KEPT)
        parent = f"{name} {number}"
    try:
        yield storage.view(f"{name} view", parent, KEPT)
    finally:
        storage.remove(f"{name} view")
        for number in reversed(range(len(found))):
            storage.remove(f"{name} {number}")


def written(view: corten.Client, data: bytes) -> Descriptor:
    digest = digest_of(data)
    try:
        with view.content.writer(digest, len(data), digest) as writer:
            writer.write(data)
            writer.commit(len(data), digest, KEPT)
    except errors.AlreadyExists:
        pass
    return Descriptor(oci.LAYER, digest, len(data))


@pytest.fixture
def views(corten_daemon: object, containerd_daemon: object) -> Iterator[list[corten.Client]]:
    connections = [corten.connect(daemon.address) for daemon in (corten_daemon, containerd_daemon)]  # type: ignore[attr-defined]
    yield [connection.view("layers") for connection in connections]
    for connection in connections:
        connection.close()


@pytest.mark.peer
@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
@pytest.mark.parametrize("name", CASES)
def test_containerd_unpacks_the_same_tree(
    views: list[corten.Client], folder: Path, snapshotter: str, name: str
) -> None:
    trees: list[Tree] = []
    for view in views:
        found = [written(view, tar(*members)) for members in CASES[name]]
        with snapshot(view, snapshotter, found, name) as made, mounts.temporary(made, folder) as root:
            trees.append(layers.scan(root))
    assert trees[0] == trees[1]


@pytest.mark.peer
@pytest.mark.parametrize("writer", [0, 1], ids=["corten", "containerd"])
def test_one_unpacks_what_the_other_has_compared(
    views: list[corten.Client], folder: Path, store: labelled.Store, writer: int
) -> None:
    """Two trees with every kind of change between them; the layers of both together make the upper one again."""
    stack = Stack(folder, "plain")
    differ = views[writer].differ()
    blobs = []
    for depth, script in enumerate((FIRST, SECOND)):
        stack.push()
        subprocess.run(["sh", "-euc", script], cwd=folder / f"layer-{depth}", check=True)
        lower = stack.view(depth) if depth else [Mount("bind", str(stack.beside("empty")), "", ("rbind", "ro"))]
        layer = differ.compare(lower, stack.view(depth + 1), views[writer].content, media_type=oci.LAYER, labels=KEPT)
        blobs.append(get(views[writer].content, layer.digest))
    reader = views[1 - writer]
    found = [written(reader, blob) for blob in blobs]
    with snapshot(reader, "overlayfs", found, "compared") as made, mounts.temporary(made, folder) as root:
        precise = writer == 0  # containerd cuts times to whole seconds
        assert layers.scan(root, times=precise) == stack.tree(times=precise)


FIRST = """
mkdir -m 2751 d; echo one > d/a; ln d/a d/b; ln -s a d/l; mkfifo -m 604 p; mknod n c 1 3; mkdir -p e/f; echo x > e/f/g
echo suid > s; chown 5:6 s; chmod 4755 s; echo gone > gone; touch -h -d '2001-02-03 04:05:06.123456789' d/a d/l s
"""
SECOND = """
rm gone; rm -r e/f; echo two > d/c; rm d/b; rm d/l; mkdir d/l; echo in > d/l/in; chmod 0600 s; rm p; ln -s nowhere p
echo more >> d/a; mkdir -p new/er; echo deep > new/er/file; ln new/er/file new/er/link; chown 7:8 n
"""
