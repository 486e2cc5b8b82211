"""Content: the two wire halves of ``plugin_sdk.content``.

Write is a conversation on one stream: the first message bears a ref and opens the writer, each gets one answer. STAT
says how far the ingest is; WRITE at offset 0 begins it again, at another offset than the current one it is OutOfRange;
COMMIT may bring data too, and the blob's labels. The ingest stays open until the stream ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

from google.protobuf.empty_pb2 import Empty

from plugin_sdk import content, errors, identifiers, plugin
from plugin_sdk.api.services.content.v1 import content_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc

SERVICE = content_pb2.DESCRIPTOR.services_by_name["Content"]
LANE = plugin.CONTENT

READ_CHUNK = 1 << 20
WRITE_CHUNK = 8 << 20

STAT, WRITE, COMMIT = content_pb2.STAT, content_pb2.WRITE, content_pb2.COMMIT


class Servicer:
    """``resolve`` answers the caller's store and does not block; ``lane`` names the plugin behind it."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], content.Store], lane: str = LANE) -> None:
        self._resolve = resolve
        self._lane = lane
        self.methods: Mapping[str, rpc.Method] = rpc.served(
            SERVICE,
            {
                "Info": self._info,
                "Update": self._update,
                "List": self._list,
                "Delete": self._delete,
                "Read": self._read,
                "Status": self._status,
                "ListStatuses": self._list_statuses,
                "Write": self._write,
                "Abort": self._abort,
            },
        )

    async def _info(self, request: content_pb2.InfoRequest, call: rpc.Call) -> content_pb2.InfoResponse:
        identifiers.validate_digest(request.digest)
        info = await call.run(self._resolve(call).info, request.digest)
        return content_pb2.InfoResponse(info=_info_message(info))

    async def _update(self, request: content_pb2.UpdateRequest, call: rpc.Call) -> content_pb2.UpdateResponse:
        identifiers.validate_digest(request.info.digest)
        paths = list(request.update_mask.paths)
        info = await call.run(self._resolve(call).update, _info(request.info), paths)
        return content_pb2.UpdateResponse(info=_info_message(info))

    async def _list(
        self, request: content_pb2.ListContentRequest, call: rpc.Call
    ) -> AsyncIterator[content_pb2.ListContentResponse]:
        store = self._resolve(call)
        infos = await call.run(lambda: list(store.walk(list(request.filters))))
        for batch in messages.batches(map(_info_message, infos)):
            yield content_pb2.ListContentResponse(info=batch)

    async def _delete(self, request: content_pb2.DeleteContentRequest, call: rpc.Call) -> Empty:
        identifiers.validate_digest(request.digest)
        await call.run(self._resolve(call).delete, request.digest, lane=self._lane)
        return Empty()

    async def _read(self, request: content_pb2.ReadContentRequest, call: rpc.Call) -> AsyncIterator[bytes]:
        identifiers.validate_digest(request.digest)
        reading = _Reading(self._resolve(call))
        try:
            chunk = await call.run(reading.begin, request, lane=self._lane)
            while chunk:
                yield chunk
                chunk = b"" if reading.ended else await call.run(reading.chunk, lane=self._lane)
        finally:
            await _close(call, self._lane, reading)

    async def _status(self, request: content_pb2.StatusRequest, call: rpc.Call) -> content_pb2.StatusResponse:
        found = await call.run(self._resolve(call).status, request.ref, lane=self._lane)
        return content_pb2.StatusResponse(status=_status_message(found))

    async def _list_statuses(
        self, request: content_pb2.ListStatusesRequest, call: rpc.Call
    ) -> content_pb2.ListStatusesResponse:
        found = await call.run(self._resolve(call).list_statuses, list(request.filters), lane=self._lane)
        return content_pb2.ListStatusesResponse(statuses=map(_status_message, found))

    async def _abort(self, request: content_pb2.AbortRequest, call: rpc.Call) -> Empty:
        await call.run(self._resolve(call).abort, request.ref, lane=self._lane)
        return Empty()

    async def _write(
        self, requests: AsyncIterator[content_pb2.WriteContentRequest], call: rpc.Call
    ) -> AsyncIterator[content_pb2.WriteContentResponse]:
        ingest = _Ingest(self._resolve(call))
        try:
            async for request in requests:
                yield await call.run(ingest.answer, request, lane=self._lane)
                if request.action == COMMIT:
                    return
        finally:
            await _close(call, self._lane, ingest)


async def _close(call: rpc.Call, lane: str, handle: _Reading | _Ingest) -> None:
    """Closes also when the caller goes just now, and when the lane is full: a ref must not stay locked."""
    if not handle.ended:
        await asyncio.shield(_close_in(call, lane, handle))


async def _close_in(call: rpc.Call, lane: str, handle: _Reading | _Ingest) -> None:
    try:
        await call.run(handle.close, lane=lane)
    except (errors.ResourceExhausted, errors.Unavailable):
        handle.close()


class _Reading:
    """The state of one Read; made before its reader is opened, so that one who goes meanwhile leaves none open.

    Clients read in small pieces, each a call: open, read and close are then one step in one thread."""

    def __init__(self, store: content.Store) -> None:
        self._store = store
        self._reader: content.Reader | None = None
        self._offset = self._end = 0
        self.ended = False

    def begin(self, request: content_pb2.ReadContentRequest) -> bytes:
        """The first chunk, encoded; empty when there is none."""
        self._reader = self._store.reader(request.digest)
        size = self._reader.size
        self._offset = max(0, request.offset)
        if self._offset > size:
            raise errors.OutOfRange(f"read past object length {size} bytes")
        self._end = min(size, self._offset + request.size) if request.size > 0 else size
        return self.chunk() if self._offset < self._end else b""

    def chunk(self) -> bytes:
        assert self._reader is not None
        size = min(READ_CHUNK, self._end - self._offset)
        data = self._reader.read_at(self._offset, size)
        if len(data) != size:
            raise errors.DataLoss(f"blob ends at {self._offset + len(data)}, {self._offset + size} expected")
        encoded = encode_chunk(self._offset, data)
        self._offset += size
        if self._offset == self._end:
            self.close()
        return encoded

    def close(self) -> None:
        self.ended = True
        if self._reader is not None:
            self._reader.close()


def encode_chunk(offset: int, data: bytes) -> bytes:
    """A ReadContentResponse, encoded with one copy of ``data`` instead of two."""
    head = b"\x08" + _varint(offset) if offset else b""
    return b"".join((head, b"\x12", _varint(len(data)), data))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Ingest:
    """The state of one Write: its writer, and what the caller has said of size and digest."""

    def __init__(self, store: content.Store) -> None:
        self._store = store
        self._writer: content.Writer | None = None
        self._total, self._expected, self._offset = 0, "", 0
        self.ended = False

    def answer(self, request: content_pb2.WriteContentRequest) -> content_pb2.WriteContentResponse:
        self._total = request.total or self._total
        self._expected = request.expected or self._expected
        writer = self._writer or self._open(request)
        if request.action == STAT:
            return self._stat(writer)
        self._append(writer, request)
        if request.action == COMMIT:
            digest = writer.commit(self._total, self._expected, dict(request.labels))
            self.close()
        else:
            digest = writer.digest()
        return content_pb2.WriteContentResponse(action=request.action, offset=self._offset, digest=digest)

    def _open(self, request: content_pb2.WriteContentRequest) -> content.Writer:
        if not request.ref:
            raise errors.InvalidArgument("first message must have a reference")
        self._writer = self._store.writer(request.ref, request.total, request.expected)
        self._offset = self._writer.status().offset
        return self._writer

    def close(self) -> None:
        self.ended = True
        if self._writer is not None:
            self._writer.close()

    def _stat(self, writer: content.Writer) -> content_pb2.WriteContentResponse:
        status = writer.status()
        return content_pb2.WriteContentResponse(
            action=STAT,
            started_at=messages.timestamp(status.started_at),
            updated_at=messages.timestamp(status.updated_at),
            offset=status.offset,
            total=self._total or status.total,
            digest=writer.digest(),
        )

    def _append(self, writer: content.Writer, request: content_pb2.WriteContentRequest) -> None:
        if request.offset and request.offset != self._offset:
            raise errors.OutOfRange(f"write @{request.offset} must occur at current offset {self._offset}")
        if not request.offset and self._offset:
            writer.truncate(0)
            self._offset = 0
        if request.data:
            self._offset += writer.write(request.data)


def _info_message(info: content.Info) -> content_pb2.Info:
    return content_pb2.Info(
        digest=info.digest,
        size=info.size,
        created_at=messages.timestamp(info.created_at),
        updated_at=messages.timestamp(info.updated_at),
        labels=info.labels,
    )


def _info(message: content_pb2.Info) -> content.Info:
    return content.Info(
        message.digest,
        message.size,
        messages.nanoseconds(message.created_at),
        messages.nanoseconds(message.updated_at),
        dict(message.labels),
    )


def _status_message(status: content.Status) -> content_pb2.Status:
    return content_pb2.Status(
        started_at=messages.timestamp(status.started_at),
        updated_at=messages.timestamp(status.updated_at),
        ref=status.ref,
        offset=status.offset,
        total=status.total,
        expected=status.expected,
    )


def _status(message: content_pb2.Status) -> content.Status:
    return content.Status(
        message.ref,
        message.offset,
        message.total,
        message.expected,
        messages.nanoseconds(message.started_at),
        messages.nanoseconds(message.updated_at),
    )


class Proxy(content.Store):
    """A content store at the far end."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def info(self, digest: str) -> content.Info:
        request = content_pb2.InfoRequest(digest=digest)
        return _info(self._stub.unary("Info", request, content_pb2.InfoResponse).info)

    def update(self, info: content.Info, fieldpaths: Sequence[str] = ()) -> content.Info:
        request = content_pb2.UpdateRequest(info=_info_message(info), update_mask=messages.field_mask(fieldpaths))
        return _info(self._stub.unary("Update", request, content_pb2.UpdateResponse).info)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[content.Info]:
        request = content_pb2.ListContentRequest(filters=filters)
        with self._stub.stream("List", [request], content_pb2.ListContentResponse) as answers:
            for answer in answers:
                yield from map(_info, answer.info)

    def delete(self, digest: str) -> None:
        self._stub.unary("Delete", content_pb2.DeleteContentRequest(digest=digest), Empty)

    def reader(self, digest: str) -> content.Reader:
        return ProxyReader(self._stub, digest, self.info(digest).size)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> content.Writer:
        return ProxyWriter(self._stub, ref, total, expected)

    def status(self, ref: str) -> content.Status:
        request = content_pb2.StatusRequest(ref=ref)
        return _status(self._stub.unary("Status", request, content_pb2.StatusResponse).status)

    def list_statuses(self, filters: Sequence[str] = ()) -> list[content.Status]:
        request = content_pb2.ListStatusesRequest(filters=filters)
        return [
            _status(each)
            for each in self._stub.unary("ListStatuses", request, content_pb2.ListStatusesResponse).statuses
        ]

    def abort(self, ref: str) -> None:
        self._stub.unary("Abort", content_pb2.AbortRequest(ref=ref), Empty)


class ProxyReader(content.Reader):
    """Each read is a call of its own."""

    def __init__(self, stub: rpc.Stub, digest: str, size: int) -> None:
        self._stub = stub
        self._digest = digest
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        if offset < 0:
            raise errors.OutOfRange(f'blob "{self._digest}": offset {offset} is negative')
        size = min(size, self._size - offset)
        if size <= 0:
            self._stub.scope.check()  # a differ reads nothing to see whether its caller is still there
            return b""
        request = content_pb2.ReadContentRequest(digest=self._digest, offset=offset, size=size)
        with self._stub.stream("Read", [request], content_pb2.ReadContentResponse) as answers:
            data = b"".join(answer.data for answer in answers)
        if len(data) != size:
            raise errors.DataLoss(f'blob "{self._digest}": {len(data)} bytes from {offset} on, {size} expected')
        return data

    def fileno(self) -> int:
        raise errors.Unimplemented(f'blob "{self._digest}" is at the far end of a socket and has no descriptor here')

    def close(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        self.close()


class ProxyWriter(content.Writer):
    """One stream; the requests go through a queue, since the transport takes them from a thread of its own."""

    def __init__(self, stub: rpc.Stub, ref: str, total: int, expected: str) -> None:
        self._ref, self._total, self._expected = ref, total, expected
        self._requests: queue.SimpleQueue[content_pb2.WriteContentRequest | None] = queue.SimpleQueue()
        self._answers = stub.stream("Write", iter(self._requests.get, None), content_pb2.WriteContentResponse)
        self._closed = False
        first = content_pb2.WriteContentRequest(action=STAT, ref=ref, total=total, expected=expected)
        answer = self._ask(first)
        self._offset, self._digest = answer.offset, answer.digest

    def _ask(self, request: content_pb2.WriteContentRequest) -> content_pb2.WriteContentResponse:
        if self._closed:
            raise errors.FailedPrecondition(f'the writer of "{self._ref}" is closed')
        self._requests.put(request)
        try:
            return next(self._answers)
        except StopIteration:
            self._end()
            raise errors.Unavailable(f'the far end has closed the writer of "{self._ref}"') from None
        except errors.Error:
            self._end()
            raise

    def status(self) -> content.Status:
        answer = self._ask(content_pb2.WriteContentRequest(action=STAT))
        started, updated = messages.nanoseconds(answer.started_at), messages.nanoseconds(answer.updated_at)
        return content.Status(self._ref, answer.offset, answer.total or self._total, self._expected, started, updated)

    def digest(self) -> str:
        return self._digest

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), WRITE_CHUNK):
            self._write(bytes(view[start : start + WRITE_CHUNK]))
        return len(view)

    def _write(self, data: bytes) -> None:
        request = content_pb2.WriteContentRequest(action=WRITE, offset=self._offset, data=data)
        answer = self._ask(request)
        if answer.offset != self._offset + len(data):
            raise errors.DataLoss(f'ingest "{self._ref}" is at {answer.offset}, {self._offset + len(data)} expected')
        self._offset, self._digest = answer.offset, answer.digest

    def truncate(self, size: int) -> None:
        """The wire knows only a new beginning. Raises Unimplemented for a size in between."""
        if size > self._offset:
            raise errors.OutOfRange(f'ingest "{self._ref}" has {self._offset} bytes, not {size}')
        if size == self._offset:
            return
        if size:
            raise errors.Unimplemented(f'ingest "{self._ref}" is at the far end of a socket: it can be cut to 0 only')
        answer = self._ask(content_pb2.WriteContentRequest(action=WRITE, offset=0))
        self._offset, self._digest = answer.offset, answer.digest

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        request = content_pb2.WriteContentRequest(
            action=COMMIT, offset=self._offset, total=size, expected=expected, labels=labels
        )
        answer = self._ask(request)
        self.close()
        return answer.digest

    def close(self) -> None:
        """Returns when the far end has let go of the ref."""
        if self._closed:
            return
        self._end()
        with contextlib.suppress(errors.Error):
            for _ in self._answers:
                pass

    def _end(self) -> None:
        self._closed = True
        self._requests.put(None)

    def __exit__(self, *exc: object) -> None:
        self.close()
