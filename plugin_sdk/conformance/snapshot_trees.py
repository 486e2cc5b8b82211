"""Trees of files as the suite for snapshotters writes and compares them. Mounting takes root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from plugin_sdk import mounts, snapshots

_LEVEL = "directory"
_CACHESTAT = 451  # cachestat(2), of linux 6.5, the same number on every architecture
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def shown(instructions: Sequence[mounts.Mount]) -> Iterator[Path]:
    with mounts.temporary(instructions) as folder:
        yield Path(folder)


def commit(snapshotter: snapshots.Snapshotter, name: str, parent: str = "", **files: str) -> None:
    """A layer that holds these files."""
    with shown(snapshotter.prepare(f"prepare {name}", parent)) as folder:
        for file, text in files.items():
            (folder / file).write_text(text)
    snapshotter.commit(name, f"prepare {name}")


def names(snapshotter: snapshots.Snapshotter, *filters: str) -> set[str]:
    return {info.name for info in snapshotter.walk(filters)}


def texts(instructions: Sequence[mounts.Mount]) -> dict[str, str]:
    with shown(instructions) as folder:
        return {path.name: path.read_text(errors="surrogateescape") for path in folder.iterdir() if path.is_file()}


def appearance(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that can be told of a tree, by path."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _attributes(path)}
        if stat.S_ISREG(status.st_mode):
            content: object = path.read_bytes()
        else:
            content = os.readlink(path) if path.is_symlink() else status.st_rdev
        owner = status.st_uid, status.st_gid
        # The links of a directory are not kept by every file system.
        links = 0 if path.is_dir() else status.st_nlink
        found[str(path.relative_to(folder))] = status.st_mode, owner, status.st_mtime_ns, links, attributes, content
    return found


def _attributes(path: Path) -> list[str]:
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if ".overlay." not in name)


def fill(folder: Path) -> None:
    """Every sort of file."""
    (folder / "sub" / "deeper").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(os.urandom(100_000))
    (folder / "sub" / "setuid").write_text("x")
    (folder / "sub" / "setuid").chmod(0o4755)
    os.chown(folder / "sub" / "deeper", 1234, 5678)
    (folder / "sub" / "deeper").chmod(0o1770)
    os.link(folder / "sub" / "file", folder / "sub" / "deeper" / "hard link")
    (folder / "link").symlink_to("sub/file")
    (folder / "dangling").symlink_to("/nowhere")
    os.lchown(folder / "link", 7, 8)
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(folder / "socket", stat.S_IFSOCK | 0o600)
    with (folder / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    os.setxattr(folder / "sub" / "file", "trusted.color", b"red")
    os.setxattr(folder / "sub", "trusted.color", b"\x00blue")
    os.utime(folder / "sub" / "file", ns=(1_000_000_007, 1_500_000_000_123_456_789))
    os.utime(folder / "link", ns=(5, 1_400_000_000_000_000_001), follow_symlinks=False)
    os.utime(folder / "sub", ns=(5, 1_300_000_000_000_000_003))
    folder.chmod(0o751)


def make_deep(folder: Path, levels: int) -> None:
    """Directories within directories, beyond the length of a path."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(_LEVEL, dir_fd=fd)
        fd = _down(fd)
    os.close(fd)


def depth(folder: Path) -> int:
    """Of what ``make_deep`` made."""
    fd = os.open(folder, os.O_RDONLY)
    levels = 0
    while os.listdir(fd) == [_LEVEL]:
        fd = _down(fd)
        levels += 1
    os.close(fd)
    return levels


def _down(fd: int) -> int:
    below = os.open(_LEVEL, os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    return below


def unwritten(fd: int) -> int | None:
    """Pages of an open file that wait to be written to its disk; None where the linux kernel cannot tell."""
    everything = (ctypes.c_uint64 * 2)(0, 0)
    counts = (ctypes.c_uint64 * 5)()  # cached, dirty, being written, evicted, evicted lately
    if _libc.syscall(ctypes.c_long(_CACHESTAT), ctypes.c_long(fd), everything, counts, ctypes.c_long(0)) < 0:
        return None
    return int(counts[1] + counts[2])


def places(instructions: Sequence[mounts.Mount]) -> set[str]:
    """The paths that mounts name, in their sources and options."""
    values = [one.source for one in instructions]
    values += [option.partition("=")[2] for one in instructions for option in one.options]
    return {path for value in values for path in value.split(":") if path.startswith("/")}
