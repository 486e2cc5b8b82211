"""Leases of one namespace over SQLite: what a lease holds are edges that it owns."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence

from kernel.metadata import edges, fields
from kernel.metadata.database import Database, Transaction
from kernel.metadata.namespaces import ensure
from plugin_sdk import errors
from plugin_sdk import filters as filtering
from plugin_sdk.leases import Lease, Resource
from plugin_sdk.scope import Scope

_PLAIN = frozenset({"content", "ingests", "images"})


def exists(database: Database, namespace: str, id: str) -> bool:
    with database.read() as cursor:
        found = cursor.execute("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (namespace, id)).fetchone()
    return found is not None


class Leases:
    """Implements ``plugin_sdk.leases.Manager``."""

    def __init__(self, database: Database, scope: Scope) -> None:
        self._database = database
        self._namespace = scope.namespace

    def create(self, id: str, labels: Mapping[str, str] | None = None) -> Lease:
        id = id or f"{time.time_ns()}-{secrets.token_urlsafe(3)}"
        kept = fields.checked(labels)

        def change(tx: Transaction) -> Lease:
            ensure(tx, self._namespace)
            if self._row(tx, id):
                raise errors.AlreadyExists(f'lease "{id}": already exists')
            values = (self._namespace, id, fields.dump(kept), tx.now, tx.number)
            tx.execute("INSERT INTO leases VALUES (?, ?, ?, ?, ?)", values)
            node = edges.node("leases", id)
            root = edges.Edge(edges.ROOT, node, expires=edges.expiry(kept))
            edges.write(tx, self._namespace, node, [*edges.of_labels(node, kept), root])
            return Lease(id, tx.now, kept)

        return self._database.write(change)

    def delete(self, id: str, *, sync: bool = False) -> None:
        def change(tx: Transaction) -> None:
            self._require(tx, id)
            tx.execute("DELETE FROM leases WHERE namespace = ? AND id = ?", (self._namespace, id))
            edges.forget(tx, self._namespace, edges.node("leases", id))

        self._database.write(change)

    def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        match = filtering.compile(filters)
        with self._database.read() as cursor:
            rows = cursor.execute(
                "SELECT id, created_at, labels FROM leases WHERE namespace = ? ORDER BY id", (self._namespace,)
            ).fetchall()
        found = [Lease(id, created_at, fields.load(text)) for id, created_at, text in rows]
        return [lease for lease in found if match(_adaptor(lease))]

    def add_resource(self, id: str, resource: Resource) -> None:
        node = _node(resource)
        self._database.write(lambda tx: edges.hold(tx, self._namespace, id, node))

    def delete_resource(self, id: str, resource: Resource) -> None:
        node, lease = _node(resource), edges.node("leases", id)

        def change(tx: Transaction) -> None:
            self._require(tx, id)
            tx.execute(
                "DELETE FROM edges WHERE namespace = ? AND owner = ? AND target = ? AND cause = 'lease'",
                (self._namespace, lease, node),
            )

        self._database.write(change)

    def list_resources(self, id: str) -> Sequence[Resource]:
        lease = edges.node("leases", id)
        with self._database.read() as cursor:
            key = (self._namespace, id)
            if cursor.execute("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", key).fetchone() is None:
                raise _not_found(id)
            rows = cursor.execute(
                "SELECT target FROM edges WHERE namespace = ? AND owner = ? AND cause = 'lease' ORDER BY target",
                (self._namespace, lease),
            ).fetchall()
        return [Resource(target.partition(" ")[2], target.partition(" ")[0]) for (target,) in rows]

    def _row(self, tx: Transaction, id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = tx.one("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (self._namespace, id))
        return row

    def _require(self, tx: Transaction, id: str) -> None:
        if self._row(tx, id) is None:
            raise _not_found(id)


def _node(resource: Resource) -> str:
    kind, _, name = resource.type.partition("/")
    if kind == "snapshots":
        if not name or "/" in name:
            raise errors.InvalidArgument(f'resource type "{resource.type}" must be snapshots/NAME of a snapshotter')
    elif resource.type not in _PLAIN:
        raise errors.Unimplemented(f'resource type "{resource.type}" is not supported')
    return edges.node(resource.type, resource.id)


def _not_found(id: str) -> errors.NotFound:
    return errors.NotFound(f'lease "{id}": not found')


def _adaptor(lease: Lease) -> filtering.Adaptor:
    def field(path: Sequence[str]) -> str | None:
        return lease.id if filtering.fields(path) == "id" else filtering.join(path, "labels", lease.labels)

    return field
