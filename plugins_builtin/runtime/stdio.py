"""Stdin, stdout and stderr of one process, and what the shim holds of them. Standard library only.

Output goes directly to the client's FIFO: the process has a descriptor of its own, the shim holds another one open for
reading and writing until the process has ended, so that nobody gets SIGPIPE when a reader leaves. Stdin is copied
through a pipe: a FIFO handed over directly reads as end of file while nobody has opened it. The shim also holds a
writing end of the client's stdin, so that a client may leave and another come; it ends after ``close_input``. A
terminal is copied in both directions.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat

from plugin_sdk import errors
from plugins_builtin.runtime import engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from plugins_builtin.runtime.loop import Loop, Ready

_CHUNK = 32 << 10


class Stdio:
    """``paths`` has stdin, stdout and stderr: a FIFO, ``file://``, ``binary://`` or empty; ``terminal`` is a flag.

    ``child`` are the three descriptors for the process; ``started`` closes them here. Raises NotFound for a path that
    does not exist.
    """

    def __init__(self, loop: Loop, paths: Mapping[str, object], relay: bool, owner: tuple[int, int] | None) -> None:
        self._loop = loop
        self._relay = relay
        self._owner = owner
        self._paths = {name: str(paths.get(name) or "") for name in ("stdin", "stdout", "stderr")}
        self._terminal = bool(paths.get("terminal"))
        self._held: list[int] = []
        self._copies: list[_Copy] = []
        self._input: _Copy | None = None
        self._input_writer = -1
        self._master = -1
        self.child: list[int] = []
        self.logger: _Logger | None = None
        try:
            self._open()
        except OSError as err:
            self.close()
            raise errors.NotFound(f"stdio {err.filename}: {err.strerror}") from err

    @property
    def terminal(self) -> bool:
        return self._terminal

    def _open(self) -> None:
        if self._paths["stdout"].startswith("binary://"):
            self.logger = _Logger(self._paths["stdout"])
        if self._terminal:
            self.child = [_null() for _ in range(3)]
            return
        self.child.append(self._open_input())
        for name in ("stdout", "stderr"):
            self.child.append(self._open_output(name))

    def _open_input(self) -> int:
        path = self._paths["stdin"]
        if not path:
            return _null()
        if not _is_fifo(path):
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        reader, writer = self._pipe()
        os.set_blocking(writer, False)
        self._copy_input(writer)
        return reader

    def _copy_input(self, sink: int) -> None:
        path = self._paths["stdin"]
        source = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._input_writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._input = _Copy(self._loop, source, sink)

    def _open_output(self, name: str) -> int:
        path = self._paths[name]
        if self.logger is not None:
            return self.logger.take(name)
        sink = self._open_sink(path)
        if not _is_fifo(path):
            return sink
        if not self._relay:
            self._held.append(sink)
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        reader, writer = self._pipe()
        os.set_blocking(reader, False)
        self._copies.append(_Copy(self._loop, reader, sink))
        return writer

    def _open_sink(self, path: str) -> int:
        if not path:
            return _null()
        if path.startswith("file://"):
            path = path.removeprefix("file://")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if _is_fifo(path):
            return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _pipe(self) -> tuple[int, int]:
        reader, writer = os.pipe()
        if self._owner is not None:
            os.fchown(reader, *self._owner)
        return reader, writer

    def started(self) -> None:
        """The process has its descriptors."""
        for fd in self.child:
            os.close(fd)
        self.child = []

    def attach(self, master: int) -> None:
        """Copies from and to a terminal's master, which this object owns from now on."""
        os.set_blocking(master, False)
        self._master = master
        sink = self.logger.take("stdout") if self.logger is not None else self._open_sink(self._paths["stdout"])
        self._copies.append(_Copy(self._loop, os.dup(master), sink))
        self._held.append(master)
        if self._paths["stdin"]:
            self._copy_input(os.dup(master))

    def resize(self, size: bytes, request: int) -> None:
        if self._master in self._held:
            fcntl.ioctl(self._master, request, size)

    def close_input(self) -> None:
        """The process reads end of file when all that was written has arrived and no client holds the FIFO."""
        if self._input_writer >= 0:
            os.close(self._input_writer)
            self._input_writer = -1

    def ended(self) -> None:
        """The process has ended: lets go of all but output that is still on its way."""
        self.close_input()
        if self._input is not None:
            self._input.close()
        for fd in self._held:
            os.close(fd)
        self._held = []
        if self.logger is not None:
            self.logger.close()

    def close(self) -> None:
        self.started()
        self.ended()
        for copy in self._copies:
            copy.close()


class _Copy:
    """From ``source``, which must not block, to ``sink``; owns both. No memory is held while nothing is on its way."""

    def __init__(self, loop: Loop, source: int, sink: int) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._rest = b""
        loop.watch(source, select.EPOLLIN, self._read)

    def close(self) -> None:
        if self._source >= 0:
            self._loop.close(self._source)
            self._loop.close(self._sink)
            self._source = self._sink = -1

    def _read(self, _: int) -> None:
        try:
            data = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody holds the terminal's other side any more
            data = b""
        if data:
            self._write(data)
        else:
            self.close()

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._sink, data)
        except BlockingIOError:
            written = 0
        except OSError:  # EPIPE: the process has closed its stdin
            self.close()
            return
        if written < len(data):
            self._rest = data[written:]
            self._loop.forget(self._source)
            self._loop.watch(self._sink, select.EPOLLOUT, self._go_on)

    def _go_on(self, _: int) -> None:
        data, self._rest = self._rest, b""
        self._loop.forget(self._sink)
        self._loop.watch(self._source, select.EPOLLIN, self._read)
        self._write(data)


class _Logger:
    """A ``binary://PATH?key=value`` program: stdout and stderr as descriptors 3 and 4; it closes 5 when it is ready."""

    def __init__(self, uri: str) -> None:
        path, _, query = uri.removeprefix("binary://").partition("?")
        self._arguments = [_unquote(path)]
        for pair in filter(None, query.split("&")):
            key, _, value = pair.partition("=")
            self._arguments += [_unquote(key), *([_unquote(value)] if value else [])]
        self._pipes = {"stdout": os.pipe(), "stderr": os.pipe()}
        self._taken: set[str] = set()

    def start(self, loop: Loop, environment: Mapping[str, str], ready: Ready) -> None:
        """Calls ``ready`` once the program has closed descriptor 5 or has ended."""
        waiting, closed_when_ready = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (*self._readers(), closed_when_ready)]
        try:
            engine.spawn(self._arguments, environment, {3 + index: fd for index, fd in enumerate(high)})
        finally:
            for fd in (*high, closed_when_ready):
                os.close(fd)

        def is_ready(mask: int) -> None:
            loop.close(waiting)
            ready(mask)

        loop.watch(waiting, select.EPOLLIN, is_ready)

    def _readers(self) -> tuple[int, int]:
        return self._pipes["stdout"][0], self._pipes["stderr"][0]

    def take(self, name: str) -> int:
        """The writing end, which is the caller's from now on."""
        self._taken.add(name)
        return self._pipes[name][1]

    def close(self) -> None:
        for name, (reader, writer) in self._pipes.items():
            os.close(reader)
            if name not in self._taken:
                os.close(writer)
        self._pipes = {}


def _null() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


def _is_fifo(path: str) -> bool:
    return path.startswith("/") and os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)


def _unquote(text: str) -> str:
    first, *others = os.fsencode(text).split(b"%")
    return os.fsdecode(first + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in others))
