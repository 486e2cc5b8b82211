"""What a namespace holds, by records, labels and bytes, so that two daemons can be compared after the same transfer."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import corten
from plugin_sdk import errors
from tests import sides, trees

Snapshots = dict[str, tuple[str, str, dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Holdings:
    """``content`` has size and labels by digest, ``snapshots`` kind, parent and labels by key. Times are left out."""

    images: dict[str, Any]
    content: dict[str, tuple[int, dict[str, str]]]
    snapshots: Snapshots
    ingests: list[str]
    leases: list[str]

    def kept(self) -> Holdings:
        """Without blobs that no image refers to, such as the index.json of an import: containerd may collect them."""
        reached: set[str] = set()
        ahead = [target.digest for target, _ in self.images.values()]
        while ahead:
            if (digest := ahead.pop()) in self.content and digest not in reached:
                reached.add(digest)
                labels = self.content[digest][1]
                ahead += [labels[key] for key in labels if key.startswith("containerd.io/gc.ref.content")]
        return replace(self, content={digest: self.content[digest] for digest in self.content if digest in reached})


@contextlib.contextmanager
def client(side: sides.Side, namespace: str) -> Iterator[corten.Client]:
    with corten.connect(side.daemon.address, side.resolve(namespace)) as made:
        yield made


def of(side: sides.Side, namespace: str) -> Holdings:
    with client(side, namespace) as view:
        return Holdings(
            {image.name: (image.target, dict(image.labels)) for image in view.images.list()},
            {info.digest: (info.size, dict(info.labels)) for info in view.content.walk()},
            {info.name: (info.kind.name, info.parent, dict(info.labels)) for info in view.snapshotter().walk()},
            [status.ref for status in view.content.list_statuses()],
            [lease.id for lease in view.leases.list()],
        )


def on_disk(side: sides.Side, digest: str) -> bytes:
    """The file in which the daemon keeps a blob; its bytes are those of the digest."""
    algorithm, _, encoded = digest.partition(":")
    data = (blobs(side) / algorithm / encoded).read_bytes()
    assert hashlib.new(algorithm, data).hexdigest() == encoded
    return data


def blobs(side: sides.Side) -> Path:
    return side.daemon.root / "io.containerd.content.v1.content/blobs"


def tree(side: sides.Side, namespace: str, image: str) -> dict[str, trees.Node]:
    """Of an unpacked image's container."""
    with client(side, namespace) as view, view.snapshotter().read_only(view.images.chain_id(image)) as root:
        return trees.scan(root, folder_times=False)


def forget(side: sides.Side, namespace: str) -> None:
    """Removes all images, snapshots and blobs of a namespace; only containerd collects what nothing refers to."""
    with client(side, namespace) as view:
        for image in view.images.list():
            view.images.delete(image.name)
        parents = {info.name: info.parent for info in view.snapshotter().walk()}
        while parents:
            leaves = parents.keys() - set(parents.values())
            for name in leaves:
                with contextlib.suppress(errors.NotFound):  # containerd collects meanwhile
                    view.snapshotter().remove(name)
                del parents[name]
        for info in list(view.content.walk()):
            with contextlib.suppress(errors.NotFound):
                view.content.delete(info.digest)
