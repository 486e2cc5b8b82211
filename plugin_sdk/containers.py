"""Containers: records of what to run; a task is the running instance.

The id is an identifier (``plugin_sdk.identifiers``). ``spec``, ``runtime.options`` and the values of ``extensions``
are messages kept byte for byte. Field paths are ``labels``, ``labels.KEY``, ``spec``, ``image``, ``snapshotkey``,
``extensions`` and ``extensions.KEY``. Filters know id, runtime.name, image and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from plugin_sdk.runtime import Any


@dataclass(frozen=True, slots=True)
class Runtime:
    name: str
    options: Any = field(default_factory=Any)


@dataclass(frozen=True, slots=True)
class Container:
    id: str
    runtime: Runtime
    spec: Any = field(default_factory=Any)
    image: str = ""
    snapshotter: str = ""
    snapshot_key: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, Any] = field(default_factory=dict)
    sandbox: str = ""
    created_at: int = 0
    updated_at: int = 0


class Store(Protocol):
    def get(self, id: str) -> Container:
        """Raises NotFound."""
        ...

    def list(self, filters: Sequence[str] = ()) -> Sequence[Container]: ...

    def create(self, container: Container) -> Container:
        """Raises AlreadyExists; InvalidArgument for a malformed id, an empty runtime name, a missing spec, or a
        snapshot key without snapshotter."""
        ...

    def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        """Replaces the named fields; without any, labels, spec, extensions, image and snapshot key. Raises NotFound;
        InvalidArgument for another path, or when snapshotter or runtime name differ."""
        ...

    def delete(self, id: str) -> None:
        """Raises NotFound."""
        ...
