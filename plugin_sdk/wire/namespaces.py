"""Namespaces: the two wire halves of ``plugin_sdk.namespaces``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from google.protobuf.empty_pb2 import Empty

from plugin_sdk import namespaces
from plugin_sdk.api.services.namespaces.v1 import namespace_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc

SERVICE = namespace_pb2.DESCRIPTOR.services_by_name["Namespaces"]


class Servicer:
    """``resolve`` answers the namespaces and does not block."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], namespaces.Store]) -> None:
        self._resolve = resolve
        self.methods: Mapping[str, rpc.Method] = rpc.served(
            SERVICE,
            {
                "Get": self._get,
                "List": self._list,
                "Create": self._create,
                "Update": self._update,
                "Delete": self._delete,
            },
            namespaced=False,
        )

    async def _get(
        self, request: namespace_pb2.GetNamespaceRequest, call: rpc.Call
    ) -> namespace_pb2.GetNamespaceResponse:
        namespace = await call.run(self._resolve(call).get, request.name)
        return namespace_pb2.GetNamespaceResponse(namespace=_message(namespace))

    async def _list(
        self, request: namespace_pb2.ListNamespacesRequest, call: rpc.Call
    ) -> namespace_pb2.ListNamespacesResponse:
        filters = [request.filter] if request.filter else []
        found = await call.run(self._resolve(call).list, filters)
        return namespace_pb2.ListNamespacesResponse(namespaces=map(_message, found))

    async def _create(
        self, request: namespace_pb2.CreateNamespaceRequest, call: rpc.Call
    ) -> namespace_pb2.CreateNamespaceResponse:
        namespace = await call.run(self._resolve(call).create, _namespace(request.namespace))
        return namespace_pb2.CreateNamespaceResponse(namespace=_message(namespace))

    async def _update(
        self, request: namespace_pb2.UpdateNamespaceRequest, call: rpc.Call
    ) -> namespace_pb2.UpdateNamespaceResponse:
        paths = list(request.update_mask.paths)
        namespace = await call.run(self._resolve(call).update, _namespace(request.namespace), paths)
        return namespace_pb2.UpdateNamespaceResponse(namespace=_message(namespace))

    async def _delete(self, request: namespace_pb2.DeleteNamespaceRequest, call: rpc.Call) -> Empty:
        await call.run(self._resolve(call).delete, request.name)
        return Empty()


def _message(namespace: namespaces.Namespace) -> namespace_pb2.Namespace:
    return namespace_pb2.Namespace(name=namespace.name, labels=namespace.labels)


def _namespace(message: namespace_pb2.Namespace) -> namespaces.Namespace:
    return namespaces.Namespace(message.name, dict(message.labels))


class Proxy(namespaces.Store):
    """The namespaces of a daemon at the far end."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def get(self, name: str) -> namespaces.Namespace:
        request = namespace_pb2.GetNamespaceRequest(name=name)
        return _namespace(self._stub.unary("Get", request, namespace_pb2.GetNamespaceResponse).namespace)

    def list(self, filters: Sequence[str] = ()) -> Sequence[namespaces.Namespace]:
        """The wire takes one filter: several are asked one by one."""
        found: dict[str, namespaces.Namespace] = {}
        for each in filters or [""]:
            request = namespace_pb2.ListNamespacesRequest(filter=each)
            answer = self._stub.unary("List", request, namespace_pb2.ListNamespacesResponse)
            found.update((message.name, _namespace(message)) for message in answer.namespaces)
        return list(found.values())

    def create(self, namespace: namespaces.Namespace) -> namespaces.Namespace:
        request = namespace_pb2.CreateNamespaceRequest(namespace=_message(namespace))
        return _namespace(self._stub.unary("Create", request, namespace_pb2.CreateNamespaceResponse).namespace)

    def update(self, namespace: namespaces.Namespace, fieldpaths: Sequence[str] = ()) -> namespaces.Namespace:
        request = namespace_pb2.UpdateNamespaceRequest(
            namespace=_message(namespace), update_mask=messages.field_mask(fieldpaths)
        )
        return _namespace(self._stub.unary("Update", request, namespace_pb2.UpdateNamespaceResponse).namespace)

    def delete(self, name: str) -> None:
        self._stub.unary("Delete", namespace_pb2.DeleteNamespaceRequest(name=name), Empty)
