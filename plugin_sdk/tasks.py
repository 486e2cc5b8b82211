"""Tasks: running instances of containers, by container id, in the bound namespace.

``runtime`` turns bundles into tasks; this contract is what clients of the daemon see of them. Exec ids are "" for init.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.runtime import Any, Exit, Process, ProcessInfo, Stdio


class Manager(Protocol):
    def create(
        self,
        id: str,
        rootfs: Sequence[Mount] = (),
        stdio: Stdio | None = None,
        options: Any | None = None,
        runtime_path: str = "",
        checkpoint: Descriptor | None = None,
    ) -> int:
        """Pid of the waiting init. ``options`` None or empty means those of the container. Raises NotFound without
        container, AlreadyExists for a second task of it."""
        ...

    def start(self, id: str, exec_id: str = "") -> int: ...

    def delete(self, id: str, exec_id: str = "") -> Exit: ...

    def get(self, id: str, exec_id: str = "") -> Process: ...

    def list(self, filter: str = "") -> Sequence[Process]: ...

    def kill(self, id: str, signal: int, exec_id: str = "", *, all: bool = False) -> None: ...

    def exec(self, id: str, exec_id: str, spec: Any, stdio: Stdio) -> None: ...

    def resize_pty(self, id: str, width: int, height: int, exec_id: str = "") -> None: ...

    def close_io(self, id: str, exec_id: str = "", *, stdin: bool = True) -> None: ...

    def pause(self, id: str) -> None: ...

    def resume(self, id: str) -> None: ...

    def pids(self, id: str) -> Sequence[ProcessInfo]: ...

    def checkpoint(self, id: str, parent: str = "", options: Any | None = None) -> Sequence[Descriptor]: ...

    def update(self, id: str, resources: Any, annotations: Mapping[str, str] | None = None) -> None: ...

    def metrics(self, filters: Sequence[str] = ()) -> Sequence[tuple[str, int, Any]]:
        """Container id, time in nanoseconds, figures."""
        ...

    def wait(self, id: str, exec_id: str = "", timeout: float | None = None) -> Exit:
        """Blocks until the process has ended; at once when it has. Raises DeadlineExceeded after ``timeout``
        seconds."""
        ...
