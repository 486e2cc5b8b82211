"""Events: the two wire halves of ``plugin_sdk.events``, and the door for shims."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from google.protobuf.empty_pb2 import Empty

from plugin_sdk import errors, events, runtime
from plugin_sdk.api.services.events.v1 import events_pb2
from plugin_sdk.api.services.ttrpc.events.v1 import events_pb2 as ttrpc_pb2
from plugin_sdk.api.types import event_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc

SERVICE = events_pb2.DESCRIPTOR.services_by_name["Events"]
TTRPC_SERVICE = ttrpc_pb2.DESCRIPTOR.services_by_name["Events"]


class Exchange(Protocol):
    """What the servicers need: the contract with a subscription that holds no thread."""

    def publish(self, topic: str, event: runtime.Any) -> None: ...

    def forward(self, envelope: events.Envelope) -> None: ...

    def subscribe_async(self, filters: Sequence[str] = ()) -> AsyncIterator[events.Envelope]:
        """Subscribed when this returns. A generator is closed when the caller goes. Raises InvalidArgument."""
        ...


class Servicer:
    """``resolve`` answers the exchange, bound to the caller's namespace, and does not block."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], Exchange]) -> None:
        self._resolve = resolve
        self.methods: Mapping[str, rpc.Method] = {
            **rpc.served(SERVICE, {"Publish": self._publish, "Forward": self._forward}),
            **rpc.served(SERVICE, {"Subscribe": self._subscribe}, namespaced=False),
        }

    async def _publish(self, request: events_pb2.PublishRequest, call: rpc.Call) -> Empty:
        await call.run(self._resolve(call).publish, request.topic, messages.any_value(request.event))
        return Empty()

    async def _forward(self, request: events_pb2.ForwardRequest, call: rpc.Call) -> Empty:
        await call.run(self._resolve(call).forward, _envelope(request.envelope))
        return Empty()

    async def _subscribe(
        self, request: events_pb2.SubscribeRequest, call: rpc.Call
    ) -> AsyncIterator[event_pb2.Envelope]:
        subscription = self._resolve(call).subscribe_async(list(request.filters))
        try:
            async for envelope in subscription:
                yield _message(envelope)
        finally:
            close = getattr(subscription, "aclose", None)
            if close is not None:
                await close()


class TtrpcServicer:
    """The service that shims call; the envelope itself names the namespace."""

    service = TTRPC_SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], Exchange]) -> None:
        self._resolve = resolve
        self.methods: Mapping[str, rpc.Method] = rpc.served(TTRPC_SERVICE, {"Forward": self._forward}, namespaced=False)

    async def _forward(self, request: ttrpc_pb2.ForwardRequest, call: rpc.Call) -> Empty:
        await call.run(self._resolve(call).forward, _envelope(request.envelope))
        return Empty()


def _message(envelope: events.Envelope) -> event_pb2.Envelope:
    return event_pb2.Envelope(
        timestamp=messages.timestamp(envelope.timestamp),
        namespace=envelope.namespace,
        topic=envelope.topic,
        event=messages.any_message(envelope.event),
    )


def _envelope(message: event_pb2.Envelope) -> events.Envelope:
    time = messages.nanoseconds(message.timestamp)
    return events.Envelope(time, message.namespace, message.topic, messages.any_value(message.event))


class Proxy(events.Exchange):
    """The events of a daemon at the far end."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def publish(self, topic: str, event: runtime.Any) -> None:
        request = events_pb2.PublishRequest(topic=topic, event=messages.any_message(event))
        self._stub.unary("Publish", request, Empty)

    def forward(self, envelope: events.Envelope) -> None:
        self._stub.unary("Forward", events_pb2.ForwardRequest(envelope=_message(envelope)), Empty)

    def subscribe(self, filters: Sequence[str] = ()) -> events.Subscription:
        """Begins when the request has arrived at the far end, which is not waited for."""
        request = events_pb2.SubscribeRequest(filters=filters)
        return ProxySubscription(self._stub.stream("Subscribe", [request], event_pb2.Envelope))


class ProxySubscription(events.Subscription):
    def __init__(self, answers: rpc.Stream[event_pb2.Envelope]) -> None:
        self._answers = answers
        self._closed = False

    def __iter__(self) -> ProxySubscription:
        return self

    def __next__(self) -> events.Envelope:
        try:
            return _envelope(next(self._answers))
        except errors.Canceled:
            if self._closed:
                raise StopIteration from None
            raise

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(errors.Error):
            self._answers.cancel()
