"""Engine commands (runc, crun) as children of the shim, started and never waited for. Standard library only."""

from __future__ import annotations

import _socket
import os
import posix
import select

from plugin_sdk import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from plugins_builtin.runtime.loop import Loop

    Environment = Mapping[str, str] | Mapping[bytes, bytes]
    Done = Callable[[str | None], None]  # None, or the engine's own words

_DEFAULT_SIGNALS = (13, 25)  # SIGPIPE, SIGXFSZ: ignored here, and a program would inherit that


class Engine:
    """``command``: the program and its global options. Its log goes to ``folder``."""

    def __init__(self, loop: Loop, command: Sequence[str], folder: str, id: str) -> None:
        self._loop = loop
        self._command = command
        self._folder = folder
        self._id = id
        self._count = 0

    def run(self, command: Sequence[str], after: Sequence[str], done: Done, streams: Sequence[int] = ()) -> None:
        """Runs ``command ID after``, with ``streams`` as its standard descriptors."""
        self._count += 1
        log = f"{self._folder}/log{self._count}.json"
        argv = [*self._command, "--log", log, "--log-format", "json", *command, self._id, *after]
        try:
            pid = spawn(argv, posix.environ, dict(enumerate(streams)))
        except OSError as err:
            done(f"{argv[0]}: {err.strerror}")
            return

        def ended(status: int, _: int) -> None:
            error = None if status == 0 else _last_error(log) or f"{argv[0]} {command[0]}: exit status {status}"
            remove(log)
            done(error)

        self._loop.on_end(pid, ended)


class Console:
    """Where the engine delivers a terminal's master (runc's --console-socket)."""

    def __init__(self, path: str) -> None:
        self.path = path
        remove(path)
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(1)
        self._listener.setblocking(False)

    def take(self) -> int:
        """After the engine's end: the master, or -1 when it sent none."""
        try:
            connection = _socket.socket(fileno=self._listener._accept()[0])  # type: ignore[attr-defined]
        except BlockingIOError:
            return -1
        finally:
            self._listener.close()
            remove(self.path)
        ancillary = connection.recvmsg(4096, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)[1]
        connection.close()
        return int(memoryview(ancillary[0][2]).cast("i")[0]) if ancillary else -1


class Gate:
    """Where runc's init waits after create: it writes a byte to ``exec.fifo`` as soon as that is opened for reading.

    To read it and to remove the FIFO is all that ``runc start`` does where no hooks are to be run (runc,
    libcontainer/container_linux.go), but a process of Go takes 8 ms for it.
    """

    def __init__(self, loop: Loop, path: str, opened: Done) -> None:
        """Raises OSError when there is no such FIFO. ``opened`` is called with None when init goes on."""
        self.opened = opened
        self._loop = loop
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        loop.watch(self._fd, select.EPOLLIN, self.look)

    def close(self) -> None:
        self._loop.close(self._fd)

    def look(self, _: int = 0) -> bool:
        """Whether init has gone on."""
        try:
            passed = os.read(self._fd, 1)
        except BlockingIOError:
            return False
        if passed:
            self.close()
            remove(self._path)
            self.opened(None)
        return bool(passed)


def spawn(argv: list[str], environment: Environment, descriptors: Mapping[int, int]) -> int:
    """Starts a program; ``descriptors`` are what it gets by number, none of them below 3 here."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in descriptors.items()]
    return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsigdef=_DEFAULT_SIGNALS, setsigmask=())


def remove(path: str) -> None:
    """If it is there and can be removed."""
    try:  # noqa: SIM105 - contextlib is not loaded
        os.unlink(path)
    except OSError:
        pass


def _last_error(log: str) -> str:
    """Of the engine's JSON log: the last message of a line that says error."""
    message = ""
    try:
        with open(log, "rb") as file:
            for line in file:
                entry = lines.decode(line)
                if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
                    message = str(entry.get("msg", ""))
    except (OSError, ValueError):
        pass
    return message
