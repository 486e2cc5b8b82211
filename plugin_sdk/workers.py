"""Child processes for plugins: forked by the spawner, since a process with threads must not fork.

An **entry** is ``module:function``. The module, and all that it imports, is of the standard library or one of the
files listed in ``kernel.spawner.LOADABLE``; the function is called as ``function(params, fds)`` in a process that has
one thread and only standard descriptors and ``fds``. Its return value is the exit status.

Example::

    worker = context.workers.start("plugins_builtin.diff.unpack:main", {"root": "/mnt"}, [blob_fd, result_fd])
    code = worker.wait()            # 0, a positive exit status, or the negative number of the signal
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Worker(Protocol):
    @property
    def pid(self) -> int: ...

    def kill(self, signal: int = 9) -> None:
        """By pidfd, so never another process; nothing happens when it has ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, or minus the signal. Raises errors.DeadlineExceeded after ``timeout`` seconds."""
        ...

    def close(self) -> None:
        """Forgets the worker without ending it."""
        ...


class Workers(Protocol):
    def start(self, entry: str, params: Mapping[str, object], fds: Sequence[int] = ()) -> Worker:
        """Forks a child that runs ``entry``; ``params`` must be JSON. The descriptors stay open here.

        Raises Unavailable while the spawner is being started again, InvalidArgument for an entry that is not loadable.
        """
        ...
