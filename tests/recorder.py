"""Records the events of a daemon through its own API, decoded."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pool, empty_pb2, message_factory
from google.protobuf.message import Message

from plugin_sdk.api.events import container_pb2, content_pb2, image_pb2, namespace_pb2, snapshot_pb2, task_pb2
from plugin_sdk.api.services.events.v1 import events_pb2
from plugin_sdk.api.types import event_pb2
from plugin_sdk.api.types.runc.options import oci_pb2

EVENTS = "/containerd.services.events.v1.Events/"
DECODED = (container_pb2, content_pb2, image_pb2, namespace_pb2, snapshot_pb2, task_pb2, oci_pb2)
SENTINEL = "/test/sentinel"


@dataclass(frozen=True, slots=True)
class Event:
    """``payload`` has the message's own field names; a type nobody knows has ``value``, its bytes."""

    namespace: str
    topic: str
    type_url: str
    payload: dict[str, Any]

    @property
    def subject(self) -> str:
        """What it is about: the id of a container, the name of an image, the key of a snapshot …"""
        names = ("container_id", "id", "name", "key", "digest")
        return str(next((self.payload[name] for name in names if name in self.payload), ""))


@dataclass(slots=True)
class Recorder:
    """Subscribed from ``start`` on. ``close`` ends it."""

    address: str
    events: list[Event] = field(default_factory=list)
    _arrived: threading.Condition = field(default_factory=threading.Condition)
    _channel: grpc.Channel | None = None
    _stream: Any = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Returns when the daemon has the subscription: a sentinel published meanwhile has come back."""
        self._channel = grpc.insecure_channel(f"unix://{self.address}")
        subscribe = self._channel.unary_stream(
            EVENTS + "Subscribe", events_pb2.SubscribeRequest.SerializeToString, event_pb2.Envelope.FromString
        )
        self._stream = subscribe(events_pb2.SubscribeRequest(), wait_for_ready=True)
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()
        self.flush()

    def _receive(self) -> None:
        try:
            for envelope in self._stream:
                with self._arrived:
                    self.events.append(decode(envelope))
                    self._arrived.notify_all()
        except grpc.RpcError:
            return

    def close(self) -> None:
        self._stream.cancel()
        assert self._channel is not None and self._thread is not None
        self._channel.close()
        self._thread.join(120)

    def flush(self, timeout: float = 60) -> int:
        """Waits until what was published before has arrived; answers how many events there are."""
        assert self._channel is not None
        publish = self._channel.unary_unary(
            EVENTS + "Publish", events_pb2.PublishRequest.SerializeToString, empty_pb2.Empty.FromString
        )
        wanted = f"{time.monotonic_ns()}"
        event = namespace_pb2.NamespaceDelete(name=wanted)
        request = events_pb2.PublishRequest(topic=SENTINEL)
        request.event.type_url, request.event.value = "containerd.events.NamespaceDelete", event.SerializeToString()
        deadline = time.monotonic() + timeout
        while not self._has_sentinel(wanted, 0.5):
            publish(request, metadata=(("containerd-namespace", "sentinel"),), timeout=timeout)
            assert time.monotonic() < deadline, f"no events from {self.address}"
        return len(self.events)

    def _has_sentinel(self, wanted: str, timeout: float) -> bool:
        def here() -> bool:
            return any(event.topic == SENTINEL and event.payload["name"] == wanted for event in self.events)

        with self._arrived:
            return bool(self.events) and self._arrived.wait_for(here, timeout) if wanted else False

    def wait(self, start: int, topic: str, subject: str, timeout: float = 60) -> None:
        """Until an event of ``topic`` about ``subject`` is among those from number ``start`` on."""

        def here() -> bool:
            return any(event.topic == topic and event.subject == subject for event in self.events[start:])

        with self._arrived:
            assert self._arrived.wait_for(here, timeout), f"{topic} of {subject} did not come from {self.address}"

    def since(self, start: int) -> list[Event]:
        return [event for event in self.events[start:] if event.topic != SENTINEL]


def decode(envelope: Any) -> Event:
    return Event(envelope.namespace, envelope.topic, envelope.event.type_url, opened(envelope.event))


def opened(packed: any_pb2.Any) -> dict[str, Any]:
    """The message inside, as plain values."""
    try:
        kind = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(packed.type_url))
    except KeyError:
        return {"value": packed.value.decode(errors="backslashreplace")}
    return {field.name: plain(value) for field, value in kind.FromString(packed.value).ListFields()}


def plain(value: Any) -> Any:
    """A message as a dict of the fields that are set; a packed one with its type URL."""
    if isinstance(value, any_pb2.Any):
        return {"type_url": value.type_url, **opened(value)}
    if isinstance(value, Message):
        return {field.name: plain(inner) for field, inner in value.ListFields()}
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    return value.hex() if isinstance(value, bytes) else value
