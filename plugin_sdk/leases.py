"""Leases: what a lease holds is not collected.

The id is any non-empty text; mostly the client chooses it. A lease with the label ``containerd.io/gc.expire`` (RFC
3339) ends then. A request made under a lease (header ``containerd-lease``) adds each object that it makes or finds
existing to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

EXPIRE_LABEL = "containerd.io/gc.expire"


@dataclass(frozen=True, slots=True)
class Lease:
    id: str
    created_at: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resource:
    """``type`` is ``content``, ``ingests``, ``images`` or ``snapshots/NAME``; another raises Unimplemented."""

    id: str
    type: str


class Manager(Protocol):
    def create(self, id: str, labels: Mapping[str, str] | None = None) -> Lease:
        """An empty id means one of the daemon's choice. Raises AlreadyExists."""
        ...

    def delete(self, id: str, *, sync: bool = False) -> None:
        """``sync`` returns when what only this lease held has been collected. Raises NotFound."""
        ...

    def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        """Filters know id and labels."""
        ...

    def add_resource(self, id: str, resource: Resource) -> None: ...

    def delete_resource(self, id: str, resource: Resource) -> None: ...

    def list_resources(self, id: str) -> Sequence[Resource]:
        """Raises NotFound."""
        ...
