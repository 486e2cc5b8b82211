"""Streams: the client's ends of what a process reads and writes.

What a stream of a process may be:

- None: nothing; it reads end of file, what it writes is dropped
- ``corten.PIPE``: the process object has the other end, as a Python file
- a file with a descriptor, or a descriptor: copied from or to it, by a thread
- a text: ``file:///path``, ``binary:///path?key=value`` or the path of a FIFO that the caller has made, for the daemon

FIFOs (fifo(7)) are made in a folder that goes with the process object, or in ``folder``, where they stay: then another
client can attach to the process later.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from plugin_sdk import errors
from plugin_sdk.runtime import Stdio

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PIPE = -1
NOWHERE = "/dev/null"
NAMES = ("stdin", "stdout", "stderr")

_CHUNK = 64 << 10
_PAUSE = 0.01  # seconds between attempts at a FIFO that nobody reads yet
_PATIENCE = 10.0  # seconds for the shim to read it
_LOOK = 0.1  # seconds between looks whether output is abandoned


class HasDescriptor(Protocol):
    """An open file."""

    def fileno(self) -> int: ...


Stream = int | str | HasDescriptor | None


class Streams:
    """``stdio`` is for the daemon. ``begin`` when it has opened the FIFOs: those of init when the task has been made,
    those of other processes when they have been started. ``drain`` when the process has ended.

    ``broken`` is set when something was copied that nobody reads any more."""

    def __init__(self, stdio: Stdio, given: Mapping[str, Stream], folder: Path | None = None) -> None:
        """``given`` are the streams whose ends are here; the paths of ``stdio`` are FIFOs for those."""
        self.stdio = stdio
        self.stdin: Input | None = None
        self.stdout: io.BufferedReader | None = None
        self.stderr: io.BufferedReader | None = None
        self.broken = threading.Event()
        self._given = given
        self._folder = folder
        self._abandoned = False
        self._pumps: list[threading.Thread] = []
        # Opened before the process is made, so that it finds a reader; without O_NONBLOCK this would wait for it.
        self._ends: dict[str, int] = {}
        try:
            for name in set(given) - {"stdin"}:
                self._ends[name] = os.open(getattr(stdio, name), os.O_RDONLY | os.O_NONBLOCK)
        except BaseException:
            self.close()
            raise

    def begin(self, close_stdin: Callable[[], None]) -> None:
        """Connects the ends; ``close_stdin`` tells the daemon that no more will come."""
        for name in [*self._ends]:
            end = self._ends.pop(name)
            os.set_blocking(end, True)
            stream = self._given[name]
            if stream == PIPE:
                setattr(self, name, os.fdopen(end, "rb"))
            else:
                self._pumps.append(_thread(_show, end, _descriptor(stream), self.broken.set))
        if "stdin" in self._given:
            stream = self._given["stdin"]
            self.stdin = Input(self.stdio.stdin, close_stdin)
            if stream != PIPE:
                _thread(_feed, _descriptor(stream), self.stdin)
                self.stdin = None

    def drain(self) -> None:
        """Returns when all output that is copied is through, or when it is abandoned."""
        for pump in self._pumps:
            while pump.is_alive() and not self._abandoned:
                pump.join(_LOOK)

    def abandon(self) -> None:
        """``drain`` waits no more: others than the process may hold its output open."""
        self._abandoned = True

    def close(self) -> None:
        """Lets go of all ends. What the process reads has no end by that."""
        for end in self._ends.values():
            os.close(end)
        self._ends.clear()
        if self.stdin is not None:
            self.stdin.release()
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def make(stdin: Stream, stdout: Stream, stderr: Stream, terminal: bool, folder: Path | None = None) -> Streams:
    """Of a process that is to be made. A terminal's stderr goes to its stdout."""
    streams = dict(zip(NAMES, (stdin, stdout, None if terminal else stderr), strict=True))
    given = {name: stream for name, stream in streams.items() if stream is not None and not isinstance(stream, str)}
    paths = {name: stream for name, stream in streams.items() if isinstance(stream, str)}
    made = None
    if given:
        made = Path(tempfile.mkdtemp(prefix="corten-fifo-")) if folder is None else folder
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return _made(given, paths, terminal, made, None if folder else made)
    except BaseException:
        if made is not None and folder is None:
            shutil.rmtree(made, ignore_errors=True)
        raise


def _made(
    given: Mapping[str, Stream], paths: dict[str, str], terminal: bool, folder: Path | None, own: Path | None
) -> Streams:
    for name in given:
        paths[name] = f"{folder}/{name}"
        os.mkfifo(paths[name], 0o600)
    if not terminal and (paths.get("stdout") or paths.get("stderr")):  # containerd's shim wants both or none
        paths = {"stdout": NOWHERE, "stderr": NOWHERE, **paths}
    return Streams(Stdio(**paths, terminal=terminal), given, own)


def attach(stdio: Stdio, stdin: Stream, stdout: Stream, stderr: Stream) -> Streams:
    """Of a process that exists. Raises FailedPrecondition for a stream that is no FIFO, or is gone."""
    given: dict[str, Stream] = {}
    for name, stream in zip(NAMES, (stdin, stdout, stderr), strict=True):
        path = getattr(stdio, name)
        if stream is None or (name == "stderr" and stdio.terminal):
            continue
        if not Path(path).is_fifo():
            raise errors.FailedPrecondition(f"{name} of the process is {path or 'nothing'}, to which nobody can attach")
        given[name] = stream
    return Streams(stdio, given)


class Input(io.RawIOBase):
    """What a process reads. Closing it is end of file there."""

    def __init__(self, path: str, closed: Callable[[], None]) -> None:
        self._path = path
        self._closed = closed
        self._end = -1

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        """All of ``data``. Raises BrokenPipeError when the process has gone, ValueError when this is closed."""
        if self.closed:
            raise ValueError("write to a closed stream")
        if self._end < 0:
            self._end = _open_for_writing(self._path)
        view = memoryview(data).cast("B")
        rest = view
        while rest:
            rest = rest[os.write(self._end, rest) :]
        return len(view)

    def close(self) -> None:
        if not self.closed:
            self.release()
            with contextlib.suppress(errors.Error):  # the process has gone
                self._closed()

    def release(self) -> None:
        """Closes it here; what the process reads goes on, for another to write."""
        if self._end >= 0:
            os.close(self._end)
            self._end = -1
        super().close()


def _descriptor(stream: Stream) -> int:
    if isinstance(stream, int):
        return stream
    assert stream is not None
    assert not isinstance(stream, str)
    return stream.fileno()


def _thread(work: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, name="stream", daemon=True)
    thread.start()
    return thread


def _feed(source: int, target: Input) -> None:
    with contextlib.suppress(OSError, ValueError):  # it has gone, or is closed here
        while data := os.read(source, _CHUNK):
            target.write(data)
    with contextlib.suppress(OSError):
        target.close()


def _show(source: int, target: int, broken: Callable[[], None]) -> None:
    """To the end of ``source``; what nobody wants to read is dropped, so that the process is not stopped by it."""
    try:
        try:
            while data := os.read(source, _CHUNK):
                rest = memoryview(data)
                while rest:
                    rest = rest[_write(target, rest) :]
        except BrokenPipeError:
            broken()
        except OSError:
            pass
        with contextlib.suppress(OSError):
            while os.read(source, _CHUNK):
                pass
    finally:
        os.close(source)


def _write(target: int, data: memoryview) -> int:
    """Waits also where another program has made the descriptor non-blocking."""
    while True:
        try:
            return os.write(target, data)
        except BlockingIOError:
            ready = select.poll()
            ready.register(target, select.POLLOUT)
            ready.poll()


def _open_for_writing(path: str) -> int:
    """Waits for the reader without hanging in open(2). Raises BrokenPipeError when none comes."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as err:
            if err.errno != errno.ENXIO:
                raise
            if time.monotonic() > until:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE), path) from None
            time.sleep(_PAUSE)
        else:
            os.set_blocking(end, True)
            return end
