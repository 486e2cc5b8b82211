"""Directories beneath a root: found by name, made where missing, held open.

Names are walked one component at a time with openat(2) and O_NOFOLLOW; symbolic links on the way are followed by hand,
as inside of a chroot. With a lower tree, what is found is what the mounted overlay would show, and a directory of a
lower layer is copied up when something is to be made in it. Standard library only.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from plugin_sdk import errors
from plugin_sdk.tars import show
from plugins_builtin.diff import attributes, confine

OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_OPEN = 256
_LINKS = 40
_PARTS = 4096

Path = tuple[bytes, ...]


class Directory:
    """An open directory. ``lower``: the lower tree has one of the same path whose entries show through. ``strict``:
    what is made in it inherits a group or an ACL. ``made``: names that this layer has written."""

    __slots__ = ("fd", "lower", "made", "path", "strict")

    def __init__(self, fd: int, path: Path, lower: bool, strict: bool, made: set[bytes]) -> None:
        self.fd = fd
        self.path = path
        self.lower = lower
        self.strict = strict
        self.made = made


class Directories:
    """``upper`` and ``lower`` are descriptors of directories; without ``lower`` the root is a plain one.

    ``times`` and ``acls`` are what directories get at the end, by path; ``by_name`` finds a directory by the name that
    an archive gives it, through links or not; ``followed`` are the links that such names went through. ``name`` is the
    entry in work, for messages.
    """

    def __init__(self, upper: int, lower: int | None, opaque: bytes) -> None:
        self.upper = upper
        self.lower = lower
        self.opaque = opaque
        self.name = b""
        self.times: dict[Path, tuple[int, int]] = {}
        self.acls: dict[Path, bytes] = {}
        self.by_name: dict[bytes, Directory] = {}
        self.followed: set[Path] = set()
        self._made: dict[Path, set[bytes]] = {}
        self._by_path: dict[Path, Directory] = {}

    def tidy(self) -> None:
        """Closes what is open when it is much: no Directory may be in use."""
        if len(self._by_path) > _KEPT_OPEN:
            self.forget()

    def replaced(self, directory: Directory, name: bytes) -> None:
        """Told before something is made there: names that went through a link of a lower layer lead elsewhere then."""
        if self.followed and (*directory.path, name) in self.followed:
            self.by_name.clear()

    def known(self, path: Path) -> Directory | None:
        return self._by_path.get(path)

    def finish(self) -> None:
        """Times and default ACLs of directories, which making their entries would have changed."""
        self.forget()
        for path in self.times.keys() | self.acls.keys():
            try:
                fd = confine.open_beneath(self.upper, b"/".join(path) or b".", os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                if path in self.acls:
                    attributes.put(fd, attributes.DEFAULT_ACL, self.acls[path])
                if path in self.times:
                    os.utime(fd, ns=self.times[path])
            finally:
                os.close(fd)

    def root(self) -> Directory:
        directory = self._by_path.get(())
        return directory or self.add(os.open(b".", OPEN, dir_fd=self.upper), (), self.lower is not None)

    def add(self, fd: int, path: Path, lower: bool, fresh: bool = False) -> Directory:
        """``fresh``: this layer has just made it."""
        status = os.fstat(fd)
        strict = bool(status.st_mode & stat.S_ISGID) or attributes.get(fd, attributes.DEFAULT_ACL) is not None
        if not fresh:
            self.times.setdefault(path, (status.st_atime_ns, status.st_mtime_ns))
        if lower and self.lower is not None and attributes.get(fd, self.opaque) is not None:
            lower = False
        directory = Directory(fd, path, lower, strict, self._made.setdefault(path, set()))
        self._by_path[path] = directory
        return directory

    def forget(self) -> None:
        for directory in self._by_path.values():
            os.close(directory.fd)
        self._by_path.clear()
        self.by_name.clear()

    def walk(self, name: bytes) -> Directory:
        """The directory of that name, made where missing."""
        directory = self.find(name, make=True)
        assert directory is not None
        return directory

    def find(self, name: bytes, *, make: bool) -> Directory | None:
        """None where it is missing, unless it is to be made."""
        links = 0
        directory = self.root()
        todo = name.split(b"/")[::-1] if name else []
        while todo:
            part = todo.pop()
            if part == b"..":
                directory = self.reopen(directory.path[:-1])
            if part in (b"", b".", b".."):
                continue
            known = self._by_path.get((*directory.path, part))
            status = None if known else self.stat(directory, part)
            if known is not None:
                directory = known
            elif status is not None and stat.S_ISLNK(status.st_mode):
                links += 1
                directory = self._follow(directory, part, todo, links)
            elif make or (status is not None and stat.S_ISDIR(status.st_mode)):
                directory = self.enter(directory, part, status)
            else:
                return None
        return directory

    def _follow(self, directory: Directory, name: bytes, todo: list[bytes], links: int) -> Directory:
        """Puts the link's target before what is still to be walked."""
        target = self.read_link(directory, name)
        if links > _LINKS or len(todo) > _PARTS:
            raise errors.InvalidArgument(f"too many symbolic links on the way to {show(self.name)}")
        self.followed.add((*directory.path, name))
        todo.extend(target.split(b"/")[::-1])
        return self.root() if target.startswith(b"/") else directory

    def reopen(self, path: Path) -> Directory:
        """A directory that was walked before: the way back up is a way through real directories."""
        known = self._by_path.get(path)
        if known is not None:
            return known
        directory = self.root()
        for part in path:
            known = self._by_path.get((*directory.path, part))
            directory = known or self.enter(directory, part, self.stat(directory, part))
        return directory

    def enter(self, parent: Directory, name: bytes, status: os.stat_result | None) -> Directory:
        """The subdirectory that ``status`` describes, copied up from the lower tree or made where it is missing."""
        path = (*parent.path, name)
        if (known := self._by_path.get(path)) is not None:
            return known
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise errors.InvalidArgument(f"{show(b'/'.join(path))} on the way to {show(self.name)} is not a directory")
        lower = self.lower_stat(parent, name)
        below = lower is not None and stat.S_ISDIR(lower.st_mode)
        fresh = False
        try:
            fd = os.open(name, OPEN, dir_fd=parent.fd)
        except (FileNotFoundError, NotADirectoryError):
            if status is None:
                self.make_directory(parent, name, 0o755)
                fresh = True
            else:
                self._copy_directory(parent, name, path, status)
            fd = os.open(name, OPEN, dir_fd=parent.fd)
        parent.made.add(name)
        return self.add(fd, path, below, fresh)

    def make_directory(self, parent: Directory, name: bytes, mode: int) -> None:
        """Where something else was before, or a whiteout, what the lower tree has there must not show through."""
        try:
            os.mkdir(name, mode, dir_fd=parent.fd)
        except FileExistsError:
            self.clear(parent, name)
            os.mkdir(name, mode, dir_fd=parent.fd)
            if parent.lower:
                fd = os.open(name, OPEN, dir_fd=parent.fd)
                os.setxattr(fd, self.opaque, b"y")
                os.close(fd)
        if parent.strict:
            os.chown(name, 0, 0, dir_fd=parent.fd, follow_symlinks=False)
            os.chmod(name, mode, dir_fd=parent.fd)

    def _copy_directory(self, parent: Directory, name: bytes, path: Path, status: os.stat_result) -> None:
        os.mkdir(name, 0o700, dir_fd=parent.fd)
        fd = os.open(name, OPEN, dir_fd=parent.fd)
        source = self.open_lower(path, OPEN)
        try:
            os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, stat.S_IMODE(status.st_mode))
            attributes.copy(source, fd)
        finally:
            os.close(source)
            os.close(fd)
        self.times[path] = (status.st_atime_ns, status.st_mtime_ns)

    def stat(self, directory: Directory, name: bytes) -> os.stat_result | None:
        """What the finished tree would show."""
        try:
            status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return self.lower_stat(directory, name)
        except OSError as err:
            if err.errno == errno.ENAMETOOLONG:
                raise errors.InvalidArgument(f"the name {show(name)} is too long") from None
            raise
        if self.lower is not None and is_whiteout(status):
            return None
        return status

    def lower_stat(self, directory: Directory, name: bytes) -> os.stat_result | None:
        if not directory.lower or self.lower is None:
            return None
        try:
            return os.stat(b"/".join((*directory.path, name)), dir_fd=self.lower, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_link(self, directory: Directory, name: bytes) -> bytes:
        try:
            return os.readlink(name, dir_fd=directory.fd)
        except FileNotFoundError:
            assert self.lower is not None
            return os.readlink(b"/".join((*directory.path, name)), dir_fd=self.lower)

    def open_lower(self, path: Path, flags: int) -> int:
        assert self.lower is not None
        return confine.open_beneath(self.lower, b"/".join(path), flags)

    def clear(self, parent: Directory, name: bytes) -> None:
        """Takes away what stands where an entry is to be made; with it go the descriptors that led through it."""
        try:
            os.unlink(name, dir_fd=parent.fd)
        except IsADirectoryError:
            self._forget_below((*parent.path, name))
            remove_tree(parent.fd, name)
        else:
            self.by_name.clear()

    def _forget_below(self, path: Path) -> None:
        self.by_name.clear()
        depth = len(path)
        for known in [known for known in self._by_path if known[:depth] == path]:
            os.close(self._by_path.pop(known).fd)
        tables: tuple[dict[Path, Any], ...] = (self.times, self.acls, self._made)
        for table in tables:
            for known in [known for known in table if known[:depth] == path]:
                del table[known]


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def remove_tree(parent: int, name: bytes) -> None:
    """A directory and all beneath it, without following links."""
    fd = os.open(name, OPEN, dir_fd=parent)
    stack = [(parent, name, fd, _remove_files(fd))]
    while stack:
        above, base, fd, children = stack[-1]
        if children:
            child = os.fsencode(children.pop())
            below = os.open(child, OPEN, dir_fd=fd)
            stack.append((fd, child, below, _remove_files(below)))
        else:
            stack.pop()
            os.close(fd)
            os.rmdir(base, dir_fd=above)


def _remove_files(fd: int) -> list[str]:
    """Everything in a directory but its subdirectories, which are returned."""
    children = []
    for name in os.listdir(fd):
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            children.append(name)
    return children
