"""A registry for tests of the metadata: plugins by kind and id, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kernel.metadata.database import forbid_transaction
from plugin_sdk import errors, plugin
from plugin_sdk.scope import Scope


class FixedRegistry:
    """``calls`` has the kind, id and scope of each use; ``inflight`` counts those that have not ended."""

    def __init__(self, content: object = None, **snapshotters: object) -> None:
        self.made: dict[tuple[str, str], object] = {(plugin.SNAPSHOTTER, id): made for id, made in snapshotters.items()}
        if content is not None:
            self.made[plugin.CONTENT, "content"] = content
        self.calls: list[tuple[str, str, Scope]] = []
        self.inflight = 0
        self.remote = False

    @contextmanager
    def use(self, kind: str, id: str, scope: Scope) -> Iterator[object]:
        forbid_transaction(f"{kind}.{id} is used")
        if (kind, id) not in self.made:
            raise errors.InvalidArgument(f"plugin {kind}.{id} is not loaded")
        self.calls.append((kind, id, scope))
        self.inflight += 1
        try:
            yield self.made[kind, id]
        finally:
            self.inflight -= 1

    def is_remote(self, kind: str, id: str) -> bool:
        return self.remote

    def knows(self, kind: str, id: str) -> bool:
        return (kind, id) in self.made

    def ids(self, kind: str) -> list[str]:
        return [id for other, id in self.made if other == kind]
