"""A proxy plugin: a program in a process of its own, as the kernel sees it.

A ``Remote`` stands in the registry for the program whether that is there or not. One thread looks after it: starts the
program if its table has a command, connects, shakes hands, probes, and begins again when something ends. Calls come in
other threads: ``bind`` answers the contract's object for one use, whose calls wait for the plugin within its ``grace``,
are bounded by its ``timeout``, and are refused at once while its breaker is open.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernel.plugins import NOUNS
from kernel.proxies import answers, links
from kernel.proxies.breaker import Breaker, Delays
from kernel.proxies.calls import Calls
from kernel.proxies.links import Facts, Link, Peer, Refused
from kernel.proxies.program import Program
from kernel.proxies.tables import Spec
from plugin_sdk import daemon, errors, handshake, plugin
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content as wire_content
from plugin_sdk.wire import diff as wire_diff
from plugin_sdk.wire import snapshots as wire_snapshots

_TICK = 0.5  # seconds between probes
_PROBE_TIMEOUT = 1.0
_START_TIMEOUT = 30.0  # seconds for a program to listen
_LAST_MOMENT = 0.2  # seconds from the end of a program's connection to its own
_POLL = 0.02  # seconds between two looks for a socket of a program that starts
_RETRY_LONGEST = 1.0  # seconds between attempts at a socket that somebody else serves
_REFUSED_RETRY = 2.0  # seconds between looks at what was refused
_COMPLAINTS, _COMPLAINTS_WINDOW = 20, 10.0  # wrong answers that are logged within so many seconds
_DURATION = re.compile(r" after [\d.]+ s")  # in what is told of a program that ends: the same is told once
_NO_DIGEST = "sha256:" + "0" * 64


class State(enum.StrEnum):
    STARTING = "starting"
    OK = "ok"
    DEGRADED = "degraded"
    BACKOFF = "backoff"
    REFUSED = "refused"


_USABLE = (State.OK, State.DEGRADED)


@dataclass(frozen=True, slots=True)
class Status:
    """``since`` is in nanoseconds since the epoch; ``retry_at`` in seconds of ``time.monotonic``, 0 for none."""

    state: State
    since: int
    error: str = ""
    attempt: int = 0
    retry_at: float = 0.0

    @property
    def text(self) -> str:
        """The error, the attempt and when the next one is made; empty when all is well."""
        if not self.error:
            return "" if self.state is State.OK else str(self.state)
        again = f", again in {max(0.0, self.retry_at - time.monotonic()):.1f} s" if self.retry_at else ""
        attempt = f"; attempt {self.attempt}{again}" if self.attempt else ""
        return f"{self.error}{attempt}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a Remote is given of the daemon: ``own`` are its directories, ``record`` a file in which the program at the
    other end is remembered, ``environment`` and ``arguments`` what a program is started with. ``ready(restarted)`` is
    called whenever the plugin becomes ok, ``changed()`` with every change of its status. ``address_free`` is held while
    a program of ours may listen at the address."""

    own: Sequence[str]
    home: str
    record: Path
    environment: Mapping[str, str]
    arguments: Sequence[str]
    log: logging.Logger
    ready: Callable[[bool], None]
    changed: Callable[[], None]
    address_free: threading.Lock


class _Ended(Refused):
    """The program, and it is not to be started again."""


class Remote:
    def __init__(self, spec: Spec, surroundings: Surroundings) -> None:
        self._spec = spec
        self._around = surroundings
        self._log = surroundings.log
        self._changed = threading.Condition()
        self._status = Status(State.STARTING, time.time_ns())
        self._link: Link | None = None
        self._said: handshake.Description | None = None
        self._facts = links.facts(spec, None)
        self._breaker = Breaker()
        self._delays = Delays() if spec.table.command else Delays(0.1, _RETRY_LONGEST)
        self._woken = threading.Event()
        self._complaints: list[float] = []  # when
        self._closing = False
        self._successor: Remote | None = None
        self._silent_since: float | None = None
        self._overdue: dict[object, tuple[float, Callable[[], None]]] = {}
        self._thread = threading.Thread(target=self._run, name=f"proxy-{spec.name}", daemon=True)

    def start(self) -> None:
        """Begins; returns at once."""
        self._thread.start()

    # --- what is told

    @property
    def spec(self) -> Spec:
        return self._spec

    @property
    def status(self) -> Status:
        return self._status

    @property
    def facts(self) -> Facts:
        return self._facts

    def info(self) -> daemon.PluginInfo:
        """As introspection shows it; without platforms when it serves the machine's own."""
        status, facts = self._status, self._facts
        return daemon.PluginInfo(
            self._spec.kind,
            self._spec.name,
            platforms=tuple(facts.platforms),
            exports=dict(facts.exports),
            capabilities=tuple(facts.capabilities),
            error=self._spec.about(status.text) if status.text else "",
            state=status.state,
            since=status.since,
        )

    @property
    def is_ok(self) -> bool:
        return self._status.state is State.OK

    @property
    def noun(self) -> str:
        """For messages: ``snapshotter "btrfs"``."""
        return f'{NOUNS[self._spec.kind]} "{self._spec.name}"'

    # --- calls

    def bind(self, scope: Scope) -> Any:
        """The contract's object, for one use. Calls nobody."""
        calls = Calls(self, scope)
        if self._spec.kind == plugin.SNAPSHOTTER:
            snapshotter = wire_snapshots.Proxy(calls, scope, self._spec.name)
            return answers.Snapshotter(snapshotter, calls, self._fence)
        if self._spec.kind == plugin.CONTENT:
            return answers.Store(wire_content.Proxy(calls, scope), calls)
        return answers.Differ(wire_diff.Proxy(calls, scope), calls)

    def _fence(self) -> answers.Fence:
        root = self._facts.exports.get("root", "")
        return answers.Fence(root, self._around.own, self._around.home)

    def admit(self, begun: float) -> tuple[Remote, Link]:
        """The connection for one call, and whose it is. Waits until ``begun`` (``time.monotonic``) is ``grace`` ago for
        a plugin that is away. Raises Unavailable, which says why and what comes next."""
        until = begun + self._spec.table.grace
        with self._changed:
            while not (self._link is not None and self._status.state in _USABLE):
                if self._successor is not None:
                    break
                left = until - time.monotonic()
                if self._closing or self._status.state is State.REFUSED or left <= 0:
                    raise self._unavailable()
                self._changed.wait(left)
            else:
                if self._breaker.is_open:
                    raise self._unavailable()
                return self, self._link
        return self._successor.admit(begun)

    def _unavailable(self) -> errors.Unavailable:
        if self._closing:
            return errors.Unavailable(f"{self.noun} has been removed from the configuration")
        if self._status.state is State.OK:
            return errors.Unavailable(f"{self.noun} has just lost its connection")
        return errors.Unavailable(f"{self.noun} is {self._status.state}: {self._status.text}")

    def answered(self) -> None:
        self._breaker.answered()

    def failed(self, error: errors.Error) -> None:
        """A call was not answered."""
        if self._breaker.failed():
            self._set_open(f"{self._breaker_reason(error)}")

    def lost(self, link: Link) -> None:
        """The connection has ended: whoever repeats the call waits for the next one."""
        with self._changed:
            if self._link is not link:
                return
            self._link = None
        link.channel.close()
        self._woken.set()

    def complain(self, text: str) -> None:
        """An answer was wrong: the log is told, but no more often than people can read."""
        now = time.monotonic()
        self._complaints = [when for when in self._complaints if now - when < _COMPLAINTS_WINDOW]
        if len(self._complaints) < _COMPLAINTS:
            self._complaints.append(now)
            self._log.warning("%s", self._spec.about(f"it {text}"))

    @contextlib.contextmanager
    def watched(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Around waiting for one message of a stream: ``cancel`` is called when the ``timeout`` has passed."""
        key = object()
        self._overdue[key] = time.monotonic() + self._spec.timeout, cancel
        try:
            yield
        finally:
            self._overdue.pop(key, None)

    # --- changes

    def adopt(self, spec: Spec) -> None:
        """Takes what has changed in the table and needs no new connection."""
        assert self._spec.connects_like(spec)
        self._spec = spec
        self._facts = links.facts(spec, self._said)
        self._woken.set()

    def give_way(self, successor: Remote) -> None:
        """Calls that wait for this one, or come when it is away, wait for the other."""
        with self._changed:
            self._successor = successor
            self._changed.notify_all()

    def close(self) -> None:
        """Ends calls that still run with Unavailable, and the program. Returns when it has ended."""
        with self._changed:
            self._closing = True
            link, self._link = self._link, None
            self._changed.notify_all()
        if link is not None:
            link.channel.close()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()

    # --- the thread

    def _run(self) -> None:
        while not self._closing:
            try:
                if self._spec.table.command:
                    self._live_with_program()
                else:
                    self._live(None)
            except _Ended as err:
                while not self._closing and not self._spec.table.restart:
                    self._pause(State.REFUSED, err.message, _REFUSED_RETRY)
            except Refused as err:
                again = self._delays.next() if self._spec.table.command else 0.0
                self._pause(State.REFUSED, err.message, max(again, _REFUSED_RETRY))
            except errors.Error as err:
                self._pause(State.BACKOFF, err.message, self._delays.next())
            except Exception as err:  # noqa: BLE001  # a defect here must not leave the plugin without its keeper
                self._log.error("looking after it has failed", exc_info=err)
                self._pause(State.BACKOFF, f"{type(err).__name__}: {err}", self._delays.next())

    def _pause(self, state: State, error: str, delay: float) -> None:
        if self._closing:
            return
        attempt = self._delays.attempt if state is State.BACKOFF else 0
        retry_at = time.monotonic() + delay if state is State.BACKOFF else 0.0
        self._set(state, error, attempt, retry_at)
        self._sleep(delay)

    def _sleep(self, delay: float) -> None:
        """Until then, or until it is to close."""
        until = time.monotonic() + delay
        while not self._closing and (left := until - time.monotonic()) > 0:
            self._woken.wait(left)
            self._woken.clear()

    def _live_with_program(self) -> None:
        while not self._around.address_free.acquire(timeout=_TICK):
            if self._closing:
                return
        try:
            if self._closing:
                return
            command = [*self._spec.table.command, *self._around.arguments]
            program = Program(command, self._around.environment, self._log, self._woken.set)
            self._log.info("its program runs with PID %d", program.pid)
            try:
                self._live(program)
            except errors.Unavailable as err:
                if ended := program.ended(_LAST_MOMENT):  # its connection may end before it does
                    raise self._ended(ended) from err
                raise
            finally:
                program.stop()
        finally:
            self._around.address_free.release()

    def _live(self, program: Program | None) -> None:
        """From the connection to its loss. Raises Refused and Unavailable, with what has ended it."""
        link = self._connect(program)
        with self._changed:
            if self._closing:
                link.channel.close()
                return
            self._link, self._said, self._facts = link, link.said, links.facts(self._spec, link.said)
        try:
            self._became_ready(self._has_restarted(link))
            while not self._closing:
                self._woken.wait(_TICK)
                self._woken.clear()
                self._check_program(program)
                if not self._closing:
                    self._look_after(link)
        finally:
            with self._changed:
                self._link = None
            link.channel.close()

    def _connect(self, program: Program | None) -> Link:
        if program is None:
            return links.connect(self._spec)
        until = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                return links.connect(self._spec)
            except (errors.Unavailable, errors.DeadlineExceeded) as err:
                if ended := program.ended(_POLL):
                    raise self._ended(ended) from err
                if self._closing:
                    raise
                if time.monotonic() > until:
                    said = f"its program does not listen at {self._spec.table.address} after {_START_TIMEOUT:.0f} s"
                    raise errors.Unavailable(f"{said}: {err.message}") from err

    def _check_program(self, program: Program | None) -> None:
        if program is not None and (ended := program.ended()) and not self._closing:
            raise self._ended(ended)

    def _ended(self, how: str) -> errors.Error:
        if self._spec.table.restart:
            return errors.Unavailable(how)
        return _Ended(f"{how}, and its table says restart = false")

    def _look_after(self, link: Link) -> None:
        """Raises Unavailable when the connection has been lost."""
        self._cancel_overdue()
        if self._link is not link:
            raise errors.Unavailable("the connection has been lost")
        if self._breaker.is_open:
            self._probe_breaker(link)
        else:
            self._probe(link)

    def _cancel_overdue(self) -> None:
        now = time.monotonic()
        for key, (deadline, cancel) in list(self._overdue.items()):
            if now > deadline:
                self._overdue.pop(key, None)
                cancel()

    def _probe(self, link: Link) -> None:
        """Whether anybody answers at all."""
        try:
            links.describe(link.channel, self._spec.name, _PROBE_TIMEOUT)
        except errors.DeadlineExceeded:
            self._is_silent()
        else:
            if self._silent_since is not None:
                self._silent_since = None
                self._became_ready(restarted=False)

    def _is_silent(self) -> None:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
            self._set(State.DEGRADED, f"it has not answered a probe within {_PROBE_TIMEOUT:.0f} s")
        elif self._spec.table.command and now - self._silent_since > self._spec.timeout:
            self._silent_since = None
            raise errors.Unavailable(f"its program has not answered for {self._spec.timeout:.0f} s and is ended")

    def _probe_breaker(self, link: Link) -> None:
        """By a call of its contract that changes nothing, when it is time."""
        if self._breaker.remaining:
            return
        try:
            self._read_something(link)
        except (errors.DeadlineExceeded, errors.Unavailable) as err:
            self._breaker.probed(False)
            self._set_open(self._breaker_reason(err))
        else:
            self._breaker.probed(True)
            self._became_ready(restarted=False)

    def _read_something(self, link: Link) -> None:
        scope = Scope(links.NAMESPACE, deadline=time.monotonic() + _PROBE_TIMEOUT)
        try:
            if self._spec.kind == plugin.SNAPSHOTTER:
                wire_snapshots.Proxy(link.channel, scope, self._spec.name).stat("corten-probe")
            elif self._spec.kind == plugin.CONTENT:
                wire_content.Proxy(link.channel, scope).info(_NO_DIGEST)
            else:
                links.describe(link.channel, self._spec.name, _PROBE_TIMEOUT)
        except (errors.DeadlineExceeded, errors.Unavailable):
            raise
        except errors.Error:  # mostly NotFound: an answer
            return

    @staticmethod
    def _breaker_reason(error: errors.Error) -> str:
        return f"it does not answer, calls fail at once: {error.message}"

    def _set_open(self, reason: str) -> None:
        self._set(State.DEGRADED, reason, self._breaker.attempt, time.monotonic() + self._breaker.remaining)

    # --- becoming ok

    def _became_ready(self, restarted: bool) -> None:
        if restarted or self._status.state is not State.DEGRADED:
            self._breaker.reset()
        self._silent_since = None
        self._delays.healthy()
        for doubt in self._facts.doubts:
            self._log.warning("%s", self._spec.about(doubt))
        self._set(State.OK)  # first: what is settled now calls the plugin
        self._around.ready(restarted)

    def _has_restarted(self, link: Link) -> bool:
        """Whether the program is another one than that which was called last, and that one has ended: then no call of
        before can take effect any more."""
        before = _recall(self._around.record)
        now = {"peer": asdict(link.peer) if link.peer else None, "instance": link.instance}
        if before != now:
            _remember(self._around.record, now)
        if before is None:
            return False
        if before.get("peer") and link.peer:
            return not Peer(**before["peer"]).lives
        return bool(link.instance and before.get("instance") and before["instance"] != link.instance)

    def _set(self, state: State, error: str = "", attempt: int = 0, retry_at: float = 0.0) -> None:
        with self._changed:
            old = self._status
            since = old.since if old.state is state else time.time_ns()
            self._status = Status(state, since, error, attempt, retry_at)
            self._changed.notify_all()
        if old.state is not state or _DURATION.sub("", old.error) != _DURATION.sub("", error):
            self._tell()
        self._around.changed()

    def _tell(self) -> None:
        status = self._status
        if status.state is State.OK:
            self._log.info("is ok%s", f", version {self._facts.version}" if self._facts.version else "")
        else:
            self._log.warning("%s", self._spec.about(f"{status.state}: {status.text}"))


def _recall(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _remember(path: Path, what: Mapping[str, object]) -> None:
    """Best effort: without it, what was not answered is settled later."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(json.dumps(what))
