"""Images: the two wire halves of ``plugin_sdk.images``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from google.protobuf.empty_pb2 import Empty

from plugin_sdk import images
from plugin_sdk.api.services.images.v1 import images_pb2
from plugin_sdk.oci import Descriptor
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc

SERVICE = images_pb2.DESCRIPTOR.services_by_name["Images"]


class Servicer:
    """``resolve`` answers the caller's store and does not block."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], images.Store]) -> None:
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
        )

    async def _get(self, request: images_pb2.GetImageRequest, call: rpc.Call) -> images_pb2.GetImageResponse:
        image = await call.run(self._resolve(call).get, request.name)
        return images_pb2.GetImageResponse(image=_message(image))

    async def _list(self, request: images_pb2.ListImagesRequest, call: rpc.Call) -> images_pb2.ListImagesResponse:
        found = await call.run(self._resolve(call).list, list(request.filters))
        return images_pb2.ListImagesResponse(images=map(_message, found))

    async def _create(self, request: images_pb2.CreateImageRequest, call: rpc.Call) -> images_pb2.CreateImageResponse:
        create = self._resolve(call).create
        image = await call.run(create, _image(request.image), _epoch(request))
        return images_pb2.CreateImageResponse(image=_message(image))

    async def _update(self, request: images_pb2.UpdateImageRequest, call: rpc.Call) -> images_pb2.UpdateImageResponse:
        update = self._resolve(call).update
        paths = list(request.update_mask.paths)
        image = await call.run(update, _image(request.image), paths, _epoch(request))
        return images_pb2.UpdateImageResponse(image=_message(image))

    async def _delete(self, request: images_pb2.DeleteImageRequest, call: rpc.Call) -> Empty:
        store = self._resolve(call)
        target = messages.descriptor(request.target) if request.HasField("target") else None
        await call.run(lambda: store.delete(request.name, sync=request.sync, target=target))
        return Empty()


def _epoch(request: images_pb2.CreateImageRequest | images_pb2.UpdateImageRequest) -> int | None:
    if not request.HasField("source_date_epoch"):
        return None
    return messages.nanoseconds(request.source_date_epoch)


def _message(image: images.Image) -> images_pb2.Image:
    return images_pb2.Image(
        name=image.name,
        labels=image.labels,
        target=messages.descriptor_message(image.target),
        created_at=messages.timestamp(image.created_at),
        updated_at=messages.timestamp(image.updated_at),
    )


def _image(message: images_pb2.Image) -> images.Image:
    return images.Image(
        message.name,
        messages.descriptor(message.target),
        dict(message.labels),
        messages.nanoseconds(message.created_at),
        messages.nanoseconds(message.updated_at),
    )


class Proxy(images.Store):
    """The images of a daemon at the far end."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def get(self, name: str) -> images.Image:
        request = images_pb2.GetImageRequest(name=name)
        return _image(self._stub.unary("Get", request, images_pb2.GetImageResponse).image)

    def list(self, filters: Sequence[str] = ()) -> Sequence[images.Image]:
        request = images_pb2.ListImagesRequest(filters=filters)
        return [_image(each) for each in self._stub.unary("List", request, images_pb2.ListImagesResponse).images]

    def create(self, image: images.Image, source_date_epoch: int | None = None) -> images.Image:
        request = images_pb2.CreateImageRequest(
            image=_message(image), source_date_epoch=messages.epoch(source_date_epoch)
        )
        return _image(self._stub.unary("Create", request, images_pb2.CreateImageResponse).image)

    def update(
        self, image: images.Image, fieldpaths: Sequence[str] = (), source_date_epoch: int | None = None
    ) -> images.Image:
        request = images_pb2.UpdateImageRequest(
            image=_message(image),
            update_mask=messages.field_mask(fieldpaths),
            source_date_epoch=messages.epoch(source_date_epoch),
        )
        return _image(self._stub.unary("Update", request, images_pb2.UpdateImageResponse).image)

    def delete(self, name: str, *, sync: bool = False, target: Descriptor | None = None) -> None:
        expected = None if target is None else messages.descriptor_message(target)
        self._stub.unary("Delete", images_pb2.DeleteImageRequest(name=name, sync=sync, target=expected), Empty)
