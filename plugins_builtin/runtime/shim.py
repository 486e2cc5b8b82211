"""The shim: one small process per task, which owns the task's processes and outlives the daemon.

A child of the spawner, in a session of its own, subreaper, one thread around ``loop.Loop``. An engine command is a
child too and never waited for. Standard library only, and nothing is imported after the start, so that an upgrade
under a running task does no harm.

It serves JSON lines on its socket: ``{"id": 1, "method": "hello", "protocol": 1}`` first, each answered by
``{"id": 1, "result": …}`` or ``{"id": 1, "error": {"code": "NotFound", "message": "…"}}``. A client that has said hello
also gets ``{"event": "exit", …}``. The methods are the ``do_…`` functions below; fields are only ever added.

In the bundle: ``init.pid``; ``exits/init`` and ``exits/exec-ID``, each complete and on disk before anyone is told.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
from collections.abc import Callable, Mapping, Sequence

from plugin_sdk import errors, mounts
from plugins_builtin.runtime.loop import Loop
from plugins_builtin.runtime.stdio import DEFAULT_SIGNALS, Stdio

PROTOCOL = 1
CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4  # runtime.Status

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_MAX_LINE = 1 << 20
_prctl = ctypes.CDLL(None, use_errno=True).prctl

Params = Mapping[str, object]
Done = Callable[[str | None], None]  # None, or the engine's own words


def main(params: Params, fds: Sequence[int]) -> int:
    """``fds``: the listening socket, and the locked file whose lock says that this process lives."""
    _prctl(_PR_SET_PDEATHSIG, 0)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_NAME, b"corten-shim")
    os.setsid()
    os.chdir("/")
    sys.path.clear()
    for fd in fds:
        os.set_inheritable(fd, False)
    listener, null = fds[0], os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)
    try:
        Shim(params, socket.socket(fileno=listener)).run()
    except BaseException:
        os.dup2(os.open(f"{params['bundle']}/shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        raise
    return 0


class Process:
    """Init (exec id "") or one added by exec."""

    __slots__ = ("exec_id", "exited_at", "held_back", "io", "paths", "pid", "status", "stopped", "value")

    def __init__(self, exec_id: str, paths: Params, io: Stdio | None = None) -> None:
        self.exec_id = exec_id
        self.paths = paths
        self.io = io
        self.pid = 0
        self.status = CREATED
        self.value = 0
        self.exited_at = 0
        self.held_back = False  # the exit is told only after the answer to start
        self.stopped: Callable[[], None] | None = None

    def describe(self) -> dict[str, object]:
        return {
            "exec_id": self.exec_id,
            "pid": self.pid,
            "status": self.status,
            "stdio": self.paths,
            "exit_status": self.value,
            "exited_at": self.exited_at,
        }


class Shim:
    def __init__(self, params: Params, listener: socket.socket) -> None:
        self._params = params
        self._bundle = str(params["bundle"])
        self._id = str(params["id"])
        self._command = [str(part) for part in _list(params["engine"])]
        self._commands = 0
        self._loop = Loop()
        self._listener = listener
        self._connections: set[Connection] = set()
        self._processes: dict[str, Process] = {}
        self._creating = False
        self._waiting: list[Reply] = []
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), select.EPOLLIN, self._accept)

    def run(self) -> None:
        self._loop.run()

    def _accept(self, _: int) -> None:
        try:
            accepted, _address = self._listener.accept()
        except BlockingIOError:
            return
        self._connections.add(Connection(self._loop, accepted, self._request, self._left))

    def _left(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections and not self._processes and not self._creating:
            self._loop.stop()  # its daemon died before it said what to make

    def _request(self, connection: Connection, message: dict[str, object]) -> None:
        reply = Reply(connection, message.get("id"))
        method = getattr(self, f"do_{message.get('method')}", None)
        try:
            if method is None:
                raise errors.Unimplemented(f"method {message.get('method')}")
            method(message, reply)
        except errors.Error as err:
            reply.fail(type(err).__name__, err.message)
        except OSError as err:
            reply.fail("FailedPrecondition", f"{err.filename or message.get('method')}: {err.strerror}")
        except Exception as err:  # noqa: BLE001 - the edge: a defect must not end the task
            reply.fail("Internal", f"{type(err).__name__}: {err}")

    # What clients ask for.

    def do_hello(self, message: Params, reply: Reply) -> None:
        reply.connection.subscribed = True
        if self._creating:
            self._waiting.append(reply)
        else:
            reply(self._describe())

    def _describe(self) -> dict[str, object]:
        processes = [process.describe() for process in self._processes.values()]
        return {"protocol": PROTOCOL, "pid": os.getpid(), "processes": processes}

    def do_create(self, message: Params, reply: Reply) -> None:
        if self._creating or self._processes:
            raise errors.AlreadyExists(f'task "{self._id}": already exists')
        self._creating = True
        paths = _mapping(message["stdio"])
        try:
            mounts.mount_all([_mount(each) for each in _list(message["rootfs"])], f"{self._bundle}/rootfs")
            init = Process("", paths, self._stdio(paths))
        except errors.Error:
            self._created()
            raise

        def done(error: str | None) -> None:
            if error is not None:
                reply.fail("InvalidArgument", error)
            else:
                self._processes[""] = init
                reply({"pid": init.pid})
                self._loop.on_end(init.pid, lambda status, when: self._ended(init, status, when))
            self._created()

        self._launch(init, ["create", "--bundle", self._bundle, *_strings(message["flags"])], "init.pid", done)

    def _created(self) -> None:
        """Or not: then the daemon ends this process and undoes what there is."""
        self._creating = False
        for reply in self._waiting:
            reply(self._describe())
        self._waiting.clear()

    def do_start(self, message: Params, reply: Reply) -> None:
        process = self._process(message)
        if process.held_back or process.status != CREATED:
            raise errors.FailedPrecondition(f"{self._name(process)} was started before")
        process.held_back = True
        if process.exec_id:
            self._start_exec(process, reply)
        else:
            self._engine(["start"], [], lambda error: self._started(process, error, reply))

    def _start_exec(self, process: Process, reply: Reply) -> None:
        try:
            process.io = self._stdio(process.paths)
        except errors.Error:
            process.held_back = False
            raise
        file = f"{self._bundle}/execs/{process.exec_id}"
        command = ["exec", "--detach", "--process", f"{file}.json"]
        self._launch(
            process, command, f"execs/{process.exec_id}.pid", lambda error: self._started(process, error, reply)
        )

    def _started(self, process: Process, error: str | None, reply: Reply) -> None:
        process.held_back = False
        if error is not None:
            if process.exec_id and process.io is not None:
                process.io.close()
            reply.fail("InvalidArgument" if process.exec_id else "FailedPrecondition", error)
        else:
            if process.status == CREATED:
                process.status = RUNNING
            reply({"pid": process.pid})
            if process.exec_id:
                self._loop.on_end(process.pid, lambda status, when: self._ended(process, status, when))
                return
        if process.status == STOPPED:
            self._tell(process)

    def do_exec(self, message: Params, reply: Reply) -> None:
        exec_id = str(message["exec_id"])
        init = self._process({})
        if init.status == STOPPED:
            raise errors.FailedPrecondition(f'task "{self._id}" has ended')
        if exec_id in self._processes:
            raise errors.AlreadyExists(f'exec "{exec_id}": already exists')
        self._processes[exec_id] = Process(exec_id, _mapping(message["stdio"]))
        reply({})

    def do_state(self, message: Params, reply: Reply) -> None:
        reply(self._process(message).describe())

    def do_list(self, message: Params, reply: Reply) -> None:
        reply(self._describe())

    def do_kill(self, message: Params, reply: Reply) -> None:
        process, number = self._process(message), int(str(message["signal"]))
        if process.status == STOPPED:
            raise errors.NotFound("process already finished")
        if not process.pid:
            raise errors.FailedPrecondition(f"{self._name(process)} was not started")
        if message.get("all") or self._processes[""].status == PAUSED:  # the engine thaws what is to be killed
            every = ["--all"] if message.get("all") else []
            self._engine(["kill", *every], [str(number)], reply.done)
            return
        os.kill(process.pid, number)
        reply({})

    def do_resize(self, message: Params, reply: Reply) -> None:
        process = self._process(message)
        size = struct.pack("4H", message["height"], message["width"], 0, 0)
        if process.io is not None:
            process.io.resize(size, termios.TIOCSWINSZ)
        reply({})

    def do_close_io(self, message: Params, reply: Reply) -> None:
        process = self._process(message)
        if process.io is not None:
            process.io.close_input()
        reply({})

    def do_pause(self, message: Params, reply: Reply) -> None:
        self._pause("pause", RUNNING, PAUSED, reply)

    def do_resume(self, message: Params, reply: Reply) -> None:
        self._pause("resume", PAUSED, RUNNING, reply)

    def _pause(self, command: str, before: int, after: int, reply: Reply) -> None:
        init = self._process({})

        def done(error: str | None) -> None:
            if error is None and init.status == before:
                init.status = after
            reply.done(error)

        self._engine([command], [], done)

    def do_engine(self, message: Params, reply: Reply) -> None:
        """An engine command that changes nothing here: update, checkpoint."""
        self._engine(_strings(message["command"]), _strings(message.get("arguments") or []), reply.done)

    def do_delete(self, message: Params, reply: Reply) -> None:
        process = self._process(message)
        if process.status in (RUNNING, PAUSED) or process.held_back:
            raise errors.FailedPrecondition(f"{self._name(process)} must be stopped before deletion: running")
        if process.exec_id:
            self._delete_exec(process, reply)
        elif process.status == CREATED:
            process.stopped = lambda: self._delete_init(process, reply)
            os.kill(process.pid, signal.SIGKILL)
        else:
            self._delete_init(process, reply)

    def _delete_exec(self, process: Process, reply: Reply) -> None:
        if process.io is not None:
            process.io.close()
        for path in (f"execs/{process.exec_id}.json", f"execs/{process.exec_id}.pid", f"exits/exec-{process.exec_id}"):
            _remove(f"{self._bundle}/{path}")
        del self._processes[process.exec_id]
        reply(process.describe())

    def _delete_init(self, init: Process, reply: Reply) -> None:
        def done(error: str | None) -> None:
            if error is not None and "does not exist" not in error:
                reply.fail("Internal", error)
                return
            mounts.unmount_all(f"{self._bundle}/rootfs", mounts.MNT_DETACH)
            reply(init.describe())
            self._loop.stop()

        for process in self._processes.values():
            if process.io is not None:
                process.io.close()
        self._engine(["delete"], [], done)

    def do_shutdown(self, message: Params, reply: Reply) -> None:
        reply({})
        self._loop.stop()

    # Processes.

    def _process(self, message: Params) -> Process:
        exec_id = str(message.get("exec_id") or "")
        if exec_id in self._processes:
            return self._processes[exec_id]
        raise errors.NotFound(f'exec "{exec_id}": not found' if exec_id else f'task "{self._id}": not found')

    def _name(self, process: Process) -> str:
        return f'process "{process.exec_id}" of task "{self._id}"' if process.exec_id else f'task "{self._id}"'

    def _stdio(self, paths: Params) -> Stdio:
        owner = self._params.get("owner")
        return Stdio(self._loop, paths, bool(self._params.get("relay")), None if owner is None else _pair(_list(owner)))

    def _launch(self, process: Process, command: Sequence[str], pid_file: str, done: Done) -> None:
        """Runs an engine command that makes ``process``, between ``expect`` and ``expected``."""
        io, path = process.io, f"{self._bundle}/{pid_file}"
        assert io is not None
        console = _Console(f"{self._params['socket']}c") if io.terminal else None
        extra = ["--pid-file", path, *(["--console-socket", console.path] if console else [])]

        def finish(error: str | None) -> None:
            try:
                if console is not None:
                    master = console.take()
                    if error is None:
                        io.attach(master)
                if error is None:
                    with open(path) as file:
                        process.pid = int(file.read())
            except OSError as err:
                error = f"engine made no process: {err}"
            done(error)
            self._loop.expected()

        def go(_: int = 0) -> None:
            self._engine([*command, *extra], [], finish, io.child)
            io.started()

        self._loop.expect()
        if io.logger is None:
            go()
        else:
            names = {"CONTAINER_ID": self._id, "CONTAINER_NAMESPACE": str(self._params["namespace"])}
            io.logger.start(self._loop, names, go)

    def _ended(self, process: Process, status: int, when: int) -> None:
        process.status = STOPPED
        process.value = status if status >= 0 else 128 - status
        process.exited_at = when
        name = f"exec-{process.exec_id}" if process.exec_id else "init"
        record = {"pid": process.pid, "status": process.value, "exited_at": when}
        write_durably(f"{self._bundle}/exits/{name}", json.dumps(record).encode())
        if process.io is not None:
            process.io.ended()
        if not process.held_back:
            self._tell(process)

    def _tell(self, process: Process) -> None:
        for connection in list(self._connections):
            if connection.subscribed:
                connection.send({"event": "exit", **process.describe()})
        if not process.exec_id and self._params.get("shared_pids"):
            self._engine(["kill", "--all"], ["9"], lambda error: None)
        if process.stopped is not None:
            process.stopped()

    # The engine.

    def _engine(self, command: Sequence[str], after: Sequence[str], done: Done, streams: Sequence[int] = ()) -> None:
        """Runs ``command ID after`` as a child; ``done`` is called with None or with what the engine says."""
        self._commands += 1
        log = f"{self._bundle}/log{self._commands}.json"
        argv = [*self._command, "--log", log, "--log-format", "json", *command, self._id, *after]
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)]
        pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsigdef=DEFAULT_SIGNALS, setsigmask=())

        def ended(status: int, _: int) -> None:
            error = None if status == 0 else _last_error(log) or f"{argv[0]} {command[0]}: exit status {status}"
            _remove(log)
            done(error)

        self._loop.on_end(pid, ended)


class Connection:
    """One client: lines in, lines out; what it does not take at once is kept."""

    def __init__(
        self,
        loop: Loop,
        accepted: socket.socket,
        request: Callable[[Connection, dict[str, object]], None],
        left: Callable[[Connection], None],
    ) -> None:
        self.subscribed = False
        self._loop = loop
        self._socket = accepted
        self._request = request
        self._left = left
        self._in = b""
        self._out = b""
        accepted.setblocking(False)
        loop.watch(accepted.fileno(), select.EPOLLIN, self._ready)

    def send(self, message: Params) -> None:
        self._out += json.dumps(message).encode() + b"\n"
        self._flush()

    def _ready(self, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._flush()
        if mask & ~select.EPOLLOUT:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_MAX_LINE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        *lines, self._in = (self._in + data).split(b"\n")
        for line in lines:
            self._request(self, json.loads(line))

    def _flush(self) -> None:
        if self._socket.fileno() < 0:
            return
        try:
            self._out = self._out[self._socket.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return
        self._loop.watch(self._socket.fileno(), select.EPOLLIN | (select.EPOLLOUT if self._out else 0), self._ready)

    def _close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._left(self)


class Reply:
    """The answer to one request, given now or later."""

    __slots__ = ("_id", "connection")

    def __init__(self, connection: Connection, id: object) -> None:
        self.connection = connection
        self._id = id

    def __call__(self, result: Params) -> None:
        self.connection.send({"id": self._id, "result": result})

    def fail(self, code: str, message: str) -> None:
        self.connection.send({"id": self._id, "error": {"code": code, "message": message}})

    def done(self, error: str | None) -> None:
        if error is None:
            self({})
        else:
            self.fail("FailedPrecondition", error)


class _Console:
    """Where the engine delivers a terminal's master (runc's --console-socket)."""

    def __init__(self, path: str) -> None:
        self.path = path
        _remove(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(1)
        self._listener.setblocking(False)

    def take(self) -> int:
        """After the engine's end: the master, or -1 when it sent none."""
        try:
            with self._listener.accept()[0] as connection:
                return socket.recv_fds(connection, 4096, 1, socket.MSG_CMSG_CLOEXEC)[1][0]
        except BlockingIOError:
            return -1
        finally:
            self._listener.close()
            _remove(self.path)


def undo(params: Params, fds: Sequence[int]) -> int:
    """A worker: ends what is left of a task whose shim has gone. Engine delete, then the mounts."""
    command = [str(part) for part in _list(params["engine"])]
    null = os.open("/dev/null", os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
    argv = [*command, "delete", "--force", str(params["id"])]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsigdef=DEFAULT_SIGNALS, setsigmask=())
    os.waitpid(pid, 0)
    mounts.unmount_below(f"{params['bundle']}/rootfs", mounts.MNT_DETACH)
    return 0


def write_durably(path: str, data: bytes) -> None:
    """Under a temporary name, fsync, rename, fsync of the folder."""
    with open(f"{path}.new", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _last_error(log: str) -> str:
    """Of the engine's JSON log: the last message of a line that says error."""
    message = ""
    try:
        with open(log, errors="replace") as file:
            for line in file:
                entry = json.loads(line)
                if entry.get("level") in ("error", "fatal"):
                    message = str(entry.get("msg", ""))
    except (OSError, ValueError):
        pass
    return message


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _mount(value: object) -> mounts.Mount:
    fields = _mapping(value)
    options = tuple(_strings(fields["options"]))
    return mounts.Mount(str(fields["type"]), str(fields["source"]), str(fields.get("target") or ""), options)


def _list(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    raise errors.InvalidArgument(f"{value!r} is not a list")


def _strings(value: object) -> list[str]:
    return [str(item) for item in _list(value)]


def _mapping(value: object) -> dict[str, object]:
    if isinstance(value, dict):
        return value
    raise errors.InvalidArgument(f"{value!r} is not an object")


def _pair(value: Sequence[object]) -> tuple[int, int]:
    first, second = value
    return int(str(first)), int(str(second))
