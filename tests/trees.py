"""What a directory holds, entry by entry, so that two of them can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Node:
    """``links`` are the paths that share the inode, the first one standing for all; ``mtime`` in nanoseconds."""

    mode: str
    owner: tuple[int, int]
    size: int
    mtime: int
    data: str
    links: str
    xattrs: tuple[tuple[str, bytes], ...]


def scan(root: Path, *, folder_times: bool = True, skip: Sequence[str] = ()) -> dict[str, Node]:
    """Every path below ``root``, which is ``.``. Sizes of directories and, on request, their times are left out.

    ``skip`` names entries of ``root`` itself that are left out with all they hold.
    """
    paths = sorted([".", *(os.path.relpath(path, root) for path in _walk(root, skip))])
    first: dict[tuple[int, int], str] = {}
    return {path: _node(root, path, first, folder_times) for path in paths}


def _walk(root: Path, skip: Sequence[str]) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        if folder == str(root):
            folders[:] = [name for name in folders if name not in skip]
        yield from (os.path.join(folder, name) for name in (*folders, *files))


def _node(root: Path, path: str, first: dict[tuple[int, int], str], folder_times: bool) -> Node:
    full = os.path.join(root, path)
    status = os.lstat(full)
    folder = stat.S_ISDIR(status.st_mode)
    return Node(
        mode=stat.filemode(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        size=0 if folder else status.st_size,
        mtime=status.st_mtime_ns if folder_times or not folder else 0,
        data=_data(full, status),
        links="" if folder else first.setdefault((status.st_dev, status.st_ino), path),
        xattrs=tuple((name, os.getxattr(full, name, follow_symlinks=False)) for name in _names(full)),
    )


def _names(full: str) -> list[str]:
    return sorted(name for name in os.listxattr(full, follow_symlinks=False) if "overlay" not in name)


def _data(full: str, status: os.stat_result) -> str:
    if stat.S_ISREG(status.st_mode):
        return hashlib.sha256(Path(full).read_bytes()).hexdigest()
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(full)
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return ""


def differences(one: dict[str, Node], other: dict[str, Node]) -> dict[str, tuple[Node | None, Node | None]]:
    """The paths at which the two differ, with both nodes."""
    return {
        path: (one.get(path), other.get(path))
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    }
