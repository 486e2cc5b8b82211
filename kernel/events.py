"""The exchange: takes every event of the daemon and tells it to whoever has subscribed.

``publish`` may be called from any thread; each subscriber sees the events in the order of the calls. Filters are asked
in the publisher's thread, so that a subscription keeps only what it wants. One that does not take its events is ended
when more than 65,536 of them, or 16 MiB, wait for it: it then raises ResourceExhausted, and its client subscribes
again. So neither memory nor other subscribers suffer from it.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from plugin_sdk import errors, filters, identifiers
from plugin_sdk.events import Envelope
from plugin_sdk.runtime import Any

MAX_EVENTS = 65_536
MAX_BYTES = 16 << 20

_OVERHEAD = 200  # bytes that an envelope takes besides its texts


class Exchange:
    """Everything is told to all namespaces' subscribers; ``bind`` gives the view of one namespace."""

    def __init__(self, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self._limits = max_events, max_bytes
        self._lock = threading.Lock()
        self._inboxes: list[_Inbox] = []
        self._closed = False

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        with self._lock:
            for inbox in self._inboxes:
                inbox.offer(envelopes)
            self._inboxes = [inbox for inbox in self._inboxes if inbox.error is None]

    def forward(self, envelope: Envelope) -> None:
        """Publishes what another process made. Raises InvalidArgument without namespace, time, or valid topic."""
        _validate(envelope)
        self.publish([envelope])

    def subscribe(self, wanted: Sequence[str] = ()) -> Stream:
        """For the event loop's thread, which it must be called in. Raises InvalidArgument for a malformed filter."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        return Stream(self._open(wanted, lambda: _wake(loop, arrived)), arrived, self._drop)

    def listen(self, wanted: Sequence[str] = ()) -> Listener:
        """For any other thread, which waits in it."""
        arrived = threading.Condition()
        return Listener(self._open(wanted, lambda: _notify(arrived)), arrived, self._drop)

    def bind(self, namespace: str) -> BoundExchange:
        return BoundExchange(self, namespace)

    def close(self) -> None:
        """Ends every subscription with Unavailable."""
        with self._lock:
            self._closed = True
            inboxes, self._inboxes = self._inboxes, []
        for inbox in inboxes:
            inbox.end(errors.Unavailable("the daemon is stopping"))

    def _open(self, wanted: Sequence[str], wake: Callable[[], None]) -> _Inbox:
        inbox = _Inbox(filters.compile(wanted), wake, *self._limits)
        with self._lock:
            if self._closed:
                raise errors.Unavailable("the daemon is stopping")
            self._inboxes.append(inbox)
        return inbox

    def _drop(self, inbox: _Inbox) -> None:
        with self._lock:
            if inbox in self._inboxes:
                self._inboxes.remove(inbox)
        inbox.end(_Ended())


class BoundExchange:
    """``plugin_sdk.events.Exchange`` of one namespace."""

    def __init__(self, exchange: Exchange, namespace: str) -> None:
        self._exchange = exchange
        self._namespace = namespace

    def publish(self, topic: str, event: Any) -> None:
        self._exchange.forward(Envelope(time.time_ns(), self._namespace, topic, event))

    def forward(self, envelope: Envelope) -> None:
        self._exchange.forward(envelope)

    def subscribe(self, filters: Sequence[str] = ()) -> Listener:
        return self._exchange.listen(filters)

    def subscribe_async(self, filters: Sequence[str] = ()) -> Stream:
        """On the event loop, without a thread that waits."""
        return self._exchange.subscribe(filters)


class Stream(AsyncIterator[Envelope]):
    """A subscription on the event loop; holds no thread."""

    def __init__(self, inbox: _Inbox, arrived: asyncio.Event, drop: Callable[[_Inbox], None]) -> None:
        self._inbox = inbox
        self._arrived = arrived
        self._drop = drop

    async def __anext__(self) -> Envelope:
        while True:
            self._arrived.clear()
            try:
                envelope = self._inbox.take()
            except _Ended:
                raise StopAsyncIteration from None
            if envelope is not None:
                return envelope
            await self._arrived.wait()

    def close(self) -> None:
        self._drop(self._inbox)

    async def aclose(self) -> None:
        """As close; what ends a generator ends this too."""
        self.close()


class Listener(Iterator[Envelope]):
    """A subscription that waits in its caller's thread; ``close`` ends it from any."""

    def __init__(self, inbox: _Inbox, arrived: threading.Condition, drop: Callable[[_Inbox], None]) -> None:
        self._inbox = inbox
        self._arrived = arrived
        self._drop = drop

    def __next__(self) -> Envelope:
        with self._arrived:
            while True:
                try:
                    envelope = self._inbox.take()
                except _Ended:
                    raise StopIteration from None
                if envelope is not None:
                    return envelope
                self._arrived.wait()

    def close(self) -> None:
        self._drop(self._inbox)


class _Ended(errors.Error):
    """The subscriber itself has closed."""


class _Inbox:
    """What waits for one subscriber."""

    def __init__(self, matches: filters.Matcher, wake: Callable[[], None], max_events: int, max_bytes: int) -> None:
        self._matches = matches
        self._wake = wake
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._waiting: deque[Envelope] = deque()
        self._bytes = 0
        self.error: errors.Error | None = None

    def offer(self, envelopes: Sequence[Envelope]) -> None:
        wanted = [envelope for envelope in envelopes if self._matches(Fields(envelope))]
        if not wanted:
            return
        with self._lock:
            if self.error is not None:
                return
            is_first = not self._waiting
            self._waiting.extend(wanted)
            self._bytes += sum(map(_size, wanted))
            if len(self._waiting) > self._max_events or self._bytes > self._max_bytes:
                self._fail(errors.ResourceExhausted(f"subscriber too slow: {len(self._waiting)} events wait for it"))
        if is_first:
            self._wake()

    def take(self) -> Envelope | None:
        """The next one, None when none waits. Raises what the subscription ended with."""
        with self._lock:
            if self._waiting:
                envelope = self._waiting.popleft()
                self._bytes -= _size(envelope)
                return envelope
            if self.error is not None:
                raise self.error
            return None

    def end(self, error: errors.Error) -> None:
        with self._lock:
            if self.error is None:
                self._fail(error)
        self._wake()

    def _fail(self, error: errors.Error) -> None:
        self.error = error
        self._waiting.clear()
        self._bytes = 0


def _size(envelope: Envelope) -> int:
    return _OVERHEAD + len(envelope.event.value) + len(envelope.event.type_url) + len(envelope.topic)


def _wake(loop: asyncio.AbstractEventLoop, arrived: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(arrived.set)


def _notify(arrived: threading.Condition) -> None:
    with arrived:
        arrived.notify_all()


def _validate(envelope: Envelope) -> None:
    try:
        identifiers.validate(envelope.namespace)
    except errors.InvalidArgument as err:
        raise errors.InvalidArgument(f"event envelope has invalid namespace: {err.message}") from err
    try:
        identifiers.validate_topic(envelope.topic)
    except errors.InvalidArgument as err:
        raise errors.InvalidArgument(f'envelope topic "{envelope.topic}": {err.message}') from err
    if envelope.timestamp <= 0:
        raise errors.InvalidArgument("timestamp must be set on forwarded event")


# -- fields ------------------------------------------------------------------------------------------------------


class Fields:
    """The fields of an envelope for filters; the event is decoded when one of its fields is asked for."""

    __slots__ = ("_decoded", "_envelope")

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._decoded: list[Message | None] = []

    def __call__(self, path: filters.Path) -> str | None:
        if len(path) == 1 and path[0] == "namespace":
            return filters.field(self._envelope.namespace)
        if len(path) == 1 and path[0] == "topic":
            return filters.field(self._envelope.topic)
        if len(path) > 1 and path[0] == "event":
            return _field_of(self._message(), path[1:])
        return None

    def _message(self) -> Message | None:
        if not self._decoded:
            self._decoded.append(_decode(self._envelope.event))
        return self._decoded[0]


def _decode(event: Any) -> Message | None:
    """None for a type that is not known, or bytes that are not of it: their fields are absent."""
    _register_types()
    try:
        found = descriptor_pool.Default().FindMessageTypeByName(event.type_url.rpartition("/")[2])
        decoded: Message = message_factory.GetMessageClass(found).FromString(event.value)
    except (KeyError, DecodeError):
        return None
    return decoded


def _field_of(message: Message | None, path: filters.Path) -> str | None:
    field = message.DESCRIPTOR.fields_by_name.get(path[0]) if message is not None else None
    if message is None or field is None:
        return None
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return filters.join(path, path[0], value)
    if field.message_type is not None:
        is_set = isinstance(value, Message) and message.HasField(field.name)
        return _field_of(value, path[1:]) if is_set and len(path) > 1 else None
    if len(path) > 1 or not isinstance(value, str | int):
        return None
    return str(value).lower() if isinstance(value, bool) else filters.field(str(value))


@functools.cache
def _register_types() -> None:
    """Importing them is enough for them to be found by name."""
    from plugin_sdk.api.events import container_pb2, content_pb2, image_pb2, namespace_pb2, snapshot_pb2, task_pb2

    del container_pb2, content_pb2, image_pb2, namespace_pb2, snapshot_pb2, task_pb2
