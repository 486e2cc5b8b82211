"""What is served, by path, and how a call passes through its handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError, Message

from plugin_sdk import errors
from plugin_sdk.wire import edge, rpc, status
from plugin_sdk.wire.http2.stream import Stream

_TURN = 32  # messages after which others get a turn, although neither handler nor socket made us wait
_CANCELED = status.CODES[errors.Canceled]


class Routes:
    """Raises Unimplemented, in the words of grpc's own servers, for what is not there."""

    def __init__(self, edge_: edge.Edge) -> None:
        self._edge = edge_
        self._routes: dict[str, Route] = {}
        self._services: set[str] = set()

    def mount(self, servicer: rpc.Servicer) -> None:
        self._services.add(servicer.service)
        for name, method in servicer.methods.items():
            if method.handler is not None:
                path = f"/{servicer.service}/{name}"
                self._routes[path] = Route(self._edge, path, method)

    def find(self, path: str) -> Route:
        route = self._routes.get(path)
        if route is None:
            raise errors.Unimplemented(self._unknown(path))
        return route

    def _unknown(self, path: str) -> str:
        service, slash, name = path.removeprefix("/").rpartition("/")
        if not slash:
            return f'malformed method name: "{path}"'
        known = service in self._services
        return f"unknown method {name} for service {service}" if known else f"unknown service {service}"


class Route:
    __slots__ = ("_decode", "_edge", "_handler", "_method", "is_unary", "path", "takes_stream")

    def __init__(self, edge_: edge.Edge, path: str, method: rpc.Method) -> None:
        self._edge = edge_
        self._method = method
        self._handler: Any = method.handler
        self._decode = method.request.FromString
        self.path = path
        self.takes_stream = method.client_streaming
        self.is_unary = not (method.client_streaming or method.server_streaming)

    async def serve(self, stream: Stream) -> None:
        """One call from its first to its last byte; the body of its task."""
        call = None
        try:
            call = self._edge.call(self._method.namespaced, stream.headers, stream.peer, stream.timeout)
            request = _Requests(self, stream) if self.takes_stream else self.decode(stream.take())
            if self._method.server_streaming:
                await _send_all(stream, self._handler(request, call))
            else:
                await stream.answer(_encode(await self._handler(request, call)))
        except asyncio.CancelledError:
            if call is not None:
                call.scope.cancel()
            stream.end(_CANCELED, "the call has been cancelled")
            raise
        except Exception as err:  # noqa: BLE001  # the edge: every failure becomes a status
            stream.end(*edge.failure(self.path, err))

    def decode(self, data: bytes) -> Message:
        try:
            return self._decode(data)
        except DecodeError as err:
            raise errors.Internal(f"grpc: error unmarshalling request: {err}") from None


async def _send_all(stream: Stream, responses: AsyncIterator[Message | bytes]) -> None:
    """An iterator that is a generator ends with the call, not at some later collection."""
    sent = 0
    try:
        async for response in responses:
            await stream.send(_encode(response))
            sent += 1
            if sent % _TURN == 0:
                await asyncio.sleep(0)
    finally:
        close = getattr(responses, "aclose", None)
        if close is not None:
            await close()
    stream.end()


def _encode(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


class _Requests(AsyncIterator[Message]):
    """What the client streams."""

    __slots__ = ("_route", "_stream")

    def __init__(self, route: Route, stream: Stream) -> None:
        self._route = route
        self._stream = stream

    async def __anext__(self) -> Message:
        data = await self._stream.next()
        if data is None:
            raise StopAsyncIteration
        return self._route.decode(data)
