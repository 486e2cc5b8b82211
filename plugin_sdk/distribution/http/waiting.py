"""Sockets at which whoever waits can be called away.

A thread that waits for a registry looks up every tenth of a second: has the caller gone, is this host too slow? So no
thread hangs at a socket after its transfer ended, and none is needed to watch another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

_SLICE = 0.1  # seconds between two looks
_CHUNK = 1 << 20  # bytes given to the linux kernel at once

T = TypeVar("T")


def nobody() -> None:
    """Nobody has to be looked for."""


class _Current(threading.local):
    look: Callable[[], None] = staticmethod(nobody)
    due = 0.0
    received = 0


_current = _Current()


def received() -> int:
    """Bytes that this thread has got from sockets so far."""
    return _current.received


@contextlib.contextmanager
def looking(look: Callable[[], None]) -> Iterator[None]:
    """Within it, what this thread waits for at a socket is interrupted by what ``look`` raises."""
    before, _current.look = _current.look, look
    try:
        yield
    finally:
        _current.look = before


def pause(seconds: float, look: Callable[[], None]) -> None:
    """Sleeps, looking up meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        look()
        time.sleep(min(left, _SLICE))
    look()


def _patiently(step: Callable[[], T], limit: float | None) -> T:
    """Repeats a step that gives up after a tenth of a second, until it is done or ``limit`` seconds are over."""
    began = time.monotonic()
    while True:
        try:
            done = step()
        except TimeoutError:
            _look_up()
            if limit is not None and time.monotonic() - began >= limit:
                raise
        else:
            if time.monotonic() >= _current.due:
                _look_up()
            return done


def _look_up() -> None:
    _current.look()
    _current.due = time.monotonic() + _SLICE


class _Looking(socket.socket):
    """The timeout of the socket itself is short; that which callers see spans several looks."""

    _limit: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._limit = value
        super().settimeout(_SLICE if value is None else min(value, _SLICE))

    def gettimeout(self) -> float | None:
        return self._limit

    def recv(self, *args: Any) -> bytes:
        return _patiently(lambda: super(_Looking, self).recv(*args), self._limit)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        size = _patiently(lambda: super(_Looking, self).recv_into(*args, **kwargs), self._limit)
        _current.received += size
        return size

    def send(self, *args: Any) -> int:
        return _patiently(lambda: super(_Looking, self).send(*args), self._limit)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """``limit`` is for each bit that is sent, not for the whole."""
        with memoryview(data) as view, view.cast("B") as rest:
            sent = 0
            while sent < len(rest):
                sent += self.send(rest[sent : sent + _CHUNK])


class Plain(_Looking):
    pass


class Secure(_Looking, ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        try:
            _patiently(lambda: super(Secure, self).do_handshake(block), self._limit)
        except BaseException:
            self.close()  # which who wraps sockets does for some exceptions only
            raise


def connect(host: str, port: int, timeout: float | None, options: Any) -> socket.socket:
    """Tries each address of ``host`` for at most ``timeout`` seconds. Raises OSError, or what the look raises."""
    last: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host.strip("[]"), port, 0, socket.SOCK_STREAM):
        try:
            made = Plain(family, kind, protocol)
        except OSError as err:
            last = err
            continue
        try:
            for option in options or ():
                made.setsockopt(*option)
            _connect(made, address, timeout)
            made.settimeout(timeout)
            return made
        except OSError as err:
            made.close()
            last = err
        except BaseException:
            made.close()
            raise
    raise last


def _connect(made: Plain, address: Any, timeout: float | None) -> None:
    made.setblocking(False)
    code = made.connect_ex(address)
    if code == errno.EINPROGRESS:
        _patiently(lambda: _until_writable(made), timeout)
        code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _until_writable(made: Plain) -> None:
    poll = select.poll()
    poll.register(made, select.POLLOUT)
    if not poll.poll(_SLICE * 1000):
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


class Limit:
    """So much of something may be in use at once, in the whole process."""

    def __init__(self, amount: int) -> None:
        self._left = amount
        self._changed = threading.Condition()

    def try_take(self, amount: int = 1) -> bool:
        with self._changed:
            if self._left < amount:
                return False
            self._left -= amount
            return True

    def give(self, amount: int = 1) -> None:
        with self._changed:
            self._left += amount
            self._changed.notify_all()

    @contextlib.contextmanager
    def held(self, look: Callable[[], None]) -> Iterator[None]:
        """One of it, which may have to be waited for."""
        while not self.try_take():
            look()
            with self._changed:
                self._changed.wait_for(lambda: self._left > 0, _SLICE)
        try:
            yield
        finally:
            self.give()
