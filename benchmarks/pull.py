"""``sh scripts/bench pull-gzip``, ``pull-zstd``, ``pull-memory``: pull and unpack from a registry on this machine.

An image of three layers is pulled and unpacked by the one daemon, then by the other, in turn: by Corten's through its
Transfer service, by containerd's as ``ctr images pull`` does it. Then the file system is synced, which is part of the
time. Both daemons lie on one loop-mounted ext4 whose file is on tmpfs, as are the registry's data, so that processors
are measured and no disk. Image, content and snapshots are removed between the rounds; at the end the trees are
compared.

``pull-memory`` has Corten pull that image and one of a single layer of two gigabytes, and looks at the memory of the
daemon and all its children meanwhile (Pss: a page that several processes share is counted once).
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import zstandard
from isal import isal_zlib

import corten
from benchmarks import daemons, registries, tables, unpack
from plugin_sdk import errors, mounts, oci
from plugin_sdk.conformance import layers

NAMESPACE = unpack.NAMESPACE
TYPES = {"gzip": oci.LAYER_GZIP, "zstd": oci.LAYER_ZSTD}
ZSTD_LEVEL = 3
LARGE = unpack.Kind("large", 6_000, 2_000_000_000, ("usr/lib", "usr/share", "opt/data"))
INTERVAL = 0.02  # seconds between two looks at the memory


class Side:
    """One daemon, and how an image is pulled by it."""

    def __init__(self, daemon: daemons.Daemon, image: Sequence[unpack.Layer], reference: str) -> None:
        self.daemon = daemon
        self.client = corten.connect(daemon.address, namespace=NAMESPACE)
        self._image = image
        self.reference = reference

    def run(self) -> float:
        """Seconds, syncfs(2) included."""
        mounts.sync_file_system(self.daemon.directory)
        begin = time.perf_counter()
        self._pull()
        mounts.sync_file_system(self.daemon.directory)
        return time.perf_counter() - begin

    def _pull(self) -> None:
        if self.daemon.name == "corten":
            self.client.images.pull(self.reference)
            return
        done = self.daemon.ctr("images", "pull", self.reference, namespace=NAMESPACE, timeout=600)
        if done.returncode:
            raise SystemExit(f"ctr images pull: {done.stderr.decode()}")

    def remove(self) -> None:
        """The image and all that came with it."""
        for image in self.client.images.list():
            self.client.images.delete(image.name)
        storage, store = self.client.snapshotter(unpack.SNAPSHOTTER), self.client.content
        for name in reversed(oci.chain_ids([layer.diff_id for layer in self._image])):
            with contextlib.suppress(errors.NotFound):
                storage.remove(name)
        for blob in list(store.walk()):
            with contextlib.suppress(errors.NotFound):
                store.delete(blob.digest)
        self.client.leases.create("sweep")
        self.client.leases.delete("sweep", sync=True)
        deadline = time.monotonic() + 60
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            raise SystemExit(f"{self.daemon.name} has not removed {left[0]}")
        mounts.sync_file_system(self.daemon.directory)

    def _left(self) -> list[Path]:
        root = self.daemon.root
        return [*root.glob(f"*{unpack.SNAPSHOTTER}/snapshots/*/fs"), *root.glob("*content*/blobs/sha256/*")]

    def tree(self, folder: Path) -> layers.Tree:
        storage = self.client.snapshotter(unpack.SNAPSHOTTER)
        top = oci.chain_id([layer.diff_id for layer in self._image])
        with mounts.temporary(storage.view("look", top, unpack.KEPT), folder) as root:
            tree = layers.scan(root)
        storage.remove("look")
        return tree

    def close(self) -> None:
        self.client.close()


def compressed(image: Sequence[unpack.Layer], compression: str) -> list[unpack.Layer]:
    """The same layers, whose blobs are gzip, in that compression."""
    if compression == "gzip":
        return list(image)
    return [replace(layer, blob=_zstd(isal_zlib.decompress(layer.blob, wbits=31))) for layer in image]


def _zstd(tar: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(tar)


@contextlib.contextmanager
def served(
    directory: Path, image: Sequence[unpack.Layer], compression: str
) -> Iterator[tuple[registries.Registry, str]]:
    """A registry that has the image, and the image's reference."""
    config, manifest = registries.manifest(image, TYPES[compression])
    with registries.Registry(directory) as registry:
        blobs = [config, *(layer.blob for layer in image)]
        registry.upload("bench", compression, blobs, manifest, oci.MANIFEST)
        yield registry, f"{registry.host}/bench:{compression}"


def compare(pair: Sequence[Side], rounds: int, folder: Path, check: Callable[[], None]) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in pair]
    for number in range(rounds + 1):
        for side, found in zip(pair, times, strict=True):
            found.append(side.run())
            print(f"{side.daemon.name}: {found[-1]:.2f} s", flush=True)
        if number == rounds:
            check()
        for side in pair:
            side.remove()
    return [found[1:] for found in times]  # the first ones warm caches


def check_trees(pair: Sequence[Side], folder: Path) -> None:
    one, other = (side.tree(folder) for side in pair)
    different = [path for path in sorted(one.keys() | other.keys()) if one.get(path) != other.get(path)]
    if different:
        path = different[0]
        raise SystemExit(f"{len(different)} paths differ, the first is {path}: {one.get(path)} and {other.get(path)}")
    print(f"{len(one)} paths are equal\n")


def measure(compression: str, rounds: int, peer: Path | None) -> None:
    below: list[str] = []
    image = compressed([unpack.make(kind, below) for kind in unpack.KINDS], compression)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(unpack.disk())
        _, reference = stack.enter_context(served(stack.enter_context(daemons.scratch()), image, compression))
        started: list[daemons.Daemon] = []
        sides: list[Side] = []
        try:
            started.append(daemons.start_corten(directory / "c"))
            started.append(daemons.start_containerd(directory / "p", peer))
            sides = [Side(daemon, image, reference) for daemon in started]
            times = compare(sides, rounds, directory, lambda: check_trees(sides, directory))
            report(started, image, compression, *times)
        finally:
            for side in sides:
                side.close()
            for daemon in started:
                daemon.stop()
    tables.ratio(f"pull-{compression}", *times)


def report(
    pair: Sequence[daemons.Daemon],
    image: Sequence[unpack.Layer],
    compression: str,
    corten_times: Sequence[float],
    peer_times: Sequence[float],
) -> None:
    size, files = sum(layer.size for layer in image), sum(layer.files for layer in image)
    packed = sum(len(layer.blob) for layer in image)
    facts = {
        "image": f"{len(image)} layers, {files} files, {size / 1e6:.0f} MB, {compression} {packed / 1e6:.0f} MB",
        "registry": f"{tables.version(registries.PROGRAM, '--version')}, a process on this machine, data on tmpfs",
        "client": "Transfer by the client library; ctr images pull; then syncfs",
        "speed": f"{size / median(corten_times) / 1e6:.0f} and {size / median(peer_times) / 1e6:.0f} MB/s of files",
        "verified": "each blob's digest and each layer's diff ID by both; the whole trees at the end",
    }
    tables.show("an image from a registry to committed snapshots", "s", corten_times, peer_times, pair, **facts)


# --- memory


class Memory(threading.Thread):
    """Looks at the memory of a process and all its descendants, and remembers the most."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.most = 0  # bytes
        self._pid = pid
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(INTERVAL):
            self.most = max(self.most, sum(map(_memory, _family(self._pid))))

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        self.join()


def _family(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _memory(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def measure_memory(rounds: int) -> None:
    most: list[float] = []
    for kinds in (unpack.KINDS, (LARGE,)):
        below: list[str] = []
        image = [unpack.make(kind, below) for kind in kinds]
        for compression in TYPES:
            packed = compressed(image, compression)
            with (
                daemons.scratch() as shelf,
                unpack.disk() as directory,
                served(shelf, packed, compression) as (_, name),
            ):
                most += _peaks(directory, packed, name, rounds)
                print(f"{len(image)} layers, {compression}: {max(most[-rounds:]):.0f} MB", flush=True)
    print(f"pull-memory mb={max(most):.0f}", flush=True)


def _peaks(directory: Path, image: Sequence[unpack.Layer], reference: str, rounds: int) -> list[float]:
    daemon = daemons.start_corten(directory / "c")
    try:
        side = Side(daemon, image, reference)
        with contextlib.closing(side):
            peaks = []
            for _ in range(rounds):
                with Memory(daemon.pid) as memory:
                    side.run()
                peaks.append(memory.most / 1e6)
                side.remove()
            return peaks
    finally:
        daemon.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*TYPES, "memory"])
    parser.add_argument("--peer", type=Path, help="folder with containerd, ctr and the shim")
    parser.add_argument("--rounds", type=int, default=0, help="5, for the memory 2")
    options = parser.parse_args()
    if options.what == "memory":
        measure_memory(options.rounds or 2)
    else:
        measure(options.what, options.rounds or 5, options.peer)


if __name__ == "__main__":
    main()
