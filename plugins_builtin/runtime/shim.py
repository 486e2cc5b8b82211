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

import _signal  # type: ignore[import-not-found]
import ctypes
import os
import sys
import termios

from plugin_sdk import errors, lines
from plugins_builtin.runtime.clients import Clients, Reply
from plugins_builtin.runtime.engine import Console, Engine, Gate, remove, spawn
from plugins_builtin.runtime.loop import Loop
from plugins_builtin.runtime.stdio import Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from plugins_builtin.runtime.engine import Done

    Params = Mapping[str, object]

PROTOCOL = 1
CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4  # runtime.Status

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_prctl = ctypes.CDLL(None).prctl


def main(params: Params, fds: Sequence[int]) -> int:
    """``fds``: the listening socket, and the locked file whose lock says that this process lives."""
    _prctl(_PR_SET_PDEATHSIG, 0)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_NAME, b"corten-shim")
    os.setsid()
    os.chdir("/")
    _come_before_the_daemon()
    sys.path.clear()
    for fd in fds:
        os.set_inheritable(fd, False)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)
    try:
        Shim(params, fds[0]).run()
    except BaseException:
        os.dup2(os.open(f"{params['bundle']}/shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
        raise
    return 0


def _come_before_the_daemon() -> None:
    """When memory is short, a container goes before the daemon, whose score of proc(5) its shim has inherited."""
    fd = os.open("/proc/self/oom_score_adj", os.O_RDWR)
    score = min(1000, int(os.read(fd, 16)) + 1)
    os.pwrite(fd, b"%d" % score, 0)
    os.close(fd)


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
    def __init__(self, params: Params, listener: int) -> None:
        self._params = params
        self._bundle = str(params["bundle"])
        self._id = str(params["id"])
        self._loop = Loop()
        self._engine = Engine(self._loop, _strings(params["engine"]), self._bundle, self._id)
        self._processes: dict[str, Process] = {}
        self._creating = False
        self._waiting: list[Reply] = []
        self._gate: Gate | None = None
        self._clients = Clients(self._loop, listener, self._request, self._left)

    def run(self) -> None:
        self._loop.run()

    def _left(self) -> None:
        if not self._processes and not self._creating:
            self._loop.stop()  # its daemon died before it said what to make

    def _request(self, message: Params, reply: Reply) -> None:
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

        def mounted(code: str, text: str) -> None:
            try:
                if code:
                    raise getattr(errors, code)(text)
                self._create(message, reply)
            except errors.Error as err:
                self._created()
                reply.fail(type(err).__name__, err.message)

        self._aside("mount", [message["rootfs"], f"{self._bundle}/rootfs"], mounted)

    def _create(self, message: Params, reply: Reply) -> None:
        paths = _mapping(message["stdio"])
        init = Process("", paths, self._stdio(paths))

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
            self._start_init(process, reply)

    def _start_init(self, init: Process, reply: Reply) -> None:
        def started(error: str | None) -> None:
            self._gate = None
            self._started(init, error, reply)

        try:
            self._gate = Gate(self._loop, str(self._params.get("gate") or ""), started)
        except OSError:
            self._engine.run(["start"], [], started)

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
            raise errors.AlreadyExists(f"id {exec_id}: already exists")
        self._processes[exec_id] = Process(exec_id, _mapping(message["stdio"]))
        reply({})

    def do_state(self, message: Params, reply: Reply) -> None:
        reply(self._process(message).describe())

    def do_list(self, message: Params, reply: Reply) -> None:
        reply(self._describe())

    def do_kill(self, message: Params, reply: Reply) -> None:
        process, number = self._process(message), int(str(message["signal"]))
        if message.get("all"):
            self._engine.run(["kill", "--all"], [str(number)], reply.done)
        elif process.status == STOPPED:
            raise errors.NotFound("process already finished")
        elif not process.pid:
            raise errors.FailedPrecondition(f"{self._name(process)} was not started")
        elif self._processes[""].status == PAUSED:
            self._engine.run(["kill"], [str(number)], reply.done)  # it thaws what is to be killed
        else:
            _signal_process(process.pid, number)
            reply({})

    def do_resize(self, message: Params, reply: Reply) -> None:
        process = self._process(message)
        height, width = (int(str(message[name])).to_bytes(2, sys.byteorder) for name in ("height", "width"))
        size = height + width + bytes(4)
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

        self._engine.run([command], [], done)

    def do_engine(self, message: Params, reply: Reply) -> None:
        """An engine command that changes nothing here: update, checkpoint."""
        self._engine.run(_strings(message["command"]), _strings(message.get("arguments") or []), reply.done)

    def do_delete(self, message: Params, reply: Reply) -> None:
        process = self._process(message)
        if process.status in (RUNNING, PAUSED) or process.held_back:
            raise errors.FailedPrecondition(f"{self._name(process)} must be stopped before deletion: running")
        if process.exec_id:
            self._delete_exec(process, reply)
        elif process.status == CREATED:
            process.stopped = lambda: self._delete_init(process, reply)
            os.kill(process.pid, _signal.SIGKILL)
        else:
            self._delete_init(process, reply)

    def _delete_exec(self, process: Process, reply: Reply) -> None:
        if process.io is not None:
            process.io.close()
        for path in (f"execs/{process.exec_id}.json", f"execs/{process.exec_id}.pid", f"exits/exec-{process.exec_id}"):
            remove(f"{self._bundle}/{path}")
        del self._processes[process.exec_id]
        reply(process.describe())

    def _delete_init(self, init: Process, reply: Reply) -> None:
        """The engine's state and the rootfs, at the same time unless there are hooks to run in between."""
        left, failed = {"engine", "rootfs"}, False

        def done(part: str, code: str, text: str) -> None:
            nonlocal failed
            left.discard(part)
            if code and not failed:
                failed = True
                reply.fail(code, text)
            elif not left and not failed:
                reply(init.describe())
                self._loop.stop()

        def deleted(error: str | None) -> None:
            gone = error is None or "does not exist" in error
            done("engine", "" if gone else "Internal", error or "")
            if gone and not self._params.get("gate"):
                unmount()

        def unmount() -> None:
            rootfs = f"{self._bundle}/rootfs"
            self._aside("unmount", [rootfs], lambda code, text: done("rootfs", code, text))

        for process in self._processes.values():
            if process.io is not None:
                process.io.close()
        self._engine.run(["delete"], [], deleted)
        if self._params.get("gate"):
            unmount()

    def do_shutdown(self, message: Params, reply: Reply) -> None:
        reply({})
        self._loop.stop()

    # Processes.

    def _process(self, message: Params) -> Process:
        exec_id = str(message.get("exec_id") or "")
        if exec_id in self._processes:
            return self._processes[exec_id]
        if exec_id:
            raise errors.NotFound(f"process does not exist {exec_id}: not found")
        raise errors.NotFound(f'task "{self._id}": not found')

    def _name(self, process: Process) -> str:
        return f'process "{process.exec_id}" of task "{self._id}"' if process.exec_id else f'task "{self._id}"'

    def _stdio(self, paths: Params) -> Stdio:
        owner = self._params.get("owner")
        return Stdio(self._loop, paths, bool(self._params.get("relay")), None if owner is None else _pair(_list(owner)))

    def _launch(self, process: Process, command: Sequence[str], pid_file: str, done: Done) -> None:
        """Runs an engine command that makes ``process``, between ``expect`` and ``expected``."""
        io, path = process.io, f"{self._bundle}/{pid_file}"
        assert io is not None
        console = Console(f"{self._params['socket']}c") if io.terminal else None
        extra = ["--pid-file", path, *(["--console-socket", console.path] if console else [])]

        def finish(error: str | None) -> None:
            try:
                if console is not None:
                    master = console.take()
                    if error is None:
                        io.attach(master)
                if error is None:
                    process.pid = self._read_pid(path)
            except OSError as err:
                error = f"engine made no process: {err}"
            done(error)
            self._loop.expected()

        def go(_: int = 0) -> None:
            self._engine.run([*command, *extra], [], finish, io.child)
            io.started()

        self._loop.expect()
        if io.logger is None:
            go()
        else:
            names = {"CONTAINER_ID": self._id, "CONTAINER_NAMESPACE": str(self._params["namespace"])}
            io.logger.start(self._loop, names, go)

    def _read_pid(self, path: str) -> int:
        with open(path, "rb") as file:
            return int(file.read())

    def _ended(self, process: Process, status: int, when: int) -> None:
        process.status = STOPPED
        process.value = status if status >= 0 else 128 - status
        process.exited_at = when
        name = f"exec-{process.exec_id}" if process.exec_id else "init"
        record = {"pid": process.pid, "status": process.value, "exited_at": when}
        try:  # noqa: SIM105 - contextlib is not loaded
            write_durably(f"{self._bundle}/exits/{name}", lines.encode(record))
        except OSError:  # a full disk: the daemon is told all the same, and can be asked while this process lives
            pass
        if process.io is not None:
            process.io.ended()
        gate = None if process.exec_id else self._gate
        if gate is None:
            if not process.held_back:
                self._tell(process)
        elif not gate.look():  # init has ended before it went on: the engine says why it cannot be started
            gate.close()
            self._engine.run(["start"], [], gate.opened)

    def _tell(self, process: Process) -> None:
        self._clients.tell({"event": "exit", **process.describe()})
        if not process.exec_id and self._params.get("shared_pids"):
            self._engine.run(["kill", "--all"], ["9"], lambda error: None)
        if process.stopped is not None:
            process.stopped()

    def _aside(self, work: str, arguments: Sequence[object], done: Callable[[str, str], None]) -> None:
        """Does ``work`` of ``rootfs`` in a child. ``done`` gets the class and text of an error, or empty texts."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                from plugins_builtin.runtime import rootfs

                code = rootfs.answer(writer, work, arguments)
            finally:
                os._exit(code)
        os.close(writer)

        def ended(status: int, _: int) -> None:
            text = os.read(reader, 4096).decode(errors="replace")
            os.close(reader)
            code, _newline, words = text.partition("\n")
            done("" if status == 0 else code or "Internal", words or f"{work} of the rootfs ended with {status}")

        self._loop.on_end(pid, ended)


def _signal_process(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError as err:
        raise errors.InvalidArgument(f"signal {number} to process {pid}: {err.strerror}") from err


def undo(params: Params, fds: Sequence[int]) -> int:
    """A worker: ends what is left of a task whose shim has gone. Engine delete, then the mounts."""
    from plugins_builtin.runtime import rootfs

    null = os.open("/dev/null", os.O_RDWR)
    argv = [*_strings(params["engine"]), "delete", "--force", str(params["id"])]
    os.waitpid(spawn(argv, os.environ, {0: null, 1: null, 2: null}), 0)
    rootfs.unmount_below(f"{params['bundle']}/rootfs")
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
