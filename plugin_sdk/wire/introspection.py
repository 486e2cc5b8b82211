"""Introspection: what the daemon is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from google.protobuf.empty_pb2 import Empty
from google.rpc import status_pb2

from plugin_sdk import errors
from plugin_sdk.api.services.introspection.v1 import introspection_pb2
from plugin_sdk.api.types import platform_pb2
from plugin_sdk.daemon import PluginInfo, ServerInfo
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc, status

SERVICE = introspection_pb2.DESCRIPTOR.services_by_name["Introspection"]

SKIPPED = "skip plugin"
"""Clients look for these words in the error of a plugin, and show or refuse all others."""


STATE, SINCE = "corten.state", "corten.since"
"""Exports in which the state of a plugin goes, which containerd's API has no field for; the time in nanoseconds."""


class Source(Protocol):
    def plugins(self, filters: Sequence[str] = ()) -> Sequence[PluginInfo]:
        """Filters know type and id."""
        ...

    def server(self) -> ServerInfo: ...


class Servicer:
    """``resolve`` answers what knows the plugins, and does not block."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], Source]) -> None:
        self._resolve = resolve
        self.methods: Mapping[str, rpc.Method] = rpc.served(
            SERVICE,
            {"Plugins": self._plugins, "Server": self._server, "PluginInfo": self._plugin_info},
            namespaced=False,
        )

    async def _plugins(
        self, request: introspection_pb2.PluginsRequest, call: rpc.Call
    ) -> introspection_pb2.PluginsResponse:
        found = await call.run(self._resolve(call).plugins, list(request.filters))
        return introspection_pb2.PluginsResponse(plugins=map(_message, found))

    async def _server(self, request: Empty, call: rpc.Call) -> introspection_pb2.ServerResponse:
        server = await call.run(self._resolve(call).server)
        return introspection_pb2.ServerResponse(
            uuid=server.uuid, pid=server.pid, pidns=server.pidns, deprecations=map(_warning, server.deprecations)
        )

    async def _plugin_info(
        self, request: introspection_pb2.PluginInfoRequest, call: rpc.Call
    ) -> introspection_pb2.PluginInfoResponse:
        found = await call.run(self._resolve(call).plugins)
        for info in found:
            if (info.kind, info.id) == (request.type, request.id):
                return introspection_pb2.PluginInfoResponse(plugin=_message(info))
        raise errors.NotFound(f'plugin "{request.type}.{request.id}": not found')


def _message(info: PluginInfo) -> introspection_pb2.Plugin:
    return introspection_pb2.Plugin(
        type=info.kind,
        id=info.id,
        requires=info.requires,
        platforms=map(_platform, info.platforms),
        exports={**info.exports, **({STATE: info.state, SINCE: str(info.since)} if info.state else {})},
        capabilities=info.capabilities,
        init_err=_init_error(info),
    )


def _init_error(info: PluginInfo) -> status_pb2.Status | None:
    if not info.error and not info.skipped:
        return None
    text = info.error
    if info.skipped and SKIPPED not in text:
        text = f"{text}: {SKIPPED}" if text else SKIPPED
    return status_pb2.Status(code=status.CODES[errors.Unknown], message=text)


def _platform(text: str) -> platform_pb2.Platform:
    system, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    return platform_pb2.Platform(os=system, architecture=architecture, variant=variant)


def _warning(warning: tuple[str, str, int]) -> introspection_pb2.DeprecationWarning:
    id, text, time = warning
    return introspection_pb2.DeprecationWarning(id=id, message=text, last_occurrence=messages.timestamp(time))


def _info(message: introspection_pb2.Plugin) -> PluginInfo:
    error = message.init_err.message
    exports = dict(message.exports)
    state, since = exports.pop(STATE, ""), exports.pop(SINCE, "0")
    return PluginInfo(
        message.type,
        message.id,
        tuple(message.requires),
        tuple(_platform_text(each) for each in message.platforms),
        exports,
        tuple(message.capabilities),
        error,
        SKIPPED in error,
        state,
        int(since) if since.isdecimal() else 0,
    )


def _platform_text(message: platform_pb2.Platform) -> str:
    return "/".join(part for part in (message.os, message.architecture, message.variant) if part)


class Proxy:
    """A daemon at the far end, asked what it is made of."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def plugins(self, filters: Sequence[str] = ()) -> list[PluginInfo]:
        request = introspection_pb2.PluginsRequest(filters=filters)
        return [_info(each) for each in self._stub.unary("Plugins", request, introspection_pb2.PluginsResponse).plugins]

    def server(self) -> ServerInfo:
        answer = self._stub.unary("Server", Empty(), introspection_pb2.ServerResponse)
        warnings = [(each.id, each.message, messages.nanoseconds(each.last_occurrence)) for each in answer.deprecations]
        return ServerInfo(answer.uuid, answer.pid, answer.pidns, warnings)
