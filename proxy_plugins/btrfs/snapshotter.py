"""Snapshots as subvolumes of btrfs: made and removed at once, whatever their size, and shared where they are the same.

::

    snapshots/<id>      the subvolume of an active snapshot, writable, or of a committed one, read-only

A view of a committed snapshot has no subvolume: its mount shows the parent's. docs/design/btrfs.md says why things are
as they are. Needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from plugin_sdk import errors, snapshot_store, trees
from plugin_sdk.mounts import Mount
from plugin_sdk.plugin import SkipPlugin
from plugin_sdk.snapshots import Kind, Usage
from proxy_plugins.btrfs import ioctl

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LATER = Usage(-1, -1)  # of a committed snapshot: its tree says it at any time
_NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EMLINK, errno.ENOMEM
_NO_RIGHT = errno.EPERM, errno.EACCES


class Snapshotter(snapshot_store.Snapshotter):
    """Raises SkipPlugin when ``root`` is not on btrfs, PermissionDenied without rights, FailedPrecondition when it is
    read-only or another process has it."""

    def __init__(self, root: Path) -> None:
        root = root.absolute()
        self._lost: dict[int, int] = {}  # by id: how many writes had been lost when the active snapshot was made
        with _explained(f"the root of the snapshots, {root}, cannot be used"):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lost_at_start = _check(root)
            super().__init__(root)

    def usage(self, key: str) -> Usage:
        """Of an active snapshot: the file system is synced first, since its trees lag behind."""
        snapshot = self.store.get(key)
        if snapshot.info.kind is not Kind.ACTIVE and snapshot.usage != _LATER:
            return snapshot.usage
        try:
            usage = self._measure(snapshot)
        except FileNotFoundError as err:
            if self.store.get(key).id != snapshot.id:  # committed or removed, and made again, meanwhile
                return self.usage(key)
            raise errors.DataLoss(f'the subvolume {err.filename} of snapshot "{key}" is missing') from err
        if snapshot.info.kind is Kind.COMMITTED:
            self.store.measured(snapshot.id, usage)
        return usage

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        self.store.replace(name, key, labels, self._freeze)

    def _open(self, root: Path) -> snapshot_store.Store:
        return snapshot_store.Store(root, self._make, self._destroy, atomic=True)

    def _make(self, folder: Path, kind: Kind, parents: Sequence[int]) -> None:
        if parents and kind is Kind.VIEW:
            return
        with _explained(f"cannot make the subvolume {folder}"), _opened(folder.parent) as beside:
            if parents:
                with _opened(self.store.path(parents[0])) as parent:
                    ioctl.snapshot(parent, beside, folder.name)
            else:
                ioctl.create(beside, folder.name)
                os.chmod(folder.name, 0o755, dir_fd=beside)
            self._lost[int(folder.name)] = ioctl.lost_writes(beside)

    def _destroy(self, folder: Path) -> None:
        self._lost.pop(int(folder.name) if folder.name.isdecimal() else -1, None)
        with _opened(folder.parent) as beside:
            left = [folder.name]
            while left:
                try:
                    ioctl.destroy(beside, left[-1])
                except OSError as err:
                    if err.errno == errno.ENOTEMPTY:
                        with contextlib.suppress(FileNotFoundError):  # somebody else destroys it too
                            _pull_out(beside, left[-1], left)
                        continue
                    if err.errno != errno.ENOENT:
                        raise
                left.pop()

    def _mounts(self, snapshot: snapshot_store.Snapshot) -> list[Mount]:
        if snapshot.info.kind is Kind.VIEW:
            shown = snapshot.parents[0] if snapshot.parents else snapshot.id
            return [Mount("bind", str(self.store.path(shown)), "", ("rbind", "ro"))]
        return [Mount("bind", str(self.store.path(snapshot.id)), "", ("rbind", "rw"))]

    def _tree(self, folder: Path) -> Path:
        return folder

    def _freeze(self, snapshot: snapshot_store.Snapshot, target: Path) -> Usage:
        """A read-only snapshot, since that also waits until the files are on disk, and since whoever still has a file
        of the active one open can no longer change the committed one."""
        source = self.store.path(snapshot.id)
        with (
            _explained(f'cannot commit snapshot "{snapshot.info.name}"'),
            _opened(source) as active,
            _opened(target.parent) as beside,
        ):
            usage = self._measure(snapshot) if ioctl.quota(active) else _LATER
            ioctl.snapshot(active, beside, target.name, read_only=True)
            lost = ioctl.lost_writes(active)
        if lost != self._lost.get(snapshot.id, self._lost_at_start):
            self._destroy(target)
            text = f'snapshot "{snapshot.info.name}" cannot be written to disk: a device has failed writes meanwhile'
            raise errors.DataLoss(text)
        return usage

    def _measure(self, snapshot: snapshot_store.Snapshot) -> Usage:
        """What the parent did not have: its subvolume is older than all that came later."""
        active = snapshot.info.kind is Kind.ACTIVE
        with _opened(self.store.path(snapshot.id)) as fd:
            if active:
                ioctl.sync(fd)
            since = 0
            if snapshot.parents:
                with _opened(self.store.path(snapshot.parents[0])) as parent:
                    since = ioctl.subvolume(parent).born
            size, inodes = ioctl.own(fd, since)
            if active and ioctl.quota(fd):
                counted = ioctl.exclusive(fd, ioctl.subvolume(fd).id)
                size = size if counted is None else counted
        return Usage(size, inodes)


def _check(root: Path) -> int:
    """Answers how many writes the file system has lost so far."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not ioctl.is_btrfs(fd):
            raise SkipPlugin(f"the root of the snapshots, {root}, is not on btrfs")
        try:
            ioctl.quota(fd)
        except PermissionError as err:
            raise errors.PermissionDenied(f"the snapshots in {root} need the capability CAP_SYS_ADMIN") from err
        return ioctl.lost_writes(fd)
    finally:
        os.close(fd)


def _pull_out(beside: int, name: str, found: list[str]) -> None:
    """Moves the subvolumes within the one of that ``name`` beside it; adds their new names to ``found``. A container
    may have made them, and have made them read-only."""
    before = len(found)
    with _opened(name, beside) as outer:
        _make_writable(outer)
        for nested in ioctl.nested(outer, ioctl.subvolume(outer).id):
            folder = trees.open_folder(outer, ioctl.path(outer, nested.folder))
            try:
                with _opened(nested.name, folder) as inner:
                    _make_writable(inner)
                moved = f"{snapshot_store.REMOVED}{secrets.token_hex(8)}"
                os.rename(nested.name, moved, src_dir_fd=folder, dst_dir_fd=beside)
                found.append(moved)
            finally:
                os.close(folder)
    if len(found) == before:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)


def _make_writable(subvolume: int) -> None:
    if ioctl.is_read_only(subvolume):
        ioctl.set_read_only(subvolume, False)


@contextlib.contextmanager
def _opened(path: str | bytes | Path, folder: int | None = None) -> Iterator[int]:
    fd = os.open(path, _FOLDER, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _explained(text: str) -> Iterator[None]:
    """What the linux kernel refuses, as one sentence."""
    try:
        yield
    except OSError as err:
        raise _named(err)(f"{text}: {err.strerror}") from err


def _named(err: OSError) -> type[errors.Error]:
    if err.errno in _NO_ROOM:
        return errors.ResourceExhausted
    if err.errno in _NO_RIGHT:
        return errors.PermissionDenied
    return errors.DataLoss if err.errno in (errno.EIO, errno.ENOENT) else errors.FailedPrecondition
