"""Namespaces: partitions of everything that the daemon keeps; they have a name and labels.

A namespace exists from its first write on. ``get`` of one that does not exist answers its name without labels, since
clients read defaults there before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Namespace:
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Store(Protocol):
    def get(self, name: str) -> Namespace: ...

    def list(self, filters: Sequence[str] = ()) -> Sequence[Namespace]: ...

    def create(self, namespace: Namespace) -> Namespace:
        """Raises AlreadyExists, InvalidArgument."""
        ...

    def update(self, namespace: Namespace, fieldpaths: Sequence[str] = ()) -> Namespace:
        """Paths are ``labels.KEY`` only. Raises NotFound, InvalidArgument."""
        ...

    def delete(self, name: str) -> None:
        """Raises NotFound, FailedPrecondition for one that holds anything."""
        ...
