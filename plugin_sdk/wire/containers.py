"""Containers: the two wire halves of ``plugin_sdk.containers``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from google.protobuf.empty_pb2 import Empty

from plugin_sdk import containers
from plugin_sdk.api.services.containers.v1 import containers_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc

SERVICE = containers_pb2.DESCRIPTOR.services_by_name["Containers"]


class Servicer:
    """``resolve`` answers the caller's store and does not block."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], containers.Store]) -> None:
        self._resolve = resolve
        self.methods: Mapping[str, rpc.Method] = rpc.served(
            SERVICE,
            {
                "Get": self._get,
                "List": self._list,
                "ListStream": self._list_stream,
                "Create": self._create,
                "Update": self._update,
                "Delete": self._delete,
            },
        )

    async def _get(
        self, request: containers_pb2.GetContainerRequest, call: rpc.Call
    ) -> containers_pb2.GetContainerResponse:
        container = await call.run(self._resolve(call).get, request.id)
        return containers_pb2.GetContainerResponse(container=_message(container))

    async def _list(
        self, request: containers_pb2.ListContainersRequest, call: rpc.Call
    ) -> containers_pb2.ListContainersResponse:
        found = await call.run(self._resolve(call).list, list(request.filters))
        return containers_pb2.ListContainersResponse(containers=map(_message, found))

    async def _list_stream(
        self, request: containers_pb2.ListContainersRequest, call: rpc.Call
    ) -> AsyncIterator[containers_pb2.ListContainerMessage]:
        for container in await call.run(self._resolve(call).list, list(request.filters)):
            yield containers_pb2.ListContainerMessage(container=_message(container))

    async def _create(
        self, request: containers_pb2.CreateContainerRequest, call: rpc.Call
    ) -> containers_pb2.CreateContainerResponse:
        container = await call.run(self._resolve(call).create, _container(request.container))
        return containers_pb2.CreateContainerResponse(container=_message(container))

    async def _update(
        self, request: containers_pb2.UpdateContainerRequest, call: rpc.Call
    ) -> containers_pb2.UpdateContainerResponse:
        paths = list(request.update_mask.paths)
        container = await call.run(self._resolve(call).update, _container(request.container), paths)
        return containers_pb2.UpdateContainerResponse(container=_message(container))

    async def _delete(self, request: containers_pb2.DeleteContainerRequest, call: rpc.Call) -> Empty:
        await call.run(self._resolve(call).delete, request.id)
        return Empty()


def _message(container: containers.Container) -> containers_pb2.Container:
    return containers_pb2.Container(
        id=container.id,
        labels=container.labels,
        image=container.image,
        runtime=containers_pb2.Container.Runtime(
            name=container.runtime.name, options=messages.any_message(container.runtime.options)
        ),
        spec=messages.any_message(container.spec),
        snapshotter=container.snapshotter,
        snapshot_key=container.snapshot_key,
        created_at=messages.timestamp(container.created_at),
        updated_at=messages.timestamp(container.updated_at),
        extensions=messages.any_messages(container.extensions),
        sandbox=container.sandbox,
    )


def _container(message: containers_pb2.Container) -> containers.Container:
    return containers.Container(
        id=message.id,
        runtime=containers.Runtime(message.runtime.name, messages.any_value(message.runtime.options)),
        spec=messages.any_value(message.spec),
        image=message.image,
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        labels=dict(message.labels),
        extensions=messages.any_values(message.extensions),
        sandbox=message.sandbox,
        created_at=messages.nanoseconds(message.created_at),
        updated_at=messages.nanoseconds(message.updated_at),
    )


class Proxy(containers.Store):
    """The containers of a daemon at the far end."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def get(self, id: str) -> containers.Container:
        request = containers_pb2.GetContainerRequest(id=id)
        return _container(self._stub.unary("Get", request, containers_pb2.GetContainerResponse).container)

    def list(self, filters: Sequence[str] = ()) -> Sequence[containers.Container]:
        request = containers_pb2.ListContainersRequest(filters=filters)
        answer = self._stub.unary("List", request, containers_pb2.ListContainersResponse)
        return [_container(each) for each in answer.containers]

    def create(self, container: containers.Container) -> containers.Container:
        request = containers_pb2.CreateContainerRequest(container=_message(container))
        return _container(self._stub.unary("Create", request, containers_pb2.CreateContainerResponse).container)

    def update(self, container: containers.Container, fieldpaths: Sequence[str] = ()) -> containers.Container:
        request = containers_pb2.UpdateContainerRequest(
            container=_message(container), update_mask=messages.field_mask(fieldpaths)
        )
        return _container(self._stub.unary("Update", request, containers_pb2.UpdateContainerResponse).container)

    def delete(self, id: str) -> None:
        self._stub.unary("Delete", containers_pb2.DeleteContainerRequest(id=id), Empty)
