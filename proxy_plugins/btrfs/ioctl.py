"""The requests of btrfs that a snapshotter needs, by ioctl(2); no btrfs program.

Each takes an open directory of the file system. Removing a subvolume and searching a tree need CAP_SYS_ADMIN. All raise
OSError. Sources: ioctl_tree(2), btrfs-ioctl(2), the linux kernel's include/uapi/linux/btrfs.h and btrfs_tree.h, and
"On-disk Format" in the documentation of btrfs.

By ctypes, since ``fcntl.ioctl`` holds Python's lock while it works on an argument of more than 1024 bytes: a snapshot
waits for the disk, and all other threads would wait with it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

NAME_MAX = 255  # bytes of a subvolume's name
ROOT_FOLDER = 256  # the inode of every subvolume's root directory

_WRITE, _READ = 1 << 30, 2 << 30


def _number(direction: int, number: int, size: int) -> int:
    return direction | size << 16 | 0x94 << 8 | number


_SYNC = _number(0, 8, 0)
_DESTROY = _number(_WRITE, 15, 4096)
_SEARCH = _number(_WRITE | _READ, 17, 112)
_SNAPSHOT = _number(_WRITE, 23, 4096)
_CREATE = _number(_WRITE, 24, 4096)
_GET_FLAGS = _number(_READ, 25, 8)
_SET_FLAGS = _number(_WRITE, 26, 8)
_FS_INFO = _number(_READ, 31, 1024)
_DEVICE_ERRORS = _number(_WRITE | _READ, 52, 1032)
_SUBVOLUME_INFO = _number(_READ, 60, 504)

_READ_ONLY = 1 << 1

_ROOT_TREE, _QUOTA_TREE = 1, 8
_OWN_TREE = 0  # that of the subvolume of the descriptor
_INODE_ITEM, _INODE_REF, _EXTENT_DATA, _ROOT_REF, _QGROUP_STATUS, _QGROUP_INFO = 1, 12, 108, 156, 240, 242
_QGROUP_ON, _QGROUP_RESCAN, _QGROUP_INCONSISTENT = 1, 2, 4
_INLINE = 0  # file data within the tree itself
_LARGEST = (1 << 64) - 1

_SEARCH_KEY = struct.Struct("=7Q4I4QQ")
_SEARCH_ROOM = 1 << 17  # bytes; no item is larger than a node, 64 KiB
_ITEM = struct.Struct("=QQQII")  # transaction, inode or tree, offset, type, length
_INODE = struct.Struct("=Q")  # the transaction that made it
_EXTENT = struct.Struct("=QQBBHB")  # the transaction that wrote it, length in memory, packing (3), type
_EXTENT_PLACE = struct.Struct("=QQQQ")  # address and length on disk, offset and length of what is used of it
_REF = struct.Struct("=QH")  # index, length of the name
_ROOT = struct.Struct("=QQH")  # directory, index, length of the name

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Subvolume:
    """``id`` is that of its tree; ``born`` the transaction that made it: what was changed later has a higher one."""

    id: int
    born: int


@dataclass(frozen=True, slots=True)
class Nested:
    """A subvolume below another one: its ``name`` in the directory with the inode ``folder``."""

    id: int
    folder: int
    name: bytes


class _Item(NamedTuple):
    """An item of a tree: its key, and where in the buffer its ``length`` bytes are. Not a dataclass: there are many."""

    inode: int
    kind: int
    offset: int
    buffer: memoryview
    start: int
    length: int

    @property
    def place(self) -> tuple[memoryview, int]:
        return self.buffer, self.start


def is_btrfs(fd: int) -> bool:
    try:
        _call(fd, _FS_INFO, bytearray(1024))
    except OSError as err:
        if err.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return False
    return True


def create(folder: int, name: str) -> None:
    """Makes an empty subvolume in the open ``folder``; mode 0777 without the process's umask."""
    _call(folder, _CREATE, _arguments(0, name, 0))


def snapshot(source: int, folder: int, name: str, read_only: bool = False) -> None:
    """Makes the subvolume ``name`` in ``folder`` that shows what the subvolume ``source`` shows now, without the
    subvolumes within. When it returns, all of it is on disk, what others had not yet written back in ``source`` too;
    but for writes that the disk refused, see ``lost_writes``."""
    _call(folder, _SNAPSHOT, _arguments(source, name, _READ_ONLY if read_only else 0))


def destroy(folder: int, name: bytes | str) -> None:
    """Removes a subvolume; its space comes back later. Raises OSError, ENOTEMPTY while it has another one within."""
    encoded = _encoded(name)
    arguments = bytearray(4096)
    arguments[8 : 8 + len(encoded)] = encoded
    _call(folder, _DESTROY, arguments)


def is_read_only(subvolume: int) -> bool:
    flags = bytearray(8)
    _call(subvolume, _GET_FLAGS, flags)
    return bool(int.from_bytes(flags, "little") & _READ_ONLY)


def set_read_only(subvolume: int, read_only: bool) -> None:
    flags = bytearray(8)
    _call(subvolume, _GET_FLAGS, flags)
    others = int.from_bytes(flags, "little") & ~_READ_ONLY
    _call(subvolume, _SET_FLAGS, bytearray((others | (_READ_ONLY if read_only else 0)).to_bytes(8, "little")))


def sync(fd: int) -> None:
    """Writes the whole file system to disk; the trees and the quotas then say what is so."""
    _call(fd, _SYNC, bytearray(8))


def subvolume(fd: int) -> Subvolume:
    info = bytearray(504)
    _call(fd, _SUBVOLUME_INFO, info)
    return Subvolume(*struct.unpack_from("=Q", info, 0), *struct.unpack_from("=Q", info, 352))


def lost_writes(fd: int) -> int:
    """How many writes and flushes the file system's devices have failed; the number is kept over reboots."""
    info = bytearray(1024)
    _call(fd, _FS_INFO, info)
    (highest,) = struct.unpack_from("=Q", info, 0)
    return sum(_lost_writes_of(fd, device) for device in range(1, highest + 1))


def _lost_writes_of(fd: int, device: int) -> int:
    stats = bytearray(1032)
    struct.pack_into("=QQ", stats, 0, device, 5)
    try:
        _call(fd, _DEVICE_ERRORS, stats)
    except OSError as err:
        if err.errno != errno.ENODEV:  # removed: numbers do not return
            raise
        return 0
    writes, _, flushes = struct.unpack_from("=QQQ", stats, 24)
    return int(writes + flushes)


def quota(fd: int) -> bool:
    """Whether the file system counts what its subvolumes take, and has not lost count."""
    try:
        found = list(_search(fd, _QUOTA_TREE, (0, _QGROUP_STATUS, 0), (0, _QGROUP_STATUS, 0)))
    except FileNotFoundError:  # no such tree
        return False
    if not found:
        return False
    _, flags = struct.unpack_from("=8xQQ", *found[0].place)
    return bool(flags & _QGROUP_ON) and not flags & (_QGROUP_RESCAN | _QGROUP_INCONSISTENT)


def exclusive(fd: int, id: int) -> int | None:
    """Bytes on disk of the subvolume that no other one shares, as at the last sync; None when nobody has counted."""
    key = 0, _QGROUP_INFO, id
    for item in _search(fd, _QUOTA_TREE, key, key):
        return int(struct.unpack_from("=Q", item.buffer, item.start + 24)[0])
    return None


def own(fd: int, since: int = 0) -> tuple[int, int]:
    """Bytes on disk and inodes that came to the subvolume after the transaction ``since``, as at the last sync.

    Reads only the parts of the tree that have changed since. What was copied from another file by reference
    counts once more.
    """
    size = inodes = 0
    seen: set[int] = set()  # extents of which no item uses the whole
    for item in _search(fd, _OWN_TREE, (ROOT_FOLDER, 0, 0), (_LARGEST,) * 3, since + 1):
        if item.kind == _INODE_ITEM:
            inodes += _INODE.unpack_from(item.buffer, item.start)[0] > since
        elif item.kind == _EXTENT_DATA:
            size += _extent(item, since, seen)
    return size, inodes


def _extent(item: _Item, since: int, seen: set[int]) -> int:
    born, _, _, _, _, kind = _EXTENT.unpack_from(item.buffer, item.start)
    if born <= since:
        return 0
    if kind == _INLINE:
        return item.length - _EXTENT.size
    address, length, offset, used = _EXTENT_PLACE.unpack_from(item.buffer, item.start + _EXTENT.size)
    if address == 0 or address in seen:  # 0 is a hole
        return 0
    if offset or used != length:
        seen.add(address)
    return int(length)


def nested(fd: int, id: int) -> list[Nested]:
    """The subvolumes directly below the one with this id."""
    found = []
    for item in _search(fd, _ROOT_TREE, (id, _ROOT_REF, 0), (id, _ROOT_REF, _LARGEST)):
        folder, _, length = _ROOT.unpack_from(*item.place)
        start = item.start + _ROOT.size
        found.append(Nested(item.offset, folder, bytes(item.buffer[start : start + length])))
    return found


def path(fd: int, folder: int) -> str:
    """Of a directory in its subvolume, by its inode; may be longer than a system call takes."""
    parts: list[str] = []
    while folder != ROOT_FOLDER:
        found = next(_search(fd, _OWN_TREE, (folder, _INODE_REF, 0), (folder, _INODE_REF, _LARGEST)), None)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        _, length = _REF.unpack_from(*found.place)
        start = found.start + _REF.size
        parts.append(os.fsdecode(bytes(found.buffer[start : start + length])))
        folder = found.offset
    return "/".join(reversed(parts))


_Key = tuple[int, int, int]
"""Of an item, as trees are ordered: inode or tree, type, offset."""


def _search(fd: int, tree: int, first: _Key, last: _Key, since: int = 0) -> Iterator[_Item]:
    """Items from ``first`` to ``last``, in the parts of the tree that ``since`` or a later transaction has written."""
    last = last[0], min(last[1], 0xFF), last[2]
    while True:
        arguments = bytearray(_SEARCH_KEY.size + _SEARCH_ROOM)
        inodes, kinds, offsets = (first[0], last[0]), (first[1], last[1]), (first[2], last[2])
        limits = (*inodes, *offsets, since, _LARGEST, *kinds, 0xFFFFFFFF, 0)
        _SEARCH_KEY.pack_into(arguments, 0, tree, *limits, 0, 0, 0, 0, _SEARCH_ROOM)
        _call(fd, _SEARCH, arguments)
        item = None
        for item in _items(memoryview(arguments)):
            yield item
        if item is None or (item.inode, item.kind, item.offset) >= last:
            return
        first = _after(item.inode, item.kind, item.offset)


def _items(answer: memoryview) -> Iterator[_Item]:
    (count,) = struct.unpack_from("=I", answer, 64)
    place = _SEARCH_KEY.size
    for _ in range(count):
        _, inode, offset, kind, length = _ITEM.unpack_from(answer, place)
        place += _ITEM.size
        yield _Item(inode, kind, offset, answer, place, length)
        place += length


def _after(inode: int, kind: int, offset: int) -> _Key:
    if offset < _LARGEST:
        return inode, kind, offset + 1
    return (inode, kind + 1, 0) if kind < 0xFF else (inode + 1, 0, 0)


def _arguments(source: int, name: str, flags: int) -> bytearray:
    """struct btrfs_ioctl_vol_args_v2."""
    encoded = _encoded(name)
    arguments = bytearray(4096)
    struct.pack_into("=qQQ", arguments, 0, source, 0, flags)
    arguments[56 : 56 + len(encoded)] = encoded
    return arguments


def _encoded(name: bytes | str) -> bytes:
    encoded = os.fsencode(name)
    if len(encoded) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
    return encoded


def _call(fd: int, request: int, arguments: bytearray) -> None:
    buffer = (ctypes.c_char * len(arguments)).from_buffer(arguments)
    if _libc.ioctl(fd, ctypes.c_ulong(request), buffer) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
