"""Health: whether the server, each of its services and each of its plugins serves, in gRPC's protocol for that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Protocol

from plugin_sdk import errors
from plugin_sdk.api.health.v1 import health_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]

_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
_NOT_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
_STRANGE = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)


class Source(Protocol):
    """What knows of more than the services: neither method blocks."""

    def health(self) -> Mapping[str, bool]:
        """Whether each of these serves, by name; "" is the server as a whole."""
        ...

    def on_health(self, changed: Callable[[], None]) -> Callable[[], None]:
        """``changed`` is called, in any thread, when ``health`` may answer something else. What is answered, called,
        takes that back."""
        ...


class Servicer:
    """``services`` are full names of what serves as long as the server does; ``source`` goes before them."""

    service = SERVICE.full_name

    def __init__(self, services: Iterable[str] = (), source: Source | None = None) -> None:
        self._services = dict.fromkeys(("", *services), True)
        self._source = source
        self.methods: Mapping[str, rpc.Method] = rpc.served(
            SERVICE, {"Check": self._check, "Watch": self._watch, "List": self._list}, namespaced=False
        )

    def _health(self) -> Mapping[str, bool]:
        return self._services if self._source is None else {**self._services, **self._source.health()}

    async def _check(self, request: health_pb2.HealthCheckRequest, call: rpc.Call) -> health_pb2.HealthCheckResponse:
        answer = _answer(self._health(), request.service)
        if answer is _STRANGE:
            raise errors.NotFound(f'service "{request.service}": not found')
        return answer

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, call: rpc.Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Tells each change, until the server ends, which ends the call."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        forget = self._source.on_health(lambda: _wake(loop, changed)) if self._source is not None else _nothing
        told = None
        try:
            while True:
                changed.clear()
                now = _answer(self._health(), request.service)
                if now is not told:
                    yield now
                    told = now
                await changed.wait()
        finally:
            forget()

    async def _list(self, request: health_pb2.HealthListRequest, call: rpc.Call) -> health_pb2.HealthListResponse:
        health = self._health()
        return health_pb2.HealthListResponse(statuses={name: _answer(health, name) for name in health})


def _answer(health: Mapping[str, bool], name: str) -> health_pb2.HealthCheckResponse:
    if name not in health:
        return _STRANGE
    return _SERVING if health[name] else _NOT_SERVING


def _wake(loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(changed.set)


def _nothing() -> None:
    pass


class Proxy:
    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def check(self, service: str = "") -> bool:
        """Raises NotFound for an unknown service, Unavailable when nobody answers."""
        request = health_pb2.HealthCheckRequest(service=service)
        answer = self._stub.unary("Check", request, health_pb2.HealthCheckResponse)
        return answer.status == health_pb2.HealthCheckResponse.SERVING
