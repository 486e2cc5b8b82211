"""What the daemon offers at its sockets: a servicer for each API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kernel.events import Exchange
from kernel.services import (
    containers,
    content,
    diff,
    events,
    health,
    images,
    introspection,
    leases,
    namespaces,
    snapshots,
    tasks,
    version,
)
from kernel.tasks import Tasks
from plugin_sdk import daemon
from plugin_sdk import namespaces as contract
from plugin_sdk.scope import Scope
from plugin_sdk.wire import health as health_wire
from plugin_sdk.wire import introspection as wire
from plugin_sdk.wire import rpc


class Parts(wire.Source, health_wire.Source, Protocol):
    """The daemon, as the services need it."""

    @property
    def tasks(self) -> Tasks: ...

    @property
    def exchange(self) -> Exchange: ...

    def bind_namespaces(self, scope: Scope) -> contract.Store: ...

    def bind(self, scope: Scope) -> daemon.View: ...

    def differs(self) -> Sequence[str]:
        """Ids, in the order in which they are asked."""
        ...


def servicers(parts: Parts) -> Sequence[rpc.Servicer]:
    """For the gRPC socket."""
    offered = [
        version.servicer(),
        introspection.servicer(parts),
        namespaces.servicer(parts.bind_namespaces),
        content.servicer(parts.bind),
        images.servicer(parts.bind),
        containers.servicer(parts.bind),
        snapshots.servicer(parts.bind),
        diff.servicer(parts.bind, parts.differs),
        leases.servicer(parts.bind),
        events.servicer(parts.exchange.bind),
        tasks.servicer(parts.tasks.bind),
    ]
    return [*offered, health.servicer(offered, parts)]


def ttrpc_servicers(parts: Parts) -> Sequence[rpc.Servicer]:
    """For the socket that shims call."""
    return [events.ttrpc_servicer(parts.exchange.bind)]
