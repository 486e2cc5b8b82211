"""``sh scripts/bench import``: how long an image archive takes to become content and snapshots on disk.

``ctr images import`` of the one daemon and ``corten image import`` of the other read the same archive of three layers,
as ``ctr images export`` writes it, in turn. Then the file system is synced, which is part of the time, as is the start
of both programs. Both daemons lie on one loop-mounted ext4 whose file is on tmpfs, so that processors are measured and
no disk. Image, content and snapshots are removed between the rounds; at the end the trees are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from statistics import median

import corten
from benchmarks import daemons, tables, unpack
from plugin_sdk import mounts, oci, platforms
from plugin_sdk.conformance import layers
from plugin_sdk.distribution.archive import layout
from plugin_sdk.oci import Descriptor

NAME = "example.test/bench:1"
NAMESPACE = unpack.NAMESPACE


def write_archive(path: Path, image: list[unpack.Layer]) -> None:
    """Members in the order of their names: the layers come before what tells of them."""
    diff_ids = [layer.diff_id for layer in image]
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    blobs = {layer.descriptor.digest: layer.blob for layer in image}
    document = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": _put(blobs, oci.CONFIG, config.encode()),
        "layers": [layout.entry(layer.descriptor) for layer in image],
    }
    manifest = _put(blobs, oci.MANIFEST, layout.encode(document))
    entry = {**manifest, "annotations": layout.named(NAME), "platform": {"architecture": "amd64", "os": "linux"}}
    members = {layout.blob(digest): data for digest, data in blobs.items()}
    members |= {layout.INDEX: layout.index([entry]), layout.LAYOUT: b'{"imageLayoutVersion":"1.0.0"}'}
    with tarfile.open(path, "w") as archive:
        for name, data in sorted(members.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))


def _put(blobs: dict[str, bytes], media_type: str, data: bytes) -> dict[str, object]:
    of = Descriptor(media_type, oci.digest_of(data), len(data))
    blobs[of.digest] = data
    return layout.entry(of)


class Side:
    """One daemon and the program that imports."""

    def __init__(self, daemon: daemons.Daemon, line: list[str], diff_ids: list[str]) -> None:
        self.daemon = daemon
        self._line = line
        self._diff_ids = diff_ids
        self._client = corten.connect(daemon.address, namespace=NAMESPACE)

    def run(self) -> float:
        """Seconds, syncfs(2) included."""
        mounts.sync_file_system(self.daemon.directory)
        begin = time.perf_counter()
        done = subprocess.run(self._line, capture_output=True, text=True, check=False)
        mounts.sync_file_system(self.daemon.directory)
        taken = time.perf_counter() - begin
        if done.returncode:
            raise SystemExit(f"{' '.join(self._line)} failed: {done.stderr}")
        return taken

    def remove(self) -> None:
        """Until nothing is left of it on disk; the end of a lease has containerd collect."""
        client = self._client
        for image in client.images.list():
            client.images.delete(image.name)
        for name in reversed(oci.chain_ids(self._diff_ids)):
            client.snapshotter(unpack.SNAPSHOTTER).remove(name)
        for blob in list(client.content.walk()):
            client.content.delete(blob.digest)
        client.leases.create("sweep")
        client.leases.delete("sweep", sync=True)
        deadline = time.monotonic() + 120
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            raise SystemExit(f"{self.daemon.name} has not removed {left[0]}")
        mounts.sync_file_system(self.daemon.directory)

    def _left(self) -> list[Path]:
        root = self.daemon.root
        return [*root.glob(f"*{unpack.SNAPSHOTTER}/snapshots/*/fs"), *root.glob("*/blobs/*/*")]

    def tree(self, folder: Path) -> layers.Tree:
        storage = self._client.snapshotter(unpack.SNAPSHOTTER)
        with mounts.temporary(storage.view("look", oci.chain_id(self._diff_ids), unpack.KEPT), folder) as root:
            tree = layers.scan(root)
        storage.remove("look")
        return tree

    def close(self) -> None:
        self._client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="folder with containerd, ctr and the shim")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if str(platforms.host()) != "linux/amd64":
        raise SystemExit("the image is one for linux/amd64")
    below: list[str] = []
    image = [unpack.make(kind, below) for kind in unpack.KINDS]
    with unpack.disk() as directory:
        archive = directory / "image.tar"
        write_archive(archive, image)
        measure(directory, archive, image, options)


def measure(directory: Path, archive: Path, image: list[unpack.Layer], options: argparse.Namespace) -> None:
    pair: list[daemons.Daemon] = []
    sides: list[Side] = []
    try:
        pair.append(daemons.start_corten(directory / "c"))
        pair.append(daemons.start_containerd(directory / "p", options.peer))
        diff_ids = [layer.diff_id for layer in image]
        lines = [_corten(pair[0], archive), _ctr(pair[1], archive)]
        sides = [Side(daemon, line, diff_ids) for daemon, line in zip(pair, lines, strict=True)]
        times = compare(sides, options.rounds, directory)
        report(pair, image, *times)
    finally:
        for side in sides:
            side.close()
        for daemon in pair:
            daemon.stop()
    tables.ratio("import", *times)


def _corten(daemon: daemons.Daemon, archive: Path) -> list[str]:
    line = [sys.executable, "-m", "corten.cli", "--address", daemon.address, "--namespace", NAMESPACE]
    return [*line, "image", "import", "--snapshotter", unpack.SNAPSHOTTER, os.fspath(archive)]


def _ctr(daemon: daemons.Daemon, archive: Path) -> list[str]:
    return daemon.argv("images", "import", "--snapshotter", unpack.SNAPSHOTTER, os.fspath(archive), namespace=NAMESPACE)


def compare(pair: list[Side], rounds: int, folder: Path) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in pair]
    for number in range(rounds + 1):
        for side, found in zip(pair, times, strict=True):
            found.append(side.run())
            print(f"{side.daemon.name}: {found[-1]:.2f} s", flush=True)
        if number == rounds:
            one, other = (side.tree(folder) for side in pair)
            if one != other:
                raise SystemExit("the trees differ")
            print(f"{len(one)} paths are equal\n")
        for side in pair:
            side.remove()
    return [found[1:] for found in times]  # the first ones warm caches


def report(pair: list[daemons.Daemon], image: list[unpack.Layer], corten: list[float], peer: list[float]) -> None:
    size, files = sum(layer.size for layer in image), sum(layer.files for layer in image)
    packed = sum(len(layer.blob) for layer in image)
    facts = {
        "image": f"{len(image)} layers, {files} files, {size / 1e6:.0f} MB, gzip {packed / 1e6:.0f} MB",
        "programs": "corten image import and ctr images import, then syncfs",
        "speed": f"{size / median(corten) / 1e6:.0f} and {size / median(peer) / 1e6:.0f} MB/s of files",
        "verified": "the blobs' digests by Corten, the layers' diff IDs on both sides; the whole trees at the end",
    }
    tables.show("an archive of three layers to content and committed snapshots", "s", corten, peer, pair, **facts)


if __name__ == "__main__":
    main()
