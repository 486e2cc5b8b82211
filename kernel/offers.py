"""What the sockets offer: the kernel's services, and those of plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel.server import Server
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
from plugin_sdk import plugin
from plugin_sdk.daemon import PluginInfo
from plugin_sdk.wire import rpc

if TYPE_CHECKING:
    from kernel.daemon import Daemon


def mount(daemon: Daemon, server: Server) -> None:
    offered = kernel_services(daemon)
    for name, servicer in offered.items():
        server.mount([servicer])
        daemon.registry.show(PluginInfo(plugin.SERVICE, name))
    for id in daemon.registry.ids(plugin.SERVICE):
        with daemon.registry.use(plugin.SERVICE, id) as servicer:
            server.mount([servicer])
    server.mount_for_shims([events.ttrpc_servicer(daemon.exchange.bind)])


def kernel_services(daemon: Daemon) -> dict[str, rpc.Servicer]:
    """By the names under which containerd shows them."""
    view = daemon.metadata.view
    offered = {
        "containers": containers.servicer(view),
        "content": content.servicer(view),
        "diff": diff.servicer(view),
        "events": events.servicer(daemon.exchange.bind),
        "images": images.servicer(view),
        "introspection": introspection.servicer(daemon),
        "leases": leases.servicer(view),
        "namespaces": namespaces.servicer(daemon.metadata.namespaces),
        "snapshots": snapshots.servicer(view),
        "tasks": tasks.servicer(daemon.tasks.bind),
        "version": version.servicer(),
    }
    return {**offered, "healthcheck": health.servicer(offered.values())}
