"""gRPC's client half, blocking: a ``wire.rpc.Channel`` over a unix socket or plain TCP.

Each call has a connection for itself, which is kept for the next one: as many are open as there were calls at once.
"""

from __future__ import annotations

import math
import socket
import threading
import time
import weakref
from collections.abc import Iterable

from google.protobuf.message import DecodeError, Message

from plugin_sdk import errors
from plugin_sdk.scope import Scope
from plugin_sdk.wire import address as address_
from plugin_sdk.wire import rpc
from plugin_sdk.wire.http2 import headers
from plugin_sdk.wire.http2.assembly import Limits
from plugin_sdk.wire.http2.exchange import Connection, Exchange, Request, Socket
from plugin_sdk.wire.rpc import Lost

_PATIENCE = 20.0  # seconds for a server to take a connection, when the caller has no deadline
_KEPT = 16  # idle connections
_RETRY = 0.01  # seconds between attempts at a server that has too many connections to take

_FIRST = (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"localhost")
_REST = (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"user-agent", b"grpc-corten")
_ROUGH = 10.0  # seconds of a timeout from which on it is told in whole ones: then the same headers come again
_MOST = 99_999_999  # grpc-timeout has eight digits
_NAMESPACE, _LEASE, _TIMEOUT = rpc.NAMESPACE.encode(), rpc.LEASE.encode(), b"grpc-timeout"


def connect(address: str, *, lease: bool = True) -> Channel:
    """Does not wait for the server: the first call does, and raises Unavailable. Raises InvalidArgument."""
    return Channel(address, lease=lease)


class Channel:
    """Used from any thread. ``lease`` False leaves the lease header out, for plugins."""

    def __init__(self, address: str, *, lease: bool = True) -> None:
        self._target, self._is_path = address_.split(address)
        self.address = address
        self._lease = lease
        self._limits = Limits()
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._closed = False
        self._methods: dict[tuple[str, str], tuple[headers.Field, ...]] = {}

    def unary(self, service: str, method: rpc.Method, request: Message, scope: Scope) -> Message:
        scope.check()
        message = request.SerializeToString()
        with self._call(service, method, scope, message) as call:
            answer = call.receive()
            if answer is None or call.receive() is not None:
                raise errors.Internal(f"{service}/{method.name} has not one answer")
        return _decoded(method, answer)

    def stream(
        self, service: str, method: rpc.Method, requests: Iterable[Message], scope: Scope
    ) -> rpc.Stream[Message]:
        scope.check()
        if not method.server_streaming:
            raise errors.Unimplemented(f"{service}/{method.name}: client streams have no use here")
        first = None if method.client_streaming else next(iter(requests)).SerializeToString()
        try:
            call = self._call(service, method, scope, first)
        except errors.Error as err:
            return _Stream(None, method, err)
        if first is None:
            threading.Thread(target=call.send_all, args=(requests,), name="requests", daemon=True).start()
        return _Stream(call, method)

    def close(self) -> None:
        """Calls that run end with Lost, and so do those that follow."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            running = [connection for connection in self._all if connection not in idle]
        for connection in idle:
            connection.close()
        for connection in running:
            connection.shut_down()

    def give_back(self, connection: Connection, reusable: bool) -> None:
        with self._lock:
            if reusable and not self._closed and len(self._idle) < _KEPT:
                self._idle.append(connection)
                return
        connection.close()

    def explained(self, error: errors.Error) -> errors.Error:
        """The error as the caller is to see it."""
        return self._has_been_closed() if self._closed and isinstance(error, Lost) else error

    def _call(self, service: str, method: rpc.Method, scope: Scope, message: bytes | None) -> _Call:
        request = self._request(service, method.name, scope)
        connection = self._connection(scope)
        try:
            exchange = connection.begin(request, scope.deadline, message)
        except errors.Error as err:
            connection.close()
            raise self.explained(err) from None
        return _Call(self, connection, exchange, scope)

    def _connection(self, scope: Scope) -> Connection:
        while True:
            with self._lock:
                if self._closed:
                    raise self._has_been_closed()
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                break
            if connection.is_alive():
                return connection
            connection.close()
        made = Connection(self._dialled(scope.remaining(_PATIENCE) or 0.0), self.address, self._limits)
        if not self._keep(made):
            made.close()
            raise self._has_been_closed()
        return made

    def _keep(self, made: Connection) -> bool:
        with self._lock:
            if not self._closed:
                self._all.add(made)
            return not self._closed

    def _dialled(self, timeout: float) -> Socket:
        until = time.monotonic() + timeout
        try:
            if not self._is_path:
                host, _, port = self._target.rpartition(":")
                connected = Socket(fileno=socket.create_connection((host.strip("[]"), int(port)), timeout).detach())
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connected
            return _dialled_path(self._target, until)
        except TimeoutError:
            raise errors.DeadlineExceeded(f'"{self.address}" does not answer: connecting has timed out') from None
        except OSError as err:
            raise Lost(f'"{self.address}" does not answer: {err.strerror or err}') from err

    def _request(self, service: str, name: str, scope: Scope) -> Request:
        key = (service, name)
        fields = self._methods.get(key)
        if fields is None:
            fields = self._methods[key] = (*_FIRST, (b":path", f"/{service}/{name}".encode()), *_REST)
        if scope.namespace:
            fields = (*fields, (_NAMESPACE, scope.namespace.encode()))
        once = []
        if self._lease and scope.lease:
            once.append((_LEASE, scope.lease.encode()))
        left = scope.remaining()
        if left is not None and left < _ROUGH:
            once.append((_TIMEOUT, b"%dm" % max(1, math.ceil(1000 * left))))
        elif left is not None:
            fields = (*fields, (_TIMEOUT, b"%dS" % min(math.ceil(left), _MOST)))
        return fields, once

    def _has_been_closed(self) -> Lost:
        return Lost(f'the connection to "{self.address}" has been closed')


class _Call:
    """A context: at its end the connection goes back."""

    def __init__(self, channel: Channel, connection: Connection, exchange: Exchange, scope: Scope) -> None:
        self._channel = channel
        self._connection = connection
        self._exchange = exchange
        self._over = False
        self._lock = threading.Lock()
        self._forget = scope.on_cancel(self.cancel)

    def receive(self) -> bytes | None:
        try:
            return self._connection.receive(self._exchange)
        except errors.Error as err:
            raise self._channel.explained(err) from None

    def send_all(self, requests: Iterable[Message]) -> None:
        """In a thread of its own. What goes wrong is told to the one who receives."""
        try:
            for request in requests:
                self._connection.send(self._exchange, request.SerializeToString())
            self._connection.end(self._exchange)
        except errors.Error as err:
            self._exchange.finish(err)
            self._connection.shut_down()
        finally:
            self.cancel_unless_sent()

    def cancel(self) -> None:
        self._connection.cancel(self._exchange)

    def cancel_unless_sent(self) -> None:
        """A server that waits for requests that do not come would wait for ever."""
        if not self._exchange.sent:
            self.cancel()

    def finish(self) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._forget()
        self._channel.give_back(self._connection, self._connection.release(self._exchange))

    def __enter__(self) -> _Call:
        return self

    def __exit__(self, *exc: object) -> None:
        self.finish()


class _Stream:
    """Of a call that could not begin, the first message is the ``error``."""

    def __init__(self, call: _Call | None, method: rpc.Method, error: errors.Error | None = None) -> None:
        self._call = call
        self._method = method
        self._error = error

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> Message:
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self._call is None:
            raise StopIteration
        try:
            message = self._call.receive()
        except errors.Error:
            self._finish()
            raise
        if message is None:
            self._finish()
            raise StopIteration
        return _decoded(self._method, message)

    def cancel(self) -> None:
        """From any thread; whoever waits for the next message gets Canceled."""
        call = self._call
        if call is not None:
            call.cancel()

    def _finish(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.finish()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()
        self._finish()


def _decoded(method: rpc.Method, answer: bytes) -> Message:
    try:
        return method.response.FromString(answer)
    except DecodeError as err:
        raise errors.Internal(f"error deserializing the answer to {method.name}: {err}") from None


def _dialled_path(path: str, until: float) -> Socket:
    """Raises OSError; TimeoutError when the server has too many that wait and does not take them."""
    connected = Socket(socket.AF_UNIX)
    try:
        while True:
            connected.settimeout(max(0.001, until - time.monotonic()))
            try:
                connected.connect(path)
            except BlockingIOError:  # unix(7): the queue is full
                if time.monotonic() > until:
                    raise TimeoutError from None
                time.sleep(_RETRY)
            else:
                return connected
    except BaseException:
        connected.close()
        raise
