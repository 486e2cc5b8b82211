"""Handshake: the two wire halves of ``plugin_sdk.handshake``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plugin_sdk import handshake
from plugin_sdk.api.corten.plugin.v1 import plugin_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc

SERVICE = plugin_pb2.DESCRIPTOR.services_by_name["Plugin"]


class Servicer:
    """``heard`` is told who asks: the name under which the daemon knows the program, and the daemon's version."""

    service = SERVICE.full_name

    def __init__(
        self, description: handshake.Description, heard: Callable[[str, str, handshake.Range], None] | None = None
    ) -> None:
        self._answer = _message(description)
        self._heard = heard
        self.methods: Mapping[str, rpc.Method] = rpc.served(SERVICE, {"Describe": self._describe}, namespaced=False)

    async def _describe(self, request: plugin_pb2.DescribeRequest, call: rpc.Call) -> plugin_pb2.DescribeResponse:
        if self._heard is not None:
            speaks = handshake.Range(request.api_lowest, request.api_highest)
            self._heard(request.name, request.kernel_version, speaks)
        return self._answer


class Proxy:
    """A program at the far end."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def describe(self, kernel_version: str, name: str) -> handshake.Description:
        """``name`` is that of the plugin's table. Raises Unimplemented when the program has no handshake, Unavailable
        when nobody answers."""
        request = plugin_pb2.DescribeRequest(
            api_lowest=handshake.API.lowest,
            api_highest=handshake.API.highest,
            kernel_version=kernel_version,
            name=name,
        )
        return _description(self._stub.unary("Describe", request, plugin_pb2.DescribeResponse))


def _message(description: handshake.Description) -> plugin_pb2.DescribeResponse:
    return plugin_pb2.DescribeResponse(
        api_lowest=description.api.lowest,
        api_highest=description.api.highest,
        version=description.version,
        kinds=description.kinds,
        capabilities=description.capabilities,
        platforms=description.platforms,
        exports=description.exports,
        instance=description.instance,
    )


def _description(message: plugin_pb2.DescribeResponse) -> handshake.Description:
    return handshake.Description(
        handshake.Range(message.api_lowest, message.api_highest),
        message.version,
        tuple(message.kinds),
        tuple(message.capabilities),
        tuple(message.platforms),
        dict(message.exports),
        message.instance,
    )
