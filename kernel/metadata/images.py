"""Images of one namespace over SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from kernel.metadata import edges, fields
from kernel.metadata.database import Database, Transaction
from kernel.metadata.namespaces import ensure
from plugin_sdk import errors, identifiers
from plugin_sdk import filters as filtering
from plugin_sdk.api.events import image_pb2
from plugin_sdk.images import Image
from plugin_sdk.oci import Descriptor
from plugin_sdk.scope import Scope

_COLUMNS = "name, media_type, digest, size, annotations, labels, created_at, updated_at"
_TYPE = "containerd.services.images.v1."


class Images:
    """Implements ``plugin_sdk.images.Store``."""

    def __init__(self, database: Database, scope: Scope) -> None:
        self._database = database
        self._scope = scope
        self._namespace = scope.namespace

    def get(self, name: str) -> Image:
        with self._database.read() as cursor:
            row = cursor.execute(
                f"SELECT {_COLUMNS} FROM images WHERE namespace = ? AND name = ?", (self._namespace, name)
            ).fetchone()
        if row is None:
            raise _not_found(name)
        return _image(row)

    def list(self, filters: Sequence[str] = ()) -> Sequence[Image]:
        match = filtering.compile(filters)
        with self._database.read() as cursor:
            rows = cursor.execute(
                f"SELECT {_COLUMNS} FROM images WHERE namespace = ? ORDER BY name", (self._namespace,)
            ).fetchall()
        return [image for image in map(_image, rows) if match(_adaptor(image))]

    def create(self, image: Image, source_date_epoch: int | None = None) -> Image:
        kept = replace(image, labels=fields.checked(image.labels))
        _validate(kept)

        def change(tx: Transaction) -> Image | errors.AlreadyExists:
            ensure(tx, self._namespace)
            edges.lease(tx, self._scope, edges.node("images", kept.name))
            if _row(tx, self._namespace, kept.name):
                return errors.AlreadyExists(f'image "{kept.name}": already exists')
            now = tx.now if source_date_epoch is None else source_date_epoch
            return self._put(tx, replace(kept, created_at=now, updated_at=now), "create")

        result = self._database.write(change)
        if isinstance(result, errors.Error):
            raise result
        return result

    def update(self, image: Image, fieldpaths: Sequence[str] = (), source_date_epoch: int | None = None) -> Image:
        if not image.name:
            raise errors.InvalidArgument("image name is required for update")

        def change(tx: Transaction) -> Image:
            row = _row(tx, self._namespace, image.name)
            if row is None:
                raise _not_found(image.name)
            changed = _changed(_image(row), image, fieldpaths)
            changed = replace(changed, labels=fields.checked(changed.labels))
            _validate(changed)
            now = tx.now if source_date_epoch is None else source_date_epoch
            return self._put(tx, replace(changed, updated_at=now), "update")

        return self._database.write(change)

    def delete(self, name: str, *, sync: bool = False, target: Descriptor | None = None) -> None:
        def change(tx: Transaction) -> None:
            row = _row(tx, self._namespace, name)
            if row is None or (target is not None and row["digest"] != target.digest):
                raise _not_found(name)
            tx.execute("DELETE FROM images WHERE namespace = ? AND name = ?", (self._namespace, name))
            node = edges.node("images", name)
            edges.end(tx, self._namespace, node)
            event = image_pb2.ImageDelete(name=name)
            tx.emit(self._namespace, "/images/delete", f"{_TYPE}ImageDelete", event.SerializeToString())

        self._database.write(change)

    def _put(self, tx: Transaction, image: Image, verb: str) -> Image:
        target = image.target
        tx.execute(
            f"INSERT OR REPLACE INTO images (namespace, {_COLUMNS}, born) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(self._namespace, image.name, target.media_type, target.digest, target.size),
                *(fields.dump(target.annotations), fields.dump(image.labels)),
                *(image.created_at, image.updated_at, tx.number),
            ),
        )
        node = edges.node("images", image.name)
        root = edges.Edge(edges.ROOT, node, expires=edges.expiry(image.labels))
        content = edges.Edge(node, edges.node("content", target.digest))
        edges.replace(tx, self._namespace, node, [*edges.of_labels(node, image.labels), root, content])
        self._announce(tx, image, verb)
        return image

    def _announce(self, tx: Transaction, image: Image, verb: str) -> None:
        message = (image_pb2.ImageCreate if verb == "create" else image_pb2.ImageUpdate)(
            name=image.name, labels=image.labels
        )
        payload = message.SerializeToString(deterministic=True)
        tx.emit(self._namespace, f"/images/{verb}", f"{_TYPE}Image{verb.capitalize()}", payload)


def _row(tx: Transaction, namespace: str, name: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = tx.one(
        f"SELECT {_COLUMNS} FROM images WHERE namespace = ? AND name = ?", (namespace, name)
    )
    return row


def _image(row: sqlite3.Row) -> Image:
    name, media_type, digest, size, annotations, text, created_at, updated_at = row
    target = Descriptor(media_type, digest, size, fields.load(annotations))
    return Image(name, target, fields.load(text), created_at, updated_at)


def _changed(current: Image, given: Image, fieldpaths: Sequence[str]) -> Image:
    if not fieldpaths:
        return replace(given, created_at=current.created_at)
    kept, target = dict(current.labels), current.target
    for path in fieldpaths:
        if path == "target":
            target = given.target
            continue
        annotations = dict(target.annotations)
        if fields.merge(path, "annotations", annotations, given.target.annotations):
            target = replace(target, annotations=annotations)
        elif not fields.merge(path, "labels", kept, given.labels):
            raise fields.invalid_path(path, f'image "{current.name}"')
    return replace(current, labels=kept, target=target)


def _validate(image: Image) -> None:
    if not image.name:
        raise errors.InvalidArgument("image name must not be empty")
    try:
        identifiers.validate_digest(image.target.digest)
    except errors.InvalidArgument as err:
        raise errors.InvalidArgument(f'image "{image.name}": target digest: {err.message}') from err
    if image.target.size <= 0:
        raise errors.InvalidArgument(f'image "{image.name}": target size must be greater than zero')
    if not image.target.media_type:
        raise errors.InvalidArgument(f'image "{image.name}": target media type must be set')


def _not_found(name: str) -> errors.NotFound:
    return errors.NotFound(f'image "{name}": not found')


def _adaptor(image: Image) -> filtering.Adaptor:
    plain = {
        "name": image.name,
        "target.digest": image.target.digest,
        "target.mediatype": image.target.media_type,
    }

    def field(path: Sequence[str]) -> str | None:
        if value := plain.get(filtering.fields(path)):
            return value
        return filtering.join(path, "labels", image.labels) or filtering.join(
            path, "annotations", image.target.annotations
        )

    return field
