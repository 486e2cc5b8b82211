"""Diff: the two wire halves of ``plugin_sdk.diff``.

The wire names no content store: each side uses the one that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from google.protobuf import any_pb2

from plugin_sdk import content, diff, plugin
from plugin_sdk.api.services.diff.v1 import diff_pb2
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc

SERVICE = diff_pb2.DESCRIPTOR.services_by_name["Diff"]
LANE = f"{plugin.DIFFER}.walking"


class Servicer:
    """``resolve`` answers the differ and the caller's content store, and does not block."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], tuple[diff.Differ, content.Store]], lane: str = LANE) -> None:
        self._resolve = resolve
        self._lane = lane
        self.methods: Mapping[str, rpc.Method] = rpc.served(SERVICE, {"Apply": self._apply, "Diff": self._diff})

    async def _apply(self, request: diff_pb2.ApplyRequest, call: rpc.Call) -> diff_pb2.ApplyResponse:
        differ, store = self._resolve(call)

        def apply() -> Descriptor:
            payloads = {key: (each.type_url, each.value) for key, each in request.payloads.items()}
            mounts = messages.mounts(request.mounts)
            layer = messages.descriptor(request.diff)
            return differ.apply(layer, mounts, store, payloads=payloads, sync=request.sync_fs)

        applied = await call.run(apply, lane=self._lane)
        return diff_pb2.ApplyResponse(applied=messages.descriptor_message(applied))

    async def _diff(self, request: diff_pb2.DiffRequest, call: rpc.Call) -> diff_pb2.DiffResponse:
        differ, store = self._resolve(call)
        epoch = None
        if request.HasField("source_date_epoch"):
            epoch = messages.nanoseconds(request.source_date_epoch)

        def compare() -> Descriptor:
            return differ.compare(
                messages.mounts(request.left),
                messages.mounts(request.right),
                store,
                media_type=request.media_type,
                ref=request.ref,
                labels=dict(request.labels),
                source_date_epoch=epoch,
            )

        layer = await call.run(compare, lane=self._lane)
        return diff_pb2.DiffResponse(diff=messages.descriptor_message(layer))


class Proxy(diff.Differ):
    """A differ at the far end, which reads and writes the content store there: ``content`` is not used."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        content: content.Store,
        *,
        payloads: Mapping[str, tuple[str, bytes]] | None = None,
        sync: bool = False,
    ) -> Descriptor:
        extra = {key: any_pb2.Any(type_url=url, value=value) for key, (url, value) in (payloads or {}).items()}
        request = diff_pb2.ApplyRequest(
            diff=messages.descriptor_message(descriptor),
            mounts=messages.mount_messages(mounts),
            payloads=extra,
            sync_fs=sync,
        )
        return messages.descriptor(self._stub.unary("Apply", request, diff_pb2.ApplyResponse).applied)

    def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        content: content.Store,
        *,
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        source_date_epoch: int | None = None,
    ) -> Descriptor:
        request = diff_pb2.DiffRequest(
            left=messages.mount_messages(lower),
            right=messages.mount_messages(upper),
            media_type=media_type,
            ref=ref,
            labels=labels,
            source_date_epoch=messages.epoch(source_date_epoch),
        )
        return messages.descriptor(self._stub.unary("Diff", request, diff_pb2.DiffResponse).diff)
