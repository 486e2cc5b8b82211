"""What differs between two trees: both are walked in the order of their names, side by side.

A file counts as unchanged when mode, owner, device, extended attributes, size and time of modification are the same; if
neither time has a fraction of a second, which then may have been lost on the way, also its content. Directories' times
do not count. Sockets, and overlayfs's whiteouts where they show, are no part of a tree. Standard library only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator

_CHUNK = 1 << 20
_SECOND = 1_000_000_000
_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP)


class Change:
    """``status`` is None for what only the lower tree has. ``path`` is relative, empty for the root; ``changed`` is
    False for what is only told since something beside or beneath it is. ``below`` is what the lower tree has there."""

    __slots__ = ("below", "changed", "path", "status")

    def __init__(
        self, path: bytes, status: os.stat_result | None, changed: bool, below: os.stat_result | None = None
    ) -> None:
        self.path = path
        self.status = status
        self.changed = changed
        self.below = below


def between(lower: bytes, upper: bytes, *, root: bool = True) -> list[Change]:
    """The changes in the order of a walk: each with its parent directories before it, and all names of a hard-linked
    file once one of them has changed. ``root``: whether the roots themselves are compared."""
    changes = list(_walk(lower, upper))
    if root and not _same(lower, os.lstat(lower), upper, os.lstat(upper)):
        changes.insert(0, Change(b"", os.lstat(upper), True))
    _compare_links([c for c in changes if c.status and not stat.S_ISDIR(c.status.st_mode)])
    wanted: set[bytes] = set()
    for change in changes:
        if change.changed:
            wanted.update(_parents(change.path))
    return [change for change in changes if change.changed or change.path in wanted]


def _compare_links(files: list[Change]) -> None:
    """Names of one file that now are of several have changed, all but one set of them, and so have names of several
    that are now of one. Where one name has changed, all names of its file go with it."""
    lower: dict[Inode, dict[Inode, list[Change]]] = {}
    upper: dict[Inode, list[Change]] = {}
    for file in files:
        assert file.status is not None
        upper.setdefault(_inode(file.status), []).append(file)
        if file.below is not None:
            lower.setdefault(_inode(file.below), {}).setdefault(_inode(file.status), []).append(file)
    for names in upper.values():
        origins = {_inode(name.below) if name.below else None for name in names}
        if len(origins) > 1 or any(name.changed for name in names):
            _mark(names)
    for parts in lower.values():
        unchanged = [names for names in parts.values() if not names[0].changed]
        for names in unchanged[1:]:
            _mark(names)


def _mark(names: list[Change]) -> None:
    for name in names:
        name.changed = True


def xattrs(path: bytes) -> dict[bytes, bytes]:
    """Those of a layer: not overlayfs's own."""
    found = {}
    try:
        for name in map(os.fsencode, os.listxattr(path, follow_symlinks=False)):
            if not name.startswith(_OVERLAY_XATTRS):
                found[name] = os.getxattr(path, name, follow_symlinks=False)
    except OSError as err:
        if err.errno not in _UNSUPPORTED:
            raise
    return found


def _walk(lower: bytes, upper: bytes) -> Iterator[Change]:
    stack = [_pairs(lower, upper, b"", both=True)]
    while stack:
        pair = next(stack[-1], None)
        if pair is None:
            stack.pop()
            continue
        path, below, above = pair
        if above is None:
            yield Change(path, None, True)
            continue
        ours = os.path.join(upper, path)
        changed = below is None or not _same(os.path.join(lower, path), below, ours, above)
        if stat.S_ISDIR(above.st_mode):
            both = below is not None and stat.S_ISDIR(below.st_mode)
            stack.append(_pairs(lower, upper, path, both=both))
        elif not changed and above.st_nlink == 1 and below is not None and below.st_nlink == 1:
            continue
        yield Change(path, above, changed, below)


Inode = tuple[int, int]
Pair = tuple[bytes, os.stat_result | None, os.stat_result | None]


def _pairs(lower: bytes, upper: bytes, path: bytes, *, both: bool) -> Iterator[Pair]:
    below = _list(os.path.join(lower, path)) if both else {}
    above = _list(os.path.join(upper, path))
    for name in sorted(below.keys() | above.keys()):
        yield os.path.join(path, name), below.get(name), above.get(name)


def _list(directory: bytes) -> dict[bytes, os.stat_result]:
    with os.scandir(directory) as entries:
        statuses = ((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
        return {name: status for name, status in statuses if not _is_nothing(status)}


def _is_nothing(status: os.stat_result) -> bool:
    return stat.S_ISSOCK(status.st_mode) or (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0)


def _same(lower: bytes, below: os.stat_result, upper: bytes, above: os.stat_result) -> bool:
    if (below.st_mode, below.st_uid, below.st_gid, below.st_rdev) != (
        above.st_mode,
        above.st_uid,
        above.st_gid,
        above.st_rdev,
    ):
        return False
    if not stat.S_ISDIR(above.st_mode):
        if (below.st_ino, below.st_ctime_ns) == (above.st_ino, above.st_ctime_ns):  # one file, seen through two mounts
            return True
        if below.st_size != above.st_size or below.st_mtime_ns != above.st_mtime_ns:
            return False
        if stat.S_ISLNK(above.st_mode):
            if os.readlink(lower) != os.readlink(upper):
                return False
        elif stat.S_ISREG(above.st_mode) and above.st_mtime_ns % _SECOND == 0 and not _same_content(lower, upper):
            return False
    return xattrs(lower) == xattrs(upper)


def _same_content(lower: bytes, upper: bytes) -> bool:
    with open(lower, "rb", buffering=0) as ours, open(upper, "rb", buffering=0) as theirs:
        while True:
            block = ours.read(_CHUNK)
            if block != theirs.read(_CHUNK):
                return False
            if not block:
                return True


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def _parents(path: bytes) -> Iterable[bytes]:
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path
