"""Snapshots: the file systems of containers, in layers.

Words. A snapshot is **active** (writable, in work), a **view** (read-only, of a committed one) or **committed**
(immutable; only such a one can be a **parent**). An active snapshot and a view have a **key**, a committed one a
**name**. A **mount** says how to see a snapshot as a directory; the caller mounts it (``plugin_sdk.mounts``).

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

Files. An active snapshot shows its parent's tree with the changes made through its mounts, now and whenever they are
mounted again. Without a parent it is an empty directory of mode 0755 at first. A tree is kept in every respect: names,
types, content, links, modes, owners, times and extended attributes. Holes in files stay holes where the file system
has them. Nothing done to a snapshot changes what its parents and siblings show. When ``commit`` returns, the files are
on disk: a power cut afterwards loses nothing.

Names. Keys and names are one space: what is taken by one is taken for the other. Each is any text of 1 to 4096 bytes
in UTF-8, kept as it is; two that differ anywhere are two snapshots. The message of an error names what is missing,
taken or of the wrong kind.

Labels. They are kept as they are given, thousands of them too, for as long as a request fits into a message of 16 MiB.
A key and its value have at most 4096 bytes together; a longer label is refused with InvalidArgument or kept, never
cut. A label whose value is empty is not kept. Nobody inherits labels: neither a child from its parent, nor the name
from the key. Labels that begin with ``containerd.io/snapshot/`` are hints; one that a snapshotter does not know
changes nothing.

Failures. Each method has its whole effect or none: one that raises has changed nothing. At a crash within a method,
the snapshotter is after its next start in the state before or after it. All that was answered before a crash is true
after it: snapshots and their fields, files, usage and mounts. Repeating a call that was cut off is safe: it succeeds,
or says AlreadyExists or NotFound.

Threads. All methods block and may be called from several threads. Calls at the same time leave what they would leave
one after the other: of several that want one key or name one gets it, and no child loses its parent. Times are
nanoseconds since the epoch.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from plugin_sdk import filters as filter_language
from plugin_sdk.mounts import Mount

TARGET_LABEL = "containerd.io/snapshot.ref"
"""Given to prepare: the name under which the caller will commit. A snapshotter that has that layer already may make it
a committed snapshot with this label, on this parent, and raise AlreadyExists; there is no ``key`` then. One that has
not prepares."""

INHERITED_PREFIX = "containerd.io/snapshot/"


class Kind(enum.IntEnum):
    """Numbers as on the wire."""

    UNKNOWN = 0
    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class Info:
    """``name`` is the key or the name. ``created_at`` is when the snapshot became what it is, active, view or
    committed; ``updated_at`` when its labels last changed, if they have."""

    name: str
    kind: Kind
    parent: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


def matcher(filters: Sequence[str]) -> Callable[[Info], bool]:
    """The filterable fields are ``kind`` (view, active, committed), ``name``, ``parent``, which is absent without one,
    and ``labels.KEY``. A malformed filter raises InvalidArgument."""
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
    """What a snapshot itself takes on disk, in bytes and inodes, its own directory among them.

    A file of several links counts once. What a snapshot shares with its parents is not counted.
    """

    size: int
    inodes: int


class Snapshotter(Protocol):
    def stat(self, key: str) -> Info:
        """Kind, parent, labels and times of a key or a name. Without the snapshot, ``stat`` raises NotFound."""
        ...

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        """Changes the labels of the snapshot ``info.name``, of any kind, and answers its new info.

        Kind, parent and times of ``info`` are not looked at, and stay. Without ``fieldpaths`` the labels given replace
        all. With them, only those change that are named as ``labels.KEY``, where KEY is all that follows the first dot,
        or all by ``labels``; one that is named and not given is removed. Another path raises InvalidArgument. Without
        the snapshot, ``update`` raises NotFound.
        """
        ...

    def usage(self, key: str) -> Usage:
        """Of an active snapshot, what is there now; of a committed one, what was there at its commit. Without the
        snapshot, ``usage`` raises NotFound."""
        ...

    def mounts(self, key: str) -> list[Mount]:
        """The same as prepare or view answered, for as long as the key is there. A committed snapshot has none:
        FailedPrecondition. Without the snapshot, ``mounts`` raises NotFound."""
        ...

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Makes an active snapshot. Raises AlreadyExists when the key exists. Raises NotFound when the parent does not
        exist. Raises InvalidArgument when the parent is not committed. Raises InvalidArgument for an empty key."""
        ...

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """As prepare, but nothing can be written through the mounts. A view shows its parent's tree, without a parent
        an empty directory."""
        ...

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        """Makes the active snapshot ``key`` the committed one ``name``, with the same parent and these labels only.

        The key is free then. Raises AlreadyExists when the name exists, also as ``key`` itself. Raises
        FailedPrecondition when ``key`` is a view or committed. Raises InvalidArgument for an empty name. Without the
        active snapshot, ``commit`` raises NotFound.
        """
        ...

    def remove(self, key: str) -> None:
        """Removes a snapshot of any kind, and its key or name is free. The caller has unmounted it before. While it has
        children, ``remove`` raises FailedPrecondition. Without the snapshot, ``remove`` raises NotFound."""
        ...

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """Every snapshot that one of the filters matches (``matcher``), all without, each once with all that ``stat``
        tells; order is not defined. What comes or goes while it walks may be among them or not."""
        ...

    def cleanup(self) -> None:
        """Frees what removed snapshots have left, and nothing else. Raises Unimplemented where removing leaves
        nothing."""
        ...

    def close(self) -> None:
        """Ends the use of the object; a second time does nothing."""
        ...
