"""The spawner's own process: one thread, the standard library, and forks on request.

Started as ``python -I -S -c BOOT ROOT FD`` by ``kernel.spawner``. FD is one end of a SEQPACKET pair; each datagram is
a JSON object::

    → {"id": 7, "entry": "module:function", "params": {…}}   with the child's descriptors (SCM_RIGHTS)
    → {"id": 7, "memfd": true}                               the same object in the first descriptor, when it is large
    ← {"id": 7, "pid": 4711}                                 with a pidfd
    ← {"pid": 4711, "status": 0}                             ended: exit status, or minus the signal

A fork that fails ends the spawner, which is then started again, and so does end of file on FD. Its children are ended
by the linux kernel then (PR_SET_PDEATHSIG), but for those that take that back: shims.
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
    _serve(fd, select.epoll(), {})


def _serve(channel: int, poll: select.epoll, children: dict[int, int]) -> None:
    """Forks; the child itself reads its request and answers it.

    A page that this process writes after a fork is a private copy in every child: so it does as little as it can, and
    its children (ten small shims) stay small.
    """
    poll.register(channel, select.EPOLLIN)
    while True:
        for fd, mask in poll.poll():
            if fd in children:
                poll.unregister(fd)
                _reap(channel, fd, children.pop(fd))
            elif mask & select.EPOLLHUP:
                return
            else:
                pid = _fork(channel)
                pidfd = os.pidfd_open(pid)
                children[pidfd] = pid
                poll.register(pidfd, select.EPOLLIN)


def _fork(channel: int) -> int:
    """Returns in the parent, when the child has read its request or has ended."""
    spawner = os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(channel, spawner, writer)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return pid


def _reap(channel: int, pidfd: int, pid: int) -> None:
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    _send(channel, b'{"pid": %d, "status": %d}' % (pid, os.waitstatus_to_exitcode(status)))


def _send(channel: int, message: bytes) -> None:
    try:
        os.write(channel, message)  # one datagram: the pair is SEQPACKET
    except OSError:
        os._exit(0)


def _become(channel: int, spawner: int, writer: int) -> NoReturn:
    """The rest of a child's life."""
    code = 1
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != spawner:
            os._exit(1)
        entry, params, fds = _request(channel, writer)
        close_all_but(fds)
        module, _, function = entry.partition(":")
        code = getattr(__import__(module, fromlist=[function]), function)(params, fds) or 0
    except BaseException:  # noqa: BLE001 - the edge of the process: nothing of the spawner may unwind here
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code & 255)


def _request(channel: int, writer: int) -> tuple[str, dict[str, object], list[int]]:
    with socket.socket(fileno=channel) as connection:
        data, fds, _, _ = socket.recv_fds(connection, MAX_DATAGRAM, MAX_FDS + 1, socket.MSG_CMSG_CLOEXEC)
        os.close(writer)
        message = json.loads(data)
        if "memfd" in message:
            with open(fds.pop(0), "rb") as file:
                message = json.loads(file.read())
        answer = json.dumps({"id": message["id"], "pid": os.getpid()}).encode()
        socket.send_fds(connection, [answer], [os.pidfd_open(os.getpid())])
    return message["entry"], message["params"], fds


def close_all_but(fds: Sequence[int]) -> None:
    """Closes every descriptor but 0, 1, 2 and ``fds`` (close_range(2))."""
    low = 3
    for fd in sorted(fds):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, (1 << 31) - 1)
