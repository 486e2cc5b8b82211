"""All that a servicer or a proxy sees of a transport: protobuf yes, grpc no."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from plugin_sdk.scope import Scope

T = TypeVar("T")


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
    handler: Callable[[Any, Call], Awaitable[Message] | AsyncIterator[Message | bytes]] | None = None
    namespaced: bool = True


class Servicer(Protocol):
    """``service`` is the full name, such as ``containerd.services.version.v1.Version``."""

    @property
    def service(self) -> str: ...

    @property
    def methods(self) -> Mapping[str, Method]: ...


class Stream(Iterator[Message], AbstractContextManager["Stream"], Protocol):
    """The answers of a streaming call; leaving the context cancels what still runs."""

    def cancel(self) -> None: ...


class Channel(Protocol):
    """The client half of a transport. Errors are raised as ``plugin_sdk.errors``."""

    def unary(self, service: str, method: Method, request: Message, scope: Scope) -> Message: ...

    def stream(self, service: str, method: Method, requests: Iterable[Message], scope: Scope) -> Stream: ...

    def close(self) -> None: ...
