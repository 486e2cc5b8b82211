"""Containers of one namespace over SQLite."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace

import orjson

from kernel.metadata import edges, fields
from kernel.metadata.database import Database, Transaction
from kernel.metadata.namespaces import ensure
from plugin_sdk import errors, identifiers
from plugin_sdk import filters as filtering
from plugin_sdk.api.events import container_pb2
from plugin_sdk.containers import Container, Runtime
from plugin_sdk.runtime import Any
from plugin_sdk.scope import Scope

_COLUMNS = (
    "id, runtime, options_url, options, spec_url, spec, image, snapshotter, snapshot_key, sandbox, labels, extensions, "
    "created_at, updated_at"
)
_REPLACEABLE = ("labels", "spec", "extensions", "image", "snapshotkey")


class Containers:
    """Implements ``plugin_sdk.containers.Store``."""

    def __init__(self, database: Database, scope: Scope) -> None:
        self._database = database
        self._namespace = scope.namespace

    def get(self, id: str) -> Container:
        with self._database.read() as cursor:
            row = cursor.execute(
                f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? AND id = ?", (self._namespace, id)
            ).fetchone()
        if row is None:
            raise self._not_found(id)
        return _container(row)

    def list(self, filters: Sequence[str] = ()) -> Sequence[Container]:
        match = filtering.compile(filters)
        with self._database.read() as cursor:
            rows = cursor.execute(
                f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? ORDER BY id", (self._namespace,)
            ).fetchall()
        return [container for container in map(_container, rows) if match(_adaptor(container))]

    def create(self, container: Container) -> Container:
        kept = replace(container, labels=fields.checked(container.labels))
        _validate(kept)

        def change(tx: Transaction) -> Container:
            ensure(tx, self._namespace)
            if self._row(tx, kept.id):
                raise errors.AlreadyExists(f'container "{kept.id}": already exists')
            made = self._put(tx, replace(kept, created_at=tx.now, updated_at=tx.now))
            runtime = container_pb2.ContainerCreate.Runtime(name=made.runtime.name)
            if made.runtime.options.type_url:
                runtime.options.type_url = made.runtime.options.type_url
                runtime.options.value = made.runtime.options.value
            event = container_pb2.ContainerCreate(id=made.id, image=made.image, runtime=runtime)
            tx.announce(self._namespace, "/containers/create", event)
            return made

        return self._database.write(change)

    def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        if not container.id:
            raise errors.InvalidArgument("must specify a container id")

        def change(tx: Transaction) -> Container:
            row = self._row(tx, container.id)
            if row is None:
                raise self._not_found(container.id)
            changed = _changed(_container(row), container, fieldpaths)
            changed = replace(changed, labels=fields.checked(changed.labels), updated_at=tx.now)
            _validate(changed)
            self._put(tx, changed)
            event = container_pb2.ContainerUpdate(
                id=changed.id, image=changed.image, labels=changed.labels, snapshot_key=changed.snapshot_key
            )
            tx.announce(self._namespace, "/containers/update", event)
            return changed

        return self._database.write(change)

    def delete(self, id: str) -> None:
        def change(tx: Transaction) -> None:
            if self._row(tx, id) is None:
                raise self._not_found(id)
            tx.execute("DELETE FROM containers WHERE namespace = ? AND id = ?", (self._namespace, id))
            edges.forget(tx, self._namespace, edges.node("containers", id))
            tx.announce(self._namespace, "/containers/delete", container_pb2.ContainerDelete(id=id))

        self._database.write(change)

    def _row(self, tx: Transaction, id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = tx.one(
            f"SELECT {_COLUMNS} FROM containers WHERE namespace = ? AND id = ?", (self._namespace, id)
        )
        return row

    def _put(self, tx: Transaction, container: Container) -> Container:
        runtime, spec = container.runtime, container.spec
        tx.execute(
            f"INSERT OR REPLACE INTO containers (namespace, {_COLUMNS}, born) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(self._namespace, container.id, runtime.name, runtime.options.type_url, runtime.options.value),
                *(spec.type_url, spec.value, container.image, container.snapshotter, container.snapshot_key),
                *(container.sandbox, fields.dump(container.labels), _dump(container.extensions)),
                *(container.created_at, container.updated_at, tx.number),
            ),
        )
        node = edges.node("containers", container.id)
        caused = [edges.Edge(edges.ROOT, node), *edges.of_labels(node, container.labels)]
        if container.snapshot_key:
            snapshot = edges.node(f"snapshots/{container.snapshotter}", container.snapshot_key)
            caused.append(edges.Edge(node, snapshot))
        edges.replace(tx, self._namespace, node, caused)
        return container

    def _not_found(self, id: str) -> errors.NotFound:
        return errors.NotFound(f'container "{id}" in namespace "{self._namespace}": not found')


def _container(row: sqlite3.Row) -> Container:
    return Container(
        id=row["id"],
        runtime=Runtime(row["runtime"], Any(row["options_url"], row["options"])),
        spec=Any(row["spec_url"], row["spec"]),
        image=row["image"],
        snapshotter=row["snapshotter"],
        snapshot_key=row["snapshot_key"],
        labels=fields.load(row["labels"]),
        extensions=_load(row["extensions"]),
        sandbox=row["sandbox"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _dump(extensions: Mapping[str, Any]) -> str:
    encoded = {key: [any.type_url, base64.b64encode(any.value).decode()] for key, any in extensions.items()}
    return orjson.dumps(encoded).decode()


def _load(text: str) -> dict[str, Any]:
    return {key: Any(url, base64.b64decode(value)) for key, (url, value) in orjson.loads(text).items()}


def _changed(current: Container, given: Container, fieldpaths: Sequence[str]) -> Container:
    if not fieldpaths:
        _refuse_other_kind(current, given)
    kept, extensions = dict(current.labels), dict(current.extensions)
    for path in fieldpaths or _REPLACEABLE:
        if path == "spec":
            current = replace(current, spec=given.spec)
        elif path == "image":
            current = replace(current, image=given.image)
        elif path == "snapshotkey":
            current = replace(current, snapshot_key=given.snapshot_key)
        elif not (
            fields.merge(path, "labels", kept, given.labels)
            or fields.merge(path, "extensions", extensions, given.extensions)
        ):
            raise fields.invalid_path(path, f'container "{current.id}"')
    return replace(current, labels=kept, extensions=extensions)


def _refuse_other_kind(current: Container, given: Container) -> None:
    if given.snapshotter != current.snapshotter:
        raise errors.InvalidArgument(f'container "{current.id}": the snapshotter cannot be changed')
    if given.runtime.name != current.runtime.name:
        raise errors.InvalidArgument(f'container "{current.id}": the runtime cannot be changed')


def _validate(container: Container) -> None:
    identifiers.validate(container.id)
    if "" in container.extensions:
        raise errors.InvalidArgument(f'container "{container.id}": the key of an extension must not be empty')
    if not container.runtime.name:
        raise errors.InvalidArgument(f'container "{container.id}": the runtime must be set')
    if not container.spec.type_url and not container.spec.value:
        raise errors.InvalidArgument(f'container "{container.id}": the spec must be set')
    if container.snapshot_key and not container.snapshotter:
        raise errors.InvalidArgument(f'container "{container.id}": a snapshot key needs a snapshotter')


def _adaptor(container: Container) -> filtering.Adaptor:
    plain = {"id": container.id, "runtime.name": container.runtime.name, "image": container.image}

    def field(path: Sequence[str]) -> str | None:
        return plain.get(filtering.fields(path)) or filtering.join(path, "labels", container.labels)

    return field
