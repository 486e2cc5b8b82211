"""The spawner's own processes: one thread, the standard library, and forks on request.

Each is started as ``python -I -S -c BOOT ROOT FD GROUP`` by ``kernel.spawner``, loads the files of its group and waits.
FD is one end of a SEQPACKET pair; each datagram is a JSON object::

    → {"id": 7, "entry": "module:function", "params": {…}}   with the child's descriptors (SCM_RIGHTS)
    → {"id": 7, "memfd": true}                               the same object in the first descriptor, when it is large
    ← {"id": 7, "pid": 4711}                                 with a pidfd
    ← {"pid": 4711, "status": 0}                             ended: exit status, or minus the signal

End of file on FD ends the process, and so does a fork that fails. Its children are ended by the linux kernel then
(PR_SET_PDEATHSIG), but for those that take that back: shims.

A page of memory that a child or its parent writes after the fork is a copy of its own, and writing begins with counting
references. So the group of the shims, which stay, loads little, what shims use at rest close together and first, and
its process does nothing but fork: the child itself reads its request.
"""

from __future__ import annotations

import _socket
import ctypes
import gc
import os
import select
import sys

from plugin_sdk import lines

TYPE_CHECKING = False  # typing's own would have to be imported
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# What the processes may load of ours; tests hold that these files need nothing else of ours and no third party's module
# at import. In the order of loading; what stands together shares pages with its like only.
GROUPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "shims": (
        (
            "kernel/__init__.py",
            "plugin_sdk/__init__.py",
            "plugin_sdk/lines.py",
            "plugin_sdk/errors.py",
            "kernel/spawner_child.py",
            "plugins_builtin/__init__.py",
            "plugins_builtin/runtime/__init__.py",
        ),
        (
            "plugins_builtin/runtime/loop.py",
            "plugins_builtin/runtime/stdio.py",
            "plugins_builtin/runtime/engine.py",
            "plugins_builtin/runtime/clients.py",
            "plugins_builtin/runtime/shim.py",
        ),
        (
            "plugin_sdk/mounts.py",
            "plugins_builtin/runtime/rootfs.py",
            "plugins_builtin/runtime/rehearsal.py",
        ),
    ),
    "workers": (
        (
            "plugin_sdk/trees.py",
            "plugin_sdk/copying.py",
            "plugin_sdk/tars.py",
            "plugin_sdk/tar_headers.py",
            "plugins_builtin/diff/__init__.py",
            "plugins_builtin/diff/attributes.py",
            "plugins_builtin/diff/streams.py",
            "plugins_builtin/diff/confine.py",
            "plugins_builtin/diff/directories.py",
            "plugins_builtin/diff/tree.py",
            "plugins_builtin/diff/unpack.py",
            "plugins_builtin/diff/changes.py",
            "plugins_builtin/diff/pack.py",
        ),
    ),
}
LOADABLE = tuple(path for stages in GROUPS.values() for paths in stages for path in paths)

MAX_DATAGRAM = 1 << 16
MAX_FDS = 200
_KILL = 9
_POOL, _POOL_HEAD, _MOST_HOLES = 16 << 10, 48, 4000
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


def module_of(path: str) -> str:
    """``plugin_sdk/mounts.py`` → ``plugin_sdk.mounts``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def main(root: str, fd: int, group: str) -> None:
    fillers: list[bytes] = []
    for paths in GROUPS[group]:
        _fill_holes(fillers)
        for path in paths:
            if os.path.exists(os.path.join(root, path)):
                __import__(module_of(path))
    _rehearse_request()
    for path in LOADABLE:
        getattr(sys.modules.get(module_of(path)), "prepare", int)()
    close_all_but([fd])
    _fill_holes(fillers)
    gc.freeze()
    _serve(fd, select.epoll(), {})


def _rehearse_request() -> None:
    """What is used for the first time is filled in by Python: here, not in every child."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    ours.sendmsg([b'{"id": 0, "entry": "none:none", "params": {}}'], _passing(ours.fileno()))
    _request(theirs.detach(), ours.detach())


def _fill_holes(fillers: list[bytes]) -> None:
    """What is allocated next comes from new pages, not from holes in pages with other things.

    Of each size of the interpreter's small objects (Objects/obmalloc.c) as many as fill what is free: until one begins
    a pool of 16 KiB, behind its head.
    """
    gc.collect()
    for size in range(48, 513, 16):
        for _ in range(_MOST_HOLES):
            fillers.append(bytes(size - sys.getsizeof(b"")))
            if id(fillers[-1]) % _POOL == _POOL_HEAD:
                break


def _serve(channel: int, poll: select.epoll, children: dict[int, int]) -> None:
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
    try:
        os.write(channel, b'{"pid": %d, "status": %d}' % (pid, os.waitstatus_to_exitcode(status)))
    except OSError:
        os._exit(0)


def _become(channel: int, spawner: int, writer: int) -> NoReturn:
    """The rest of a child's life."""
    code = 1
    try:
        _prctl(_PR_SET_PDEATHSIG, _KILL)
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
    connection = _socket.socket(fileno=channel)
    space = _socket.CMSG_SPACE(4 * (MAX_FDS + 1))
    data, ancillary, _, _ = connection.recvmsg(MAX_DATAGRAM, space, _socket.MSG_CMSG_CLOEXEC)
    os.close(writer)
    fds = [fd for _, _, passed in ancillary for fd in memoryview(passed).cast("i").tolist()]
    message = lines.decode(data)
    assert isinstance(message, dict)
    if "memfd" in message:
        with open(fds.pop(0), "rb") as file:
            message = lines.decode(file.read())
            assert isinstance(message, dict)
    answer = b'{"id": %d, "pid": %d}' % (message["id"], os.getpid())
    connection.sendmsg([answer], _passing(os.pidfd_open(os.getpid())))
    connection.detach()
    return message["entry"], message["params"], fds


def _passing(fd: int) -> list[tuple[int, int, bytes]]:
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]


def close_all_but(fds: Sequence[int]) -> None:
    """Closes every descriptor but 0, 1, 2 and ``fds`` (close_range(2))."""
    low = 3
    for fd in sorted(fds):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, (1 << 31) - 1)
