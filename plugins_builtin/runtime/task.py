"""One task, seen from the daemon: requests to its shim, and when that has gone, what is on disk."""

from __future__ import annotations

import contextlib
import json
import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from plugin_sdk import errors, runtime
from plugins_builtin.runtime import cgroups, shim
from plugins_builtin.runtime.link import Link, Message, Watcher

if TYPE_CHECKING:
    from plugin_sdk.mounts import Mount

_ANSWER = 15.0  # seconds that a shim may take for what it knows
_ENGINE = 60.0  # and for what the engine has to do
_KILLED = 137


class Owner(Protocol):
    """What a task needs of its runtime."""

    def lost(self, task: Task) -> None: ...

    def forget(self, task: Task) -> None: ...

    def remove(self, params: Message) -> None: ...


class Task:
    """Implements ``runtime.Task``."""

    def __init__(
        self,
        owner: Owner,
        params: Message,
        watcher: Watcher,
        exits: Callable[[runtime.Exit], None],
        oom: Callable[[str, str], None],
    ) -> None:
        self.params = params
        self.shim_pid = 0
        self._owner = owner
        self._watcher = watcher
        self._exits = exits
        self._oom = oom
        self._link: Link | None = None
        self._pid = 0
        self._cgroup = cgroups.Cgroup({})
        self._kills = 0
        self._oom_fds: tuple[int, int] | None = None
        self._dead: dict[str, runtime.Process] | None = None
        self._known = {"": _stdio(params["stdio"])}
        self._lock = threading.Lock()

    @property
    def namespace(self) -> str:
        return str(self.params["namespace"])

    @property
    def id(self) -> str:
        return str(self.params["id"])

    @property
    def bundle(self) -> Path:
        return Path(str(self.params["bundle"]))

    @property
    def pid(self) -> int:
        return self._pid

    # For the runtime.

    def connect(self) -> None:
        try:
            self._link = Link(self._watcher, str(self.params["socket"]), self._event, self._lost)
        except OSError as err:
            raise errors.Unavailable(f'task "{self.id}": its shim does not answer: {err.strerror}') from err

    def disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
        self._unwatch_oom()

    def create(self, request: runtime.Create, timeout: float) -> None:
        self._hello()
        fields: Message = {
            "stdio": paths(request.stdio),
            "rootfs": [_mount(one) for one in request.rootfs],
            "flags": self.params["flags"],
        }
        try:
            self._created(_int(self._ask("create", fields, timeout)["pid"]))
        except errors.InvalidArgument as err:
            raise errors.InvalidArgument(f"OCI runtime create failed: {err.message}") from err

    def adopt(self, timeout: float) -> bool:
        """After a restart; whether there is an init. Reports the exits that the shim knows."""
        found = [self._remember(each) for each in self._hello(timeout)]
        for process in found:
            if not process.exec_id:
                self._created(process.pid)
        for process in found:
            if process.status is runtime.Status.STOPPED:
                self._exits(self._exit(process))
        return any(not process.exec_id for process in found)

    def mourn(self) -> None:
        """The shim has gone and so have the processes: what has no exit on disk was killed now."""
        with self._lock:
            if self._dead is not None:
                return
            names = {"": "init", **{path.stem: f"exec-{path.stem}" for path in self.bundle.glob("execs/*.json")}}
            self._dead = {exec_id: self._ended(exec_id, name) for exec_id, name in names.items()}
        self._pid = self._dead[""].pid
        for process in self._dead.values():
            if process.pid:
                self._exits(self._exit(process))

    def _ended(self, exec_id: str, name: str) -> runtime.Process:
        record = self._record(exec_id, self.bundle / "exits" / name)
        status = runtime.Status.STOPPED if record["pid"] else runtime.Status.CREATED
        stdio = self._known.get(exec_id, runtime.Stdio())
        return runtime.Process(self.id, exec_id, record["pid"], status, stdio, record["status"], record["exited_at"])

    def _record(self, exec_id: str, path: Path) -> dict[str, int]:
        """The exit on disk; without one the process was killed now, which is written there if it can be."""
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, int] = json.loads(path.read_bytes())
            return found
        pid = self._pid_on_disk(exec_id)
        if not pid:
            return {"pid": 0, "status": 0, "exited_at": 0}
        record = {"pid": pid, "status": _KILLED, "exited_at": time.time_ns()}
        with contextlib.suppress(OSError):
            shim.write_durably(str(path), json.dumps(record).encode())
        return record

    def _pid_on_disk(self, exec_id: str) -> int:
        try:
            return int((self.bundle / (f"execs/{exec_id}.pid" if exec_id else "init.pid")).read_text())
        except (OSError, ValueError):
            return 0

    def _hello(self, timeout: float = _ANSWER) -> list[Message]:
        answer = self._ask("hello", {"protocol": shim.PROTOCOL}, timeout)
        self.shim_pid = _int(answer["pid"])
        processes = answer["processes"]
        return [each for each in processes if isinstance(each, dict)] if isinstance(processes, list) else []

    def _created(self, pid: int) -> None:
        self._pid = pid
        self._cgroup = cgroups.of(pid)
        self._watch_oom()

    # runtime.Task

    def state(self, exec_id: str = "") -> runtime.Process:
        if self._dead is not None:
            return self._buried(exec_id)
        return self._remember(self._ask("state", {"exec_id": exec_id}))

    def start(self, exec_id: str = "") -> int:
        self._alive(exec_id)
        try:
            return _int(self._ask("start", {"exec_id": exec_id}, _ENGINE)["pid"])
        except errors.InvalidArgument as err:
            raise errors.InvalidArgument(f"OCI runtime exec failed: {err.message}") from err

    def exec(self, exec_id: str, spec: bytes, stdio: runtime.Stdio) -> None:
        if not exec_id or "/" in exec_id or exec_id.startswith("."):
            raise errors.InvalidArgument(f'exec id "{exec_id}" is not valid')
        self._alive("")
        path = self.bundle / "execs" / f"{exec_id}.json"
        try:
            with open(path, "xb") as file:
                file.write(spec)
        except FileExistsError:
            raise errors.AlreadyExists(f"id {exec_id}: already exists") from None
        try:
            self._ask("exec", {"exec_id": exec_id, "stdio": paths(stdio)})
        except errors.Error:
            path.unlink(missing_ok=True)
            raise
        self._known[exec_id] = stdio

    def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        self._alive(exec_id, "process already finished")
        self._ask("kill", {"exec_id": exec_id, "signal": signal, "all": all}, _ENGINE)

    def pids(self) -> list[runtime.ProcessInfo]:
        if self._dead is not None or self.state().status is runtime.Status.STOPPED:
            return []
        listed = self._ask("list", {})["processes"]
        assert isinstance(listed, list)
        running = [each for each in listed if each["exec_id"] and each["status"] == runtime.Status.RUNNING]
        added = {each["pid"]: each["exec_id"] for each in running}
        pids = self._cgroup.pids() or [self._pid, *added]
        return [runtime.ProcessInfo(pid, added.get(pid, "")) for pid in pids]

    def resize_pty(self, width: int, height: int, exec_id: str = "") -> None:
        self._alive(exec_id)
        self._ask("resize", {"exec_id": exec_id, "width": width, "height": height})

    def close_io(self, exec_id: str = "") -> None:
        self._alive(exec_id)
        self._ask("close_io", {"exec_id": exec_id})

    def pause(self) -> None:
        self._alive("")
        self._ask("pause", {}, _ENGINE)

    def resume(self) -> None:
        self._alive("")
        self._ask("resume", {}, _ENGINE)

    def checkpoint(self, path: Path, options: runtime.Any) -> None:
        raise errors.Unimplemented("tasks cannot be checkpointed yet")

    def update(self, resources: bytes, annotations: Mapping[str, str]) -> None:
        self._alive("")
        path = self.bundle / "resources.json"
        path.write_bytes(resources)
        self._ask("engine", {"command": ["update", "--resources", str(path)]}, _ENGINE)

    def metrics(self) -> runtime.Any:
        from plugins_builtin.runtime import metrics

        if not self._cgroup.folders:
            raise errors.NotFound(f'cgroup of task "{self.id}": not found')
        return metrics.read(self._cgroup)

    def delete(self, exec_id: str = "") -> runtime.Exit:
        process = self._delete_dead(exec_id) if self._dead is not None else self._delete(exec_id)
        self._known.pop(exec_id, None)
        if not exec_id:
            self.disconnect()
            self._owner.forget(self)
            self._owner.remove(self.params)
        return self._exit(process)

    def _delete(self, exec_id: str) -> runtime.Process:
        link = self._link
        if not exec_id and link is not None:
            link.farewell()
        try:
            return self._remember(self._ask("delete", {"exec_id": exec_id}, _ENGINE))
        except errors.Error:
            if not exec_id and link is not None:
                link.farewell(False)
            raise

    def _delete_dead(self, exec_id: str) -> runtime.Process:
        process = self._buried(exec_id)
        if exec_id:
            assert self._dead is not None
            del self._dead[exec_id]
            (self.bundle / "execs" / f"{exec_id}.json").unlink(missing_ok=True)
        return process

    # What the shim says by itself, on the watcher's thread.

    def _event(self, message: Message) -> None:
        if message["event"] == "exit":
            process = self._remember(message)
            self._look_for_oom()
            self._exits(self._exit(process))

    def _lost(self) -> None:
        self._owner.lost(self)

    def _watch_oom(self) -> None:
        fds = cgroups.watch_oom(self._cgroup)
        if fds is not None:
            self._oom_fds, self._kills = fds, self._cgroup.oom_kills()
            mask = select.EPOLLPRI if self._cgroup.unified else select.EPOLLIN
            self._watcher.watch(fds[0], mask, self._oom_ready)

    def _unwatch_oom(self) -> None:
        fds, self._oom_fds = self._oom_fds, None
        if fds is not None:
            self._watcher.later(lambda: _close(self._watcher, fds))

    def _oom_ready(self, _: int) -> None:
        fds = self._oom_fds
        if fds is not None:
            with contextlib.suppress(OSError):
                os.read(fds[0], 8) if not self._cgroup.unified else os.pread(fds[0], 4096, 0)
        self._look_for_oom()

    def _look_for_oom(self) -> None:
        kills = self._cgroup.oom_kills()
        if kills > self._kills:
            self._kills = kills
            self._oom(self.namespace, self.id)

    # Plumbing.

    def _ask(self, method: str, fields: Message, timeout: float = _ANSWER) -> Message:
        if self._link is None:
            raise errors.Unavailable(f'task "{self.id}": its shim has gone')
        return self._link.request(method, fields, timeout)

    def _alive(self, exec_id: str, text: str = "") -> None:
        """Raises, once the shim has gone, NotFound for what no longer can be done."""
        if self._dead is not None:
            self._buried(exec_id)
            raise errors.NotFound(text or f'task "{self.id}" has ended: not found')

    def _buried(self, exec_id: str) -> runtime.Process:
        assert self._dead is not None
        if exec_id not in self._dead:
            raise errors.NotFound(f"process does not exist {exec_id}: not found")
        return self._dead[exec_id]

    def _remember(self, message: Message) -> runtime.Process:
        exec_id = str(message["exec_id"])
        self._known[exec_id] = _stdio(message["stdio"])
        return runtime.Process(
            id=self.id,
            exec_id=exec_id,
            pid=_int(message["pid"]),
            status=runtime.Status(_int(message["status"])),
            stdio=self._known[exec_id],
            exit_status=_int(message["exit_status"]),
            exited_at=_int(message["exited_at"]),
        )

    def _exit(self, process: runtime.Process) -> runtime.Exit:
        return runtime.Exit(
            self.namespace, self.id, process.exec_id, process.pid, process.exit_status, process.exited_at
        )


def _close(watcher: Watcher, fds: tuple[int, int]) -> None:
    watcher.forget(fds[0])
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _int(value: object) -> int:
    if isinstance(value, int):
        return value
    raise errors.Internal(f"a shim answered {value!r} for a number")


def _stdio(fields: object) -> runtime.Stdio:
    assert isinstance(fields, dict)
    return runtime.Stdio(**fields)


def paths(stdio: runtime.Stdio) -> Message:
    return {"stdin": stdio.stdin, "stdout": stdio.stdout, "stderr": stdio.stderr, "terminal": stdio.terminal}


def _mount(one: Mount) -> Message:
    return {"type": one.type, "source": one.source, "target": one.target, "options": list(one.options)}
