"""Runtime: a bundle and mounts become a running task.

Words. A **bundle** is a directory with ``config.json`` and ``rootfs/``. A **task** is the running instance of a
container: its first process, **init**, and those added by **exec**. An **engine** is the OCI program that a runtime
drives (runc, crun). A **shim** is the process that owns a task and outlives the daemon.

One use from start to end::

    task = runtime.create(runtime.Create(...), exits=record)     # init exists and waits; task.pid is known
    task.start()
    task.exec("exec-1", spec, runtime.Stdio(stdout="/path/of/fifo"))
    task.start("exec-1")
    task.kill(15)                                                # record(Exit(...)) is called once for each process
    task.delete("exec-1")
    task.delete()                                                # bundle, mounts and shim are gone

Promises. An exit is on disk before ``exits`` is called with it. After a restart of the daemon ``load(bundle)``
answers the same task, and every exit is reported that may not have been reported before; the callee recognises
repetitions. What ``create`` began and did not answer is undone by it or by the next ``load``.

In every method the exec id "" means init. Times are nanoseconds since the epoch, specs are JSON as the client sent it.
All methods block and may be called from several threads; ``exits`` is called from a thread of the runtime and must
not block for long.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from plugin_sdk.mounts import Mount


class Status(enum.IntEnum):
    """Numbers as on the wire (containerd.v1.types.Status)."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


@dataclass(frozen=True, slots=True)
class Any:
    """A message as the client sent it, byte for byte: type URL and value."""

    type_url: str = ""
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class Stdio:
    """Paths of FIFOs that the client made, or URIs (``file://``, ``binary://``); empty means none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Create:
    """What a task is made of. ``bundle`` does not exist yet; its parent does."""

    namespace: str
    id: str
    bundle: Path
    spec: bytes
    rootfs: Sequence[Mount] = ()
    stdio: Stdio = field(default_factory=Stdio)
    options: Any = field(default_factory=Any)
    checkpoint: Path | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of one process. ``status`` is 0 to 255; death by signal n is 128 + n."""

    namespace: str
    id: str
    exec_id: str
    pid: int
    status: int
    exited_at: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it is now; ``exit_status`` and ``exited_at`` only once STOPPED, when ``pid`` is the former one."""

    id: str
    exec_id: str
    pid: int
    status: Status
    stdio: Stdio
    exit_status: int = 0
    exited_at: int = 0


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process id of the task, in the daemon's linux pid namespace; the exec id only for a process made by exec."""

    pid: int
    exec_id: str = ""


class Task(Protocol):
    @property
    def namespace(self) -> str: ...

    @property
    def id(self) -> str: ...

    @property
    def bundle(self) -> Path: ...

    @property
    def pid(self) -> int:
        """Of init, also after its end."""
        ...

    def state(self, exec_id: str = "") -> Process:
        """Raises NotFound for an unknown exec id."""
        ...

    def start(self, exec_id: str = "") -> int:
        """The process's pid. Raises FailedPrecondition when it was started before; with the engine's own words when the
        engine refuses."""
        ...

    def exec(self, exec_id: str, spec: bytes, stdio: Stdio) -> None:
        """Adds a process that ``start`` starts. Raises AlreadyExists for a known id, FailedPrecondition when init has
        ended."""
        ...

    def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        """Raises NotFound ``process already finished`` when it has ended, FailedPrecondition when it never started."""
        ...

    def pids(self) -> list[ProcessInfo]: ...

    def resize_pty(self, width: int, height: int, exec_id: str = "") -> None: ...

    def close_io(self, exec_id: str = "") -> None:
        """Closes stdin; the process then reads end of file."""
        ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def checkpoint(self, path: Path, options: Any) -> None: ...

    def update(self, resources: bytes, annotations: Mapping[str, str]) -> None:
        """``resources`` is the OCI spec's linux.resources as JSON."""
        ...

    def metrics(self) -> Any:
        """The cgroup's figures as ``io.containerd.cgroups.v1.Metrics`` or ``v2.Metrics``."""
        ...

    def delete(self, exec_id: str = "") -> Exit:
        """Forgets an ended process; for init: engine delete, unmount, bundle gone, shim ended. One that was never
        started is ended first. Raises FailedPrecondition while it runs; NotFound for an unknown id."""
        ...


class Runtime(Protocol):
    def create(self, request: Create, exits: Callable[[Exit], None], oom: Callable[[str, str], None]) -> Task:
        """Makes the bundle, mounts the rootfs, lets the engine create. On any error nothing of it stays.

        ``oom(namespace, id)`` is called when the linux kernel ended a process of the task for want of memory. Raises
        InvalidArgument for a spec that the engine refuses, with the engine's own words; NotFound for an engine that is
        not installed, by name; AlreadyExists for a bundle that exists.
        """
        ...

    def load(self, bundle: Path, exits: Callable[[Exit], None], oom: Callable[[str, str], None]) -> Task | None:
        """A task found again after the daemon's restart; exits of the time between are reported before the return. None
        for a bundle whose create never ended: it is undone."""
        ...

    def close(self) -> None:
        """Lets go of all tasks without ending them."""
        ...
