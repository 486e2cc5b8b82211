"""Copies a tree of files whole, for snapshotters that copy; ``main`` does it in a child of the spawner.

Kept are owner, mode, times in nanoseconds, extended attributes, holes, hard links, symlinks, devices, FIFOs, sockets.
Data is shared where the file system can (ioctl_ficlone(2)), else copied inside the linux kernel (copy_file_range(2)).
Standard library only; the tree may be deeper than a path is long.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Mapping, Sequence

from plugin_sdk import trees

_FICLONE = 0x40049409
_CANNOT_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ETXTBSY, errno.EPERM)
_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_CHUNK = 1 << 30  # bytes asked of one copy_file_range(2)
_BUFFER = 1 << 20


def main(params: Mapping[str, object], fds: Sequence[int]) -> int:
    """Entry of a worker: a failure goes as text into the one descriptor."""
    try:
        tree(str(params["source"]), str(params["target"]))
    except OSError as err:
        os.write(fds[0], str(err).encode()[:4096])
        return 1
    return 0


def tree(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Makes the empty directory ``target`` a copy of ``source``. Raises OSError."""
    source_root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        target_root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _Copy(source_root, target_root).run()
        finally:
            os.close(target_root)
    finally:
        os.close(source_root)


def attributes(source: int, target: int, but: tuple[str, ...] = ()) -> None:
    """Gives the open ``target`` the owner, mode, times and extended attributes of the open ``source``, without those
    whose names begin as in ``but``."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(but):
            _set_attribute(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


class _Copy:
    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._links: dict[tuple[int, int], tuple[str, str]] = {}  # inode to the folder and name of its first copy

    def run(self) -> None:
        folders, done = [""], []
        while folders:
            folder = folders.pop()
            done.append(folder)
            folders += self._fill(folder)
        for folder in reversed(done):  # what is made in a directory changes its time
            self._finish(folder)

    def _fill(self, folder: str) -> list[str]:
        """Copies what one directory holds; answers the directories in it, made but empty."""
        source, target = trees.open_folder(self._source, folder), trees.open_folder(self._target, folder)
        found = []
        try:
            with os.scandir(source) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        os.mkdir(entry.name, 0o700, dir_fd=target)
                        found.append(f"{folder}/{entry.name}" if folder else entry.name)
                    else:
                        self._one(folder, entry.name, entry.stat(follow_symlinks=False), source, target)
        finally:
            os.close(source)
            os.close(target)
        return found

    def _finish(self, folder: str) -> None:
        source, target = trees.open_folder(self._source, folder), trees.open_folder(self._target, folder)
        try:
            attributes(source, target)
        finally:
            os.close(source)
            os.close(target)

    def _one(self, folder: str, name: str, status: os.stat_result, source: int, target: int) -> None:
        if status.st_nlink > 1:
            inode = status.st_dev, status.st_ino
            if inode in self._links:
                self._link(self._links[inode], name, target)
                return
            self._links[inode] = folder, name
        if stat.S_ISREG(status.st_mode):
            _file(name, source, target)
        else:
            _special(name, status, source, target)

    def _link(self, first: tuple[str, str], name: str, target: int) -> None:
        folder = trees.open_folder(self._target, first[0])
        try:
            os.link(first[1], name, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(folder)


def _file(name: str, source: int, target: int) -> None:
    old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            _data(old, new)
            attributes(old, new)
        finally:
            os.close(new)
    finally:
        os.close(old)


def _special(name: str, status: os.stat_result, source: int, target: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    old, new = f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}"
    for attribute in os.listxattr(old, follow_symlinks=False):
        _set_attribute(new, attribute, os.getxattr(old, attribute, follow_symlinks=False))
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _set_attribute(target: int | str, name: str, value: bytes) -> None:
    try:
        if isinstance(target, int):
            os.setxattr(target, name, value)
        else:
            os.setxattr(target, name, value, follow_symlinks=False)
    except OSError as err:
        if err.errno != errno.EOPNOTSUPP or not name.startswith("security."):  # labels of another file system
            raise


def _data(old: int, new: int) -> None:
    size = os.fstat(old).st_size
    if size == 0:
        return
    try:
        fcntl.ioctl(new, _FICLONE, old)
    except OSError as err:
        if err.errno not in _CANNOT_CLONE:
            raise
        os.ftruncate(new, size)
        _extents(old, new, size)


def _extents(old: int, new: int, size: int) -> None:
    """Data only: what is not written of ``new`` stays a hole."""
    end = 0
    while end < size:
        try:
            begin = os.lseek(old, end, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:  # a hole to the end
                return
            raise
        end = os.lseek(old, begin, os.SEEK_HOLE)
        _range(old, new, begin, end)


def _range(old: int, new: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            done = os.copy_file_range(old, new, min(end - begin, _CHUNK), begin, begin)
        except OSError as err:
            if err.errno not in _CANNOT_COPY:
                raise
            done = os.pwrite(new, os.pread(old, min(end - begin, _BUFFER), begin), begin)
        if done == 0:  # the file has become shorter
            return
        begin += done
