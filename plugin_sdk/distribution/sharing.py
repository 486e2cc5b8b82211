"""Work that several transfers want at once is done once.

::

    with flights.joined(("blob", digest), lambda: Download(...), job.check, tracker.moved) as flight:
        use(flight.result)                       # of the one flight, whoever began it
    # the last to leave has ended what the flight held

A flight is a thread. Who has joined can go at any time without harm to the others; when all have gone, the flight is
told to end. What it holds for its result, a lease above all, stays until the last has left.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol, TypeVar

from plugin_sdk import errors
from plugin_sdk.distribution import sentences

_LOOK = 0.1  # seconds between two looks at whether who waits still wants it
_PATIENCE = 30.0  # seconds that a flight which nobody wants has for its end

T = TypeVar("T")
Listen = Callable[[Any], None]
"""Is told how far the work is, in the work's own words, from the flight's thread."""


class Work(Protocol):
    def run(self, flight: Flight) -> Any:
        """Does it, and calls ``flight.check`` often."""
        ...


class Flight:
    """One piece of work, its outcome, and who waits for it. ``owner`` is on whose account it is done."""

    def __init__(self, work: Work, owner: str) -> None:
        self.work = work
        self.owner = owner
        self.result: Any = None
        self.failure: BaseException | None = None
        self._listeners: list[_Listener] = []
        self._last: Any = None
        self._ended = threading.Event()
        self._left = False
        self._orphaned = False
        self._lock = threading.Lock()
        self._held = ExitStack()

    def check(self) -> None:
        """Raises Canceled when nobody wants it any more."""
        if self._left:
            raise errors.Canceled("nobody waits for it any more")

    def tell(self, step: Any) -> None:
        """To all who wait; who joins later hears the last one."""
        with self._lock:
            self._last = step
            listeners = list(self._listeners)
        for listener in listeners:
            listener.hear(step)

    def hold(self, context: AbstractContextManager[T]) -> T:
        """Until the last has left."""
        return self._held.enter_context(context)

    def run(self) -> None:
        try:
            self.result = self.work.run(self)
        except BaseException as err:  # noqa: BLE001 - raised again by all who wait
            self.failure = err
        with self._lock:
            self._ended.set()
            orphaned = self._orphaned
        if orphaned:
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(errors.Error):
            self._held.close()

    def end(self) -> None:
        """By who left last: waits for the work to end, so that nothing of it is left, and frees what is held."""
        self._ended.wait(_PATIENCE)
        with self._lock:
            self._orphaned = not self._ended.is_set()
        if not self._orphaned:
            self._close()

    def fail(self, failure: BaseException) -> None:
        """It could not begin."""
        self.failure = failure
        self._ended.set()

    def join(self, listener: _Listener) -> bool:
        """False when it has failed or was given up."""
        with self._lock:
            if self._left or self.failure is not None:
                return False
            self._listeners.append(listener)
            listener.missed = self._last
            return True

    def leave(self, listener: _Listener) -> bool:
        """Whether this was the last, who then has to ``end`` it."""
        with self._lock:
            self._listeners.remove(listener)
            self._left = not self._listeners
            return self._left

    def wait(self, listener: _Listener) -> None:
        """Raises what the work has raised."""
        if listener.missed is not None:
            listener.hear(listener.missed)
        while not self._ended.wait(_LOOK):
            listener.check()
        listener.check()
        if self.failure is not None:
            raise sentences.again(self.failure)


class _Listener:
    def __init__(self, check: Callable[[], None], listen: Listen) -> None:
        self.missed: Any = None
        """The last that was told before it came."""
        self._check = check
        self._listen = listen
        self._failure: BaseException | None = None

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._check()

    def hear(self, step: Any) -> None:
        """What goes wrong here is this one's matter and nobody else's."""
        try:
            self._listen(step)
        except BaseException as err:  # noqa: BLE001 - raised again by the thread that waits
            self._failure = err


class Flights:
    """Those under way in this process, by what they are for."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def joined(
        self,
        key: Hashable,
        owner: str,
        begin: Callable[[], Work],
        check: Callable[[], None],
        listen: Listen = lambda step: None,
        board: Callable[[Any], None] = lambda work: None,
    ) -> Iterator[Flight]:
        """A flight for ``key`` that has ended well: one that was under way, or a new one.

        ``board`` is told the work before it begins or goes on. Raises what the work has raised; but when it was done
        on another account, where it may fail for a reason that does not concern ``owner``, it is tried again.
        """
        while True:
            listener = _Listener(check, listen)
            flight, own = self._board(key, owner, begin, listener, board)
            try:
                try:
                    flight.wait(listener)
                except errors.Error:
                    if own or not _concerns_its_owner(flight, owner):
                        raise
                    continue
                yield flight
                return
            finally:
                self._leave(key, flight, listener)

    def _board(
        self,
        key: Hashable,
        owner: str,
        begin: Callable[[], Work],
        listener: _Listener,
        board: Callable[[Any], None],
    ) -> tuple[Flight, bool]:
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None and flight.join(listener):
                board(flight.work)
                return flight, False
            flight = self._flights[key] = Flight(begin(), owner)
            flight.join(listener)
            board(flight.work)
        try:
            threading.Thread(target=flight.run, name="flight", daemon=True).start()
        except RuntimeError:
            flight.fail(errors.ResourceExhausted("no more threads can be started"))
        return flight, True

    def _leave(self, key: Hashable, flight: Flight, listener: _Listener) -> None:
        with self._lock:
            last = flight.leave(listener)
            if last and self._flights.get(key) is flight:
                del self._flights[key]
        if last:
            flight.end()


def _concerns_its_owner(flight: Flight, owner: str) -> bool:
    personal = (errors.Unauthenticated, errors.PermissionDenied, errors.Canceled)
    return isinstance(flight.failure, personal) or (flight.failure is not None and flight.owner != owner)
