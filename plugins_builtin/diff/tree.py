"""Entries of a layer become files beneath a root.

Two roots are possible. A plain one is the file system as it is: whiteouts remove. Or the root is the empty upper
directory of an overlay, which is three times as fast to write as the overlay itself: then ``lower`` shows, read-only,
what lies below it. Whiteouts become overlayfs's own, what a layer changes within a directory of a lower layer is made
in a copy of that directory, and a hard link to a file of a lower layer in a copy of that file. What the mounted overlay
shows afterwards is the same (Documentation/filesystems/overlayfs.rst of the linux kernel).

Names are walked one component at a time with openat(2) and O_NOFOLLOW; symbolic links on the way are followed by hand,
as inside of a chroot. Descriptors of directories are kept, so that a file costs open, write, utimensat and close.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from plugin_sdk import errors, mounts
from plugins_builtin.diff import archive, confine
from plugins_builtin.diff.archive import Entry, show
from plugins_builtin.diff.streams import Source

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
_OPEN_DIRECTORIES = 256
_LINKS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_TIME = (1 << 63) - 1
_DEFAULT_ACL, _ACL = b"system.posix_acl_default", b"system.posix_acl_access"
_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_KEPT_XATTRS = (b"security.selinux", b"security.ima", b"security.evm")
_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP)

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


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay's directories as mounts of their own, and the attribute that makes a directory opaque."""

    upper: list[mounts.Mount]
    lower: list[mounts.Mount]
    opaque: bytes

    @classmethod
    def of(cls, root: Sequence[mounts.Mount]) -> Overlay | None:
        """None when ``root`` is no writable overlay, or its upper directory is not empty: then what earlier writes
        mean there is known to overlayfs only."""
        if len(root) != 1 or root[0].type != "overlay" or root[0].target:
            return None
        values = dict(option.partition("=")[::2] for option in root[0].options)
        upper, lowers = values.pop("upperdir", ""), values.get("lowerdir", "")
        if not upper or not lowers or "::" in lowers or os.listdir(upper):
            return None
        lower = mounts.Mount("bind", lowers, "", ("rbind", "ro"))
        if ":" in lowers:
            rest = [o for o in root[0].options if not o.startswith(("upperdir=", "workdir=")) and o not in ("rw", "ro")]
            lower = mounts.Mount("overlay", "overlay", "", (*rest, "ro"))
        opaque = b"user.overlay.opaque" if "userxattr" in values else b"trusted.overlay.opaque"
        return cls([mounts.Mount("bind", upper, "", ("rbind", "rw"))], [lower], opaque)


class Tree:
    """``upper`` and ``lower`` are descriptors of directories; without ``lower`` the root is a plain one."""

    def __init__(self, upper: int, lower: int | None = None, opaque: bytes = b"trusted.overlay.opaque") -> None:
        self.upper = upper
        self._lower = lower
        self._opaque = opaque
        self._times: dict[Path, tuple[int, int]] = {}
        self._acls: dict[Path, bytes] = {}
        self._made: dict[Path, set[bytes]] = {}
        self._by_path: dict[Path, Directory] = {}
        self._by_name: dict[bytes, Directory] = {}
        self._followed: set[Path] = set()
        self._name = b""

    def put(self, entry: Entry, source: Source) -> None:
        """Makes one entry, whose data, if it has any, is next in ``source``."""
        name = self._name = entry.name = clean(entry.name)
        parent, _, base = name.rpartition(b"/")
        if base.startswith(WHITEOUT):
            self._white_out(entry, parent, base)
            return
        directory = self._by_name.get(parent)
        if directory is None:
            if len(self._by_path) > _OPEN_DIRECTORIES:
                self._forget()
            directory = self._by_name[parent] = self._walk(parent)
        if not base:
            self._dress_directory(directory, entry)
            return
        if self._followed and (*directory.path, base) in self._followed:
            self._by_name.clear()
        kind = entry.type
        if kind in archive.FILES:
            self._file(directory, base, entry, source)
        elif kind == archive.DIRECTORY:
            self._directory(directory, base, entry)
        elif kind == archive.SYMLINK:
            self._symlink(directory, base, entry)
        elif kind == archive.HARD_LINK:
            self._link(directory, base, entry)
        elif kind == archive.CHARACTER and not entry.major and not entry.minor:
            self._hide(directory, base)  # as overlayfs itself writes whiteouts
            return
        else:
            self._node(directory, base, entry)
        directory.made.add(base)

    def finish(self) -> None:
        """Times and default ACLs of directories, which making their entries would have changed."""
        self._forget()
        for path in self._times.keys() | self._acls.keys():
            try:
                fd = confine.open_beneath(self.upper, b"/".join(path) or b".", os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                if path in self._acls:
                    _set_xattr(fd, _DEFAULT_ACL, self._acls[path])
                if path in self._times:
                    os.utime(fd, ns=self._times[path])
            finally:
                os.close(fd)

    # Directories

    def _root(self) -> Directory:
        directory = self._by_path.get(())
        return directory or self._known(os.open(b".", _DIRECTORY, dir_fd=self.upper), (), self._lower is not None)

    def _known(self, fd: int, path: Path, lower: bool, fresh: bool = False) -> Directory:
        """``fresh``: this layer has just made it."""
        status = os.fstat(fd)
        strict = bool(status.st_mode & stat.S_ISGID) or _get_xattr(fd, _DEFAULT_ACL) is not None
        if not fresh:
            self._times.setdefault(path, (status.st_atime_ns, status.st_mtime_ns))
        if lower and self._lower is not None and _get_xattr(fd, self._opaque) is not None:
            lower = False
        directory = Directory(fd, path, lower, strict, self._made.setdefault(path, set()))
        self._by_path[path] = directory
        return directory

    def _forget(self) -> None:
        for directory in self._by_path.values():
            os.close(directory.fd)
        self._by_path.clear()
        self._by_name.clear()

    def _walk(self, name: bytes) -> Directory:
        """The directory of that name, made where missing."""
        directory = self._find(name, make=True)
        assert directory is not None
        return directory

    def _find(self, name: bytes, *, make: bool) -> Directory | None:
        links = 0
        directory = self._root()
        todo = name.split(b"/")[::-1] if name else []
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                directory = self._reopen(directory.path[:-1])
                continue
            path = (*directory.path, part)
            known = self._by_path.get(path)
            if known is not None:
                directory = known
                continue
            status = self._stat(directory, part)
            if status is not None and stat.S_ISLNK(status.st_mode):
                links += 1
                target = self._read_link(directory, part)
                if links > _LINKS or len(todo) > 4096:
                    raise errors.InvalidArgument(f"too many symbolic links on the way to {show(self._name)}")
                self._followed.add(path)
                todo.extend(target.split(b"/")[::-1])
                if target.startswith(b"/"):
                    directory = self._root()
                continue
            if status is None and not make:
                return None
            if status is not None and not stat.S_ISDIR(status.st_mode):
                if not make:  # umoci writes whiteouts below what has become a file
                    return None
                blocked, wanted = show(b"/".join(path)), show(self._name)
                raise errors.InvalidArgument(f"{blocked} on the way to {wanted} is not a directory")
            directory = self._enter(directory, part, status)
        return directory

    def _reopen(self, path: Path) -> Directory:
        """A directory that was walked before: the way back up is a way through real directories."""
        known = self._by_path.get(path)
        if known is not None:
            return known
        directory = self._root()
        for part in path:
            known = self._by_path.get((*directory.path, part))
            directory = known or self._enter(directory, part, self._stat(directory, part))
        return directory

    def _enter(self, parent: Directory, name: bytes, status: os.stat_result | None) -> Directory:
        """The subdirectory that ``status`` describes, copied up from the lower tree or made where it is missing."""
        path = (*parent.path, name)
        lower = self._lower_stat(parent, name)
        below = lower is not None and stat.S_ISDIR(lower.st_mode)
        fresh = False
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent.fd)
        except (FileNotFoundError, NotADirectoryError):
            if status is None:
                self._make_directory(parent, name, 0o755)
                fresh = True
            else:
                self._copy_directory(parent, name, path, status)
            fd = os.open(name, _DIRECTORY, dir_fd=parent.fd)
        parent.made.add(name)
        return self._known(fd, path, below, fresh)

    def _make_directory(self, parent: Directory, name: bytes, mode: int) -> None:
        """Where something else was before, or a whiteout, what the lower tree has there must not show through."""
        try:
            os.mkdir(name, mode, dir_fd=parent.fd)
        except FileExistsError:
            self._clear(parent, name)
            os.mkdir(name, mode, dir_fd=parent.fd)
            if parent.lower:
                fd = os.open(name, _DIRECTORY, dir_fd=parent.fd)
                os.setxattr(fd, self._opaque, b"y")
                os.close(fd)
        if parent.strict:
            os.chown(name, 0, 0, dir_fd=parent.fd, follow_symlinks=False)
            os.chmod(name, mode, dir_fd=parent.fd)

    def _copy_directory(self, parent: Directory, name: bytes, path: Path, status: os.stat_result) -> None:
        os.mkdir(name, 0o700, dir_fd=parent.fd)
        fd = os.open(name, _DIRECTORY, dir_fd=parent.fd)
        source = self._open_lower(path, _DIRECTORY)
        try:
            os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, stat.S_IMODE(status.st_mode))
            _copy_xattrs(source, fd)
        finally:
            os.close(source)
            os.close(fd)
        self._times[path] = (status.st_atime_ns, status.st_mtime_ns)

    # What is there

    def _stat(self, directory: Directory, name: bytes) -> os.stat_result | None:
        """What the finished tree would show."""
        try:
            status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return self._lower_stat(directory, name)
        except OSError as err:
            if err.errno == errno.ENAMETOOLONG:
                raise errors.InvalidArgument(f"the name {show(name)} is too long") from None
            raise
        if self._lower is not None and _is_whiteout(status):
            return None
        return status

    def _lower_stat(self, directory: Directory, name: bytes) -> os.stat_result | None:
        if not directory.lower or self._lower is None:
            return None
        try:
            return os.stat(b"/".join((*directory.path, name)), dir_fd=self._lower, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _read_link(self, directory: Directory, name: bytes) -> bytes:
        try:
            return os.readlink(name, dir_fd=directory.fd)
        except FileNotFoundError:
            assert self._lower is not None
            return os.readlink(b"/".join((*directory.path, name)), dir_fd=self._lower)

    def _open_lower(self, path: Path, flags: int) -> int:
        assert self._lower is not None
        return confine.open_beneath(self._lower, b"/".join(path), flags)

    # Removing

    def _clear(self, parent: Directory, name: bytes) -> None:
        """Takes away what stands where an entry is to be made; with it go the descriptors that led through it."""
        try:
            os.unlink(name, dir_fd=parent.fd)
        except IsADirectoryError:
            self._forget_below((*parent.path, name))
            remove_tree(parent.fd, name)
        else:
            self._by_name.clear()

    def _forget_below(self, path: Path) -> None:
        self._by_name.clear()
        depth = len(path)
        for known in [known for known in self._by_path if known[:depth] == path]:
            os.close(self._by_path.pop(known).fd)
        tables: tuple[dict[Path, Any], ...] = (self._times, self._acls, self._made)
        for table in tables:
            for known in [known for known in table if known[:depth] == path]:
                del table[known]

    def _white_out(self, entry: Entry, parent: bytes, base: bytes) -> None:
        hidden = base[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise errors.InvalidArgument(f"whiteout {show(entry.name)} names nothing")
        if base != OPAQUE and base.startswith(_AUFS):  # notes of aufs to itself
            return
        directory = self._find(parent, make=False)
        if directory is None:
            return
        if base == OPAQUE:
            self._make_opaque(directory)
        else:
            self._hide(directory, hidden)

    def _hide(self, directory: Directory, name: bytes) -> None:
        """What this layer itself has made stays: a whiteout speaks of the layers below."""
        below = self._lower_stat(directory, name) is not None
        if name not in directory.made:
            self._remove(directory, name)
            if below:
                os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory.fd)
            return
        status = self._stat(directory, name)
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._make_opaque(self._by_path.get((*directory.path, name)) or self._enter(directory, name, status))

    def _make_opaque(self, top: Directory) -> None:
        """Only what this layer has made stays, at any depth. Below an opaque directory nothing shows through anyhow."""
        if top.lower and not top.path:
            self._white_out_root(top)
        elif top.lower:
            os.setxattr(top.fd, self._opaque, b"y")
        todo = [top]
        while todo:
            directory = todo.pop()
            directory.lower = directory.lower and not directory.path
            for name in map(os.fsencode, os.listdir(directory.fd)):
                status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
                if self._lower is not None and _is_whiteout(status):
                    if directory.path:
                        self._remove(directory, name)
                elif name not in directory.made:
                    self._remove(directory, name)
                elif stat.S_ISDIR(status.st_mode):
                    known = self._by_path.get((*directory.path, name))
                    todo.append(known or self._enter(directory, name, status))

    def _white_out_root(self, root: Directory) -> None:
        """overlayfs merges the topmost directory always: what it shows of the lower layers is hidden name by name."""
        assert self._lower is not None
        for name in map(os.fsencode, os.listdir(self._lower)):
            self._hide(root, name)

    def _remove(self, directory: Directory, name: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._clear(directory, name)

    # Making

    def _file(self, directory: Directory, base: bytes, entry: Entry, source: Source) -> None:
        mode = entry.mode
        try:
            fd = os.open(base, _CREATE, mode, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, base)
            fd = os.open(base, _CREATE, mode, dir_fd=directory.fd)
        try:
            if entry.segments is not None:
                _write_sparse(fd, entry, source)
            elif entry.size:
                _write(fd, entry.size, source)
            if entry.uid or entry.gid or directory.strict:
                os.fchown(fd, entry.uid, entry.gid)
                if mode & 0o6000 or directory.strict:  # chown takes setuid away
                    _without_acl(fd)
                    os.fchmod(fd, mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            os.utime(fd, ns=(_bound(entry.atime), _bound(entry.mtime)))
        finally:
            os.close(fd)

    def _directory(self, parent: Directory, base: bytes, entry: Entry) -> None:
        path = (*parent.path, base)
        known = self._by_path.get(path)
        if known is None:
            status = self._there(parent, base)
            if status is None or not stat.S_ISDIR(status.st_mode):
                self._make_directory(parent, base, entry.mode)
            fd = os.open(base, _DIRECTORY, dir_fd=parent.fd)
            lower = self._lower_stat(parent, base)
            known = self._known(fd, path, lower is not None and stat.S_ISDIR(lower.st_mode), status is None)
            self._by_name[b"/".join(path)] = known
        self._dress_directory(known, entry)

    def _there(self, parent: Directory, base: bytes) -> os.stat_result | None:
        """What the root itself holds, whiteouts included."""
        try:
            return os.stat(base, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _dress_directory(self, directory: Directory, entry: Entry) -> None:
        if entry.type != archive.DIRECTORY:
            raise errors.InvalidArgument(f"tar entry {show(entry.name)} would replace the root")
        fd = directory.fd
        status = os.fstat(fd)
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.fchown(fd, entry.uid, entry.gid)
        for name in _list_xattrs(fd):
            if name not in (entry.xattrs or ()) and not name.startswith(_OVERLAY_XATTRS) and name not in _KEPT_XATTRS:
                os.removexattr(fd, name)
        if stat.S_IMODE(os.fstat(fd).st_mode) != entry.mode:
            os.fchmod(fd, entry.mode)
        if entry.xattrs:
            acl = entry.xattrs.pop(_DEFAULT_ACL, None)
            if acl is not None:
                self._acls[directory.path] = acl
            self._set_xattrs(fd, entry)
        directory.strict = bool(entry.mode & stat.S_ISGID)
        self._times[directory.path] = (_bound(entry.atime), _bound(entry.mtime))

    def _symlink(self, directory: Directory, base: bytes, entry: Entry) -> None:
        if not entry.link:
            raise errors.InvalidArgument(f"symbolic link {show(entry.name)} has no target")
        try:
            os.symlink(entry.link, base, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, base)
            os.symlink(entry.link, base, dir_fd=directory.fd)
        self._dress(directory, base, entry)

    def _node(self, directory: Directory, base: bytes, entry: Entry) -> None:
        kind, device = stat.S_IFIFO, 0
        if entry.type != archive.FIFO:
            kind = stat.S_IFCHR if entry.type == archive.CHARACTER else stat.S_IFBLK
            device = _device(entry)
        try:
            os.mknod(base, kind | entry.mode, device, dir_fd=directory.fd)
        except FileExistsError:
            self._clear(directory, base)
            os.mknod(base, kind | entry.mode, device, dir_fd=directory.fd)
        self._dress(directory, base, entry)

    def _dress(self, directory: Directory, base: bytes, entry: Entry) -> None:
        """What open(2) would follow or wait for is changed by name."""
        if entry.uid or entry.gid or directory.strict:
            os.chown(base, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)
            if entry.type != archive.SYMLINK:
                os.chmod(base, entry.mode, dir_fd=directory.fd)
        if entry.xattrs:
            os.fchdir(directory.fd)
            self._set_xattrs(base, entry)
        self._set_times(directory, base, entry)

    def _set_times(self, directory: Directory, base: bytes, entry: Entry) -> None:
        os.utime(base, ns=(_bound(entry.atime), _bound(entry.mtime)), dir_fd=directory.fd, follow_symlinks=False)

    def _link(self, directory: Directory, base: bytes, entry: Entry) -> None:
        target = clean(entry.link)
        parent, _, name = target.rpartition(b"/")
        missing = errors.InvalidArgument(f"hard link {show(entry.name)} to {show(entry.link)}: no such file")
        origin = self._find(parent, make=False) if name else None
        status = self._stat(origin, name) if origin else None
        if origin is None or status is None:
            raise missing
        if stat.S_ISDIR(status.st_mode):
            raise errors.InvalidArgument(f"hard link {show(entry.name)} to the directory {show(entry.link)}")
        if self._there(origin, name) is None:
            self._copy_file(origin, name, status)
        if (origin.path, name) == (directory.path, base):
            return
        try:
            os.link(name, base, src_dir_fd=origin.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        except FileExistsError:
            if (*origin.path, name)[: len(directory.path) + 1] == (*directory.path, base):
                raise errors.InvalidArgument(f"hard link {show(entry.name)} would replace its own target") from None
            self._clear(directory, base)
            os.link(name, base, src_dir_fd=origin.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        self._dress_again(directory, base, entry, status)

    def _dress_again(self, directory: Directory, base: bytes, entry: Entry, status: os.stat_result) -> None:
        """The header of a hard link describes its file once more, mostly in the same words. The last word counts."""
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.chown(base, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            now = os.stat(base, dir_fd=directory.fd, follow_symlinks=False)
            if stat.S_IMODE(now.st_mode) != entry.mode:
                os.chmod(base, entry.mode, dir_fd=directory.fd)
        if entry.xattrs:
            os.fchdir(directory.fd)
            self._set_xattrs(base, entry)
        if status.st_mtime_ns != entry.mtime:
            self._set_times(directory, base, entry)

    def _copy_file(self, directory: Directory, name: bytes, status: os.stat_result) -> None:
        """From the lower tree, as overlayfs does before a link can be made."""
        mode = stat.S_IMODE(status.st_mode)
        path = (*directory.path, name)
        times = (status.st_atime_ns, status.st_mtime_ns)
        if stat.S_ISREG(status.st_mode):
            fd = os.open(name, _CREATE, mode, dir_fd=directory.fd)
            source = self._open_lower(path, _READ)
            try:
                while os.sendfile(fd, source, None, 1 << 30):
                    pass
                os.fchown(fd, status.st_uid, status.st_gid)
                os.fchmod(fd, mode)
                _copy_xattrs(source, fd)
                os.utime(fd, ns=times)
            finally:
                os.close(source)
                os.close(fd)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(self._read_link(directory, name), name, dir_fd=directory.fd)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=directory.fd)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=directory.fd, follow_symlinks=False)
        os.utime(name, ns=times, dir_fd=directory.fd, follow_symlinks=False)

    def _set_xattrs(self, file: int | bytes, entry: Entry) -> None:
        """After the owner: a change of owner takes capabilities away."""
        for name, value in (entry.xattrs or {}).items():
            if name.startswith(_OVERLAY_XATTRS):
                continue  # words of overlayfs to itself: in an upper directory they would lead elsewhere
            _set_xattr(file, name, value, lenient=entry.type not in archive.FILES)


def clean(name: bytes) -> bytes:
    """Relative to the root, without empty parts, ``.`` and ``..``. Raises InvalidArgument for one that climbs above."""
    if len(name) > 4096:
        raise errors.InvalidArgument(f"the name {show(name)} is too long")
    if b"/." not in name and b"//" not in name and name[:1] not in (b".", b"/"):
        return name.removesuffix(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise errors.InvalidArgument(f"the name {show(name)} leads out of the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def remove_tree(parent: int, name: bytes) -> None:
    """A directory and all beneath it, without following links."""
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    stack = [(parent, name, fd, _remove_files(fd))]
    while stack:
        above, base, fd, children = stack[-1]
        if children:
            child = os.fsencode(children.pop())
            below = os.open(child, _DIRECTORY, dir_fd=fd)
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


def _write(fd: int, size: int, source: Source) -> None:
    for piece in source.pieces(size):
        while len(done := piece[os.write(fd, piece) :]):
            piece = done


def _write_sparse(fd: int, entry: Entry, source: Source) -> None:
    os.ftruncate(fd, entry.real_size)
    for offset, length in entry.segments or ():
        os.lseek(fd, offset, os.SEEK_SET)
        _write(fd, length, source)


def _device(entry: Entry) -> int:
    if not 0 <= entry.major < 1 << 12 or not 0 <= entry.minor < 1 << 20:
        raise errors.InvalidArgument(f"device {show(entry.name)} has an impossible number")
    return os.makedev(entry.major, entry.minor)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _bound(nanoseconds: int) -> int:
    return min(max(nanoseconds, -_MAX_TIME), _MAX_TIME)


def _list_xattrs(fd: int) -> Iterator[bytes]:
    try:
        return (os.fsencode(name) for name in os.listxattr(fd))
    except OSError as err:
        if err.errno in _UNSUPPORTED:
            return iter(())
        raise


def _get_xattr(fd: int, name: bytes) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError as err:
        if err.errno in (errno.ENODATA, *_UNSUPPORTED):
            return None
        raise


def _set_xattr(file: int | bytes, name: bytes, value: bytes, *, lenient: bool = True) -> None:
    """Attributes that the file system cannot hold are left out, as are those of users on what is no file."""
    try:
        if isinstance(file, int):
            os.setxattr(file, name, value)
        else:
            os.setxattr(file, name, value, follow_symlinks=False)
    except OSError as err:
        if err.errno not in _UNSUPPORTED and not (lenient and err.errno == errno.EPERM):
            raise


def _without_acl(fd: int) -> None:
    try:
        os.removexattr(fd, _ACL)
    except OSError as err:
        if err.errno not in (errno.ENODATA, *_UNSUPPORTED):
            raise


def _copy_xattrs(source: int, target: int) -> None:
    for name in list(_list_xattrs(source)):
        if not name.startswith(_OVERLAY_XATTRS):
            value = _get_xattr(source, name)
            if value is not None:
                _set_xattr(target, name, value)
