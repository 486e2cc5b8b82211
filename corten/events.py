"""Events of the daemon.

::

    with client.events.subscribe(['topic~="/tasks/"']) as events:
        for envelope in events:
            print(envelope.topic, corten.events.decoded(envelope.event))
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any as Anything

from google.protobuf import json_format

from plugin_sdk.api.events import (
    container_pb2,
    content_pb2,
    image_pb2,
    namespace_pb2,
    sandbox_pb2,
    snapshot_pb2,
    task_pb2,
)
from plugin_sdk.api.services.events.v1 import events_pb2
from plugin_sdk.api.types import event_pb2
from plugin_sdk.events import Envelope
from plugin_sdk.runtime import Any
from plugin_sdk.wire import events as wire

__all__ = ["Envelope", "Events", "Subscription", "decoded"]

_FILES = (container_pb2, content_pb2, image_pb2, namespace_pb2, sandbox_pb2, snapshot_pb2, task_pb2)
_KINDS = {each.full_name: each for file in _FILES for each in file.DESCRIPTOR.message_types_by_name.values()}


class Subscription(wire.ProxySubscription, AbstractContextManager["Subscription"]):
    """Iterates until it is closed, which another thread may do. Raises Unavailable when the daemon goes."""

    def __iter__(self) -> Subscription:
        return self

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Events(wire.Proxy):
    """A ``plugin_sdk.events.Exchange``; iterated itself, it tells all that happens."""

    def __iter__(self) -> Subscription:
        return self.subscribe()

    def subscribe(self, filters: Sequence[str] = ()) -> Subscription:
        """Iterates over what happens from the time on when the daemon has the request, which is not waited for. Of all
        namespaces, what one of the filters matches."""
        request = events_pb2.SubscribeRequest(filters=filters)
        return Subscription(self._stub.stream("Subscribe", [request], event_pb2.Envelope))


def decoded(event: Any) -> dict[str, Anything]:
    """The fields of an event by name; none for one of an unknown type."""
    from google.protobuf.message_factory import GetMessageClass

    kind = _KINDS.get(event.type_url.rpartition("/")[2])
    if kind is None:
        return {}
    message = GetMessageClass(kind).FromString(event.value)
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
