"""Snapshots: the file systems of containers, in layers.

Words. A snapshot is **active** (writable, in work), a **view** (read-only, of a committed one) or **committed**
(immutable; only such a one can be a **parent**). An active snapshot and a view have a **key**, a committed one a
**name**; both live in one space of names, and are any non-empty text. A **mount** says how to see a snapshot as a
directory; the caller mounts it (``plugin_sdk.mounts``), the snapshotter does not.

One use from start to end, two layers and a container on them::

    mounts = snapshotter.prepare("extract-1", parent="")        # empty, writable
    ...                                                         # mount, unpack the first layer, unmount
    snapshotter.commit("layer-1", "extract-1")                  # the key is gone, the name is there
    mounts = snapshotter.prepare("extract-2", parent="layer-1")
    ...
    snapshotter.commit("layer-2", "extract-2")
    mounts = snapshotter.prepare("container-7", parent="layer-2")
    ...                                                         # run
    snapshotter.remove("container-7")
    snapshotter.remove("layer-2")
    snapshotter.remove("layer-1")                               # the children first

Promises. What an active snapshot shows is its parent's tree with the changes made through its mounts. When ``commit``
returns, the files are on disk: a power cut afterwards loses nothing. Each method has its whole effect or none; at a
crash within one, the snapshotter is after its next start in the state before or after it. Repeating a call that was
cut off is safe: it succeeds, or says AlreadyExists or NotFound.

Labels are given and kept; those that begin with ``containerd.io/snapshot/`` are meant for the snapshotter.
Times are nanoseconds since the epoch. All methods block and may be called from several threads.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from plugin_sdk import filters as filter_language
from plugin_sdk.mounts import Mount

TARGET_LABEL = "containerd.io/snapshot.ref"
"""Given to prepare: the name under which the caller will commit. A snapshotter that has it may say AlreadyExists."""

INHERITED_PREFIX = "containerd.io/snapshot/"


class Kind(enum.IntEnum):
    """Numbers as on the wire."""

    UNKNOWN = 0
    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class Info:
    name: str
    kind: Kind
    parent: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


def matcher(filters: Sequence[str]) -> Callable[[Info], bool]:
    """The filterable fields are ``kind`` (view, active, committed), ``name`` (the key or the name), ``parent`` and
    ``labels.KEY``. Raises InvalidArgument for a malformed filter."""
    matches = filter_language.compile(filters)
    return lambda info: matches(lambda path: _field(info, path))


def _field(info: Info, path: Sequence[str]) -> str | None:
    match list(path):
        case ["kind"]:
            return info.kind.name.lower()
        case ["name"]:
            return filter_language.field(info.name)
        case ["parent"]:
            return filter_language.field(info.parent)
    return filter_language.join(path, "labels", info.labels)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot itself takes, without its parents: bytes on disk and inodes."""

    size: int
    inodes: int


class Snapshotter(Protocol):
    def stat(self, key: str) -> Info:
        """Of a key or a name. Raises NotFound."""
        ...

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        """Changes labels only: all without ``fieldpaths``, else those named as ``labels.KEY`` or ``labels``.

        A label whose value is empty is removed. Raises NotFound; InvalidArgument for another path.
        """
        ...

    def usage(self, key: str) -> Usage:
        """Of an active snapshot: what is there now. Raises NotFound."""
        ...

    def mounts(self, key: str) -> list[Mount]:
        """Of an active snapshot or a view, the same as prepare or view answered. Raises NotFound; FailedPrecondition
        for a committed one."""
        ...

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Makes an active snapshot. Raises AlreadyExists when the key exists, NotFound when the parent does not,
        InvalidArgument when the parent is not committed or the key is empty."""
        ...

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """As prepare, but nothing can be written through the mounts."""
        ...

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        """Makes the active snapshot ``key`` the committed one ``name``, with these labels only. Raises NotFound for a
        missing key, FailedPrecondition for one that is not active, AlreadyExists when the name exists."""
        ...

    def remove(self, key: str) -> None:
        """Raises NotFound; FailedPrecondition while it has children. Nobody may have it mounted."""
        ...

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """Every snapshot that one of the filters matches (``matcher``), all without; order is not defined."""
        ...

    def cleanup(self) -> None:
        """Frees what removed snapshots have left. Raises Unimplemented where removing leaves nothing."""
        ...

    def close(self) -> None: ...
