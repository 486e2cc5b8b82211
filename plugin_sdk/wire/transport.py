"""gRPC: the server on grpc.aio, and a blocking client. The one file that imports grpc; addresses as in ``address``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read once at the import: nothing of it on a program's stderr

import grpc
import grpc.aio
from google.protobuf.message import Message

from plugin_sdk import errors
from plugin_sdk.scope import Scope
from plugin_sdk.wire import address as address_
from plugin_sdk.wire import edge, rpc, status

# Of an answer that cannot be read it would log a traceback; the caller has the error.
logging.getLogger("grpc._common").setLevel(logging.CRITICAL)

MAX_MESSAGE = 16 << 20

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 64 << 10),
]
_SERVER_OPTIONS = [
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
]
_CLIENT_OPTIONS = [
    *_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),  # one channel's failures do not delay another's attempts
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # which is how long an attempt may take, on a slow machine too
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_TRANSPORT_WORDS = (
    *("failed to connect", "Socket closed", "Connection reset", "Connection refused", "Broken pipe", "recvmsg:"),
    *("GOAWAY received", "Endpoint closing", "Channel closed", "connections to all backends failing", "keepalive"),
)

Context = Any  # grpc.aio.ServicerContext, whose stubs lag behind


class Server:
    """Made, used and stopped within one event loop."""

    def __init__(
        self,
        lane: Callable[[str], edge.Lane],
        check_lease: Callable[[Scope], None] | None = None,
        *,
        max_receive: int = MAX_MESSAGE,
        max_send: int = MAX_MESSAGE,
    ) -> None:
        """``max_receive`` and ``max_send`` bound a message, in bytes."""
        self._edge = edge.Edge(lane, check_lease)
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._sockets: list[tuple[str, int]] = []
        sizes = [("grpc.max_receive_message_length", max_receive), ("grpc.max_send_message_length", max_send)]
        self._server = grpc.aio.server(options=_SERVER_OPTIONS + sizes, handlers=[_Router(self._handlers)])

    def mount(self, servicer: rpc.Servicer) -> None:
        """Also while serving. A method without handler answers Unimplemented."""
        for name, method in servicer.methods.items():
            if method.handler is not None:
                path = f"/{servicer.service}/{name}"
                self._handlers[path] = _handler(self._edge, path, method)

    def listen(self, address: str, *, uid: int = 0, gid: int = 0, mode: int = 0o660) -> int:
        """Answers the port of TCP, 0 for a unix socket; owner and mode are for the latter.

        A socket that a dead server left is replaced. Raises FailedPrecondition when one lives there or the address
        cannot be used."""
        target, is_path = address_.split(address)
        if not is_path:
            return _bind(self._server, target)
        with address_.owned(target, uid, gid, mode):
            _bind(self._server, f"unix:{target}")
        self._sockets.append((target, os.stat(target).st_ino))
        return 0

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace: float = 0.0) -> None:
        """Takes no more calls, gives those that run ``grace`` seconds, cancels the rest, removes its sockets."""
        await self._server.stop(grace or None)
        for path, inode in self._sockets:
            address_.unlink(path, inode)
        self._sockets.clear()


def _bind(server: grpc.aio.Server, target: str) -> int:
    try:
        return server.add_insecure_port(target)
    except RuntimeError as err:
        raise errors.FailedPrecondition(f'cannot listen on "{target}": {err}') from err


class _Router(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)


_MAKERS: Mapping[tuple[bool, bool], Any] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _handler(edge_: edge.Edge, path: str, method: rpc.Method) -> grpc.RpcMethodHandler[Any, Any]:
    wrap = _streaming if method.server_streaming else _unary
    maker = _MAKERS[method.client_streaming, method.server_streaming]
    handler: grpc.RpcMethodHandler[Any, Any] = maker(
        wrap(edge_, path, method), request_deserializer=method.request.FromString, response_serializer=_encode
    )
    return handler


def _encode(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def _call(edge_: edge.Edge, method: rpc.Method, context: Context) -> edge.Call:
    return edge_.call(method.namespaced, dict(context.invocation_metadata()), context.peer, context.time_remaining())


def _unary(edge_: edge.Edge, path: str, method: rpc.Method) -> Callable[[Any, Context], Awaitable[Message]]:
    handler: Any = method.handler

    async def answer(request: Any, context: Context) -> Message:
        call = None
        try:
            call = _call(edge_, method, context)
            response: Message = await handler(request, call)
            return response
        except asyncio.CancelledError:
            _cancel(call)
            raise
        except Exception as err:  # noqa: BLE001  # the edge: every failure becomes a status
            aborted: Message = await _abort(context, path, err)
            return aborted

    return answer


def _streaming(edge_: edge.Edge, path: str, method: rpc.Method) -> Callable[[Any, Context], Awaitable[None]]:
    handler: Any = method.handler

    async def answer(request: Any, context: Context) -> None:
        call = None
        try:
            call = _call(edge_, method, context)
            async with _closing(handler(request, call)) as responses:
                async for response in responses:
                    await context.write(response)
        except asyncio.CancelledError:
            _cancel(call)
            raise
        except Exception as err:  # noqa: BLE001  # the edge: every failure becomes a status
            await _abort(context, path, err)

    return answer


@contextlib.asynccontextmanager
async def _closing(responses: AsyncIterator[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    """An iterator that is a generator ends with the call, not at some later collection."""
    try:
        yield responses
    finally:
        close = getattr(responses, "aclose", None)
        if close is not None:
            await close()


def _cancel(call: edge.Call | None) -> None:
    if call is not None:
        call.scope.cancel()


async def _abort(context: Context, path: str, error: Exception) -> Any:
    code, message = edge.failure(path, error)
    await context.abort(_CODES[code], message)


Lost = rpc.Lost


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM texts for a TCP address: what the server's certificate must be signed by, and our own certificate with its
    key, if the server asks for one. ``name`` is what the server's certificate must bear; empty: the address's host."""

    ca: bytes
    certificate: bytes = b""
    key: bytes = b""
    name: str = ""


class Channel:
    """A ``wire.rpc.Channel``; used from any thread. ``lease`` False leaves the lease header out, for plugins."""

    def __init__(self, address: str, *, lease: bool = True, tls: Tls | None = None) -> None:
        target, is_path = address_.split(address)
        self.address = address
        self._lease = lease
        self._closed = False
        self._channel = _open(f"unix:{target}" if is_path else target, tls)
        self._callables: dict[tuple[str, str], Any] = {}

    def unary(self, service: str, method: rpc.Method, request: Message, scope: Scope) -> Message:
        scope.check()
        with self._unless_closed():
            future = self._callable(service, method).future(
                request, timeout=scope.remaining(), metadata=self._metadata(scope)
            )
        forget = scope.on_cancel(future.cancel)
        try:
            response: Message = future.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as err:
            raise self._error(err) from None
        finally:
            forget()
        return response

    def stream(
        self, service: str, method: rpc.Method, requests: Iterable[Message], scope: Scope
    ) -> rpc.Stream[Message]:
        scope.check()
        argument = iter(requests) if method.client_streaming else next(iter(requests))
        if not method.server_streaming:
            raise errors.Unimplemented(f"{service}/{method.name}: client streams have no use here")
        with self._unless_closed():
            call = self._callable(service, method)(argument, timeout=scope.remaining(), metadata=self._metadata(scope))
        return _Stream(call, scope.on_cancel(call.cancel), self._error)

    def close(self) -> None:
        """Calls that run end with Lost, and so do those that follow."""
        self._closed = True
        self._channel.close()

    @contextlib.contextmanager
    def _unless_closed(self) -> Iterator[None]:
        try:
            yield
        except ValueError:  # what grpc raises when the channel has been closed
            if not self._closed:
                raise
            raise Lost(f'the connection to "{self.address}" has been closed') from None

    def _callable(self, service: str, method: rpc.Method) -> Any:
        key = (service, method.name)
        if key not in self._callables:
            kinds = ("unary", "stream")
            make = getattr(self._channel, f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}")
            self._callables[key] = make(
                f"/{service}/{method.name}",
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
        return self._callables[key]

    def _metadata(self, scope: Scope) -> list[tuple[str, str]]:
        headers = [(rpc.NAMESPACE, scope.namespace)] if scope.namespace else []
        if self._lease and scope.lease:
            headers.append((rpc.LEASE, scope.lease))
        return headers

    def _error(self, error: Any) -> errors.Error:
        if self._closed:
            return Lost(f'the connection to "{self.address}" has been closed')
        if isinstance(error, grpc.FutureCancelledError):
            return errors.Canceled("the caller has gone away")
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and _is_of_transport(details):
            reason = details.rpartition("error: ")[2]  # of all that grpc says
            return Lost(f'"{self.address}" does not answer: {reason}')
        return status.error(code.value[0], details)


def _open(target: str, tls: Tls | None) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(target, options=_CLIENT_OPTIONS)
    credentials = grpc.ssl_channel_credentials(tls.ca or None, tls.key or None, tls.certificate or None)
    named = [("grpc.ssl_target_name_override", tls.name)] if tls.name else []
    return grpc.secure_channel(target, credentials, options=[*_CLIENT_OPTIONS, *named])


def _is_of_transport(details: str) -> bool:
    """What grpc itself says when a connection fails or ends, and no server does."""
    return any(words in details for words in _TRANSPORT_WORDS)


class _Stream:
    def __init__(self, call: Any, forget: Callable[[], None], error: Callable[[Any], errors.Error]) -> None:
        self._call = call
        self._forget = forget
        self._error = error

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> Message:
        try:
            message: Message = next(self._call)
        except grpc.RpcError as err:
            self._forget()
            raise self._error(err) from None
        except StopIteration:
            self._forget()
            raise
        return message

    def cancel(self) -> None:
        self._forget()
        self._call.cancel()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()


def connect(address: str, *, lease: bool = True, tls: Tls | None = None) -> Channel:
    """Does not wait for the server: the first call does, and raises Unavailable. Raises InvalidArgument."""
    return Channel(address, lease=lease, tls=tls)
