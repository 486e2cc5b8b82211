"""What the transactions of a snapshot's life do; ``snapshots.py`` and ``settling.py`` call the plugin in between.

Functions named ``begin_…`` are T1 of consistency.md, section 1, and answer what the call needs, or an error that is to
be raised once the transaction is durable. ``finish_…`` is T2. What is neither ready nor claimed was cut off.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kernel.metadata import edges, fields, graves
from kernel.metadata.database import Transaction
from kernel.metadata.namespaces import ensure
from plugin_sdk import errors, snapshots
from plugin_sdk.api.events import snapshot_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.snapshots import Kind

CREATING = "creating"
COMMITTING = "committing"
READY = "ready"

_ONE = "SELECT * FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?"


@dataclass(frozen=True, slots=True)
class Place:
    """Whose snapshots: every row is of one namespace and one snapshotter."""

    namespace: str
    snapshotter: str

    def node(self, name: str) -> str:
        return edges.node(f"snapshots/{self.snapshotter}", name)

    def claim(self, name: str) -> str:
        return f'snapshot "{name}" of {self.snapshotter} in {self.namespace}'


@dataclass(frozen=True, slots=True)
class Call:
    """The plugin's names of what a call is about: the snapshot's, and its parent's or the former key's."""

    backend: str
    other: str


class _Cursor(Protocol):
    def execute(self, sql: str, parameters: tuple[object, ...], /) -> sqlite3.Cursor: ...


def find(cursor: _Cursor, place: Place, name: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = cursor.execute(_ONE, (place.namespace, place.snapshotter, name)).fetchone()
    return row


def visible(row: sqlite3.Row | None) -> bool:
    """While it is committed, a key is there and the name is not."""
    return row is not None and (row["state"] == READY or (row["state"] == COMMITTING and row["kind"] != Kind.COMMITTED))


def get(cursor: _Cursor, place: Place, name: str) -> sqlite3.Row:
    """Raises NotFound."""
    row = find(cursor, place, name)
    if row is None or not visible(row):
        raise errors.NotFound(f"snapshot {name} does not exist: not found")
    return row


def info(row: sqlite3.Row) -> snapshots.Info:
    return snapshots.Info(
        name=row["name"],
        kind=Kind(row["kind"]),
        parent=row["parent"],
        labels=fields.load(row["labels"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def inherited(labels: Mapping[str, str]) -> dict[str, str]:
    """Those that the plugin is told."""
    prefix, target = snapshots.INHERITED_PREFIX, snapshots.TARGET_LABEL
    return {key: value for key, value in labels.items() if key.startswith(prefix) or key == target}


# --- prepare and view


def begin_prepare(
    tx: Transaction, scope: Scope, place: Place, key: str, parent: str, kind: Kind, labels: Mapping[str, str]
) -> Call | errors.Error:
    ensure(tx, place.namespace)
    for name in filter(None, (key, labels.get(snapshots.TARGET_LABEL))):
        row = find(tx, place, name)
        if row is not None and (name == key or row["state"] == READY):
            return _existing(tx, scope, place, row)
    above = _parent(tx, place, parent)
    backend = f"{place.namespace}/{tx.next()}/{key}"
    _insert(tx, place, key, kind, parent, CREATING, backend, labels)
    edges.lease(tx, scope, place.node(key))
    return Call(backend, above)


def finish_prepare(tx: Transaction, place: Place, key: str, backend: str) -> None:
    row = find(tx, place, key)
    if row is None or row["backend"] != backend:
        raise errors.Aborted(f'snapshot "{key}" was given up')
    _become_ready(tx, place, row)
    if row["kind"] == Kind.ACTIVE:
        event = snapshot_pb2.SnapshotPrepare(key=key, parent=row["parent"], snapshotter=place.snapshotter)
        tx.announce(place.namespace, "/snapshot/prepare", event)


def abandon(tx: Transaction, place: Place, key: str, *, uncertain: bool) -> None:
    """A prepare or view that failed or was cut off: its row becomes a grave."""
    row = find(tx, place, key)
    if row is not None and row["state"] == CREATING:
        _delete(tx, place, key)
        graves.dig(tx, graves.SNAPSHOTS, place.snapshotter, place.namespace, row["backend"], uncertain=uncertain)


def record_target(tx: Transaction, scope: Scope, place: Place, key: str, found: snapshots.Info) -> errors.AlreadyExists:
    """The plugin has the layer that a prepare named: the target's row takes the place of the one that was creating.

    The caller holds the claim of the plugin's key, and has seen it there since.
    """
    row = find(tx, place, key)
    if row is None:
        raise errors.Aborted(f'snapshot "{key}" was given up')
    labels = fields.load(row["labels"])
    target = labels[snapshots.TARGET_LABEL]
    _delete(tx, place, key)
    if find(tx, place, target) is None:
        try:
            graves.take_back(tx, graves.SNAPSHOTS, place.snapshotter, found.name)
        except graves.Begun as begun:
            raise errors.Unavailable(f'snapshot "{target}" is being removed') from begun
        _insert(tx, place, target, Kind.COMMITTED, row["parent"], READY, found.name, labels)
    edges.lease(tx, scope, place.node(target))
    return errors.AlreadyExists(f'target snapshot "{target}": already exists')


# --- commit


def begin_commit(
    tx: Transaction, scope: Scope, place: Place, name: str, key: str, labels: Mapping[str, str]
) -> Call | errors.Error:
    existing = find(tx, place, name)
    if existing is not None:
        return _existing(tx, scope, place, existing)
    row = _settled(get(tx, place, key))
    if row["kind"] != Kind.ACTIVE:
        raise errors.FailedPrecondition(f'failed to commit snapshot: snapshot "{key}" is not active')
    edges.require_lease(tx, scope)
    backend = f"{place.namespace}/{tx.next()}/{name}"
    _insert(tx, place, name, Kind.COMMITTED, row["parent"], COMMITTING, backend, labels, key, scope.lease or "")
    _set_state(tx, place, key, COMMITTING)
    return Call(backend, row["backend"])


def finish_commit(tx: Transaction, place: Place, name: str) -> None:
    row = find(tx, place, name)
    if row is None or row["state"] != COMMITTING:
        raise errors.Aborted(f'snapshot "{name}" was given up')
    _delete(tx, place, row["source"])
    _become_ready(tx, place, row)
    edges.hold_if_there(tx, place.namespace, row["lease"], place.node(name))
    event = snapshot_pb2.SnapshotCommit(key=row["source"], name=name, snapshotter=place.snapshotter)
    tx.announce(place.namespace, "/snapshot/commit", event)


def refuse_commit(tx: Transaction, place: Place, name: str) -> None:
    row = find(tx, place, name)
    if row is not None and row["state"] == COMMITTING:
        _delete(tx, place, name)
        _set_state(tx, place, row["source"], READY)


def lose_commit(tx: Transaction, place: Place, name: str) -> None:
    """The plugin has neither the key nor the name."""
    row = find(tx, place, name)
    if row is not None and row["state"] == COMMITTING:
        _delete(tx, place, name)
        _delete(tx, place, row["source"])


# --- remove


def remove(tx: Transaction, place: Place, key: str) -> None:
    row = _settled(get(tx, place, key))
    has_child, is_shared = tx.one(
        "SELECT EXISTS (SELECT 1 FROM snapshots WHERE namespace = ?1 AND snapshotter = ?2 AND parent = ?3), "
        "EXISTS (SELECT 1 FROM snapshots WHERE snapshotter = ?2 AND backend = ?4 AND (namespace, name) <> (?1, ?3))",
        (*_key(place, key), row["backend"]),
    )
    if has_child:
        raise errors.FailedPrecondition("cannot remove snapshot with child")
    _delete(tx, place, key)
    if not is_shared:
        graves.dig(tx, graves.SNAPSHOTS, place.snapshotter, place.namespace, row["backend"])
    event = snapshot_pb2.SnapshotRemove(key=key, snapshotter=place.snapshotter)
    tx.announce(place.namespace, "/snapshot/remove", event)


# --- labels


def set_labels(tx: Transaction, place: Place, row: sqlite3.Row, labels: Mapping[str, str]) -> bool:
    """True when the plugin must be told."""
    push = row["unpushed"] or inherited(labels) != inherited(fields.load(row["labels"]))
    tx.execute(
        "UPDATE snapshots SET labels = ?, unpushed = ?, updated_at = ? "
        "WHERE namespace = ? AND snapshotter = ? AND name = ?",
        (fields.dump(labels), bool(push), tx.now, *_key(place, row["name"])),
    )
    edges.replace(tx, place.namespace, place.node(row["name"]), _edges(place, row["name"], row["parent"], labels))
    return bool(push)


def pushed(tx: Transaction, place: Place, name: str) -> None:
    tx.execute(
        "UPDATE snapshots SET unpushed = 0 WHERE namespace = ? AND snapshotter = ? AND name = ?", _key(place, name)
    )


# --- parts


def _key(place: Place, name: str) -> tuple[str, str, str]:
    return (place.namespace, place.snapshotter, name)


def _existing(tx: Transaction, scope: Scope, place: Place, row: sqlite3.Row) -> errors.Error:
    if not visible(row):
        return errors.Unavailable(f'snapshot "{row["name"]}" is not settled yet')
    edges.lease(tx, scope, place.node(row["name"]))
    return errors.AlreadyExists(f'snapshot "{row["name"]}": already exists')


def _settled(row: sqlite3.Row) -> sqlite3.Row:
    """Raises Unavailable for a key whose commit was cut off."""
    if row["state"] != READY:
        raise errors.Unavailable(f'snapshot "{row["name"]}" is not settled yet')
    return row


def _parent(tx: Transaction, place: Place, parent: str) -> str:
    """The plugin's key of it; empty without a parent."""
    if not parent:
        return ""
    row = find(tx, place, parent)
    if row is None or not visible(row):
        raise errors.NotFound(f"parent snapshot {parent} does not exist: not found")
    if row["kind"] != Kind.COMMITTED:
        raise errors.InvalidArgument(f'failed to create snapshot: parent "{parent}" is not committed snapshot')
    return str(row["backend"])


def _insert(
    tx: Transaction,
    place: Place,
    name: str,
    kind: Kind,
    parent: str,
    state: str,
    backend: str,
    labels: Mapping[str, str],
    source: str = "",
    lease: str = "",
) -> None:
    tx.execute(
        "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
        (
            *_key(place, name),
            *(int(kind), parent, state, backend, fields.dump(labels), source, lease),
            *(tx.now, tx.now, tx.number),
        ),
    )
    edges.write(tx, place.namespace, place.node(name), _edges(place, name, parent, labels))


def _edges(place: Place, name: str, parent: str, labels: Mapping[str, str]) -> Iterable[edges.Edge]:
    node = place.node(name)
    if parent:
        yield edges.Edge(node, place.node(parent))
    yield from edges.of_labels(node, labels)


def _become_ready(tx: Transaction, place: Place, row: sqlite3.Row) -> None:
    """Born anew, and its edges with it: nobody could see it before."""
    tx.execute(
        "UPDATE snapshots SET state = ?, source = '', lease = '', created_at = ?, updated_at = ?, born = ? "
        "WHERE namespace = ? AND snapshotter = ? AND name = ?",
        (READY, tx.now, tx.now, tx.number, *_key(place, row["name"])),
    )
    tx.execute(
        "UPDATE edges SET born = ? WHERE namespace = ? AND owner = ?",
        (tx.number, place.namespace, place.node(row["name"])),
    )


def _set_state(tx: Transaction, place: Place, name: str, state: str) -> None:
    tx.execute(
        "UPDATE snapshots SET state = ? WHERE namespace = ? AND snapshotter = ? AND name = ?",
        (state, *_key(place, name)),
    )


def _delete(tx: Transaction, place: Place, name: str) -> None:
    tx.execute("DELETE FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?", _key(place, name))
    edges.end(tx, place.namespace, place.node(name))
