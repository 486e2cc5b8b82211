"""Fetching a blob: from any offset, through cuts and stalls, from the next host, and in parts where that is faster."""

from __future__ import annotations

import contextlib
import re
import select
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from plugin_sdk import errors
from plugin_sdk.distribution.http import connections, exchanges, failover, parts, retries, statuses, waiting
from plugin_sdk.distribution.http.connections import Failed
from plugin_sdk.distribution.settings import Settings
from plugin_sdk.oci import Descriptor

_CHUNK = 1 << 20  # bytes that a caller gets at once
_GAP = 10  # milliseconds without a byte after which a chunk is handed out as it is
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A blob, where it is at a host, what it is called in messages, and the scopes of its requests."""

    of: Descriptor
    path: str
    what: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    downloads: waiting.Limit
    buffers: waiting.Limit


class Rate:
    """Of one stream: raises Failed in ``look`` when it gave less than ``least`` bytes a second over ``window`` seconds
    of waiting. The time that whoever takes the bytes needs does not count."""

    def __init__(self, least: int, window: float, look: Callable[[], None]) -> None:
        self._least = least
        self._window = window
        self._look = look
        self._bytes = 0
        self._seconds = 0.0
        self._before = (0.0, 0)
        self.waited = 0.0

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        self._before = (time.monotonic(), waiting.received())
        with waiting.looking(self.look):
            yield
        self._count()

    def _count(self) -> None:
        now, received = time.monotonic(), waiting.received()
        self._seconds += now - self._before[0]
        self.waited += now - self._before[0]
        self._bytes += received - self._before[1]
        self._before = (now, received)

    def look(self) -> None:
        self._look()
        self._count()
        if not self._least or self._seconds < self._window:
            return
        if self._bytes < self._least * self._seconds:
            raise Failed(f"it gives less than {self._least} bytes a second", errors.Unavailable, again=False)
        self._bytes, self._seconds = 0, 0.0


class Download:
    """One ``fetch``: a position that only moves forward, and the host that is asked."""

    def __init__(self, hosts: failover.Hosts, wanted: Wanted, settings: Settings, limits: Limits) -> None:
        self._hosts = hosts
        self._wanted = wanted
        self._settings = settings
        self._limits = limits
        self._line = deque(hosts.able("pull", wanted.what, wanted.of.digest))
        self._look = self._line[0].look
        self._failures: list[tuple[str, Failed]] = []
        self._attempts = 0
        self._failed_at = 0
        self._waited = 0.0

    def chunks(self, position: int) -> Generator[bytes, None, None]:
        """Raises the error of all hosts."""
        size = self._wanted.of.size
        if position >= size:
            return
        with self._limits.downloads.held(self._look):
            first = size
            if size - position > self._settings.parallel_from and self._settings.parallel_parts > 1:
                first = position + self._settings.part_size
            for chunk in self._persistently(position, first):
                position += len(chunk)
                yield chunk
            if position < size:
                yield from self._rest(position, self._settings.part_size)

    def _rest(self, position: int, given: int) -> Iterator[bytes]:
        if given >= self._settings.parallel_below * self._waited:
            return self._persistently(position, self._wanted.of.size)
        return self._in_parts(position)

    # -- one stream

    def _persistently(self, position: int, end: int) -> Iterator[bytes]:
        """The bytes up to ``end``, or more from a host that knows no ranges; through failures and hosts."""
        while position < end:
            try:
                with contextlib.closing(self._stream(self._line[0], position, end, self._waits)) as stream:
                    for chunk in stream:
                        position += len(chunk)
                        yield chunk
                self._hosts.report(self._line[0].name, None)
            except Failed as failed:
                self._consider(failed, position)

    def _waits(self, seconds: float) -> None:
        self._waited += seconds

    def _consider(self, failed: Failed, position: int) -> None:
        """After a failure: returns when the current host, the same or another, shall be asked again."""
        if position - self._failed_at >= retries.PROGRESS:
            self._attempts, self._failed_at = 0, position
        self._attempts += 1
        patience = self._hosts.patience(is_last=len(self._line) == 1)
        if not patience.spent(self._attempts, failed):
            waiting.pause(patience.delay(self._attempts, failed.after), self._look)
            return
        host = self._line.popleft()
        self._hosts.report(host.name, failed)
        self._failures.append((host.name, failed))
        self._attempts = 0
        if not self._line:
            raise self._hosts.error(self._wanted.what, self._failures)

    def _stream(
        self,
        host: exchanges.Exchange,
        start: int,
        end: int,
        waits: Callable[[float], None],
        look: Callable[[], None] | None = None,
    ) -> Generator[bytes, None, None]:
        """What one request brings; with a ``look`` of its own no more than was asked for. Raises Failed."""
        least = self._settings.min_rate if len(self._line) > 1 else 0
        rate = Rate(least, self._settings.rate_window, look or self._look)
        size = self._wanted.of.size
        whole = start == 0 and end == size
        headers = (
            {"Accept": "*/*"} if whole else {"Accept": "*/*", "Range": f"bytes={start}-{end - 1 if end < size else ''}"}
        )
        answer = host.send("GET", self._wanted.path, self._wanted.scopes, headers=headers)
        try:
            place = _place(answer, start, end, size)
            if answer.status == 200:
                if look is not None:
                    raise Failed("it gives no ranges")
                end = size
            self._hosts.served(self._wanted.of.digest, host.name)
            more = _followed(answer)
            while place < end:
                with rate.reading():
                    chunk = _read(answer, more, min(_CHUNK, end - place))
                place += len(chunk)
                if place > start:
                    yield chunk[-(place - start) :] if place - start < len(chunk) else chunk
                    start = place
            if answer.status == 200 and "Content-Length" not in answer.headers and _more(answer):
                raise Failed(f"it sends more than {size} bytes", errors.DataLoss, again=False)
        finally:
            answer.close()
            waits(rate.waited)

    # -- parts

    def _in_parts(self, position: int) -> Iterator[bytes]:
        """Some parts at once, handed out in order. What fails of a part is fetched again in the caller's thread, which
        also takes over where the process has no room for buffers."""
        size, step = self._wanted.of.size, self._settings.part_size
        with parts.Window(self._settings.parallel_parts, step, self._limits.buffers, self._look) as window:
            ahead = position
            while position < size:
                ahead = max(ahead, position)
                while ahead < size and window.begin(ahead, min(ahead + step, size), self._part(self._line[0])):
                    ahead = min(ahead + step, size)
                end, begun = window.reach(position, min(position + step, size))
                for chunk in begun:
                    position += len(chunk)
                    yield chunk
                for chunk in self._persistently(position, end):
                    position += len(chunk)
                    yield chunk

    def _part(self, host: exchanges.Exchange) -> parts.Fetch:
        return lambda start, end, look: self._stream(host, start, end, lambda _: None, look)


# -- answers -------------------------------------------------------------------------------------------------------


def _place(answer: statuses.Answer, start: int, end: int, size: int) -> int:
    """Where the body begins in the blob. Raises Failed for an answer that does not fit the descriptor."""
    if answer.status == 200:
        length = answer.headers.get("Content-Length", str(size))
        if length != str(size):
            raise Failed(f"it sends {length} bytes instead of {size}", errors.DataLoss, again=False)
        return 0
    if answer.status != 206:
        failed = statuses.failed(answer)
        if failed.kind is errors.OutOfRange:
            raise Failed(f"it has fewer bytes than {start + 1}", errors.DataLoss, again=False)
        raise failed
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is not None and match[3] not in ("*", str(size)):
        raise Failed(f"it has {match[3]} bytes instead of {size}", errors.DataLoss, again=False)
    if match is None or int(match[1]) > start or int(match[2]) >= end:
        raise Failed("it sends another range than it was asked for", errors.DataLoss, again=False)
    return int(match[1])


def _read(answer: statuses.Answer, more: select.poll, size: int) -> bytes:
    """At most ``size`` bytes, and at least one. What has come is handed out when nothing follows it at once, so that it
    is kept if the rest never comes."""
    pieces: list[bytes] = []
    left = size
    while left and (not pieces or more.poll(_GAP)):
        try:
            piece = answer.read1(left)
        except connections.TROUBLE as err:
            if not pieces:
                raise connections.failure(err) from None
            break  # said again at the next read
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    if not pieces:
        raise Failed("it ends before the blob does")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _followed(answer: statuses.Answer) -> select.poll:
    """Knows whether more of a body has come."""
    made = select.poll()
    made.register(answer.fileno(), select.POLLIN)
    return made


def _more(answer: statuses.Answer) -> bool:
    try:
        return bool(answer.read(1))
    except connections.TROUBLE:
        return False
