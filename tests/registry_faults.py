"""What the proxy of tests/registry_proxy.py can do to an answer: functions of an Exchange."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

PIECE = 64 << 10


class Cut(Exception):
    """The connection is to end now."""


@dataclass(slots=True)
class Exchange:
    """A request and its answer, which ``forward`` gets from the registry, unless a fault has called ``answer``.

    ``pieces`` is the answer's body. ``over`` is set when the proxy ends.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    forward: Callable[[Exchange], None]
    over: threading.Event
    status: int = 0
    answered: dict[str, str] = field(default_factory=dict)
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))

    def answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Instead of the registry. ``headers`` may tell another Content-Length."""
        self.status, self.answered = status, {"Content-Length": str(len(body)), **headers}
        self.pieces = (body[start : start + PIECE] for start in range(0, len(body), PIECE))


Fault = Callable[[Exchange], None]


def status(code: int, headers: Mapping[str, str] | None = None) -> Fault:
    """An answer of that status, with an error as registries tell it."""
    told = json.dumps({"errors": [{"code": "FAULT", "message": "as the test wants it"}]}).encode()
    return lambda exchange: exchange.answer(code, {"Content-Type": "application/json", **(headers or {})}, told)


def redirect(url: str) -> Fault:
    """To ``url``, in which ``{path}`` is the path of the request."""
    return lambda exchange: exchange.answer(307, {"Location": url.replace("{path}", exchange.path)})


def body(data: bytes, headers: Mapping[str, str] | None = None) -> Fault:
    """Another body with status 200."""
    return lambda exchange: exchange.answer(200, headers or {}, data)


def challenge(value: str) -> Fault:
    return status(401, {"WWW-Authenticate": value})


def cut(after: int) -> Fault:
    """The connection ends after so many bytes of the body."""
    return _sending(lambda exchange, pieces: _interrupted(pieces, after, lambda: False))


def stall(after: int, seconds: float) -> Fault:
    """Nothing comes for ``seconds`` after so many bytes; then the connection ends."""
    return _sending(lambda exchange, pieces: _interrupted(pieces, after, lambda: exchange.over.wait(seconds) and False))


def budget(size: int, until: threading.Event) -> Fault:
    """So many bytes in all the answers together; the rest comes when ``until`` is set."""
    left = [size]
    lock = threading.Lock()

    def take(most: int) -> int:
        with lock:
            taken = min(left[0], most)
            left[0] -= taken
            return taken

    return _sending(lambda exchange, pieces: _budgeted(exchange, pieces, take, until))


def barrier(at: int, until: threading.Event, slow_from: int) -> Fault:
    """What lies behind ``at`` of the blob comes when ``until`` is set; from ``slow_from`` on a megabyte takes a second.

    Ranges that end before are not held up.
    """

    def act(exchange: Exchange) -> None:
        exchange.forward(exchange)
        begun = re.match(r"bytes=(\d+)-", exchange.headers.get("Range", ""))
        start = int(begun[1]) if begun and exchange.status == 206 else 0
        exchange.pieces = _barred(exchange, exchange.pieces, start, at, until, slow_from)

    return act


def drip(rate: int) -> Fault:
    """So many bytes a second."""
    return _sending(lambda exchange, pieces: _dripping(exchange, pieces, rate))


def corrupt(at: int) -> Fault:
    """Another byte there."""
    return _sending(lambda exchange, pieces: _corrupted(pieces, at))


def length(difference: int) -> Fault:
    """A Content-Length that is wrong by that; the connection ends after the body, which is not longer than told."""

    def tell(exchange: Exchange) -> None:
        exchange.forward(exchange)
        told = int(exchange.answered["Content-Length"]) + difference
        exchange.answered["Content-Length"] = str(told)
        exchange.pieces = _interrupted(exchange.pieces, told, lambda: False)

    return tell


def _sending(change: Callable[[Exchange, Iterator[bytes]], Iterator[bytes]]) -> Fault:
    def act(exchange: Exchange) -> None:
        exchange.forward(exchange)
        exchange.pieces = change(exchange, exchange.pieces)

    return act


def _interrupted(pieces: Iterator[bytes], after: int, goes_on: Callable[[], bool]) -> Iterator[bytes]:
    """``goes_on`` is asked after so many bytes, or at the end of fewer."""
    left = after
    for piece in pieces:
        if left <= len(piece):
            yield piece[:left]
            if not goes_on():
                raise Cut
            yield piece[left:]
            break
        yield piece
        left -= len(piece)
    else:
        raise Cut
    yield from pieces


def _budgeted(
    exchange: Exchange, pieces: Iterator[bytes], take: Callable[[int], int], until: threading.Event
) -> Iterator[bytes]:
    for piece in pieces:
        now = len(piece) if until.is_set() else take(len(piece))
        yield piece[:now]
        if now < len(piece):
            while not until.wait(0.05):
                if exchange.over.is_set():
                    raise Cut
            yield piece[now:]


def _barred(
    exchange: Exchange, pieces: Iterator[bytes], place: int, at: int, until: threading.Event, slow_from: int
) -> Iterator[bytes]:
    step = 10_000
    for piece in pieces:
        for start in range(0, len(piece), step):
            while place + step > at and not until.wait(0.05):
                if exchange.over.is_set():
                    raise Cut
            if place > slow_from and not until.is_set():
                exchange.over.wait(step / 1_000_000)
            yield piece[start : start + step]
            place += len(piece[start : start + step])


def _dripping(exchange: Exchange, pieces: Iterator[bytes], rate: int) -> Iterator[bytes]:
    step = max(1, rate // 10)
    for piece in pieces:
        for start in range(0, len(piece), step):
            yield piece[start : start + step]
            if exchange.over.wait(0.1):
                raise Cut


def _corrupted(pieces: Iterator[bytes], at: int) -> Iterator[bytes]:
    passed = 0
    for piece in pieces:
        if passed <= at < passed + len(piece):
            piece = bytes((*piece[: at - passed], piece[at - passed] ^ 1, *piece[at - passed + 1 :]))
        yield piece
        passed += len(piece)
