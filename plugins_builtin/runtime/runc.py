"""The runtime ``io.containerd.runc.v2``: one shim per task, which drives runc or crun.

The daemon's half. What a task is made of stands in its bundle, so that it is found again: ``task.json`` (how the shim
was started), ``shim.json`` (protocol and socket; its lock is held by the shim for life), ``init.pid``, ``exits/``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from plugin_sdk import errors, mounts, runtime, workers
from plugins_builtin.runtime import cgroups, shim
from plugins_builtin.runtime.link import Watcher
from plugins_builtin.runtime.settings import settings, shares_pids
from plugins_builtin.runtime.task import Task, paths

if TYPE_CHECKING:
    from plugins_builtin.runtime.plugin import Config

_SHIM = "plugins_builtin.runtime.shim:main"
_UNDO = "plugins_builtin.runtime.shim:undo"
_PATIENCE = 10.0  # seconds
_ENGINE = 60.0
_PROTOCOLS = (shim.PROTOCOL,)

Exits = Callable[[runtime.Exit], None]
Oom = Callable[[str, str], None]


class Runc:
    """``state``: where the engines keep theirs, by namespace. ``sockets``: a short path, 108 bytes are the limit."""

    def __init__(
        self, state: Path, sockets: Path, workers: workers.Workers, config: Config, log: logging.Logger
    ) -> None:
        self._state = state
        self._sockets = sockets
        self._workers = workers
        self._config = config
        self._log = log
        self._watcher = Watcher("shims")
        self._tasks: set[Task] = set()
        for folder in (state, sockets):
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)

    def create(self, request: runtime.Create, exits: Exits, oom: Oom) -> Task:
        params = self._params(request)
        try:
            request.bundle.mkdir(mode=0o711)
        except FileExistsError:
            raise errors.AlreadyExists(f'task "{request.id}": already exists') from None
        worker: workers.Worker | None = None
        task = Task(self, params, self._watcher, exits, oom)
        try:
            _write_bundle(request, params)
            worker = self._start_shim(params)
            if params["shim_cgroup"]:
                cgroups.join(str(params["shim_cgroup"]), worker.pid)
            task.connect()
            task.create(request, _ENGINE)
        except BaseException:
            task.disconnect()
            if worker is None:
                self.remove(params)
            else:
                worker.kill()
                worker.wait(_PATIENCE)
                self.undo(params)
            raise
        finally:
            if worker is not None:
                worker.close()
        self._tasks.add(task)
        return task

    def load(self, bundle: Path, exits: Exits, oom: Oom) -> Task | None:
        params = _read_json(bundle / "task.json")
        if bundle.name.startswith(".") or params is None or not (bundle / "shim.json").exists():
            _remove_mount_point(bundle / "rootfs")
            shutil.rmtree(bundle, ignore_errors=True)
            return None
        task = Task(self, params, self._watcher, exits, oom)
        if not (self._reconnect(task, bundle) if self._is_locked(bundle) else self._found_dead(task)):
            return None
        self._tasks.add(task)
        return task

    def close(self) -> None:
        for task in list(self._tasks):
            task.disconnect()
        self._tasks.clear()
        self._watcher.close()

    # For tasks.

    def forget(self, task: Task) -> None:
        self._tasks.discard(task)

    def lost(self, task: Task) -> None:
        """The shim has gone without having been asked to."""
        threading.Thread(target=self._bury, args=(task,), name=f"bury-{task.id}", daemon=True).start()

    def remove(self, params: dict[str, object]) -> None:
        """The socket, then the bundle under a name that ``load`` removes."""
        bundle = Path(str(params["bundle"]))
        Path(str(params["socket"])).unlink(missing_ok=True)
        _remove_mount_point(bundle / "rootfs")
        removed = bundle.with_name(f".{bundle.name}-{time.time_ns()}")
        with contextlib.suppress(FileNotFoundError):
            bundle.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)

    def undo(self, params: dict[str, object]) -> None:
        """After the shim's end: ends what is left, unmounts, removes the bundle."""
        try:
            self._clean_up(params)
        except errors.Error as err:
            self._log.error("task %s is not undone: %s", params["id"], err)
        else:
            self.remove(params)

    # Shims.

    def _params(self, request: runtime.Create) -> dict[str, object]:
        if request.checkpoint is not None:
            raise errors.Unimplemented("tasks cannot be restored from a checkpoint yet")
        chosen = settings(request, self._config, self._state)
        digest = hashlib.sha256(str(request.bundle).encode()).hexdigest()[:20]
        return {
            "namespace": request.namespace,
            "id": request.id,
            "bundle": str(request.bundle),
            "socket": str(self._sockets / digest),
            "engine": list(chosen.command),
            "flags": list(chosen.flags),
            "gate": chosen.gate,
            "relay": self._config.relay,
            "owner": chosen.owner,
            "shim_cgroup": chosen.shim_cgroup,
            "shared_pids": shares_pids(request.spec),
            "stdio": paths(request.stdio),
        }

    def _start_shim(self, params: dict[str, object]) -> workers.Worker:
        path = str(params["socket"])
        Path(path).unlink(missing_ok=True)
        lock = os.open(f"{params['bundle']}/shim.json", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(path)
                os.chmod(path, 0o600)
                listener.listen(8)
                fcntl.flock(lock, fcntl.LOCK_EX)
                os.write(lock, json.dumps({"protocol": shim.PROTOCOL, "socket": path}).encode())
                return self._workers.start(_SHIM, params, [listener.fileno(), lock])
        finally:
            os.close(lock)

    def _is_locked(self, bundle: Path) -> bool:
        with open(bundle / "shim.json", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def _reconnect(self, task: Task, bundle: Path) -> bool:
        """Whether there is a task. A shim that made none is ended."""
        announced = _read_json(bundle / "shim.json") or {}
        if announced.get("protocol") not in _PROTOCOLS:
            raise errors.Unavailable(f'task "{task.id}": its shim speaks protocol {announced.get("protocol")}')
        task.connect()
        if task.adopt(_ENGINE):
            return True
        self._end_shim(task, bundle)
        self.undo(task.params)
        return False

    def _end_shim(self, task: Task, bundle: Path) -> None:
        pid = task.shim_pid
        task.disconnect()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for _ in _tries(_PATIENCE):
            if not self._is_locked(bundle):
                return

    def _found_dead(self, task: Task) -> bool:
        if not (task.bundle / "init.pid").exists() and not (task.bundle / "exits/init").exists():
            self.undo(task.params)
            return False
        self._clean_up(task.params)
        task.mourn()
        return True

    def _bury(self, task: Task) -> None:
        for _ in _tries(_PATIENCE):
            if not task.bundle.exists() or not self._is_locked(task.bundle):
                break
        try:
            self._clean_up(task.params)
        except errors.Error as err:
            self._log.error("task %s: its shim has gone and its engine cannot be called: %s", task.id, err)
        task.mourn()

    def _clean_up(self, params: dict[str, object]) -> None:
        """In a child: kills what the engine still knows, deletes it, detaches the mounts. Raises Internal."""
        worker = self._workers.start(_UNDO, params)
        try:
            status = worker.wait(_ENGINE)
        finally:
            worker.close()
        if status:
            raise errors.Internal(f"clearing away what is left of task {params['id']} ended with {status}")


def _remove_mount_point(folder: Path) -> None:
    """What an interrupted clean-up has left mounted there is taken off: nothing is removed through a mount."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        mounts.unmount_below(folder, mounts.MNT_DETACH)


def _write_bundle(request: runtime.Create, params: dict[str, object]) -> None:
    try:
        _write_files(request, params)
    except OSError as err:
        raise errors.ResourceExhausted(f"bundle {request.bundle} cannot be written: {err.strerror}") from err


def _write_files(request: runtime.Create, params: dict[str, object]) -> None:
    for name in ("rootfs", "exits", "execs"):
        (request.bundle / name).mkdir(mode=0o711)
    (request.bundle / "config.json").write_bytes(request.spec)
    (request.bundle / "task.json").write_text(json.dumps(params))


def _read_json(path: Path) -> dict[str, object] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _tries(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.02)
