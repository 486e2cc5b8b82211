"""Leases: the two wire halves of ``plugin_sdk.leases``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from google.protobuf.empty_pb2 import Empty

from plugin_sdk import leases
from plugin_sdk.api.services.leases.v1 import leases_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc

SERVICE = leases_pb2.DESCRIPTOR.services_by_name["Leases"]


class Servicer:
    """``resolve`` answers the caller's leases and does not block."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], leases.Manager]) -> None:
        self._resolve = resolve
        self.methods: Mapping[str, rpc.Method] = rpc.served(
            SERVICE,
            {
                "Create": self._create,
                "Delete": self._delete,
                "List": self._list,
                "AddResource": self._add_resource,
                "DeleteResource": self._delete_resource,
                "ListResources": self._list_resources,
            },
        )

    async def _create(self, request: leases_pb2.CreateRequest, call: rpc.Call) -> leases_pb2.CreateResponse:
        lease = await call.run(self._resolve(call).create, request.id, dict(request.labels))
        return leases_pb2.CreateResponse(lease=_message(lease))

    async def _delete(self, request: leases_pb2.DeleteRequest, call: rpc.Call) -> Empty:
        manager = self._resolve(call)
        await call.run(lambda: manager.delete(request.id, sync=request.sync))
        return Empty()

    async def _list(self, request: leases_pb2.ListRequest, call: rpc.Call) -> leases_pb2.ListResponse:
        found = await call.run(self._resolve(call).list, list(request.filters))
        return leases_pb2.ListResponse(leases=map(_message, found))

    async def _add_resource(self, request: leases_pb2.AddResourceRequest, call: rpc.Call) -> Empty:
        await call.run(self._resolve(call).add_resource, request.id, _resource(request.resource))
        return Empty()

    async def _delete_resource(self, request: leases_pb2.DeleteResourceRequest, call: rpc.Call) -> Empty:
        await call.run(self._resolve(call).delete_resource, request.id, _resource(request.resource))
        return Empty()

    async def _list_resources(
        self, request: leases_pb2.ListResourcesRequest, call: rpc.Call
    ) -> leases_pb2.ListResourcesResponse:
        found = await call.run(self._resolve(call).list_resources, request.id)
        return leases_pb2.ListResourcesResponse(resources=map(_resource_message, found))


def _message(lease: leases.Lease) -> leases_pb2.Lease:
    return leases_pb2.Lease(id=lease.id, created_at=messages.timestamp(lease.created_at), labels=lease.labels)


def _lease(message: leases_pb2.Lease) -> leases.Lease:
    return leases.Lease(message.id, messages.nanoseconds(message.created_at), dict(message.labels))


def _resource_message(resource: leases.Resource) -> leases_pb2.Resource:
    return leases_pb2.Resource(id=resource.id, type=resource.type)


def _resource(message: leases_pb2.Resource) -> leases.Resource:
    return leases.Resource(message.id, message.type)


class Proxy(leases.Manager):
    """The leases of a daemon at the far end."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def create(self, id: str, labels: Mapping[str, str] | None = None) -> leases.Lease:
        request = leases_pb2.CreateRequest(id=id, labels=labels)
        return _lease(self._stub.unary("Create", request, leases_pb2.CreateResponse).lease)

    def delete(self, id: str, *, sync: bool = False) -> None:
        self._stub.unary("Delete", leases_pb2.DeleteRequest(id=id, sync=sync), Empty)

    def list(self, filters: Sequence[str] = ()) -> Sequence[leases.Lease]:
        request = leases_pb2.ListRequest(filters=filters)
        return [_lease(each) for each in self._stub.unary("List", request, leases_pb2.ListResponse).leases]

    def add_resource(self, id: str, resource: leases.Resource) -> None:
        request = leases_pb2.AddResourceRequest(id=id, resource=_resource_message(resource))
        self._stub.unary("AddResource", request, Empty)

    def delete_resource(self, id: str, resource: leases.Resource) -> None:
        request = leases_pb2.DeleteResourceRequest(id=id, resource=_resource_message(resource))
        self._stub.unary("DeleteResource", request, Empty)

    def list_resources(self, id: str) -> Sequence[leases.Resource]:
        request = leases_pb2.ListResourcesRequest(id=id)
        answer = self._stub.unary("ListResources", request, leases_pb2.ListResourcesResponse)
        return [_resource(each) for each in answer.resources]
