"""Namespaces over SQLite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kernel.metadata import fields, graves
from kernel.metadata.backends import Backends
from kernel.metadata.database import Transaction
from plugin_sdk import errors, identifiers, plugin
from plugin_sdk import filters as filtering
from plugin_sdk.api.events import namespace_pb2
from plugin_sdk.namespaces import Namespace

_HOLDS = (
    ("images", "SELECT 1 FROM images WHERE namespace = ?"),
    ("blobs", "SELECT 1 FROM blobs WHERE namespace = ?"),
    ("containers", "SELECT 1 FROM containers WHERE namespace = ?"),
    ("commits under way", "SELECT 1 FROM ingests WHERE namespace = ? AND state = 'committing'"),
)


def ensure(tx: Transaction, name: str) -> None:
    """Makes the namespace of a first write. Raises InvalidArgument for a malformed name."""
    if tx.one("SELECT 1 FROM namespaces WHERE name = ?", (name,)) is None:
        identifiers.validate(name)
        tx.execute("INSERT INTO namespaces (name, born) VALUES (?, ?)", (name, tx.number))


class Namespaces:
    """Implements ``plugin_sdk.namespaces.Store``.

    ``caller`` is the namespace that the caller works in, if any: events of making and changing belong there, as
    containerd's do, and the event of deleting to the namespace itself.
    """

    def __init__(self, backends: Backends, caller: str = "") -> None:
        self._backends = backends
        self._database = backends.database
        self._caller = caller

    def get(self, name: str) -> Namespace:
        identifiers.validate(name)
        with self._database.read() as cursor:
            row = cursor.execute("SELECT labels FROM namespaces WHERE name = ?", (name,)).fetchone()
        return Namespace(name, fields.load(row[0]) if row else {})

    def list(self, filters: Sequence[str] = ()) -> Sequence[Namespace]:
        match = filtering.compile(filters)
        with self._database.read() as cursor:
            rows = cursor.execute("SELECT name, labels FROM namespaces ORDER BY name").fetchall()
        found = [Namespace(name, fields.load(text)) for name, text in rows]
        return [namespace for namespace in found if match(_adaptor(namespace))]

    def create(self, namespace: Namespace) -> Namespace:
        identifiers.validate(namespace.name)
        kept = fields.checked(namespace.labels)

        def change(tx: Transaction) -> None:
            if tx.one("SELECT 1 FROM namespaces WHERE name = ?", (namespace.name,)):
                raise errors.AlreadyExists(f'namespace "{namespace.name}": already exists')
            tx.execute("INSERT INTO namespaces VALUES (?, ?, ?)", (namespace.name, fields.dump(kept), tx.number))
            event = namespace_pb2.NamespaceCreate(name=namespace.name, labels=namespace.labels)
            tx.announce(self._caller or namespace.name, "/namespaces/create", event)

        self._database.write(change)
        return Namespace(namespace.name, kept)

    def update(self, namespace: Namespace, fieldpaths: Sequence[str] = ()) -> Namespace:
        name = namespace.name
        identifiers.validate(name)
        for path in fieldpaths:
            if not path.startswith("labels."):
                raise fields.invalid_path(path, f'namespace "{name}"')

        def change(tx: Transaction) -> Mapping[str, str]:
            row = tx.one("SELECT labels FROM namespaces WHERE name = ?", (name,))
            if row is None:
                raise errors.NotFound(f'namespace "{name}": not found')
            kept = fields.changed(f'namespace "{name}"', fields.load(row[0]), namespace.labels, fieldpaths)
            tx.execute("UPDATE namespaces SET labels = ? WHERE name = ?", (fields.dump(kept), name))
            event = namespace_pb2.NamespaceUpdate(name=name, labels=namespace.labels)
            tx.announce(self._caller or name, "/namespaces/update", event)
            return kept

        return Namespace(name, self._database.write(change))

    def delete(self, name: str) -> None:
        identifiers.validate(name)

        def change(tx: Transaction) -> bool:
            if tx.one("SELECT 1 FROM namespaces WHERE name = ?", (name,)) is None:
                raise errors.NotFound(f'namespace "{name}": not found')
            if held := _holds(tx, name):
                text = ", ".join(held)
                raise errors.FailedPrecondition(f'namespace "{name}" must be empty, but it still has {text}')
            buried = self._bury_ingests(tx, name)
            tx.execute("DELETE FROM leases WHERE namespace = ?", (name,))
            tx.execute("DELETE FROM edges WHERE namespace = ?", (name,))
            tx.execute("DELETE FROM namespaces WHERE name = ?", (name,))
            tx.announce(name, "/namespaces/delete", namespace_pb2.NamespaceDelete(name=name))
            return buried

        if self._database.write(change):
            self._backends.kick(plugin.CONTENT, self._backends.content_id())

    def _bury_ingests(self, tx: Transaction, name: str) -> bool:
        """Writes in progress do not keep a namespace."""
        rows = tx.all("SELECT backend FROM ingests WHERE namespace = ? AND NOT shared", (name,))
        for (backend,) in rows:
            graves.dig(tx, graves.INGESTS, self._backends.content_id(), name, backend)
        tx.execute("DELETE FROM ingests WHERE namespace = ?", (name,))
        return bool(rows)


def _holds(tx: Transaction, name: str) -> list[str]:
    held = [what for what, sql in _HOLDS if tx.one(sql, (name,))]
    rows = tx.all("SELECT DISTINCT snapshotter FROM snapshots WHERE namespace = ? ORDER BY 1", (name,))
    return held + [f'snapshots on "{snapshotter}" snapshotter' for (snapshotter,) in rows]


def _adaptor(namespace: Namespace) -> filtering.Adaptor:
    def field(path: Sequence[str]) -> str | None:
        if filtering.fields(path) == "name":
            return namespace.name
        return filtering.join(path, "labels", namespace.labels)

    return field
