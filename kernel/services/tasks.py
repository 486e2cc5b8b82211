"""The tasks service: running instances of containers. Wait holds no thread, other calls one of the task's runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, tasks


class Manager(tasks.Manager, Protocol):
    def lane(self, id: str) -> str:
        """Of the task's runtime, by what is in memory: empty when there is no such task."""
        ...

    def container_lane(self, id: str) -> str:
        """Of the runtime that the container names; it may block."""
        ...


def servicer(bind: Callable[[Scope], Manager]) -> rpc.Servicer:
    async def lane(call: rpc.Call, id: str) -> str:
        if not id:
            return tasks.LANE
        manager = bind(call.scope)
        return manager.lane(id) or await call.run(manager.container_lane, id)

    return tasks.Servicer(lambda call: bind(call.scope), lane)
