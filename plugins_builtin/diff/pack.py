"""The worker that compares two trees: a child of the spawner, entry ``plugins_builtin.diff.pack:main``.

``fds`` are the pipe for the blob and the one for the result. ``params`` as in ``plugins_builtin.diff.unpack``, but
``lower`` and ``upper`` instead of ``mounts``, and ``epoch``: nanoseconds that bound every time, or None. The result is
one line of JSON, after the blob's end: {"digest", "size", "entries"} of the uncompressed tar, or {"error", "message"}.
Standard library only.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from plugin_sdk import errors, mounts, tar_headers, tars
from plugin_sdk.tars import Entry
from plugins_builtin.diff import changes, confine, streams, tree, unpack

_UPPER, _LOWER = b"upper", b"lower"
_TYPES = {
    stat.S_IFREG: tars.REGULAR,
    stat.S_IFDIR: tars.DIRECTORY,
    stat.S_IFLNK: tars.SYMLINK,
    stat.S_IFCHR: tars.CHARACTER,
    stat.S_IFBLK: tars.BLOCK_DEVICE,
    stat.S_IFIFO: tars.FIFO,
}


def main(params: Mapping[str, Any], fds: Sequence[int]) -> int:
    blob, result = fds
    return unpack.report(result, lambda: _pack(params, blob))


def _pack(params: Mapping[str, Any], blob: int) -> Mapping[str, object]:
    codecs = streams.Codecs(params["site"])
    confine.limit(params["memory"], params["output"])
    sides = {name: mounts.read_only(unpack.mounts_of(params[name])) for name in ("lower", "upper")}
    confine.stage(params["stage"], sides)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    confine.fence([], [os.open(_LOWER, flags), os.open(_UPPER, flags)])
    sink = Sink(blob, codecs.deflate(params["compression"]))
    packer = _Packer(sink, params["epoch"])
    found = changes.between(_LOWER, _UPPER, root=bool(sides["lower"]))
    for change in found:
        packer.add(change)
    sink.add(tar_headers.END)
    digest = sink.close()
    os.close(blob)
    return {"digest": digest, "size": sink.size, "entries": len(found)}


class _Packer:
    def __init__(self, sink: Sink, epoch: int | None) -> None:
        self._sink = sink
        self._epoch = epoch
        self._links: dict[tuple[int, int], bytes] = {}

    def add(self, change: changes.Change) -> None:
        parent, _, base = change.path.rpartition(b"/")
        if base.startswith(tree.WHITEOUT):
            raise errors.InvalidArgument(f"{tars.show(change.path)} cannot be in a layer: it would be a whiteout")
        if change.status is None:
            self._sink.add(tar_headers.format(self._whiteout(parent, base)))
            return
        entry = self._entry(change.path, change.status)
        self._sink.add(tar_headers.format(entry))
        if entry.size:
            self._data(change.path, entry.size)

    def _whiteout(self, parent: bytes, base: bytes) -> Entry:
        """As old as the directory, which the removal has changed."""
        name = tree.WHITEOUT + base
        entry = _blank(parent + b"/" + name if parent else name, tars.REGULAR)
        entry.mtime = self._bound(os.lstat(os.path.join(_UPPER, parent)).st_mtime_ns)
        return entry

    def _entry(self, path: bytes, status: os.stat_result) -> Entry:
        entry = _blank(path, _TYPES[stat.S_IFMT(status.st_mode)])
        entry.mode = stat.S_IMODE(status.st_mode)
        entry.uid, entry.gid = status.st_uid, status.st_gid
        entry.mtime = self._bound(status.st_mtime_ns)
        source = os.path.join(_UPPER, path)
        if entry.type == tars.DIRECTORY:
            entry.name = path + b"/" if path else b"./"
        elif status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                entry.type, entry.link = tars.HARD_LINK, first
                return entry
        entry.xattrs = changes.xattrs(source)
        if entry.type == tars.REGULAR:
            entry.size = status.st_size
        elif entry.type == tars.SYMLINK:
            entry.link = os.readlink(source)
        elif entry.type in (tars.CHARACTER, tars.BLOCK_DEVICE):
            entry.major, entry.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        return entry

    def _data(self, path: bytes, size: int) -> None:
        """Exactly as much as the header says: a file that grows meanwhile is cut, one that shrinks filled up."""
        left = size
        with open(os.path.join(_UPPER, path), "rb", buffering=0, opener=_open) as file:
            while left and (block := file.read(min(left, streams.CHUNK))):
                self._sink.add(block)
                left -= len(block)
        while left:
            self._sink.add(bytes(min(left, streams.CHUNK)))
            left -= min(left, streams.CHUNK)
        self._sink.add(tar_headers.padding(size))

    def _bound(self, time: int) -> int:
        return time if self._epoch is None else min(time, self._epoch)


class Sink:
    """Takes the tar; one thread computes its digest, another compresses it and writes it to ``fd``."""

    def __init__(self, fd: int, deflate: streams.Deflate) -> None:
        self._fd = fd
        self._deflate = deflate
        self._hash = streams.Hash()
        self._parts: list[bytes] = []
        self._held = 0
        self._failure: OSError | None = None
        self._queue: queue.Queue[bytes | None] = queue.Queue(8)
        self._thread = threading.Thread(target=self._run, name="deflate", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        return self._hash.size

    def add(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        if self._held >= streams.CHUNK:
            self._flush()

    def close(self) -> str:
        """The digest, when all is written. Raises OSError."""
        self._flush()
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._hash.digest()

    def _flush(self) -> None:
        block = b"".join(self._parts)
        self._parts, self._held = [], 0
        self._hash.add(block)
        self._queue.put(block)

    def _run(self) -> None:
        while (block := self._queue.get()) is not None:
            self._write(self._deflate.compress(block))
        self._write(self._deflate.flush())

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view and self._failure is None:
                view = view[os.write(self._fd, view) :]
        except OSError as err:
            self._failure = err


def _blank(name: bytes, kind: bytes) -> Entry:
    entry = Entry()
    entry.name, entry.type, entry.link = name, kind, b""
    entry.mode = entry.uid = entry.gid = entry.size = entry.mtime = entry.major = entry.minor = 0
    entry.xattrs = None
    return entry


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
