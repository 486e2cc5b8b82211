"""All that a servicer or a proxy sees of a transport: protobuf yes, grpc no."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from plugin_sdk import errors
from plugin_sdk.scope import Scope

NAMESPACE, LEASE = "containerd-namespace", "containerd-lease"
"""Headers of a call."""

T = TypeVar("T")
M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)

Handler = Callable[[Any, Any], Awaitable[Message] | AsyncIterator[Message | bytes]]


class Call(Protocol):
    """One call at the server."""

    @property
    def scope(self) -> Scope: ...

    @property
    def peer(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def run(self, work: Callable[..., T], *args: object, lane: str = "") -> T:
        """Runs blocking ``work`` in a thread: in the lane of the plugin named ``kind.id``, or that of the metadata.

        Raises ResourceExhausted, by name, when the plugin's lane is full.
        """
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC. By its streaming, ``handler`` is:

    - unary: ``async handler(request, call) -> response``
    - server streaming: ``handler(request, call) -> AsyncIterator[response]``; a response may be bytes, already encoded
    - client streaming: ``async handler(requests, call) -> response``
    - both: ``handler(requests, call) -> AsyncIterator[response]``

    A Proxy uses the same table without handler. ``namespaced`` False: works without the namespace header.
    """

    name: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool = False
    server_streaming: bool = False
    handler: Handler | None = None
    namespaced: bool = True


class Servicer(Protocol):
    """``service`` is the full name, such as ``containerd.services.version.v1.Version``."""

    @property
    def service(self) -> str: ...

    @property
    def methods(self) -> Mapping[str, Method]: ...


class Stream(Iterator[M_co], AbstractContextManager["Stream[M_co]"], Protocol[M_co]):
    """The answers of a streaming call; leaving the context cancels what still runs."""

    def cancel(self) -> None: ...


class Lost(errors.Unavailable):
    """There was no answer because the connection could not be made or has ended."""


class Channel(Protocol):
    """The client half of a transport. Errors are raised as ``plugin_sdk.errors``."""

    def unary(self, service: str, method: Method, request: Message, scope: Scope) -> Message: ...

    def stream(self, service: str, method: Method, requests: Iterable[Message], scope: Scope) -> Stream[Message]: ...

    def close(self) -> None: ...


@functools.cache
def methods(service: ServiceDescriptor) -> Mapping[str, Method]:
    """The table of a service as its .proto file declares it, without handlers."""
    return {method.name: _method(method) for method in service.methods}


def _method(method: MethodDescriptor) -> Method:
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    return Method(method.name, request, response, method.client_streaming, method.server_streaming)


def served(
    service: ServiceDescriptor, handlers: Mapping[str, Handler], *, namespaced: bool = True
) -> Mapping[str, Method]:
    """The same with handlers; a method without one is left out, so that the transport answers Unimplemented."""
    table = methods(service)
    return {name: replace(table[name], handler=handler, namespaced=namespaced) for name, handler in handlers.items()}


@dataclass(frozen=True, slots=True)
class Open:
    """A servicer that also takes calls without namespace."""

    service: str
    methods: Mapping[str, Method]


def without_namespace(servicer: Servicer) -> Servicer:
    """The same servicer for a plugin's program, where a namespace is not needed: containerd's collector sends none."""
    methods = {name: replace(method, namespaced=False) for name, method in servicer.methods.items()}
    return Open(servicer.service, methods)


class Stub:
    """A service at the far end of a channel, bound to a scope."""

    __slots__ = ("_channel", "_methods", "_service", "scope")

    def __init__(self, channel: Channel, service: ServiceDescriptor, scope: Scope) -> None:
        self._channel = channel
        self._service = service.full_name
        self._methods = methods(service)
        self.scope = scope

    def unary(self, name: str, request: Message, response: type[M]) -> M:
        return cast(M, self._channel.unary(self._service, self._methods[name], request, self.scope))

    def stream(self, name: str, requests: Iterable[Message], response: type[M]) -> Stream[M]:
        return cast("Stream[M]", self._channel.stream(self._service, self._methods[name], requests, self.scope))
