"""Entries of a layer become files beneath a root.

Two roots are possible. A plain one is the file system as it is: whiteouts remove. Or the root is the empty upper
directory of an overlay, which is three times as fast to write as the overlay itself: then ``lower`` shows, read-only,
what lies below it. Whiteouts become overlayfs's own, what a layer changes within a directory of a lower layer is made
in a copy of that directory, and a hard link to a file of a lower layer in a copy of that file. What the mounted overlay
shows afterwards is the same (Documentation/filesystems/overlayfs.rst of the linux kernel).

Descriptors of directories are kept, so that a file costs open, write, utimensat and close. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from plugin_sdk import errors, mounts, tars
from plugin_sdk.tars import Entry, show
from plugins_builtin.diff import attributes, directories
from plugins_builtin.diff.directories import Directories, Directory
from plugins_builtin.diff.streams import Source

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_XATTRS = (*attributes.OVERLAY, b"security.selinux", b"security.ima", b"security.evm")


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
        if not upper or not lowers or "::" in lowers or "\\" in upper + lowers or os.listdir(upper):
            return None
        lower = mounts.Mount("bind", lowers, "", ("rbind", "ro"))
        if ":" in lowers:
            options = root[0].options
            rest = [o for o in options if not o.startswith(("upperdir=", "workdir=")) and o not in ("rw", "volatile")]
            lower = mounts.Mount("overlay", "overlay", "", (*rest, "ro"))
        opaque = b"user.overlay.opaque" if "userxattr" in values else b"trusted.overlay.opaque"
        return cls([mounts.Mount("bind", upper, "", ("rbind", "rw"))], [lower], opaque)


class Tree:
    """``upper`` and ``lower`` are descriptors of directories; without ``lower`` the root is a plain one."""

    def __init__(self, upper: int, lower: int | None = None, opaque: bytes = b"trusted.overlay.opaque") -> None:
        self.upper = upper
        self._directories = Directories(upper, lower, opaque)

    def put(self, entry: Entry, source: Source) -> None:
        """Makes one entry, whose data, if it has any, is next in ``source``."""
        name = self._directories.name = entry.name = tars.clean(entry.name)
        parent, _, base = name.rpartition(b"/")
        self._directories.tidy()
        if base.startswith(WHITEOUT):
            self._white_out(entry, parent, base)
            return
        directory = self._directories.by_name.get(parent)
        if directory is None:
            directory = self._directories.by_name[parent] = self._directories.walk(parent)
        if not base:
            self._dress_directory(directory, entry)
            return
        self._directories.replaced(directory, base)
        kind = entry.type
        if kind in tars.FILES:
            self._file(directory, base, entry, source)
        elif kind == tars.DIRECTORY:
            self._directory(directory, base, entry)
        elif kind == tars.SYMLINK:
            self._symlink(directory, base, entry)
        elif kind == tars.HARD_LINK:
            self._link(directory, base, entry)
        elif kind == tars.CHARACTER and not entry.major and not entry.minor:
            self._hide(directory, base)  # as overlayfs itself writes whiteouts
            return
        else:
            self._node(directory, base, entry)
        directory.made.add(base)

    def finish(self) -> None:
        """Times and default ACLs of directories, which making their entries would have changed."""
        self._directories.finish()

    # Whiteouts

    def _white_out(self, entry: Entry, parent: bytes, base: bytes) -> None:
        hidden = base[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise errors.InvalidArgument(f"whiteout {show(entry.name)} names nothing")
        if base != OPAQUE and base.startswith(_AUFS):  # notes of aufs to itself
            return
        directory = self._directories.find(parent, make=False)
        if directory is None:
            return
        if base == OPAQUE:
            self._make_opaque(directory)
        else:
            self._hide(directory, hidden)

    def _hide(self, directory: Directory, name: bytes) -> None:
        """What this layer itself has made stays: a whiteout speaks of the layers below."""
        below = self._directories.lower_stat(directory, name) is not None
        if name not in directory.made:
            self._remove(directory, name)
            if below:
                os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory.fd)
            return
        status = self._directories.stat(directory, name)
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._make_opaque(self._directories.enter(directory, name, status))

    def _make_opaque(self, top: Directory) -> None:
        """Only what this layer has made stays, at any depth. Below an opaque directory nothing shows through anyhow."""
        if top.lower and not top.path:
            self._white_out_root()
        elif top.lower:
            os.setxattr(top.fd, self._directories.opaque, b"y")
            top.lower = False
        todo = [top.path]
        while todo:
            self._directories.tidy()
            directory = self._directories.reopen(todo.pop())
            directory.lower = directory.lower and not directory.path
            todo += [(*directory.path, name) for name in self._empty(directory)]

    def _empty(self, directory: Directory) -> list[bytes]:
        """Removes what this layer has not made, and returns its subdirectories that stay."""
        stay = []
        for name in map(os.fsencode, os.listdir(directory.fd)):
            status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            if self._directories.lower is not None and directories.is_whiteout(status):
                if directory.path:
                    self._remove(directory, name)
            elif name not in directory.made:
                self._remove(directory, name)
            elif stat.S_ISDIR(status.st_mode):
                stay.append(name)
        return stay

    def _white_out_root(self) -> None:
        """overlayfs merges the topmost directory always: what it shows of the lower layers is hidden name by name."""
        assert self._directories.lower is not None
        for name in map(os.fsencode, os.listdir(self._directories.lower)):
            self._hide(self._directories.root(), name)

    def _remove(self, directory: Directory, name: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._directories.clear(directory, name)

    # Making

    def _file(self, directory: Directory, base: bytes, entry: Entry, source: Source) -> None:
        mode = entry.mode
        try:
            fd = os.open(base, _CREATE, mode, dir_fd=directory.fd)
        except FileExistsError:
            self._directories.clear(directory, base)
            fd = os.open(base, _CREATE, mode, dir_fd=directory.fd)
        try:
            if entry.segments is not None:
                _write_sparse(fd, entry, source)
            elif entry.size:
                _write(fd, entry.size, source)
            if entry.uid or entry.gid or directory.strict:
                os.fchown(fd, entry.uid, entry.gid)
                if mode & 0o6000 or directory.strict:  # chown takes setuid away
                    attributes.drop_acl(fd)
                    os.fchmod(fd, mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            os.utime(fd, ns=_times(entry))
        finally:
            os.close(fd)

    def _directory(self, parent: Directory, base: bytes, entry: Entry) -> None:
        path = (*parent.path, base)
        known = self._directories.known(path)
        if known is None:
            status = self._there(parent, base)
            if status is None or not stat.S_ISDIR(status.st_mode):
                self._directories.make_directory(parent, base, entry.mode)
            fd = os.open(base, directories.OPEN, dir_fd=parent.fd)
            lower = self._directories.lower_stat(parent, base)
            known = self._directories.add(fd, path, lower is not None and stat.S_ISDIR(lower.st_mode), status is None)
            self._directories.by_name[b"/".join(path)] = known
        self._dress_directory(known, entry)

    def _there(self, parent: Directory, base: bytes) -> os.stat_result | None:
        """What the root itself holds, whiteouts included."""
        try:
            return os.stat(base, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _dress_directory(self, directory: Directory, entry: Entry) -> None:
        if entry.type != tars.DIRECTORY:
            raise errors.InvalidArgument(f"tar entry {show(entry.name)} would replace the root")
        fd = directory.fd
        status = os.fstat(fd)
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.fchown(fd, entry.uid, entry.gid)
        for name in attributes.names(fd):
            if (
                name not in (entry.xattrs or ())
                and not name.startswith(attributes.OVERLAY)
                and name not in _KEPT_XATTRS
            ):
                os.removexattr(fd, name)
        if stat.S_IMODE(os.fstat(fd).st_mode) != entry.mode:
            os.fchmod(fd, entry.mode)
        if entry.xattrs:
            acl = entry.xattrs.pop(attributes.DEFAULT_ACL, None)
            if acl is not None:
                self._directories.acls[directory.path] = acl
            self._set_xattrs(fd, entry)
        directory.strict = bool(entry.mode & stat.S_ISGID)
        self._directories.times[directory.path] = _times(entry)

    def _symlink(self, directory: Directory, base: bytes, entry: Entry) -> None:
        if not entry.link:
            raise errors.InvalidArgument(f"symbolic link {show(entry.name)} has no target")
        try:
            os.symlink(entry.link, base, dir_fd=directory.fd)
        except FileExistsError:
            self._directories.clear(directory, base)
            os.symlink(entry.link, base, dir_fd=directory.fd)
        self._dress(directory, base, entry)

    def _node(self, directory: Directory, base: bytes, entry: Entry) -> None:
        kind, device = stat.S_IFIFO, 0
        if entry.type != tars.FIFO:
            kind = stat.S_IFCHR if entry.type == tars.CHARACTER else stat.S_IFBLK
            device = _device(entry)
        try:
            os.mknod(base, kind | entry.mode, device, dir_fd=directory.fd)
        except FileExistsError:
            self._directories.clear(directory, base)
            os.mknod(base, kind | entry.mode, device, dir_fd=directory.fd)
        self._dress(directory, base, entry)

    def _dress(self, directory: Directory, base: bytes, entry: Entry) -> None:
        """What open(2) would follow or wait for is changed by name."""
        if entry.uid or entry.gid or directory.strict:
            os.chown(base, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)
            if entry.type != tars.SYMLINK:
                os.chmod(base, entry.mode, dir_fd=directory.fd)
        if entry.xattrs:
            os.fchdir(directory.fd)
            self._set_xattrs(base, entry)
        self._set_times(directory, base, entry)

    def _set_times(self, directory: Directory, base: bytes, entry: Entry) -> None:
        os.utime(
            base,
            ns=_times(entry),
            dir_fd=directory.fd,
            follow_symlinks=False,
        )

    def _link(self, directory: Directory, base: bytes, entry: Entry) -> None:
        target = tars.clean(entry.link)
        parent, _, name = target.rpartition(b"/")
        missing = errors.InvalidArgument(f"hard link {show(entry.name)} to {show(entry.link)}: no such file")
        origin = self._directories.find(parent, make=False) if name else None
        status = self._directories.stat(origin, name) if origin else None
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
            self._directories.clear(directory, base)
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
            source = self._directories.open_lower(path, _READ)
            try:
                while os.sendfile(fd, source, None, 1 << 30):
                    pass
                os.fchown(fd, status.st_uid, status.st_gid)
                os.fchmod(fd, mode)
                attributes.copy(source, fd)
                os.utime(fd, ns=times)
            finally:
                os.close(source)
                os.close(fd)
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(self._directories.read_link(directory, name), name, dir_fd=directory.fd)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=directory.fd)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=directory.fd, follow_symlinks=False)
        os.utime(name, ns=times, dir_fd=directory.fd, follow_symlinks=False)

    def _set_xattrs(self, file: int | bytes, entry: Entry) -> None:
        """After the owner: a change of owner takes capabilities away."""
        for name, value in (entry.xattrs or {}).items():
            if name.startswith(attributes.OVERLAY):
                continue  # words of overlayfs to itself: in an upper directory they would lead elsewhere
            attributes.put(file, name, value, lenient=entry.type not in tars.FILES)


def _times(entry: Entry) -> tuple[int, int]:
    return attributes.bound(entry.atime), attributes.bound(entry.mtime)


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
