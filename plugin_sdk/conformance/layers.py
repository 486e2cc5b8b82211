"""Layers and trees for the suite of differs: tars that the standard library's tarfile makes, what a directory shows."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from plugin_sdk import mounts
from plugin_sdk.mounts import Mount

WHEN = 1_500_000_000_123_456_789
"""Of members that ask for no other time; nanoseconds."""

Member = tuple[tarfile.TarInfo, bytes]
Tree = dict[str, tuple[object, ...]]


def member(
    name: str,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int | None = None,
    owner: tuple[int, int] = (0, 0),
    time: int | None = WHEN,
    link: str = "",
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[str, bytes] | None = None,
    pax: Mapping[str, str] | None = None,
) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    info.mode = mode if mode is not None else 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.uid, info.gid = owner
    info.devmajor, info.devminor = device
    info.pax_headers = dict(pax or {})
    if time is not None:
        info.pax_headers["mtime"] = f"{time // 10**9}.{time % 10**9:09}"
    for key, value in (xattrs or {}).items():
        info.pax_headers[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
    return info, data


def directory(name: str, mode: int = 0o755, **more: object) -> Member:
    return member(name, kind=tarfile.DIRTYPE, mode=mode, **more)  # type: ignore[arg-type]


def symlink(name: str, target: str) -> Member:
    return member(name, kind=tarfile.SYMTYPE, mode=0o777, link=target)


def hard_link(name: str, target: str, **more: object) -> Member:
    return member(name, kind=tarfile.LNKTYPE, link=target, **more)  # type: ignore[arg-type]


def tar(*members: Member, format: int = tarfile.PAX_FORMAT, pax: Mapping[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode="w", format=format, pax_headers=dict(pax or {}), errors="surrogateescape"
    ) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def block(name: bytes, size: int = 0, kind: bytes = b"0", *, link: bytes = b"", tail: bytes = b"") -> bytes:
    """One header as raw bytes; ``tail`` stands from byte 257 on."""
    numbers = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % (WHEN // 10**9)
    header = name.ljust(100, b"\0") + numbers + b" " * 8 + kind + link.ljust(100, b"\0")
    header = (header + tail).ljust(512, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def pax_header(records: list[tuple[str, str]]) -> bytes:
    data = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode()
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        data += str(length).encode() + rest
    return block(b"header", len(data), b"x") + padded(data)


def zstd(data: bytes) -> bytes:
    import zstandard

    return bytes(zstandard.ZstdCompressor(write_checksum=True).compress(data))


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def scan(root: str | os.PathLike[str], *, times: bool = True) -> Tree:
    """Every path with kind and mode, owner, content, names of the same file, attributes and time; the root is ``.``.

    Times of directories are left out.
    """
    first: dict[tuple[int, int], str] = {}
    paths = ["."]
    for folder, folders, files in os.walk(root):
        paths += [os.path.relpath(os.path.join(folder, name), root) for name in folders + files]
    return {path: _node(os.path.join(root, path), path, first, times) for path in sorted(paths)}


def _node(full: str, path: str, first: dict[tuple[int, int], str], times: bool) -> tuple[object, ...]:
    status = os.lstat(full)
    folder = stat.S_ISDIR(status.st_mode)
    names = [name for name in os.listxattr(full, follow_symlinks=False) if ".overlay." not in name]
    return (
        stat.filemode(status.st_mode),
        (status.st_uid, status.st_gid),
        _content(full, status),
        "" if folder else first.setdefault((status.st_dev, status.st_ino), path),
        tuple((name, os.getxattr(full, name, follow_symlinks=False)) for name in sorted(names)),
        status.st_mtime_ns if times and not folder else 0,
    )


def _content(full: str, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(full)
    if stat.S_ISREG(status.st_mode):
        return hashlib.sha256(Path(full).read_bytes()).hexdigest()
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


class Stack:
    """Layers one upon another, as a snapshotter keeps them: ``plain`` copies, ``overlay`` stacks directories,
    ``through`` is an overlay whose upper directory is in use already."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self._folder = folder
        self._layers: list[Path] = []

    def beside(self, name: str) -> Path:
        """A new directory for another stack."""
        path = self._folder / name
        path.mkdir()
        return path

    def push(self) -> list[Mount]:
        """A new writable layer on top; its mounts."""
        path = self._folder / f"layer-{len(self._layers)}"
        path.mkdir()
        if self.kind == "plain" and self._layers:
            path.rmdir()
            copy(self._layers[-1], path)
        self._layers.append(path)
        if self.kind == "through" and len(self._layers) > 1:
            with mounts.temporary(self.mounts(), self._folder) as root:
                Path(root, ".used").touch()
                Path(root, ".used").unlink()
                Path(root, "used").touch()
                os.utime(Path(root, "used"), ns=(WHEN, WHEN))
        return self.mounts()

    def mounts(self) -> list[Mount]:
        """Of the top layer, writable."""
        if self.kind == "plain" or len(self._layers) == 1:
            return [Mount("bind", str(self._layers[-1]), "", ("rbind", "rw"))]
        work = self._folder / f"work-{len(self._layers)}"
        work.mkdir(exist_ok=True)
        lower = ":".join(map(str, reversed(self._layers[:-1])))
        options = (f"workdir={work}", f"upperdir={self._layers[-1]}", f"lowerdir={lower}")
        return [Mount("overlay", "overlay", "", options)]

    def view(self, depth: int) -> list[Mount]:
        """The lowest ``depth`` layers, read-only."""
        layers = self._layers[:depth]
        if self.kind == "plain" or depth == 1:
            return [Mount("bind", str(layers[-1]), "", ("rbind", "ro"))]
        return [Mount("overlay", "overlay", "", ("lowerdir=" + ":".join(map(str, reversed(layers))),))]

    @contextlib.contextmanager
    def writable(self) -> Iterator[Path]:
        with mounts.temporary(self.mounts(), self._folder) as root:
            yield Path(root)

    def tree(self, *, times: bool = True) -> Tree:
        """What a container would see, without what ``through`` has put there."""
        with mounts.temporary(self.view(len(self._layers)), self._folder) as root:
            return {path: node for path, node in scan(root, times=times).items() if path != "used"}


def copy(source: Path, target: Path) -> None:
    """The whole tree with hard links, devices, attributes and times."""
    links: dict[tuple[int, int], Path] = {}
    _copy(source, target, links)


def _copy(source: Path, target: Path, links: dict[tuple[int, int], Path]) -> None:
    status = os.lstat(source)
    first = links.setdefault((status.st_dev, status.st_ino), target)
    if stat.S_ISDIR(status.st_mode):
        target.mkdir()
        for name in os.listdir(source):
            _copy(source / name, target / name, links)
    elif first != target:
        os.link(first, target, follow_symlinks=False)
        return
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(status.st_mode):
        shutil.copyfile(source, target)
    else:
        os.mknod(target, status.st_mode, status.st_rdev)
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def names(data: bytes) -> list[str]:
    """Of the members of a tar."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def members(data: bytes) -> Sequence[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()
