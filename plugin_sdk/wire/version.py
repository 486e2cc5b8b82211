"""Version: which release answers."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.empty_pb2 import Empty

from plugin_sdk.api.services.version.v1 import version_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc

SERVICE = version_pb2.DESCRIPTOR.services_by_name["Version"]


class Servicer:
    service = SERVICE.full_name

    def __init__(self, version: str, revision: str) -> None:
        self._answer = version_pb2.VersionResponse(version=version, revision=revision)
        self.methods: Mapping[str, rpc.Method] = rpc.served(SERVICE, {"Version": self._version}, namespaced=False)

    async def _version(self, request: Empty, call: rpc.Call) -> version_pb2.VersionResponse:
        return self._answer


class Proxy:
    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def version(self) -> tuple[str, str]:
        """Version and revision."""
        answer = self._stub.unary("Version", Empty(), version_pb2.VersionResponse)
        return answer.version, answer.revision
