"""Trees of files: how much they take, and their removal. For authors of snapshotters; standard library only.

Trees come from containers: they may be deeper than a path is long (path_resolution(7)), and nothing here recurses,
follows a symlink or leaves the file system.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator

from plugin_sdk import errors

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512  # bytes of st_blocks, stat(2)
_PATH_MAX = 4000


def open_folder(root: int, relative: str) -> int:
    """A descriptor of the directory at a path of any length beneath the open directory ``root``."""
    fd = os.open(".", _FOLDER, dir_fd=root)
    while relative:
        head, relative = _split(relative)
        below = os.open(head, _FOLDER, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def usage(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Bytes and inodes that the tree takes on disk, as du(1) counts: allocated blocks, a file of several links once."""
    root = os.open(path, _FOLDER)
    try:
        top = os.fstat(root)
        blocks, inodes = top.st_blocks, 1
        seen: set[int] = set()
        folders = [""]
        while folders:
            folder = folders.pop()
            for name, status in _entries(root, folder):
                if status.st_dev != top.st_dev or status.st_ino in seen:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(f"{folder}/{name}" if folder else name)
                elif status.st_nlink > 1:
                    seen.add(status.st_ino)
                blocks += status.st_blocks
                inodes += 1
        return blocks * _BLOCK, inodes
    finally:
        os.close(root)


def remove(path: str | os.PathLike[str]) -> None:
    """Removes the tree; nothing there is no error. Raises FailedPrecondition when something is mounted in it.

    Each directory that is not empty is first moved to the top, so that no path grows long.
    """
    while True:
        try:
            root = os.open(path, _FOLDER)
        except FileNotFoundError:
            return
        try:
            _empty(root)
            os.rmdir(path)
        except FileNotFoundError:  # somebody else removes it too
            continue
        except OSError as err:
            if err.errno == errno.EBUSY:
                raise errors.FailedPrecondition(f"cannot remove {path}: something is mounted in it") from err
            raise
        finally:
            os.close(root)


def _entries(root: int, folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """What disappears while we look is passed over."""
    try:
        fd = open_folder(root, folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield entry.name, status
    finally:
        os.close(fd)


def _empty(root: int) -> None:
    device = os.fstat(root).st_dev
    prefix = f".{secrets.token_hex(8)}-"
    moved = 0
    folders = ["."]
    while folders:
        folder = folders[-1]
        fd = os.open(folder, _FOLDER, dir_fd=root)
        try:
            if os.fstat(fd).st_dev != device:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            found = _strip(fd, root, folder, prefix, moved)
        finally:
            os.close(fd)
        if not found and (folder == "." or _gone(folder, root)):
            folders.pop()
        moved += len(found)
        folders += found


def _strip(fd: int, root: int, folder: str, prefix: str, moved: int) -> list[str]:
    """Unlinks the files of one directory and answers the new names, in the root, of the directories it had."""
    found: list[str] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=fd)
            elif folder == ".":
                found.append(entry.name)
            else:
                found.append(f"{prefix}{moved + len(found)}")
                os.rename(entry.name, found[-1], src_dir_fd=fd, dst_dir_fd=root)
    return found


def _gone(folder: str, root: int) -> bool:
    """False when reading has passed over entries, as some file systems do while entries are removed."""
    try:
        os.rmdir(folder, dir_fd=root)
    except OSError as err:
        if err.errno != errno.ENOTEMPTY:
            raise
        return False
    return True


def _split(relative: str) -> tuple[str, str]:
    """The longest beginning that fits into one system call, and the rest."""
    if len(os.fsencode(relative)) < _PATH_MAX:
        return relative, ""
    cut = relative.rfind("/", 0, _PATH_MAX // 4)  # a character takes four bytes at most
    return relative[:cut], relative[cut + 1 :]
