"""The fence around a worker: its own mount namespace, limits, chroot, Landlock.

Everything here happens before the first byte of a layer is read and before the process has a second thread. Sources:
mount_namespaces(7), chroot(2), landlock(7), openat2(2), getrlimit(2). Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Mapping, Sequence

from plugin_sdk import errors, mounts

_CLONE_NEWNS = 0x20000
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT_MEMORY = 32 << 20  # bytes
_PR_SET_NO_NEW_PRIVS = 38
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT, _OPENAT2 = 444, 445, 446, 437
_LANDLOCK_VERSION = 1  # flag of landlock_create_ruleset
_LANDLOCK_BENEATH = 1  # rule type
_LANDLOCK_READ = 0b1100  # read a file, list a directory
_LANDLOCK_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}  # by version; later ones add no file rights
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_libc = ctypes.CDLL(None, use_errno=True)


def limit(memory: int, output: int) -> None:
    """Bounds in bytes of the process's memory and of a file it writes; 4096 descriptors; no core file."""
    _lower(resource.RLIMIT_DATA, memory)
    _lower(resource.RLIMIT_FSIZE, output)
    _lower(resource.RLIMIT_NOFILE, 4096)
    _lower(resource.RLIMIT_CORE, 0)
    if hasattr(_libc, "mallopt"):  # glibc: blocks of a stream are used again instead of mapped anew
        _libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_MEMORY)
        _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_MEMORY)


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def stage(folder: str, trees: Mapping[str, Sequence[mounts.Mount]]) -> None:
    """A private mount namespace in which ``folder`` is a new file system with each of ``trees`` mounted under its name;
    it becomes the process's root."""
    _call(_libc.unshare(_CLONE_NEWNS), "unshare")
    private = _libc.mount(None, b"/", None, ctypes.c_ulong(mounts.MS_REC | mounts.MS_PRIVATE), None)
    _call(private, 'making "/" private, which must be a mount point (and is none in a plain chroot)')
    mounts.mount(mounts.Mount("tmpfs", "tmpfs", "", ("mode=0700", "nosuid", "noexec")), folder)
    for name, tree in trees.items():
        path = os.path.join(folder, name)
        os.mkdir(path)
        mounts.mount_all(tree, path)
    os.chroot(folder)
    os.chdir("/")
    os.umask(0)


def fence(writable: Sequence[int], readable: Sequence[int]) -> bool:
    """From here on nothing can be reached but what lies beneath these directories, and nothing mounted.

    False where the linux kernel has no Landlock: the chroot stands alone then.
    """
    _call(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    version = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_LANDLOCK_VERSION))
    if version < 1:
        return False
    rights = _LANDLOCK_RIGHTS[min(version, 3)]
    handled = struct.pack("=Q", rights)
    ruleset = _call(_libc.syscall(_LANDLOCK_CREATE, handled, ctypes.c_size_t(8), ctypes.c_uint32(0)), "landlock")
    for fd in writable:
        _allow(ruleset, fd, rights)
    for fd in readable:
        _allow(ruleset, fd, _LANDLOCK_READ)
    _call(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint32(0)), "landlock_restrict_self")
    os.close(ruleset)
    return True


def _allow(ruleset: int, fd: int, rights: int) -> None:
    rule = struct.pack("=Qi", rights, fd)
    done = _libc.syscall(_LANDLOCK_ADD, ruleset, ctypes.c_int(_LANDLOCK_BENEATH), rule, ctypes.c_uint32(0))
    _call(done, "landlock_add_rule")


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """openat2(2) that follows no link and never leaves ``root``. Raises OSError."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    while True:
        fd: int = _libc.syscall(_OPENAT2, root, path, how, ctypes.c_size_t(len(how)))
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=root)
        if number not in (errno.EINTR, errno.EAGAIN):
            raise OSError(number, os.strerror(number), path)


def sync(fd: int) -> None:
    """syncfs(2)."""
    _call(_libc.syncfs(fd), "syncfs")


def _call(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise errors.FailedPrecondition(f"{what}: {os.strerror(number)}")
    return result
