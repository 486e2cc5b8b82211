"""References between objects: who may not be collected because of whom.

The tables' module says what nodes and edges are. Labels that make edges:

- ``containerd.io/gc.ref.content`` and the same with ``.ANY`` or ``/ANY``: to the blob whose digest is the value.
- ``containerd.io/gc.ref.snapshot.SNAPSHOTTER``, also with ``/ANY``: to the snapshot whose name is the value.
- ``containerd.io/gc.ref.image``, also with ``.ANY`` or ``/ANY``: to the image whose name is the value.
- ``containerd.io/gc.bref.…`` with the same endings: from that object to the labelled one.
- ``containerd.io/gc.root``, any value: the object is a root.
- ``containerd.io/gc.expire``, RFC 3339: until when a lease or an image is a root.
- ``containerd.io/gc.flat`` on a lease: it holds its objects, but not what those refer to.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kernel.metadata.database import Transaction
from plugin_sdk import errors
from plugin_sdk.leases import EXPIRE_LABEL
from plugin_sdk.scope import Scope

ROOT = ""
PREFIX = "containerd.io/gc."
ROOT_LABEL = "containerd.io/gc.root"
FLAT_LABEL = "containerd.io/gc.flat"

_REFERENCE = re.compile(r"containerd\.io/gc\.(b?ref)\.(content|image|snapshot)(?:([./])(.*))?", re.DOTALL)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Edge:
    source: str
    target: str
    cause: str = "record"
    flat: bool = False
    expires: int = 0


def node(type: str, id: str) -> str:
    """``type`` is ``content``, ``ingests``, ``images``, ``snapshots/NAME``, ``containers`` or ``leases``."""
    return f"{type} {id}"


def write(tx: Transaction, namespace: str, owner: str, edges: Iterable[Edge]) -> None:
    tx.each(
        "INSERT INTO edges VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET flat = excluded.flat, expires = excluded.expires, born = excluded.born",
        [
            (namespace, owner, edge.source, edge.target, edge.cause, edge.flat, edge.expires, tx.number)
            for edge in edges
        ],
    )


def forget(tx: Transaction, namespace: str, owner: str) -> None:
    """Removes all edges that the owner's row has caused."""
    tx.execute("DELETE FROM edges WHERE namespace = ? AND owner = ?", (namespace, owner))


def replace(tx: Transaction, namespace: str, owner: str, edges: Iterable[Edge]) -> None:
    forget(tx, namespace, owner)
    write(tx, namespace, owner, edges)


def of_labels(owner: str, labels: Mapping[str, str]) -> Iterator[Edge]:
    for key, value in labels.items():
        if not key.startswith(PREFIX):
            continue
        if key == ROOT_LABEL:
            yield Edge(ROOT, owner, "label")
        elif other := _referred(key, value):
            yield Edge(other, owner, "label") if key.startswith(f"{PREFIX}bref.") else Edge(owner, other, "label")


def expiry(labels: Mapping[str, str]) -> int:
    """Nanoseconds since the epoch; 0 without the label, and for one that is not a time."""
    text = labels.get(EXPIRE_LABEL, "")
    match = _TIME.fullmatch(text)
    if match is None:
        return 0
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    except ValueError:
        return 0
    # 1 instead of 0 or less: a time at or before the epoch has passed, and 0 means never
    return max(1, int(moment.timestamp()) * 1_000_000_000 + int((fraction or "").ljust(9, "0")))


def lease(tx: Transaction, scope: Scope, target: str) -> None:
    """Adds an object to the caller's lease, if it has one. Raises NotFound when the lease has gone."""
    if scope.lease:
        hold(tx, scope.namespace, scope.lease, target)


def hold(tx: Transaction, namespace: str, lease_id: str, target: str) -> None:
    """Adds an object to a lease. Raises NotFound."""
    row = tx.one("SELECT labels FROM leases WHERE namespace = ? AND id = ?", (namespace, lease_id))
    if row is None:
        raise errors.NotFound(f'lease "{lease_id}": not found')
    owner = node("leases", lease_id)
    write(tx, namespace, owner, [Edge(owner, target, "lease", flat=f'"{FLAT_LABEL}"' in row[0])])


def require_lease(tx: Transaction, scope: Scope) -> None:
    """Raises NotFound when the caller names a lease that is not there."""
    if scope.lease and not _lease_exists(tx, scope.namespace, scope.lease):
        raise errors.NotFound(f'lease "{scope.lease}": not found')


def hold_if_there(tx: Transaction, namespace: str, lease_id: str, target: str) -> None:
    """Adds an object to a lease, unless that has gone since the change began; empty means none."""
    if lease_id and _lease_exists(tx, namespace, lease_id):
        hold(tx, namespace, lease_id, target)


def end(tx: Transaction, namespace: str, node: str) -> None:
    """Of an object that has gone: removes the edges that its row has caused, and takes it out of all leases."""
    forget(tx, namespace, node)
    tx.execute("DELETE FROM edges WHERE namespace = ? AND target = ? AND cause = 'lease'", (namespace, node))


def _lease_exists(tx: Transaction, namespace: str, lease_id: str) -> bool:
    return tx.one("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (namespace, lease_id)) is not None


def _referred(key: str, value: str) -> str | None:
    match = _REFERENCE.fullmatch(key)
    if match is None:
        return None
    _, noun, separator, rest = match.groups()
    if noun == "content":
        return node("content", value)
    if noun == "image":
        return node("images", value)
    snapshotter = (rest or "").partition("/")[0]
    return node(f"snapshots/{snapshotter}", value) if separator == "." and snapshotter else None
