"""Every service and method of the API, from the descriptors of the generated stubs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor

from plugin_sdk.api.corten.plugin.v1 import plugin_pb2
from plugin_sdk.api.health.v1 import health_pb2
from plugin_sdk.api.runtime.sandbox.v1 import sandbox_pb2 as shim_sandbox_pb2
from plugin_sdk.api.runtime.task.v2 import shim_pb2 as shim_v2_pb2
from plugin_sdk.api.runtime.task.v3 import shim_pb2 as shim_v3_pb2
from plugin_sdk.api.services.containers.v1 import containers_pb2
from plugin_sdk.api.services.content.v1 import content_pb2
from plugin_sdk.api.services.diff.v1 import diff_pb2
from plugin_sdk.api.services.events.v1 import events_pb2
from plugin_sdk.api.services.images.v1 import images_pb2
from plugin_sdk.api.services.introspection.v1 import introspection_pb2
from plugin_sdk.api.services.leases.v1 import leases_pb2
from plugin_sdk.api.services.mounts.v1 import mounts_pb2
from plugin_sdk.api.services.namespaces.v1 import namespace_pb2
from plugin_sdk.api.services.sandbox.v1 import sandbox_pb2
from plugin_sdk.api.services.snapshots.v1 import snapshots_pb2
from plugin_sdk.api.services.streaming.v1 import streaming_pb2
from plugin_sdk.api.services.tasks.v1 import tasks_pb2
from plugin_sdk.api.services.transfer.v1 import transfer_pb2
from plugin_sdk.api.services.ttrpc.events.v1 import events_pb2 as ttrpc_events_pb2
from plugin_sdk.api.services.version.v1 import version_pb2

DAEMON = (
    containers_pb2,
    content_pb2,
    diff_pb2,
    events_pb2,
    health_pb2,
    images_pb2,
    introspection_pb2,
    leases_pb2,
    mounts_pb2,
    namespace_pb2,
    sandbox_pb2,
    snapshots_pb2,
    streaming_pb2,
    tasks_pb2,
    transfer_pb2,
    ttrpc_events_pb2,
    version_pb2,
)
"""What a daemon serves; the rest is served by shims and by plugins' programs."""

SHIM = (shim_sandbox_pb2, shim_v2_pb2, shim_v3_pb2)

PLUGIN = (plugin_pb2,)
"""What a plugin's program serves besides its contracts."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """``request`` and ``response`` are full names of messages."""

    service: str
    name: str
    request: str
    response: str
    client_streaming: bool
    server_streaming: bool

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def services(modules: tuple[object, ...] = DAEMON) -> Iterator[ServiceDescriptor]:
    for module in modules:
        yield from module.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]


def rpcs(modules: tuple[object, ...] = DAEMON) -> Iterator[Rpc]:
    """Every method, services in the order of ``modules``, methods as declared."""
    for service in services(modules):
        for method in service.methods:
            yield Rpc(
                service.full_name,
                method.name,
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
