"""Tasks and their processes, as objects.

``client.tasks`` is the contract, by ids. A container answers Task objects (``new_task``, ``task``), and a task the
Process objects of what is added to it (``exec``).
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import secrets
import signal as signals
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corten import specs as options_
from corten.streams import Input, Stream, Streams, make
from plugin_sdk import errors, runtime, specs
from plugin_sdk.oci import Descriptor
from plugin_sdk.runtime import Exit, ProcessInfo, Status, Stdio
from plugin_sdk.wire.tasks import Proxy

if TYPE_CHECKING:
    from corten.client import Client
    from corten.metrics import Metrics

__all__ = ["Exit", "Process", "ProcessInfo", "Status", "Stdio", "Task", "Tasks"]

_RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"


class Tasks(Proxy):
    """A ``plugin_sdk.tasks.Manager``."""

    def figures(self, filters: Sequence[str] = ()) -> list[Metrics]:
        """As ``metrics``, read. Filters know id and namespace."""
        from corten import metrics

        return [metrics.parse(*each) for each in self.metrics(filters)]


class Process(contextlib.AbstractContextManager["Process"]):
    """A process of a task; ``exec_id`` "" is the first one, init.

    ``stdin``, ``stdout`` and ``stderr`` are files for streams that were given as ``corten.PIPE``, else None; of a
    process that is added to a task from its start on. As a context it is killed and deleted at the end, if it still is
    there.
    """

    def __init__(self, client: Client, id: str, exec_id: str, streams: Streams, pid: int = 0) -> None:
        self.id = id
        self.exec_id = exec_id
        self.pid = pid
        self._client = client
        self._tasks = client.tasks
        self._streams = streams

    def __repr__(self) -> str:
        name = f"{self.id}/{self.exec_id}" if self.exec_id else self.id
        return f"<corten.{type(self).__name__} {name} pid={self.pid}>"

    @property
    def stdin(self) -> Input | None:
        return self._streams.stdin

    @property
    def stdout(self) -> io.BufferedReader | None:
        return self._streams.stdout

    @property
    def stderr(self) -> io.BufferedReader | None:
        return self._streams.stderr

    @property
    def stdio(self) -> Stdio:
        """What the daemon was told of its streams."""
        return self._streams.stdio

    def start(self) -> int:
        """Answers its pid. Raises FailedPrecondition when it was started before or the engine refuses."""
        self.pid = self._tasks.start(self.id, self.exec_id)
        if self.exec_id:
            self._streams.begin(self.close_stdin)
        return self.pid

    def wait(self, timeout: float | None = None) -> Exit:
        """Returns when it has ended and all output that is copied is through. Raises DeadlineExceeded after
        ``timeout`` seconds."""
        ended = self._tasks.wait(self.id, self.exec_id, timeout)
        self._streams.drain()
        return ended

    def kill(self, signal: int = signals.SIGTERM, *, all: bool = False) -> None:
        """``all`` is every process of the task. Raises NotFound when it has ended."""
        self._tasks.kill(self.id, signal, self.exec_id, all=all)

    def state(self) -> runtime.Process:
        return self._tasks.get(self.id, self.exec_id)

    def status(self) -> Status:
        return self.state().status

    def resize(self, columns: int, rows: int) -> None:
        """Of its terminal."""
        self._tasks.resize_pty(self.id, columns, rows, self.exec_id)

    def close_stdin(self) -> None:
        """It reads end of file, whoever else could write."""
        self._tasks.close_io(self.id, self.exec_id)

    def delete(self, *, kill: bool = False) -> Exit:
        """Forgets it when it has ended; with ``kill`` ends it first. Raises FailedPrecondition while it runs."""
        if kill:
            with contextlib.suppress(errors.NotFound, errors.FailedPrecondition):
                self.kill(signals.SIGKILL)
                self._tasks.wait(self.id, self.exec_id)
        self._streams.drain()
        ended = self._tasks.delete(self.id, self.exec_id)
        self.close()
        return ended

    def close(self) -> None:
        """Lets go of the streams; the process goes on."""
        self._streams.close()

    def __exit__(self, *exc: object) -> None:
        try:
            with contextlib.suppress(errors.NotFound):
                self.delete(kill=True)
        finally:
            self.close()


class Task(Process):
    """The running instance of a container."""

    def __enter__(self) -> Task:
        return self

    def exec(
        self,
        args: Sequence[str],
        *,
        exec_id: str = "",
        env: Sequence[str] | Mapping[str, str] = (),
        user: str = "",
        cwd: str = "",
        terminal: bool = False,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        folder: Path | None = None,
    ) -> Process:
        """Adds a process, which ``start`` starts. It has the container's environment, user, folder and capabilities,
        as far as nothing else is given; an empty id means one of our choice."""
        exec_id = exec_id or f"exec-{secrets.token_hex(6)}"
        spec = self._process_spec(args, env, user, cwd, terminal)
        streams = make(stdin, stdout, stderr, terminal, folder)
        process = Process(self._client, self.id, exec_id, streams)
        try:
            self._tasks.exec(self.id, exec_id, spec, streams.stdio)
        except BaseException:
            streams.close()
            raise
        return process

    def _process_spec(
        self, args: Sequence[str], env: Sequence[str] | Mapping[str, str], user: str, cwd: str, terminal: bool
    ) -> runtime.Any:
        container = self._client.containers.get(self.id)
        spec = copy.deepcopy(container.load_spec()["process"])
        spec["args"] = list(args)
        spec["terminal"] = terminal
        term = ["TERM=xterm"] if terminal else []
        spec["env"] = specs.merged_env(term, spec.get("env", ()), options_.variables(env))
        if cwd:
            spec["cwd"] = cwd
        if user:
            pid = self.pid or self.state().pid
            spec["user"] = specs.resolve_user(user, Path(f"/proc/{pid}/root"))
        return runtime.Any(specs.PROCESS_TYPE_URL, json.dumps(spec).encode())

    def pause(self) -> None:
        self._tasks.pause(self.id)

    def resume(self) -> None:
        self._tasks.resume(self.id)

    def pids(self) -> Sequence[ProcessInfo]:
        """Of all its processes; the exec id only of those made by ``exec``."""
        return self._tasks.pids(self.id)

    def metrics(self) -> Metrics:
        """Raises NotFound for a task that has ended."""
        for found in self._tasks.figures([f"id=={json.dumps(self.id)}"]):
            if found.id == self.id:
                return found
        raise errors.NotFound(f'task "{self.id}": no metrics')

    def update(self, resources: Mapping[str, object]) -> None:
        """``resources`` is the spec's ``linux.resources``, such as ``{"memory": {"limit": 1 << 28}}``."""
        self._tasks.update(self.id, runtime.Any(_RESOURCES, json.dumps(resources).encode()))

    def checkpoint(self) -> Sequence[Descriptor]:
        """Raises Unimplemented where the runtime cannot."""
        return self._tasks.checkpoint(self.id)
