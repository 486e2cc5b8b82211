"""Snapshots as layers of the linux kernel's overlayfs (Documentation/filesystems/overlayfs.rst).

::

    snapshots/<id>/fs       what this snapshot changes: an upper directory, and a lower one once it is committed
    snapshots/<id>/work     overlayfs' own, of active snapshots
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from plugin_sdk import copying, errors, mounts, snapshot_store, trees
from plugin_sdk.mounts import Mount
from plugin_sdk.plugin import SkipPlugin
from plugin_sdk.snapshots import Kind

_INDEX = "/sys/module/overlay/parameters/index"
_CHECK = "check-"
_WHOLE_RANGE = "4294967295"
_OVERLAYS_OWN = ("trusted.overlay.", "user.overlay.")  # an opaque root would hide the layers below


class Snapshotter(snapshot_store.Snapshotter):
    """Raises SkipPlugin when the file system of ``root`` cannot hold overlays."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._options = ("userxattr",) if in_user_namespace() else ()
        check(root, self._options)
        if os.path.exists(_INDEX):  # an index forbids to use a layer twice, as two containers of one image do
            self._options = ("index=off", *self._options)
        super().__init__(root)

    def _make(self, folder: Path, kind: Kind, parents: Sequence[int]) -> None:
        (folder / "fs").mkdir()
        (folder / "fs").chmod(0o755)
        if kind is Kind.ACTIVE:
            (folder / "work").mkdir()
            (folder / "work").chmod(0o711)
        if parents:
            _copy_root(self._tree(self.store.path(parents[0])), folder / "fs")

    def _mounts(self, snapshot: snapshot_store.Snapshot) -> list[Mount]:
        lowers = [str(self._tree(self.store.path(number))) for number in snapshot.parents]
        folder = self.store.path(snapshot.id)
        view = snapshot.info.kind is Kind.VIEW
        if not lowers:
            return [_bind(self._tree(folder), "ro" if view else "rw")]
        if view and len(lowers) == 1:
            return [_bind(lowers[0], "ro")]
        upper = () if view else (f"workdir={folder}/work", f"upperdir={folder}/fs")
        return [Mount("overlay", "overlay", "", (*self._options, *upper, "lowerdir=" + ":".join(lowers)))]

    def _tree(self, folder: Path) -> Path:
        return folder / "fs"


def in_user_namespace() -> bool:
    """There, only attributes beginning with ``user.`` can be set; user_namespaces(7)."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() != ["0", "0", _WHOLE_RANGE]


def check(root: Path, options: Sequence[str] = ()) -> None:
    """Tries an overlay below ``root``, for a moment. Raises SkipPlugin with what is missing."""
    for left in root.glob(f"{_CHECK}*"):  # of a process that was killed here
        mounts.unmount_below(left)
        trees.remove(left)
    with tempfile.TemporaryDirectory(prefix=_CHECK, dir=root) as name:
        folder = Path(name)
        for part in ("lower", "upper", "work", "target"):
            (folder / part).mkdir()
        (folder / "lower" / "file").touch()
        _check_entry_types(folder / "lower")
        layers = f"workdir={folder}/work", f"upperdir={folder}/upper", f"lowerdir={folder}/lower"
        try:
            mounts.mount(Mount("overlay", "overlay", "", (*options, *layers)), folder / "target")
        except errors.Error as err:
            raise SkipPlugin(f"the file system of {root} cannot hold overlays: {err.message}") from err
        try:
            (folder / "target" / "file").unlink()
        except OSError as err:
            raise SkipPlugin(f"the file system of {root} cannot hold whiteouts: {err.strerror}") from err
        finally:
            mounts.unmount_all(folder / "target")


def _check_entry_types(folder: Path) -> None:
    """Without types in directory entries (d_type, readdir(3)) overlayfs shows its whiteouts as devices. An entry that
    has its type still knows it when the file has gone."""
    with os.scandir(folder) as entries:
        entry = next(entries)
    os.unlink(entry.path)
    known = entry.is_file(follow_symlinks=False)
    Path(entry.path).touch()
    if not known:
        raise SkipPlugin(f"the file system of {folder.parent.parent} has no types in directory entries")


def _bind(source: Path | str, access: str) -> Mount:
    return Mount("bind", str(source), "", (access, "rbind"))


def _copy_root(parent: Path, fs: Path) -> None:
    """The root directory of an overlay is that of its upper layer: it has to look like the parent's."""
    old = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        new = os.open(fs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            copying.attributes(old, new, but=_OVERLAYS_OWN)
        finally:
            os.close(new)
    finally:
        os.close(old)
