"""Images: a name points to a descriptor.

The **name** is any non-empty text, mostly a reference such as ``docker.io/library/busybox:latest``; the **target** is
the descriptor of an index or a manifest. The store does not look into blobs.

Field paths are ``target``, ``labels``, ``labels.KEY``, ``annotations`` and ``annotations.KEY`` (of the target); KEY
is all that follows the first dot. Filters know name, target.digest, target.mediatype, labels and annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from plugin_sdk.oci import Descriptor


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    target: Descriptor
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0
    updated_at: int = 0


class Store(Protocol):
    def get(self, name: str) -> Image:
        """Raises NotFound."""
        ...

    def list(self, filters: Sequence[str] = ()) -> Sequence[Image]: ...

    def create(self, image: Image, source_date_epoch: int | None = None) -> Image:
        """Raises AlreadyExists; InvalidArgument for an empty name or a target without valid digest, size or media type.

        ``source_date_epoch`` in nanoseconds becomes its time of creation and update."""
        ...

    def update(self, image: Image, fieldpaths: Sequence[str] = (), source_date_epoch: int | None = None) -> Image:
        """Replaces the named fields, or the whole record but ``created_at``. Raises NotFound, InvalidArgument."""
        ...

    def delete(self, name: str, *, sync: bool = False, target: Descriptor | None = None) -> None:
        """``sync`` returns when what only this image held has been collected. With a ``target``, raises NotFound
        unless the image still points there. Raises NotFound."""
        ...
