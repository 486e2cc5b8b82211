"""Diff: the two wire halves of ``plugin_sdk.diff``.

The wire names no content store: each side uses the one that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from google.protobuf import any_pb2

from plugin_sdk import content, diff, errors
from plugin_sdk.api.services.diff.v1 import diff_pb2
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc

SERVICE = diff_pb2.DESCRIPTOR.services_by_name["Diff"]
Alternatives = tuple[Sequence[tuple[str, diff.Differ]], content.Store]
"""Differs in the order in which they are asked, each with the lane in which it works, and the caller's content."""


class Servicer:
    """``resolve`` answers the differ and the caller's content store, and does not block."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], tuple[diff.Differ, content.Store]]) -> None:
        def alternatives(call: rpc.Call) -> Alternatives:
            differ, store = resolve(call)
            return [("", differ)], store

        self._alternatives: Callable[[rpc.Call], Alternatives] = alternatives
        self.methods: Mapping[str, rpc.Method] = rpc.served(SERVICE, {"Apply": self._apply, "Diff": self._diff})

    @classmethod
    def of_several(cls, alternatives: Callable[[rpc.Call], Alternatives]) -> Servicer:
        """The next one is asked when one says Unimplemented, or is away."""
        made = cls(lambda call: (alternatives(call)[0][0][1], alternatives(call)[1]))
        made._alternatives = alternatives
        return made

    async def _apply(self, request: diff_pb2.ApplyRequest, call: rpc.Call) -> diff_pb2.ApplyResponse:
        def apply(differ: diff.Differ, store: content.Store) -> Descriptor:
            payloads = {key: (each.type_url, each.value) for key, each in request.payloads.items()}
            mounts = messages.mounts(request.mounts)
            layer = messages.descriptor(request.diff)
            return differ.apply(layer, mounts, store, payloads=payloads, sync=request.sync_fs)

        applied = await self._first(call, apply, f'media type "{request.diff.media_type}": no differ unpacks it')
        return diff_pb2.ApplyResponse(applied=messages.descriptor_message(applied))

    async def _diff(self, request: diff_pb2.DiffRequest, call: rpc.Call) -> diff_pb2.DiffResponse:
        epoch = None
        if request.HasField("source_date_epoch"):
            epoch = messages.nanoseconds(request.source_date_epoch)

        def compare(differ: diff.Differ, store: content.Store) -> Descriptor:
            return differ.compare(
                messages.mounts(request.left),
                messages.mounts(request.right),
                store,
                media_type=request.media_type,
                ref=request.ref,
                labels=dict(request.labels),
                source_date_epoch=epoch,
            )

        layer = await self._first(call, compare, f'media type "{request.media_type}": no differ writes it')
        return diff_pb2.DiffResponse(diff=messages.descriptor_message(layer))

    async def _first(
        self, call: rpc.Call, work: Callable[[diff.Differ, content.Store], Descriptor], refusal: str
    ) -> Descriptor:
        differs, store = self._alternatives(call)
        refused: errors.Error = errors.Unimplemented(refusal)
        for lane, differ in differs:
            try:
                return await call.run(work, differ, store, lane=lane)
            except errors.Unimplemented as err:
                refused = err if isinstance(refused, errors.Unimplemented) else refused
            except errors.Unavailable as err:  # another may know the media type; if none does, this is worth repeating
                refused = err
        raise refused


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
