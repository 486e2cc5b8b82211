"""Snapshots: the two wire halves of ``plugin_sdk.snapshots``. Every request names its snapshotter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

from google.protobuf.empty_pb2 import Empty

from plugin_sdk import errors, plugin, snapshots
from plugin_sdk.api.services.snapshots.v1 import snapshots_pb2
from plugin_sdk.mounts import Mount
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc

SERVICE = snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"]


class Servicer:
    """``resolve`` answers the caller's view of the named snapshotter, and does not block."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call, str], snapshots.Snapshotter]) -> None:
        self._resolve = resolve
        self.methods: Mapping[str, rpc.Method] = rpc.served(
            SERVICE,
            {
                "Prepare": self._prepare,
                "View": self._view,
                "Mounts": self._mounts,
                "Commit": self._commit,
                "Remove": self._remove,
                "Stat": self._stat,
                "Update": self._update,
                "List": self._list,
                "Usage": self._usage,
                "Cleanup": self._cleanup,
            },
        )

    async def _prepare(
        self, request: snapshots_pb2.PrepareSnapshotRequest, call: rpc.Call
    ) -> snapshots_pb2.PrepareSnapshotResponse:
        prepare = self._resolve(call, request.snapshotter).prepare
        labels = dict(request.labels)
        mounts = await call.run(prepare, request.key, request.parent, labels, lane=_lane(request.snapshotter))
        return snapshots_pb2.PrepareSnapshotResponse(mounts=messages.mount_messages(mounts))

    async def _view(
        self, request: snapshots_pb2.ViewSnapshotRequest, call: rpc.Call
    ) -> snapshots_pb2.ViewSnapshotResponse:
        view = self._resolve(call, request.snapshotter).view
        labels = dict(request.labels)
        mounts = await call.run(view, request.key, request.parent, labels, lane=_lane(request.snapshotter))
        return snapshots_pb2.ViewSnapshotResponse(mounts=messages.mount_messages(mounts))

    async def _mounts(self, request: snapshots_pb2.MountsRequest, call: rpc.Call) -> snapshots_pb2.MountsResponse:
        mounts = self._resolve(call, request.snapshotter).mounts
        found = await call.run(mounts, request.key, lane=_lane(request.snapshotter))
        return snapshots_pb2.MountsResponse(mounts=messages.mount_messages(found))

    async def _commit(self, request: snapshots_pb2.CommitSnapshotRequest, call: rpc.Call) -> Empty:
        commit = self._resolve(call, request.snapshotter).commit
        if request.parent:
            raise errors.Unimplemented(f'snapshotter "{request.snapshotter}" cannot commit onto another parent')
        labels = dict(request.labels)
        await call.run(commit, request.name, request.key, labels, lane=_lane(request.snapshotter))
        return Empty()

    async def _remove(self, request: snapshots_pb2.RemoveSnapshotRequest, call: rpc.Call) -> Empty:
        remove = self._resolve(call, request.snapshotter).remove
        await call.run(remove, request.key, lane=_lane(request.snapshotter))
        return Empty()

    async def _stat(
        self, request: snapshots_pb2.StatSnapshotRequest, call: rpc.Call
    ) -> snapshots_pb2.StatSnapshotResponse:
        info = await call.run(self._resolve(call, request.snapshotter).stat, request.key)
        return snapshots_pb2.StatSnapshotResponse(info=_info_message(info))

    async def _update(
        self, request: snapshots_pb2.UpdateSnapshotRequest, call: rpc.Call
    ) -> snapshots_pb2.UpdateSnapshotResponse:
        update = self._resolve(call, request.snapshotter).update
        paths = list(request.update_mask.paths)
        info = await call.run(update, _info(request.info), paths, lane=_lane(request.snapshotter))
        return snapshots_pb2.UpdateSnapshotResponse(info=_info_message(info))

    async def _list(
        self, request: snapshots_pb2.ListSnapshotsRequest, call: rpc.Call
    ) -> AsyncIterator[snapshots_pb2.ListSnapshotsResponse]:
        snapshotter = self._resolve(call, request.snapshotter)
        infos = await call.run(lambda: list(snapshotter.walk(list(request.filters))))
        for batch in messages.batches(map(_info_message, infos)):
            yield snapshots_pb2.ListSnapshotsResponse(info=batch)

    async def _usage(self, request: snapshots_pb2.UsageRequest, call: rpc.Call) -> snapshots_pb2.UsageResponse:
        usage = self._resolve(call, request.snapshotter).usage
        found = await call.run(usage, request.key, lane=_lane(request.snapshotter))
        return snapshots_pb2.UsageResponse(size=found.size, inodes=found.inodes)

    async def _cleanup(self, request: snapshots_pb2.CleanupRequest, call: rpc.Call) -> Empty:
        await call.run(self._resolve(call, request.snapshotter).cleanup, lane=_lane(request.snapshotter))
        return Empty()


def _lane(snapshotter: str) -> str:
    return f"{plugin.SNAPSHOTTER}.{snapshotter}"


def _info_message(info: snapshots.Info) -> snapshots_pb2.Info:
    return snapshots_pb2.Info(
        name=info.name,
        parent=info.parent,
        kind=snapshots_pb2.Kind.Name(info.kind),
        created_at=messages.timestamp(info.created_at),
        updated_at=messages.timestamp(info.updated_at),
        labels=info.labels,
    )


def _info(message: snapshots_pb2.Info) -> snapshots.Info:
    return snapshots.Info(
        message.name,
        snapshots.Kind(message.kind),
        message.parent,
        dict(message.labels),
        messages.nanoseconds(message.created_at),
        messages.nanoseconds(message.updated_at),
    )


class Proxy(snapshots.Snapshotter):
    """A snapshotter at the far end; ``name`` goes into every request, for a plugin that serves several."""

    def __init__(self, channel: rpc.Channel, scope: Scope, name: str) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)
        self._name = name

    def stat(self, key: str) -> snapshots.Info:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self._name, key=key)
        return _info(self._stub.unary("Stat", request, snapshots_pb2.StatSnapshotResponse).info)

    def update(self, info: snapshots.Info, fieldpaths: Sequence[str] = ()) -> snapshots.Info:
        request = snapshots_pb2.UpdateSnapshotRequest(
            snapshotter=self._name, info=_info_message(info), update_mask=messages.field_mask(fieldpaths)
        )
        return _info(self._stub.unary("Update", request, snapshots_pb2.UpdateSnapshotResponse).info)

    def usage(self, key: str) -> snapshots.Usage:
        request = snapshots_pb2.UsageRequest(snapshotter=self._name, key=key)
        answer = self._stub.unary("Usage", request, snapshots_pb2.UsageResponse)
        return snapshots.Usage(answer.size, answer.inodes)

    def mounts(self, key: str) -> list[Mount]:
        request = snapshots_pb2.MountsRequest(snapshotter=self._name, key=key)
        return messages.mounts(self._stub.unary("Mounts", request, snapshots_pb2.MountsResponse).mounts)

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        request = snapshots_pb2.PrepareSnapshotRequest(snapshotter=self._name, key=key, parent=parent, labels=labels)
        return messages.mounts(self._stub.unary("Prepare", request, snapshots_pb2.PrepareSnapshotResponse).mounts)

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        request = snapshots_pb2.ViewSnapshotRequest(snapshotter=self._name, key=key, parent=parent, labels=labels)
        return messages.mounts(self._stub.unary("View", request, snapshots_pb2.ViewSnapshotResponse).mounts)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        request = snapshots_pb2.CommitSnapshotRequest(snapshotter=self._name, name=name, key=key, labels=labels)
        self._stub.unary("Commit", request, Empty)

    def remove(self, key: str) -> None:
        self._stub.unary("Remove", snapshots_pb2.RemoveSnapshotRequest(snapshotter=self._name, key=key), Empty)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[snapshots.Info]:
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=self._name, filters=filters)
        with self._stub.stream("List", [request], snapshots_pb2.ListSnapshotsResponse) as answers:
            for answer in answers:
                yield from map(_info, answer.info)

    def cleanup(self) -> None:
        self._stub.unary("Cleanup", snapshots_pb2.CleanupRequest(snapshotter=self._name), Empty)

    def close(self) -> None:
        """Nothing: the channel belongs to whoever made it."""
