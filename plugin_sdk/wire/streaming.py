"""Streaming: streams with an id that other requests can name; the two wire halves.

A caller opens a stream by a first message that bears the id, and is answered by an empty one when the stream can be
named. From then on both sides send Anys, each its own kind. Whoever works for the request that names the stream uses it
from a thread, as ``Stream``.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message

from plugin_sdk import errors
from plugin_sdk.api.services.streaming.v1 import streaming_pb2
from plugin_sdk.runtime import Any
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc
from plugin_sdk.wire.resumption import Resumption, Wakeups

SERVICE = streaming_pb2.DESCRIPTOR.services_by_name["Streaming"]

M = TypeVar("M", bound=Message)

_EMPTY = any_pb2.Any(type_url="google.protobuf.Empty")
_AHEAD = 8 << 20  # bytes that may wait on either side of a stream


class Stream(Protocol):
    """One side of a stream, for threads: one that sends and one that receives."""

    def send(self, message: Any) -> None:
        """Returns when it is on its way. Raises Canceled when the stream is over."""
        ...

    def receive(self) -> Any | None:
        """The next message of the other side, None after its last one. Raises Canceled when the stream is over."""
        ...

    def close(self) -> None:
        """Nothing more is sent."""
        ...


def pack(message: Message) -> Any:
    """A type URL is the bare name: ``Any.Pack`` would write a prefix that Go's peers do not expect."""
    return Any(message.DESCRIPTOR.full_name, message.SerializeToString())


def is_of(value: Any, kind: type[Message]) -> bool:
    return value.type_url.rpartition("/")[2] == kind.DESCRIPTOR.full_name


def unpack(value: Any, kind: type[M]) -> M:
    """Raises InvalidArgument for a message of another kind, or a malformed one."""
    if not is_of(value, kind):
        raise errors.InvalidArgument(f'a message is a "{value.type_url}" instead of a "{kind.DESCRIPTOR.full_name}"')
    try:
        return kind.FromString(value.value)
    except DecodeError as err:
        raise errors.InvalidArgument(f'a message is a malformed "{kind.DESCRIPTOR.full_name}": {err}') from None


# --- the server


class Streams:
    """The open ones, by namespace and id; used from any thread."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Served] = {}
        self._lock = threading.Lock()

    def find(self, namespace: str, id: str) -> Served:
        """Raises NotFound."""
        with self._lock:
            stream = self._open.get((namespace, id))
        if stream is None:
            raise errors.NotFound(f'stream "{id}": not found')
        return stream

    def add(self, namespace: str, id: str, stream: Served) -> None:
        """Raises AlreadyExists."""
        with self._lock:
            if self._open.setdefault((namespace, id), stream) is not stream:
                raise errors.AlreadyExists(f'stream "{id}": already exists')

    def remove(self, namespace: str, id: str) -> None:
        with self._lock:
            del self._open[namespace, id]


class Servicer:
    service = SERVICE.full_name

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._wakeups = Wakeups()
        self.methods: Mapping[str, rpc.Method] = rpc.served(SERVICE, {"Stream": self._stream})

    async def _stream(self, requests: AsyncIterator[any_pb2.Any], call: rpc.Call) -> AsyncIterator[any_pb2.Any | bytes]:
        id = await _id(requests)
        stream = Served(id, self._wakeups)
        self._streams.add(call.scope.namespace, id, stream)
        taking = asyncio.create_task(stream.take(requests))
        try:
            yield _EMPTY
            async for message in stream.outgoing():
                yield message
        finally:
            self._streams.remove(call.scope.namespace, id)
            stream.end()
            taking.cancel()


async def _id(requests: AsyncIterator[any_pb2.Any]) -> str:
    async for request in requests:
        id = unpack(messages.any_value(request), streaming_pb2.StreamInit).id
        if not id:
            raise errors.InvalidArgument("a stream must have an id")
        return id
    raise errors.InvalidArgument("the first message of a stream must bear its id")


class Served:
    """A ``Stream`` of a caller. The coroutines run in the loop, the rest in threads.

    When much waits for a thread, no more is taken from the caller; when much waits for the caller, who sends waits.
    """

    def __init__(self, id: str, wakeups: Wakeups) -> None:
        self._id = id
        self._wakeups = wakeups
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._incoming = _Line()
        self._outgoing = _Line()
        self._closed = self._over = False

    # In the loop

    async def take(self, requests: AsyncIterator[any_pb2.Any]) -> None:
        """Lets threads receive what the caller sends."""
        try:
            async for request in requests:
                room = self._put(messages.any_value(request))
                if room is not None:
                    await room
        except errors.Error:  # what has been sent cannot be read
            self.end()
            return
        with self._changed:
            self._incoming.ended = True
            self._changed.notify_all()

    def _put(self, message: Any) -> Resumption | None:
        """What to wait for before the next one."""
        with self._changed:
            self._incoming.put(message, len(message.value))
            self._changed.notify_all()
            return self._incoming.pause(self._loop) if self._incoming.is_full else None

    async def outgoing(self) -> AsyncIterator[any_pb2.Any]:
        """What threads have sent, until one closes the stream."""
        while (batch := self._take_all()) is not None:
            if isinstance(batch, Resumption):
                await batch
                continue
            for message in batch:
                yield any_pb2.Any(type_url=message.type_url, value=message.value)

    def _take_all(self) -> list[Any] | Resumption | None:
        with self._changed:
            if self._outgoing.messages:
                self._changed.notify_all()
                return self._outgoing.take_all()
            return None if self._closed or self._over else self._outgoing.pause(self._loop)

    def end(self) -> None:
        """The call is over."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    # In threads

    def send(self, message: Any) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._over or not self._outgoing.is_full)
            self._check()
            self._outgoing.put(message, len(message.value))
            paused = self._outgoing.go_on()
        self._resume(paused)

    def receive(self, timeout: float | None = None) -> Any | None:
        """Raises DeadlineExceeded when nothing comes within ``timeout`` seconds."""
        line = self._incoming
        with self._changed:
            if not self._changed.wait_for(
                lambda: line.messages or line.ended or self._closed or self._over, timeout=timeout
            ):
                raise errors.DeadlineExceeded(f'the caller sends nothing by the stream "{self._id}"')
            self._check()
            if not line.messages:
                return None
            message = line.take()
            paused = None if line.is_full else line.go_on()
        self._resume(paused)
        return message

    def _check(self) -> None:
        if self._closed or self._over:
            raise errors.Canceled(f'the stream "{self._id}" has ended')

    def _resume(self, paused: Resumption | None) -> None:
        if paused is not None:
            self._wakeups.resume(paused)

    def close(self) -> None:
        """The call ends when the caller has what was sent; who waits for the caller is told Canceled."""
        with self._changed:
            self._closed = True
            paused = self._outgoing.go_on()
            self._changed.notify_all()
        self._resume(paused)

    def wait(self, timeout: float) -> bool:
        """Whether the call has ended within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._over, timeout)


class _Line:
    """Messages that wait for the other side, and the coroutine that waits for that to change."""

    __slots__ = ("_paused", "ended", "messages", "size")

    def __init__(self) -> None:
        self.messages: deque[Any] = deque()
        self.size = 0
        self.ended = False
        self._paused: Resumption | None = None

    @property
    def is_full(self) -> bool:
        return self.size > _AHEAD or len(self.messages) > _AHEAD >> 10

    def put(self, message: Any, size: int) -> None:
        self.messages.append(message)
        self.size += size

    def take(self) -> Any:
        message = self.messages.popleft()
        self.size -= len(message.value)
        return message

    def take_all(self) -> list[Any]:
        taken = list(self.messages)
        self.messages.clear()
        self.size = 0
        return taken

    def pause(self, loop: asyncio.AbstractEventLoop) -> Resumption:
        self._paused = Resumption(loop)
        return self._paused

    def go_on(self) -> Resumption | None:
        paused, self._paused = self._paused, None
        return paused


# --- the client


class Proxy:
    """Opens streams at the far end."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def open(self, kind: str) -> ProxyStream:
        """With an id that begins with ``kind``; can be named in requests when this returns. Raises AlreadyExists."""
        return ProxyStream(self._stub, f"{kind}-{secrets.token_hex(8)}")


class ProxyStream(AbstractContextManager["ProxyStream"]):
    """A ``Stream`` at the caller. The requests go through a queue, since the transport takes them from a thread."""

    def __init__(self, stub: rpc.Stub, id: str) -> None:
        self.id = id
        self._requests: queue.SimpleQueue[any_pb2.Any | None] = queue.SimpleQueue()
        self._answers = stub.stream("Stream", iter(self._requests.get, None), any_pb2.Any)
        self.send(pack(streaming_pb2.StreamInit(id=id)))
        try:
            if self.receive() is None:
                raise errors.Unavailable(f'the far end has closed the stream "{id}"')
        except BaseException:
            self.cancel()
            raise

    def send(self, message: Any) -> None:
        self._requests.put(any_pb2.Any(type_url=message.type_url, value=message.value))

    def receive(self) -> Any | None:
        answer = next(self._answers, None)
        return None if answer is None else messages.any_value(answer)

    def close(self) -> None:
        self._requests.put(None)

    def cancel(self) -> None:
        """From any thread; who waits for the far end is told Canceled."""
        with contextlib.suppress(errors.Error):
            self._answers.cancel()
        self.close()

    def __exit__(self, *exc: object) -> None:
        self.cancel()
