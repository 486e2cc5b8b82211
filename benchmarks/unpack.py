"""``sh scripts/bench unpack``: how long three layers of an image take from the content store to snapshots on disk.

The same client does Prepare, Apply and Commit for each layer, first at the one daemon, then at the other, in turn; then
the file system is synced, which is part of the time. Both daemons hold the same blobs and lie on one loop-mounted ext4
whose file is on tmpfs, so that processors are measured and no disk. Snapshots are removed between the rounds, the
answers' diff IDs are compared with the layers', and at the end the trees with each other.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median

from isal import isal_zlib

import corten
from benchmarks import daemons, tables
from plugin_sdk import mounts, oci
from plugin_sdk.conformance import layers
from plugin_sdk.oci import Descriptor

SNAPSHOTTER = "overlayfs"
NAMESPACE = "bench"
KEPT = {"containerd.io/gc.root": "bench"}
DISK = "12G"
LEVEL = 3  # of isal's gzip, near to gzip -4
SEED = 20240506


@dataclass(frozen=True, slots=True)
class Kind:
    """A layer to make: so many files and bytes below these directories."""

    name: str
    files: int
    size: int
    top: tuple[str, ...]


KINDS = (
    Kind("system", 9_000, 250_000_000, ("usr/lib/x86_64-linux-gnu", "usr/share", "usr/bin", "etc", "var/lib/dpkg")),
    Kind("packages", 20_000, 650_000_000, ("usr/lib/python3/dist-packages", "usr/local/lib/node_modules")),
    Kind("application", 5_000, 200_000_000, ("srv/app", "usr/share/doc", "usr/lib/python3/dist-packages/app")),
)


@dataclass(frozen=True, slots=True)
class Layer:
    blob: bytes
    diff_id: str
    size: int
    files: int

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(oci.LAYER_GZIP, oci.digest_of(self.blob), len(self.blob))


class Material:
    """Bytes that compress about as well as what images hold: text to a quarter, programs to half, media not at all."""

    def __init__(self, generator: random.Random) -> None:
        words = [generator.randbytes(generator.randint(2, 6)).hex().encode() for _ in range(3000)]
        weights = [1 / (rank + 3) for rank in range(len(words))]
        text = b" ".join(generator.choices(words, weights, k=600_000))
        code = b"".join(generator.choice(words)[:6] + generator.randbytes(6) + b"\0\0\1\0" for _ in range(250_000))
        self._pools = (text, text, text, code, code, generator.randbytes(4 << 20))
        self._generator = generator

    def take(self, size: int) -> bytes:
        pool = self._generator.choice(self._pools)
        at = self._generator.randrange(len(pool))
        part = pool[at : at + size]
        while len(part) < size:
            part += pool[: size - len(part)]
        return part


def make(kind: Kind, below: list[str]) -> Layer:
    """The same layer for the same kind. ``below`` are files of the layers under it, of which some are removed."""
    generator = random.Random(f"{SEED} {kind.name}")
    material = Material(generator)
    sizes = [min(40_000_000.0, generator.lognormvariate(8.3, 2.0)) for _ in range(kind.files)]
    scale = kind.size / sum(sizes)
    out = _Gzip()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:  # type: ignore[call-overload]
        known: set[str] = set()
        folder = ""
        for number, size in enumerate(sizes):
            if number % 12 == 0:
                folder = f"{generator.choice(kind.top)}/{generator.randbytes(5).hex()}"
                folder += f"/{generator.randbytes(3).hex()}" * generator.randrange(2)
                _add_folders(archive, folder, known)
            name = f"{folder}/{generator.randbytes(6).hex()}.{generator.choice(('py', 'so', 'js', 'txt', 'h'))}"
            _add(archive, name, material.take(int(size * scale)), number, generator)
            below.append(name)
        for name in sorted(generator.sample(below[: -kind.files], 20)) if len(below) > kind.files else ():
            parent, _, base = name.rpartition("/")
            _add(archive, f"{parent}/.wh.{base}", b"", 0, None)
    return out.layer(kind.files)


def _add_folders(archive: tarfile.TarFile, folder: str, known: set[str]) -> None:
    parts = folder.split("/")
    for depth in range(1, len(parts) + 1):
        name = "/".join(parts[:depth])
        if name not in known:
            known.add(name)
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
            archive.addfile(info)


def _add(archive: tarfile.TarFile, name: str, data: bytes, number: int, generator: random.Random | None) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_700_000_000 + number
    if generator is not None:
        info.mode = generator.choices((0o644, 0o755, 0o4755), (90, 9, 1))[0]
        info.uid = info.gid = generator.choices((0, 33), (97, 3))[0]
    archive.addfile(info, BytesIO(data))
    if number % 50 == 7 and generator is not None:
        link = tarfile.TarInfo(name + ".1")
        link.type, link.linkname, link.mtime = tarfile.SYMTYPE, name.rpartition("/")[2], info.mtime
        archive.addfile(link)
        hard = tarfile.TarInfo(name + ".2")
        hard.type, hard.linkname, hard.mtime, hard.mode = tarfile.LNKTYPE, name, info.mtime, info.mode
        hard.uid, hard.gid = info.uid, info.gid
        archive.addfile(hard)


class _Gzip:
    """Takes a tar and keeps it compressed, with its diff ID."""

    def __init__(self) -> None:
        self._deflate = isal_zlib.compressobj(LEVEL, wbits=31)
        self._hash = hashlib.sha256()
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._parts.append(self._deflate.compress(data))
        self._size += len(data)
        return len(data)

    def layer(self, files: int) -> Layer:
        self._parts.append(self._deflate.flush())
        return Layer(b"".join(self._parts), f"sha256:{self._hash.hexdigest()}", self._size, files)


class Side:
    """One daemon and its client."""

    def __init__(self, daemon: daemons.Daemon, image: list[Layer]) -> None:
        self.daemon = daemon
        self._connection = corten.connect(daemon.address)
        self._view = self._connection.view(NAMESPACE)
        self._image = image
        for layer in image:
            with self._view.content.writer(layer.diff_id, len(layer.blob), layer.descriptor.digest) as writer:
                for at in range(0, len(layer.blob), 1 << 20):
                    writer.write(layer.blob[at : at + (1 << 20)])
                writer.commit(len(layer.blob), layer.descriptor.digest, KEPT)

    def unpack(self) -> float:
        """Seconds, syncfs(2) included."""
        mounts.sync_file_system(self.daemon.directory)
        storage, differ = self._view.snapshotter(SNAPSHOTTER), self._view.differ()
        names = oci.chain_ids([layer.diff_id for layer in self._image])
        begin = time.perf_counter()
        parent = ""
        for layer, name in zip(self._image, names, strict=True):
            at = storage.prepare(f"extract {name}", parent, KEPT)
            made = differ.apply(layer.descriptor, at, self._view.content)
            storage.commit(name, f"extract {name}", KEPT)
            if (made.digest, made.size) != (layer.diff_id, layer.size):
                raise SystemExit(f"{self.daemon.name} made {made} of {layer.descriptor}")
            parent = name
        mounts.sync_file_system(self.daemon.directory)
        return time.perf_counter() - begin

    def remove(self) -> None:
        """All snapshots; the end of a lease has their files removed, which containerd does with its collection only."""
        storage = self._view.snapshotter(SNAPSHOTTER)
        for name in reversed(oci.chain_ids([layer.diff_id for layer in self._image])):
            storage.remove(name)
        self._view.leases.create("sweep")
        self._view.leases.delete("sweep", sync=True)
        deadline = time.monotonic() + 60
        while self._folders() and time.monotonic() < deadline:
            time.sleep(0.05)
        if left := self._folders():
            raise SystemExit(f"{self.daemon.name} has not removed {left[0]}")
        mounts.sync_file_system(self.daemon.directory)

    def _folders(self) -> list[Path]:
        return list(self.daemon.root.glob(f"*{SNAPSHOTTER}/snapshots/*/fs"))

    def tree(self, folder: Path) -> layers.Tree:
        storage = self._view.snapshotter(SNAPSHOTTER)
        top = oci.chain_id([layer.diff_id for layer in self._image])
        with mounts.temporary(storage.view("look", top, KEPT), folder) as root:
            tree = layers.scan(root)
        storage.remove("look")
        return tree

    def close(self) -> None:
        self._connection.close()


def compare(pair: list[Side], rounds: int, folder: Path) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in pair]
    for number in range(rounds + 1):
        for side, found in zip(pair, times, strict=True):
            found.append(side.unpack())
            print(f"{side.daemon.name}: {found[-1]:.2f} s", flush=True)
        if number == rounds:
            check_trees(pair, folder)
        for side in pair:
            side.remove()
    return [found[1:] for found in times]  # the first ones warm caches


def check_trees(pair: list[Side], folder: Path) -> None:
    one, other = (side.tree(folder) for side in pair)
    different = [path for path in sorted(one.keys() | other.keys()) if one.get(path) != other.get(path)]
    if different:
        path = different[0]
        raise SystemExit(f"{len(different)} paths differ, the first is {path}: {one.get(path)} and {other.get(path)}")
    print(f"{len(one)} paths are equal\n")


@contextlib.contextmanager
def disk() -> Iterator[Path]:
    """An ext4 whose file is on tmpfs, or on the disk where memory is too small."""
    room = os.statvfs("/dev/shm")
    if room.f_bavail * room.f_frsize < 8 << 30:
        with daemons.scratch(ext4_size=DISK) as target:
            yield target
        return
    with daemons.scratch() as directory:
        target, file = directory / "m", directory / "ext4"
        target.mkdir()
        subprocess.run(["truncate", "-s", DISK, file], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", file], check=True)
        subprocess.run(["mount", "-o", "loop", file, target], check=True)
        yield target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="folder with containerd, ctr and the shim")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    below: list[str] = []
    image = [make(kind, below) for kind in KINDS]
    with disk() as directory:
        pair: list[daemons.Daemon] = []
        sides: list[Side] = []
        try:
            pair.append(daemons.start_corten(directory / "c"))
            pair.append(daemons.start_containerd(directory / "p", options.peer))
            sides = [Side(daemon, image) for daemon in pair]
            corten, peer = compare(sides, options.rounds, directory)
            report(pair, image, corten, peer)
        finally:
            for side in sides:
                side.close()
            for daemon in pair:
                daemon.stop()
    tables.ratio("unpack", corten, peer)


def report(pair: list[daemons.Daemon], image: list[Layer], corten: list[float], peer: list[float]) -> None:
    size, files = sum(layer.size for layer in image), sum(layer.files for layer in image)
    packed = sum(len(layer.blob) for layer in image)
    facts = {
        "image": f"{len(image)} layers, {files} files, {size / 1e6:.0f} MB, gzip {packed / 1e6:.0f} MB",
        "client": "Prepare, Apply, Commit for each layer in turn, then syncfs; the same for both",
        "speed": f"{size / median(corten) / 1e6:.0f} and {size / median(peer) / 1e6:.0f} MB/s of files",
        "verified": "each layer's diff ID on both sides; the blobs' digests by Corten; the whole trees at the end",
    }
    tables.show("three layers from the content store to committed snapshots", "s", corten, peer, pair, **facts)


if __name__ == "__main__":
    main()
