"""Calls to a proxy plugin: a ``wire.rpc.Channel`` that knows deadlines, the breaker and repetition.

Every answer, also an error, shows that the plugin lives. A call that ends with its connection is made again when the
plugin is back within its grace; what that means for its answer is for ``kernel/proxies/answers.py``. A call that is not
answered in time is not repeated: it may still take effect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from google.protobuf.message import Message

from kernel.proxies.links import Link
from kernel.proxies.tables import Spec
from plugin_sdk import errors
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc
from plugin_sdk.wire.http2.assembly import MAX_MESSAGE

_ONCE = frozenset({"Apply", "Diff"})
"""What must not be begun again in the same place."""

_MOST = 3
"""Times that one call is made: it may be what the program dies of."""

_UNREADABLE = "deserializing"  # in the words of our clients for an answer that is no message of the type
_TOO_LARGE = "larger than max"


class Plugin(Protocol):
    """What a call needs of a ``Remote``; ``admit`` may answer one that has taken its place."""

    @property
    def spec(self) -> Spec: ...

    @property
    def noun(self) -> str: ...

    def admit(self, begun: float) -> tuple[Plugin, Link]: ...

    def answered(self) -> None: ...

    def failed(self, error: errors.Error) -> None: ...

    def lost(self, link: Link) -> None: ...

    def complain(self, text: str) -> None: ...

    def watched(self, cancel: Callable[[], None]) -> AbstractContextManager[None]: ...


class Calls:
    """For one use of the plugin."""

    def __init__(self, plugin: Plugin, scope: Scope) -> None:
        self._plugin = plugin
        self._begun = scope.begun
        self._impatient = scope.begun < 0  # of the daemon itself, which comes again
        self._made = 0

    @property
    def repeated(self) -> bool:
        """Whether the last call was made more than once."""
        return self._made > 1

    def wrong(self, text: str) -> errors.Internal:
        """The error for an answer that is wrong, of which the log is told."""
        self._plugin.complain(text)
        return errors.Internal(f"{self._plugin.noun} {text}")

    def unary(self, service: str, method: rpc.Method, request: Message, scope: Scope) -> Message:
        self._made = 0
        while True:
            plugin, link = self._plugin.admit(self._begun)
            self._made += 1
            try:
                with scope.within(plugin.spec.timeout) as bounded:
                    answer = link.channel.unary(service, method, request, bounded)
            except rpc.Lost as err:
                self._after_loss(plugin, link, method, err)
            except errors.Error as err:
                raise self._judged(plugin, method, scope, err) from err
            else:
                self._answered(plugin)
                return answer

    def stream(
        self, service: str, method: rpc.Method, requests: Iterable[Message], scope: Scope
    ) -> rpc.Stream[Message]:
        """Each message is waited for as long as one call; what only reads is begun again when its first is lost."""
        self._made = 0

        def begin() -> tuple[Plugin, Link, rpc.Stream[Message]]:
            plugin, link = self._plugin.admit(self._begun)
            self._made += 1
            return plugin, link, link.channel.stream(service, method, requests, scope)

        return _Stream(self, method, scope, begin)

    def close(self) -> None:
        """Nothing: the connection belongs to the plugin."""

    def next(
        self,
        plugin: Plugin,
        link: Link,
        method: rpc.Method,
        scope: Scope,
        inner: rpc.Stream[Message],
        first: bool,
    ) -> Message:
        """The next message of a stream. Raises StopIteration; _Again when the stream is to be begun once more."""
        begun = time.monotonic()
        try:
            with plugin.watched(inner.cancel):
                message = next(inner)
        except rpc.Lost as err:
            self._after_loss(plugin, link, method, err, repeat=first and not method.client_streaming)
            raise _Again from err
        except errors.Canceled as err:
            if time.monotonic() - begun < plugin.spec.timeout:
                raise
            raise self._judged(plugin, method, scope, errors.DeadlineExceeded(err.message)) from err
        except errors.Error as err:
            raise self._judged(plugin, method, scope, err) from err
        self._answered(plugin)
        return message

    def _answered(self, plugin: Plugin) -> None:
        """What the daemon asks of itself after each failure says nothing of what clients ask."""
        if not self._impatient:
            plugin.answered()

    def _after_loss(self, plugin: Plugin, link: Link, method: rpc.Method, err: rpc.Lost, repeat: bool = True) -> None:
        """Returns when the call is to be made again."""
        plugin.lost(link)
        if not repeat or self._impatient or method.name in _ONCE or self._made >= _MOST:
            raise rpc.Lost(f"{plugin.noun} has gone during {method.name}: {err.message}") from err
        self._begun = time.monotonic()

    def _judged(self, plugin: Plugin, method: rpc.Method, scope: Scope, err: errors.Error) -> errors.Error:
        """The error as the caller is to see it; the breaker hears of it."""
        if isinstance(err, errors.DeadlineExceeded):
            if scope.remaining() == 0.0:  # the caller's own
                return err
            text = f"{plugin.noun} has not answered {method.name} within {plugin.spec.timeout:g} s"
            late = errors.DeadlineExceeded(text)
            plugin.failed(late)
            return late
        if isinstance(err, errors.Canceled):
            return err
        self._answered(plugin)
        if isinstance(err, errors.Internal) and _UNREADABLE in err.message:
            return self.wrong(f"gave an answer to {method.name} that cannot be read")
        if isinstance(err, errors.ResourceExhausted) and _TOO_LARGE in err.message:
            text = f"gave an answer to {method.name} of more than {MAX_MESSAGE} bytes"
            return errors.ResourceExhausted(self.wrong(text).message)
        return err


class _Again(Exception):
    pass


class _Stream:
    def __init__(
        self,
        calls: Calls,
        method: rpc.Method,
        scope: Scope,
        begin: Callable[[], tuple[Plugin, Link, rpc.Stream[Message]]],
    ) -> None:
        self._calls = calls
        self._method = method
        self._scope = scope
        self._begin = begin
        self._first = True
        self._plugin, self._link, self._inner = begin()

    def __iter__(self) -> _Stream:
        return self

    def __next__(self) -> Message:
        while True:
            try:
                message = self._calls.next(
                    self._plugin, self._link, self._method, self._scope, self._inner, self._first
                )
            except _Again:
                self._plugin, self._link, self._inner = self._begin()
                continue
            self._first = False
            return message

    def cancel(self) -> None:
        self._inner.cancel()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()
