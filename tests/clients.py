"""Clients of the library under test, and what they leave."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import corten


@contextlib.contextmanager
def connected(address: str, *namespaces: str) -> Iterator[corten.Client]:
    """A client of the first namespace. All of them are emptied at the end."""
    with corten.connect(address, namespaces[0]) as client:
        try:
            yield client
        finally:
            for name in namespaces:
                empty(client.namespace(name))


@contextlib.contextmanager
def connected_beside(client: corten.Client, suffix: str) -> Iterator[corten.Client]:
    """In a namespace of its own, which is emptied at the end."""
    with client.namespace(client.scope.namespace + suffix) as other:
        try:
            yield other
        finally:
            empty(other)


def empty(client: corten.Client) -> None:
    for process in client.tasks.list():
        with client.containers.get(process.id).task():
            pass
    for container in client.containers.list():
        container.delete()
    for image in client.images.list():
        client.images.delete(image.name, sync=True)
    for name in ("overlayfs", "native"):
        storage = client.snapshotter(name)
        for info in sorted(storage.walk(), key=lambda info: info.created_at, reverse=True):
            storage.remove(info.name)
