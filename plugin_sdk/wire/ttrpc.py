"""ttrpc: the small protocol that shims speak, with the same servicers as gRPC; unary calls only.

A frame is u32 length, u32 stream id, u8 type, u8 flags, big endian, and then a ``ttrpc.Request`` or ``ttrpc.Response``.
Clients use odd stream ids. The namespace comes in the metadata.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from plugin_sdk import errors
from plugin_sdk.api.ttrpc import request_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import address as address_
from plugin_sdk.wire import edge, rpc, status

HEADER = struct.Struct(">IIBB")
REQUEST, RESPONSE, DATA = 1, 2, 3
MAX_MESSAGE = 4 << 20

NAMESPACE = "containerd-namespace-ttrpc"

_SECOND = 1_000_000_000


class Server:
    """Made, used and stopped within one event loop."""

    def __init__(self, lane: Callable[[str], edge.Lane], check_lease: Callable[[Scope], None] | None = None) -> None:
        self._edge = edge.Edge(lane, check_lease)
        self._methods: dict[str, rpc.Method] = {}
        self._sockets: list[socket.socket] = []
        self._inodes: list[tuple[str, int]] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def mount(self, servicer: rpc.Servicer) -> None:
        """Streaming methods are left out, and so answer Unimplemented."""
        for name, method in servicer.methods.items():
            if not (method.handler is None or method.client_streaming or method.server_streaming):
                self._methods[f"/{servicer.service}/{name}"] = method

    def listen(self, address: str, *, uid: int = 0, gid: int = 0, mode: int = 0o660) -> None:
        """As that of gRPC, but only for a unix socket."""
        path, is_path = address_.split(address)
        if not is_path:
            raise errors.InvalidArgument(f'address "{address}": ttrpc is served on unix sockets only')
        listener = socket.socket(socket.AF_UNIX)
        self._sockets.append(listener)
        with address_.owned(path, uid, gid, mode):
            listener.bind(path)
        self._inodes.append((path, os.stat(path).st_ino))

    async def start(self) -> None:
        for listener in self._sockets:
            self._servers.append(await asyncio.start_unix_server(self._serve, sock=listener))

    async def stop(self, grace: float = 0.0) -> None:
        """Takes no more connections, gives calls that run ``grace`` seconds, and removes its sockets."""
        for server in self._servers:
            server.close()
        if self._tasks and grace:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for listener in self._sockets:
            listener.close()
        for path, inode in self._inodes:
            address_.unlink(path, inode)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        calls: set[asyncio.Task[None]] = set()
        try:
            while True:
                stream, kind, payload = await _receive(reader)
                call = asyncio.ensure_future(self._answer(writer, stream, kind, payload))
                calls.add(call)
                call.add_done_callback(calls.discard)
        except (asyncio.IncompleteReadError, ConnectionError, errors.ResourceExhausted):
            pass  # the peer has gone, or does not speak ttrpc
        except asyncio.CancelledError:
            pass  # stop
        finally:
            for call in calls:
                call.cancel()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self._tasks.discard(task)

    async def _answer(self, writer: asyncio.StreamWriter, stream: int, kind: int, payload: bytes) -> None:
        path = ""
        try:
            if kind != REQUEST:
                raise errors.Unimplemented("ttrpc streams are not served here")
            request = request_pb2.Request.FromString(payload)
            path = f"/{request.service}/{request.method}"
            response = request_pb2.Response(payload=(await self._handle(path, request)).SerializeToString())
        except Exception as err:  # noqa: BLE001  # the edge: every failure becomes a status
            code, message = edge.failure(path, err)
            response = request_pb2.Response(status=status_pb2.Status(code=code, message=message))
        with contextlib.suppress(ConnectionError):
            writer.write(_frame(stream, RESPONSE, response.SerializeToString()))
            await writer.drain()

    async def _handle(self, path: str, request: request_pb2.Request) -> Message:
        method = self._methods.get(path)
        if method is None:
            raise errors.Unimplemented(f'method "{path}" is not served here')
        timeout = request.timeout_nano / _SECOND if request.timeout_nano > 0 else None
        call = self._edge.call(method.namespaced, _headers(request), lambda: "ttrpc", timeout)
        handler: Any = method.handler
        try:
            async with asyncio.timeout(timeout):
                message: Message = await handler(_decode(method, request.payload), call)
                return message
        except TimeoutError:
            raise errors.DeadlineExceeded("the caller's deadline has passed") from None
        finally:
            call.scope.cancel()


def _headers(request: request_pb2.Request) -> Mapping[str, str]:
    headers = {pair.key.lower(): pair.value for pair in request.metadata}
    if NAMESPACE in headers:
        headers[rpc.NAMESPACE] = headers[NAMESPACE]
    return headers


def _decode(method: rpc.Method, payload: bytes) -> Message:
    try:
        return method.request.FromString(payload)
    except DecodeError as err:
        raise errors.InvalidArgument(f"{method.name}: the request is not a {method.request.__name__}") from err


def _frame(stream: int, kind: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload), stream, kind, 0) + payload


async def _receive(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    length, stream, kind, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
    if length > MAX_MESSAGE:
        raise errors.ResourceExhausted(f"a ttrpc message of {length} bytes is longer than {MAX_MESSAGE}")
    return stream, kind, await reader.readexactly(length)


class Channel:
    """A ``wire.rpc.Channel`` for unary calls, one at a time. Raises Unavailable when nobody answers."""

    def __init__(self, address: str) -> None:
        path, _ = address_.split(address)
        self.address = address
        self._lock = threading.Lock()
        self._stream = -1
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
        except OSError as err:
            self._socket.close()
            raise errors.Unavailable(f'"{address}" does not answer: {err}') from err

    def unary(self, service: str, method: rpc.Method, request: Message, scope: Scope) -> Message:
        scope.check()
        remaining = scope.remaining()
        envelope = request_pb2.Request(
            service=service,
            method=method.name,
            payload=request.SerializeToString(),
            timeout_nano=int((remaining or 0) * _SECOND),
            metadata=[request_pb2.KeyValue(key=NAMESPACE, value=scope.namespace)] if scope.namespace else [],
        )
        response = request_pb2.Response.FromString(self._exchange(envelope.SerializeToString(), remaining))
        if response.status.code != status.OK:
            raise status.error(response.status.code, response.status.message)
        return method.response.FromString(response.payload)

    def _exchange(self, payload: bytes, timeout: float | None) -> bytes:
        with self._lock:
            self._stream += 2
            try:
                self._socket.settimeout(timeout)
                self._socket.sendall(_frame(self._stream, REQUEST, payload))
                return self._answer_to(self._stream)
            except TimeoutError:
                raise errors.DeadlineExceeded(f'"{self.address}" has not answered in time') from None
            except OSError as err:
                raise errors.Unavailable(f'"{self.address}" does not answer: {err}') from err

    def _answer_to(self, wanted: int) -> bytes:
        while True:
            length, stream, kind, _ = HEADER.unpack(self._exactly(HEADER.size))
            payload = self._exactly(length)
            if (stream, kind) == (wanted, RESPONSE):  # else a late answer to a call that has timed out
                return payload

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionResetError("closed by the peer")
            data += part
        return bytes(data)

    def stream(self, service: str, method: rpc.Method, requests: Iterable[Message], scope: Scope) -> NoReturn:
        raise errors.Unimplemented(f"{service}/{method.name}: streams over ttrpc have no use here")

    def close(self) -> None:
        self._socket.close()
