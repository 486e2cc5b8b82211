"""The program of a proxy plugin: started, its output logged, ended.

Its process group is its own, so that a signal from a terminal does not reach it and that what it starts ends with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kernel.proxies import launch
from plugin_sdk import errors

LONGEST_LINE = 4096
"""Bytes of one line that are logged."""

_LINES, _WINDOW = 200, 10.0  # lines that are logged within so many seconds
_CHUNK = 64 << 10
_CALM = 1 << 20  # bytes within that time after which reading is slowed down
_PAUSE = 0.02  # seconds between two chunks of a flood, which slows it down and costs next to nothing
_PATIENCE = 5.0  # seconds from SIGTERM to SIGKILL
_NOT_PASSED_ON = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_PID")


class Program:
    """One life of it. To be made in a thread that outlives it: the linux kernel ends it with that thread."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: logging.Logger,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """``at_end`` is called, in a thread of its own, when the process has ended. Raises Unavailable when it cannot
        be started."""
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
        command = [_beside(command[0]), *command[1:]]
        line = [sys.executable, "-I", "-S", str(Path(launch.__file__)), str(os.getpid()), *command]
        self._begun = time.monotonic()
        try:
            self._process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={**kept, **environment},
                start_new_session=True,
            )
        except OSError as err:
            raise errors.Unavailable(f"its program {command[0]} cannot be started: {err.strerror}") from err
        self._command = command[0]
        self._output = Output(log)
        assert self._process.stdout is not None
        self._pump = threading.Thread(
            target=self._output.copy, args=(self._process.stdout,), name=f"output-{self.pid}", daemon=True
        )
        self._pump.start()
        threading.Thread(target=self._await, args=(at_end,), name=f"end-{self.pid}", daemon=True).start()

    def _await(self, at_end: Callable[[], None]) -> None:
        self._process.wait()
        at_end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self, timeout: float = 0.0) -> str | None:
        """How it has ended, for people; None when it has not after ``timeout`` seconds."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._pump.join(0.2)  # its last words
        if code == launch.NOT_STARTED:
            return f"its program cannot be run: {self._output.last or self._command}"
        after = f"after {time.monotonic() - self._begun:.1f} s"
        if code < 0:
            return f"its program ended with signal {signal.Signals(-code).name} {after}"
        said = f": {self._output.last}" if self._output.last else ""
        return f"its program ended with exit code {code} {after}{said}"

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to all of its group when it has not ended by then. Returns when it has."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._pump.join(1.0)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _beside(name: str) -> str:
    """A bare name is looked for beside the daemon's Python first: there a virtual environment has its programs."""
    path = Path(sys.executable).parent / name
    return str(path) if "/" not in name and os.access(path, os.X_OK) else name


class Output:
    """What a program writes, as lines of the log; of a flood only how much was left out. ``last`` is the last line."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._window = -_WINDOW
        self._bytes = self._taken = self._left_out = 0
        self.last = ""

    def copy(self, source: object) -> None:
        """Until the end of the pipe."""
        rest = b""
        with contextlib.closing(source):  # type: ignore[type-var]
            while chunk := os.read(source.fileno(), _CHUNK):  # type: ignore[attr-defined]
                self._begin_window()
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[-_CHUNK:]
                self._take(lines)
                self._bytes += len(chunk)
                if self._bytes > _CALM or self._left_out:
                    time.sleep(_PAUSE)
        self._take([rest])
        self._tell_left_out()

    def _begin_window(self) -> None:
        now = time.monotonic()
        if now - self._window >= _WINDOW:
            self._tell_left_out()
            self._window, self._bytes, self._taken = now, 0, 0

    def _take(self, lines: Sequence[bytes]) -> None:
        """Those of a flood are only counted, since looking at each takes long."""
        lines = list(filter(None, lines))
        room = max(0, _LINES - self._taken)
        self._taken += len(lines)
        for line in lines[:room]:
            if text := _text(line):
                self.last = text
                self._log.info("%s", text)
        if len(lines) > room:
            self._left_out += len(lines) - room
            self.last = _text(lines[-1]) or self.last

    def _tell_left_out(self) -> None:
        if self._left_out:
            self._log.warning("%d lines of its output were left out: it writes too much", self._left_out)
            self._left_out = 0


def _text(line: bytes) -> str:
    text = line[:LONGEST_LINE].decode(errors="replace").strip()
    return text if len(line) <= LONGEST_LINE else text + "…"
