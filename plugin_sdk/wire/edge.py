"""What a server does with every call before and after its handler, whatever the transport: namespace, lease,
deadline, threads, errors, log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent import futures
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from plugin_sdk import errors, identifiers
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, status
from plugin_sdk.wire.resumption import Resumption, Wakeups

T = TypeVar("T")

_log = logging.getLogger("corten.edge")


class Lane(Protocol):
    """The threads of one plugin; a ``concurrent.futures.Executor`` is one."""

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Raises ResourceExhausted, by name, when too many wait."""
        ...


class Edge:
    """``lane`` answers the threads by name, "" for those of the metadata. ``check_lease`` raises NotFound when the
    lease of the scope does not exist; it may block, and runs before the first work of a call."""

    def __init__(self, lane: Callable[[str], Lane], check_lease: Callable[[Scope], None] | None = None) -> None:
        self.lane = lane
        self.check_lease = check_lease
        self._wakeups = Wakeups()

    def ended(self, future: Future[Any]) -> Awaitable[None]:
        """Returns when the future has ended, however."""
        resumption = Resumption(asyncio.get_running_loop())
        future.add_done_callback(lambda _: self._wakeups.resume(resumption))
        return resumption

    def call(
        self, namespaced: bool, headers: Mapping[str, str], peer: Callable[[], str], remaining: float | None
    ) -> Call:
        """``remaining`` is the caller's deadline in seconds from now. Raises FailedPrecondition for a missing
        namespace, InvalidArgument for a malformed one."""
        namespace = headers.get(rpc.NAMESPACE, "")
        if namespace:
            identifiers.validate(namespace)
        elif namespaced:
            raise errors.FailedPrecondition("namespace is required")
        deadline = None if remaining is None else time.monotonic() + remaining
        return Call(self, Scope(namespace, headers.get(rpc.LEASE) or None, deadline), headers, peer)


class Call:
    """A ``wire.rpc.Call``."""

    __slots__ = ("_edge", "_lease_checked", "_peer", "headers", "scope")

    def __init__(self, edge: Edge, scope: Scope, headers: Mapping[str, str], peer: Callable[[], str]) -> None:
        self._edge = edge
        self._lease_checked = scope.lease is None or edge.check_lease is None or not scope.namespace
        self.scope = scope
        self.headers = headers
        self._peer = peer

    @property
    def peer(self) -> str:
        return self._peer()

    async def run(self, work: Callable[..., T], *args: object, lane: str = "") -> T:
        if not self._lease_checked:
            work, args = self._check_and_run, (work, *args)
        future = self._edge.lane(lane).submit(work, *args)
        try:
            await self._edge.ended(future)
        except asyncio.CancelledError:
            self.scope.cancel()
            if not future.cancel():  # begun: whoever holds a handle may close it only afterwards
                await self._edge.ended(future)
            raise
        return _result(future)

    def _check_and_run(self, work: Callable[..., T], *args: object) -> T:
        if self._edge.check_lease is not None:
            self._edge.check_lease(self.scope)
        self._lease_checked = True
        return work(*args)


def _result(future: Future[T]) -> T:
    try:
        return future.result()
    except futures.CancelledError:
        raise errors.Unavailable("the server is stopping") from None  # its lane has been shut down


def failure(path: str, error: BaseException) -> tuple[int, str]:
    """Code and message to answer. What is not one of our errors is a defect: logged with its traceback."""
    if (scarce := status.scarcity(error)) is not None:
        _log.error("%s: %s", path, scarce.message)
        return status.code(scarce), scarce.message
    if isinstance(error, errors.Error):
        _log.debug("%s: %s: %s", path, type(error).__name__, error.message)
        return status.code(error), error.message
    _log.error("%s failed", path, exc_info=error)
    return status.CODES[errors.Unknown], f"{type(error).__name__}: {error}"
