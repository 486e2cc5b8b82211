"""Mounts: what to mount, and mount(2), umount2(2) and their relatives by ctypes.

One use from start to end::

    mounts.mount_all(snapshotter.prepare("key", "parent"), "/run/rootfs")
    ...
    mounts.unmount_all("/run/rootfs")

    with mounts.temporary(snapshotter.mounts("key")) as root:      # the same at a directory of its own
        ...

Standard library only: the children of the spawner load this file too. Errors: InvalidArgument when the linux kernel
refuses the request as such, FailedPrecondition when the machine or the paths are not ready for it, PermissionDenied;
each message names type, source and target. Sources: mount(2), umount2(2), mount(8), fsopen(2), fsconfig(2),
move_mount(2), loop(4) and the linux kernel's Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from plugin_sdk import errors


@dataclass(frozen=True, slots=True)
class Mount:
    """An instruction to mount, as containerd's API carries it: ``options`` are those of fstab(5)."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_SYNCHRONOUS, MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC = 16, 32, 64, 128
MS_NOSYMFOLLOW, MS_NOATIME, MS_NODIRATIME = 256, 1024, 2048
MS_BIND, MS_REC, MS_SILENT = 4096, 16384, 32768
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25

MNT_FORCE, MNT_DETACH, MNT_EXPIRE, UMOUNT_NOFOLLOW = 1, 2, 4, 8

_PROPAGATION = MS_UNBINDABLE | MS_PRIVATE | MS_SLAVE | MS_SHARED
_ACCESS_TIME = MS_NOATIME | MS_RELATIME | MS_STRICTATIME

_SET = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "sync": MS_SYNCHRONOUS,
    "remount": MS_REMOUNT,
    "mand": MS_MANDLOCK,
    "dirsync": MS_DIRSYNC,
    "nosymfollow": MS_NOSYMFOLLOW,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
    "lazytime": MS_LAZYTIME,
    "silent": MS_SILENT,
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
}
_CLEAR = {
    "defaults": 0,
    "rw": MS_RDONLY,
    "suid": MS_NOSUID,
    "dev": MS_NODEV,
    "exec": MS_NOEXEC,
    "async": MS_SYNCHRONOUS,
    "nomand": MS_MANDLOCK,
    "symfollow": MS_NOSYMFOLLOW,
    "atime": MS_NOATIME,
    "diratime": MS_NODIRATIME,
    "norelatime": MS_RELATIME,
    "nostrictatime": MS_STRICTATIME,
    "nolazytime": MS_LAZYTIME,
    "loud": MS_SILENT,
}
_INHERITED = (  # statvfs(3) flag, mount(2) flag: a bind takes them from its source, a remount would clear them
    (os.ST_RDONLY, MS_RDONLY),
    (os.ST_NOSUID, MS_NOSUID),
    (os.ST_NODEV, MS_NODEV),
    (os.ST_NOEXEC, MS_NOEXEC),
    (os.ST_NOATIME, MS_NOATIME),
    (os.ST_NODIRATIME, MS_NODIRATIME),
    (os.ST_RELATIME, MS_RELATIME),
)

_PAGE = os.sysconf("SC_PAGESIZE")
_FSCONFIG_VALUE = 256  # bytes of a string parameter, with its final zero
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Options:
    """Options of fstab(5), sorted: what mount(2) takes as flags, what a later call sets, and the file system's own."""

    flags: int = 0
    cleared: int = 0
    propagation: int = 0
    data: tuple[str, ...] = ()
    loop: bool = False

    @property
    def bind(self) -> bool:
        return bool(self.flags & MS_BIND)

    @property
    def remount(self) -> bool:
        return bool(self.flags & MS_REMOUNT)


def parse_options(options: Sequence[str]) -> Options:
    """Later options win. Those that begin with ``x-`` or ``X-`` are comments for programs and are dropped."""
    flags = cleared = propagation = 0
    data: list[str] = []
    for option in options:
        if _SET.get(option, 0) & _PROPAGATION:
            propagation |= _SET[option]
        elif option in _SET:
            flags, cleared = flags | _SET[option], cleared & ~_SET[option]
        elif option in _CLEAR:
            flags, cleared = flags & ~_CLEAR[option], cleared | _CLEAR[option]
        elif option and option != "loop" and not option.lower().startswith("x-"):
            data.append(option)
    return Options(flags, cleared, propagation, tuple(data), "loop" in options)


def mount(one: Mount, target: str | os.PathLike[str]) -> None:
    """Mounts at ``target``, or at ``one.target`` inside of it, which must exist."""
    path = _inside(os.fspath(target), one.target)
    options = parse_options(one.options)
    try:
        _mount(one, path, options)
        if options.bind and not options.remount:
            _restrict(path, options)
        if options.propagation:
            _sys_mount("none", path, "", options.propagation, "")
    except OSError as err:
        raise _explain(err, one, path) from err


def mount_all(mounts: Sequence[Mount], target: str | os.PathLike[str]) -> None:
    """Mounts one after the other at ``target``; when one fails, those before it are unmounted again."""
    done: list[str] = []
    try:
        for one in mounts:
            mount(one, target)
            done.append(_inside(os.fspath(target), one.target))
    except errors.Error:
        for path in reversed(done):
            unmount(path, MNT_DETACH)
        raise


def unmount(target: str | os.PathLike[str], flags: int = 0) -> None:
    """Takes off the topmost mount. Raises NotFound when there is nothing of that name, InvalidArgument when it is not a
    mount point, FailedPrecondition while somebody uses it."""
    path = os.fspath(target)
    try:
        _check(_libc.umount2(os.fsencode(path), flags | UMOUNT_NOFOLLOW))
    except OSError as err:
        raise _unmount_error(err, path) from err


def unmount_all(target: str | os.PathLike[str], flags: int = 0, patience: float = 0.5) -> None:
    """Takes off every mount at ``target``; nothing to do is no error.

    Waits up to ``patience`` seconds for users that are about to go, then raises FailedPrecondition.
    """
    until = time.monotonic() + patience
    while True:
        try:
            unmount(target, flags)
        except (errors.NotFound, errors.InvalidArgument):
            return
        except errors.FailedPrecondition:
            if time.monotonic() >= until:
                raise
            time.sleep(0.01)


def unmount_below(target: str | os.PathLike[str], flags: int = 0) -> None:
    """Takes off every mount at ``target`` and beneath it, the innermost first."""
    root = os.path.realpath(target)
    for point in reversed(mount_points()):
        if point == root or point.startswith(root.rstrip("/") + "/"):
            unmount_all(point, flags)


def mount_points() -> list[str]:
    """Of this process, in the order in which they were mounted; proc(5) ``mountinfo``."""
    with open("/proc/self/mountinfo", "rb") as file:
        return [os.fsdecode(_unescape(line.split(b" ", 5)[4])) for line in file]


@contextlib.contextmanager
def temporary(mounts: Sequence[Mount], parent: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """The mounts at a new directory below ``parent`` (the system's temporary one), for as long as the context lasts."""
    import tempfile

    target = tempfile.mkdtemp(prefix="corten-mount-", dir=parent)
    try:
        mount_all(mounts, target)
        try:
            yield target
        finally:
            unmount_below(target)
    finally:
        os.rmdir(target)


def read_only(mounts: Sequence[Mount]) -> list[Mount]:
    """The same trees without a way to write: an overlay's upper directory becomes its topmost lower one."""
    return [_read_only_overlay(one) if one.type == "overlay" else _with_ro(one, one.options) for one in mounts]


def sync_file_system(path: str | os.PathLike[str]) -> None:
    """syncfs(2) of the file system that holds ``path``. Raises OSError, among others for a write that was lost."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syncfs(fd))
    finally:
        os.close(fd)


def _read_only_overlay(one: Mount) -> Mount:
    options = [option for option in one.options if not option.startswith(("upperdir=", "workdir="))]
    uppers = [option.removeprefix("upperdir=") for option in one.options if option.startswith("upperdir=")]
    if not uppers:
        return _with_ro(one, options)
    lowers = [option.removeprefix("lowerdir=") for option in options if option.startswith("lowerdir=")]
    others = [option for option in options if not option.startswith("lowerdir=")]
    return _with_ro(one, [*others, "lowerdir=" + ":".join(uppers + lowers)])


def _with_ro(one: Mount, options: Sequence[str]) -> Mount:
    return Mount(one.type, one.source, one.target, (*(o for o in options if o not in ("rw", "ro")), "ro"))


def _mount(one: Mount, path: str, options: Options) -> None:
    if options.remount:
        _sys_mount(one.source, path, one.type, options.flags, ",".join(options.data))
    elif options.bind:
        _sys_mount(one.source, path, "", options.flags & (MS_BIND | MS_REC), "")
    elif one.type == "overlay":
        _overlay(one, path, options)
    elif options.loop:
        with _loop_device(one.source, bool(options.flags & MS_RDONLY)) as device:
            _sys_mount(device, path, one.type, options.flags, ",".join(options.data))
    else:
        _sys_mount(one.source, path, one.type, options.flags, ",".join(options.data))


def _restrict(path: str, options: Options) -> None:
    """A bind ignores all other flags: a remount sets them, and repeats those that came with the source."""
    wanted = options.flags & ~(MS_BIND | MS_REC)
    if not wanted:
        return
    there = os.statvfs(path).f_flag
    for seen, flag in _INHERITED:
        if there & seen and not options.cleared & flag and not (flag & _ACCESS_TIME and wanted & _ACCESS_TIME):
            wanted |= flag
    _sys_mount("none", path, "", MS_BIND | MS_REMOUNT | wanted, "")


def _overlay(one: Mount, path: str, options: Options) -> None:
    """mount(2) takes one page of options, about 50 layers. Above that: linux 6.8 takes the layers one by one, and
    before, paths relative to their folder are short enough for as many as overlayfs allows."""
    data = [option.replace(",", "\\,") for option in options.data]
    if len(os.fsencode(",".join(data))) < _PAGE:
        _sys_mount(one.source, path, "overlay", options.flags, ",".join(data))
        return
    try:
        _overlay_by_parts(one.source, path, options)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise
        _overlay_from_folder(one.source, path, options.flags, data)


def _overlay_by_parts(source: str, path: str, options: Options) -> None:
    context = _syscall(_FSOPEN, b"overlay", _FSOPEN_CLOEXEC)
    try:
        _configure(context, "source", source)
        for option in options.data:
            key, equals, value = option.partition("=")
            if key == "lowerdir":
                _add_layers(context, value)
            elif equals:
                _configure(context, key, value)
            else:
                _syscall(_FSCONFIG, context, _FSCONFIG_SET_FLAG, key.encode(), None, 0)
        if options.flags & MS_RDONLY:
            _syscall(_FSCONFIG, context, _FSCONFIG_SET_FLAG, b"ro", None, 0)
        _syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        tree = _syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, _attributes(options.flags))
    finally:
        os.close(context)
    try:
        _syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def _add_layers(context: int, lowerdir: str) -> None:
    layers, _, data_only = lowerdir.partition("::")
    for layer in layers.split(":"):
        _configure(context, "lowerdir+", layer)
    for layer in filter(None, data_only.split("::")):
        _configure(context, "datadir+", layer)


def _configure(context: int, key: str, value: str) -> None:
    encoded = os.fsencode(value)
    if len(encoded) < _FSCONFIG_VALUE:
        _syscall(_FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), encoded, 0)
        return
    fd = os.open(value, os.O_PATH | os.O_CLOEXEC)
    try:
        _syscall(_FSCONFIG, context, _FSCONFIG_SET_FD, key.encode(), None, fd)
    finally:
        os.close(fd)


def _overlay_from_folder(source: str, path: str, flags: int, data: Sequence[str]) -> None:
    lowers = next(option.removeprefix("lowerdir=") for option in data if option.startswith("lowerdir=")).split(":")
    folder = os.path.commonpath(lowers)
    short = ":".join(os.path.relpath(layer, folder) for layer in lowers)
    text = ",".join(f"lowerdir={short}" if option.startswith("lowerdir=") else option for option in data)
    if len(os.fsencode(text)) >= _PAGE:
        raise OSError(errno.E2BIG, f"{len(lowers)} layers do not fit into the options of one mount")
    _in_folder(folder, lambda: _sys_mount(source, os.path.abspath(path), "overlay", flags, text))


def _in_folder(folder: str, work: Callable[[], None]) -> None:
    """A thread of its own that has left the shared working directory, so that others do not see it change."""
    import threading

    failures: list[OSError] = []

    def run() -> None:
        try:
            _check(_libc.unshare(_CLONE_FS))
            os.chdir(folder)
            work()
        except OSError as err:
            failures.append(err)

    thread = threading.Thread(target=run, name="mount")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def _loop_device(source: str, read_only: bool) -> Iterator[str]:
    """A free loop device for the file, which the linux kernel frees when the last user has gone."""
    file = os.open(source, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    try:
        device, held = _claim_loop(file, source, read_only)
    finally:
        os.close(file)
    try:
        yield device
    finally:
        os.close(held)


def _claim_loop(file: int, source: str, read_only: bool) -> tuple[str, int]:
    import fcntl
    import struct

    flags = _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_READ_ONLY if read_only else 0)
    config = struct.pack("=II5Q4I64s112x64x", file, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, os.fsencode(source)[:63])
    for _ in range(_LOOP_TRIES):
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        finally:
            os.close(control)
        held = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(held, _LOOP_CONFIGURE, config)
            return device, held
        except OSError as err:
            os.close(held)
            if err.errno != errno.EBUSY:  # else somebody was faster
                raise
    raise OSError(errno.EBUSY, "no free loop device")


def _inside(root: str, sub: str) -> str:
    if not sub or sub == "/":
        return root
    base = os.path.realpath(root)
    path = os.path.realpath(os.path.join(base, os.path.normpath("/" + sub).lstrip("/")))
    if path != base and not path.startswith(base.rstrip("/") + "/"):
        raise errors.InvalidArgument(f'mount target "{sub}" leads out of {root}')
    return path


def _attributes(flags: int) -> int:
    """Flags of mount(2) as attributes of fsmount(2)."""
    attributes = flags & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    attributes |= 0x10 if flags & MS_NOATIME else 0x20 if flags & MS_STRICTATIME else 0
    return attributes | (0x80 if flags & MS_NODIRATIME else 0) | (0x200000 if flags & MS_NOSYMFOLLOW else 0)


def _sys_mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    encoded = os.fsencode(data)
    if len(encoded) >= _PAGE:
        raise OSError(errno.E2BIG, f"the options take {len(encoded)} bytes, more than a page")
    arguments = os.fsencode(source), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), encoded or None
    _check(_libc.mount(*arguments))


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *converted))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _unescape(text: bytes) -> bytes:
    for code, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        text = text.replace(code, plain)
    return text


def _explain(err: OSError, one: Mount, path: str) -> errors.Error:
    text = f"cannot mount {one.type or 'bind'} {one.source} at {path}: {err.strerror}"
    if err.errno == errno.ENOENT and not os.path.lexists(path):
        text += ", there is no such target"
    if err.errno in (errno.EPERM, errno.EACCES):
        return errors.PermissionDenied(text)
    if err.errno == errno.ENODEV:
        return errors.FailedPrecondition(f'{text}, the linux kernel has no file system "{one.type}"')
    return errors.InvalidArgument(text) if err.errno in _REFUSED else errors.FailedPrecondition(text)


def _unmount_error(err: OSError, path: str) -> errors.Error:
    text = f"cannot unmount {path}: {err.strerror}"
    if err.errno == errno.ENOENT:
        return errors.NotFound(f"mount point {path}: not found")
    if err.errno == errno.EPERM:
        return errors.PermissionDenied(text)
    if err.errno in (errno.EINVAL, errno.ENOTDIR):
        return errors.InvalidArgument(f"{text}, it is not a mount point")
    return errors.FailedPrecondition(text)


_REFUSED = (errno.EINVAL, errno.E2BIG, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTBLK)
_CLONE_FS = 0x200
_AT_FDCWD = -100
# Numbers of system calls since 424 are the same on every architecture.
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_SET_FD, _FSCONFIG_CMD_CREATE = 0, 1, 5, 6
_MOVE_MOUNT_F_EMPTY_PATH = 4
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR = 1, 4
_LOOP_TRIES = 16
