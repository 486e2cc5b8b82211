"""Health: whether the server serves, as gRPC's health checking protocol has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

from plugin_sdk import errors
from plugin_sdk.api.health.v1 import health_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]

_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
_STRANGE = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)


class Servicer:
    """``services`` are full names; the server as a whole, "", is always known. Who is answered is served."""

    service = SERVICE.full_name

    def __init__(self, services: Iterable[str] = ()) -> None:
        self._services = ("", *services)
        self.methods: Mapping[str, rpc.Method] = rpc.served(
            SERVICE, {"Check": self._check, "Watch": self._watch, "List": self._list}, namespaced=False
        )

    async def _check(self, request: health_pb2.HealthCheckRequest, call: rpc.Call) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            raise errors.NotFound(f'service "{request.service}": not found')
        return _SERVING

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, call: rpc.Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        yield _SERVING if request.service in self._services else _STRANGE
        await asyncio.Event().wait()  # nothing changes until the server ends, which ends the call

    async def _list(self, request: health_pb2.HealthListRequest, call: rpc.Call) -> health_pb2.HealthListResponse:
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._services, _SERVING))


class Proxy:
    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def check(self, service: str = "") -> bool:
        """Raises NotFound for an unknown service, Unavailable when nobody answers."""
        request = health_pb2.HealthCheckRequest(service=service)
        answer = self._stub.unary("Check", request, health_pb2.HealthCheckResponse)
        return answer.status == health_pb2.HealthCheckResponse.SERVING
