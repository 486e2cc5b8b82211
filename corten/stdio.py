"""Standard input and output of a task in the foreground, through FIFOs (fifo(7))."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import shutil
import signal
import struct
import sys
import tempfile
import termios
import threading
import time
import tty
from collections.abc import Iterator
from types import FrameType

from plugin_sdk import errors, runtime, tasks

_CHUNK = 64 << 10
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Relay(contextlib.AbstractContextManager["Relay"]):
    """``stdio`` is for the task's creation; ``begin`` when it exists, ``finish`` when it has ended.

    With a terminal, our own is raw in between and its size is the task's. Without, signals are passed on to it.
    """

    def __init__(self, manager: tasks.Manager, id: str, terminal: bool) -> None:
        self._tasks = manager
        self._id = id
        self._terminal = terminal
        self._own = terminal and sys.stdin is not None and sys.stdin.isatty()
        self._stack = contextlib.ExitStack()
        self._pumps: list[threading.Thread] = []
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        directory = tempfile.mkdtemp(prefix="corten-run-")
        self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        self._paths = {name: f"{directory}/{name}" for name in ("stdin", "stdout", "stderr")}
        if terminal:
            del self._paths["stderr"]
        for path in self._paths.values():
            os.mkfifo(path, 0o600)
        self.stdio = runtime.Stdio(**self._paths, terminal=terminal)
        # Opened before the task is made, so that it finds a reader; without O_NONBLOCK this would wait for it.
        self._ends = {
            name: self._keep(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            for name, path in self._paths.items()
            if name != "stdin"
        }

    def _keep(self, descriptor: int) -> int:
        self._stack.callback(os.close, descriptor)
        return descriptor

    def begin(self) -> None:
        for name, end in self._ends.items():
            os.set_blocking(end, True)
            self._pumps.append(_thread(_show, end, 2 if name == "stderr" else 1))
        _thread(self._feed)
        _thread(self._pass_signals)
        self._stack.enter_context(self._handled())
        if self._own:
            self._stack.enter_context(_raw(sys.stdin.fileno()))
            self._signals.put(signal.SIGWINCH)

    def finish(self) -> None:
        """Returns when all output is through."""
        for pump in self._pumps:
            pump.join()

    def _feed(self) -> None:
        """Our stdin to the task's; at its end the task reads end of file."""
        with contextlib.suppress(OSError, errors.Error):
            end = _open_for_writing(self._paths["stdin"])
            try:
                _pump(0, end)
            finally:
                os.close(end)
            self._tasks.close_io(self._id)

    @contextlib.contextmanager
    def _handled(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            self._signals.put(number)

        wanted = (signal.SIGWINCH,) if self._own else () if self._terminal else _FORWARDED
        before = {number: signal.signal(number, note) for number in wanted}
        try:
            yield
        finally:
            self._signals.put(0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_signals(self) -> None:
        while number := self._signals.get():
            with contextlib.suppress(errors.Error):
                if number == signal.SIGWINCH:
                    rows, columns = _size(sys.stdin.fileno())
                    self._tasks.resize_pty(self._id, columns, rows)
                else:
                    self._tasks.kill(self._id, number)

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def _thread(work: object, *args: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def _show(source: int, target: int) -> None:
    """To the end of ``source``; what nobody wants to read is dropped, so that the task is not stopped by it."""
    with contextlib.suppress(OSError):
        _pump(source, target)
    with contextlib.suppress(OSError):
        while os.read(source, _CHUNK):
            pass


def _pump(source: int, target: int) -> None:
    while data := os.read(source, _CHUNK):
        _write(target, data)


def _write(target: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]


def _open_for_writing(path: str) -> int:
    """Waits for the reader without hanging in open(2)."""
    while True:
        try:
            end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as err:
            if err.errno != errno.ENXIO:
                raise
            time.sleep(0.01)
        else:
            os.set_blocking(end, True)
            return end


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _size(descriptor: int) -> tuple[int, int]:
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8)))
    return rows, columns
