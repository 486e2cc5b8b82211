"""A process in the foreground: our terminal or our standard streams are its own, our signals reach it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import os
import queue
import signal
import struct
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from types import FrameType

from corten.tasks import Process
from corten.terminal.command import SIGNALED
from plugin_sdk import errors, runtime

DETACH = b"\x10\x11"
"""Ctrl-P Ctrl-Q."""

_CHUNK = 64 << 10
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_BROKEN = SIGNALED + signal.SIGPIPE
_INSISTENT = 3  # signals SIGINT or SIGTERM: so many of one end us, too
_LINGER = 1.0  # seconds for the rest of the output of a process that we have killed
_PATIENCE = 30.0  # seconds for the daemon to end a process

Outcome = runtime.Exit | errors.Error | int | None


class Foreground(contextlib.AbstractContextManager["Foreground"]):
    """Entered before the process is started. ``wait`` answers its end, or None when the user detaches from it.

    With a terminal, its size is that of our own. ``interactive`` is whether it was made with ``stdin=PIPE``: what we
    read is its input then, and our own terminal is raw in between, also when something fails.

    When nobody reads our output any more, or the third SIGINT or SIGTERM comes, a process that is ours (``owned``) is
    killed, and its status is as if that had ended us; another's goes on, and ``wait`` raises SystemExit.
    """

    def __init__(self, process: Process, terminal: bool, interactive: bool, owned: bool = True) -> None:
        self._process = process
        self._streams = process._streams
        self._owned = owned
        self._given_up = 0
        self._reasons: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._terminal = terminal
        self._own = terminal and at_terminal()
        self._interactive = interactive
        self._stack = contextlib.ExitStack()
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._outcome: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def __enter__(self) -> Foreground:
        try:
            self._stack.enter_context(self._handled())
            if self._own and self._interactive:
                self._stack.enter_context(_raw(sys.stdin.fileno()))
        except BaseException:
            self._stack.close()
            raise
        return self

    def started(self) -> None:
        """The process runs, or did before we came."""
        _thread(self._pass_signals)
        _thread(self._await_break)
        _thread(self._give_up)
        if self._own:
            self._signals.put(signal.SIGWINCH)
        if self._interactive:
            _thread(self._feed)

    def wait(self) -> runtime.Exit | None:
        _thread(self._await_end)
        outcome = self._outcome.get()
        if isinstance(outcome, errors.Error):
            raise outcome
        if isinstance(outcome, int):
            sys.exit(outcome)
        code = self._given_up or (_BROKEN if self._streams.broken.is_set() else 0)
        return dataclasses.replace(outcome, status=code) if outcome and code else outcome

    def _await_break(self) -> None:
        self._streams.broken.wait()
        self._reasons.put(_BROKEN)

    def _give_up(self) -> None:
        """For the first reason that comes: an exit code."""
        self._given_up = code = self._reasons.get()
        if self._owned:
            _thread(self._kill)
            time.sleep(_PATIENCE)
        self._outcome.put(code)

    def _kill(self) -> None:
        with contextlib.suppress(errors.Error, OSError):
            self._process.kill(signal.SIGKILL)
        time.sleep(_LINGER)
        self._streams.abandon()

    def _await_end(self) -> None:
        try:
            self._outcome.put(self._process.wait())
        except errors.Error as err:
            self._outcome.put(err)

    def _feed(self) -> None:
        """At the end of our input the process reads end of file, too."""
        target = self._process.stdin
        assert target is not None
        keys = Keys()
        with contextlib.suppress(OSError, ValueError):  # the process has gone, or its stream is closed here
            while data := os.read(0, _CHUNK):
                passed = keys.passed(data) if self._own else data
                if passed:
                    target.write(passed)
                if keys.detached:
                    self._outcome.put(None)
                    return
        with contextlib.suppress(OSError):
            target.close()

    @contextlib.contextmanager
    def _handled(self) -> Iterator[None]:
        came: collections.Counter[int] = collections.Counter()

        def note(number: int, frame: FrameType | None) -> None:
            came[number] += 1
            if number in (signal.SIGINT, signal.SIGTERM) and came[number] >= _INSISTENT:
                self._reasons.put(SIGNALED + number)
            else:
                self._signals.put(number)

        wanted = (*_FORWARDED, signal.SIGWINCH) if self._own else _FORWARDED
        before = {number: signal.signal(number, note) for number in wanted}
        try:
            yield
        finally:
            self._signals.put(0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_signals(self) -> None:
        while number := self._signals.get():
            with contextlib.suppress(errors.Error, OSError):
                if number == signal.SIGWINCH:
                    rows, columns = size(sys.stdin.fileno())
                    self._process.resize(columns, rows)
                else:
                    self._process.kill(number)

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


class Keys:
    """Finds ``DETACH`` in what is typed; ``detached`` says whether it came."""

    def __init__(self) -> None:
        self.detached = False
        self._held = b""

    def passed(self, data: bytes) -> bytes:
        """What the process gets of it: a first key of the two waits for what follows it."""
        data = self._held + data
        self._held = b""
        before, found, _ = data.partition(DETACH)
        if found:
            self.detached = True
            return before
        if data.endswith(DETACH[:1]):
            self._held = DETACH[:1]
            return data[:-1]
        return data


def at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def size(descriptor: int) -> tuple[int, int]:
    """Rows and columns of a terminal."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8)))
    return rows, columns


def _thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="foreground", daemon=True).start()


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)  # what is typed already is not thrown away
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
