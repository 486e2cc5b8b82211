"""The spawner's own process: one thread, the standard library, and forks on request.

Started as ``python -I -S -c BOOT ROOT FD`` by ``kernel.spawner``. FD is one end of a SEQPACKET pair; each datagram is
a JSON object::

    → {"id": 7, "entry": "module:function", "params": {…}}   with the child's descriptors (SCM_RIGHTS)
    → {"id": 7, "memfd": true}                               the same object in the first descriptor, when it is large
    ← {"id": 7, "pid": 4711}                                 with a pidfd
    ← {"id": 7, "error": "…"}                                the fork failed
    ← {"pid": 4711, "status": 0}                             ended: exit status, or minus the signal

End of file on FD ends the spawner. Its children are ended by the linux kernel then (PR_SET_PDEATHSIG), but for those
that take that back: shims.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

# What the spawner and its children may load of ours; tests hold that these files need nothing else of ours and no
# third party's module at import. Those that exist are loaded before the first fork, so that all children share them.
LOADABLE = (
    "kernel/__init__.py",
    "kernel/spawner_child.py",
    "plugin_sdk/__init__.py",
    "plugin_sdk/errors.py",
    "plugin_sdk/mounts.py",
    "plugin_sdk/trees.py",
    "plugins_builtin/__init__.py",
    "plugins_builtin/runtime/__init__.py",
    "plugins_builtin/runtime/loop.py",
    "plugins_builtin/runtime/stdio.py",
    "plugins_builtin/runtime/shim.py",
    "plugins_builtin/diff/__init__.py",
    "plugins_builtin/diff/archive.py",
    "plugins_builtin/diff/streams.py",
    "plugins_builtin/diff/confine.py",
    "plugins_builtin/diff/tree.py",
    "plugins_builtin/diff/unpack.py",
    "plugins_builtin/diff/changes.py",
    "plugins_builtin/diff/headers.py",
    "plugins_builtin/diff/pack.py",
    "plugins_builtin/snapshots/__init__.py",
    "plugins_builtin/snapshots/copy.py",
)

MAX_DATAGRAM = 1 << 16
MAX_FDS = 200
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def module_of(path: str) -> str:
    """``plugin_sdk/mounts.py`` → ``plugin_sdk.mounts``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def main(root: str, fd: int) -> None:
    for path in LOADABLE:
        if os.path.exists(os.path.join(root, path)):
            __import__(module_of(path))
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=fd) as channel:
        _Spawner(channel).serve()


class _Spawner:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._children: dict[int, int] = {}  # pidfd → pid
        self._poll = select.epoll()
        self._poll.register(channel.fileno(), select.EPOLLIN)

    def serve(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._reap(fd)
                elif not self._receive():
                    return

    def _receive(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._channel, MAX_DATAGRAM, MAX_FDS + 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        message = json.loads(data)
        if "memfd" in message:
            with open(fds.pop(0), "rb") as file:
                message = json.loads(file.read())
        self._fork(message["id"], message["entry"], message["params"], fds)
        for fd in fds:
            os.close(fd)
        return True

    def _fork(self, id: int, entry: str, params: dict[str, object], fds: list[int]) -> None:
        spawner = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                _become(spawner, entry, params, fds)
            pidfd = os.pidfd_open(pid)
        except OSError as err:
            self._answer({"id": id, "error": f"fork for {entry}: {err}"})
            return
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.EPOLLIN)
        self._answer({"id": id, "pid": pid}, [pidfd])

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._answer({"pid": pid, "status": os.waitstatus_to_exitcode(status)})

    def _answer(self, message: dict[str, object], fds: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._channel, [json.dumps(message).encode()], fds)
        except BrokenPipeError:
            os._exit(0)


def _become(spawner: int, entry: str, params: dict[str, object], fds: list[int]) -> NoReturn:
    """The rest of a child's life."""
    code = 1
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != spawner:
            os._exit(1)
        close_all_but(fds)
        module, _, function = entry.partition(":")
        code = getattr(__import__(module, fromlist=[function]), function)(params, fds) or 0
    except BaseException:  # noqa: BLE001 - the edge of the process: nothing of the spawner may unwind here
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code & 255)


def close_all_but(fds: Sequence[int]) -> None:
    """Closes every descriptor but 0, 1, 2 and ``fds`` (close_range(2))."""
    low = 3
    for fd in sorted(fds):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, (1 << 31) - 1)
