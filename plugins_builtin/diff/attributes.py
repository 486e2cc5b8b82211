"""Extended attributes and times, as far as layers carry them.

Sources: xattr(7), utimensat(2). Standard library only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

DEFAULT_ACL, _ACL = b"system.posix_acl_default", b"system.posix_acl_access"
OVERLAY = (b"trusted.overlay.", b"user.overlay.")
"""Words of overlayfs to itself: in an upper directory they would lead elsewhere."""

_UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP)
_MAX_TIME = (1 << 63) - 1


def bound(nanoseconds: int) -> int:
    return min(max(nanoseconds, -_MAX_TIME), _MAX_TIME)


def names(fd: int) -> Iterator[bytes]:
    try:
        return (os.fsencode(name) for name in os.listxattr(fd))
    except OSError as err:
        if err.errno in _UNSUPPORTED:
            return iter(())
        raise


def get(fd: int, name: bytes) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError as err:
        if err.errno in (errno.ENODATA, *_UNSUPPORTED):
            return None
        raise


def put(file: int | bytes, name: bytes, value: bytes, *, lenient: bool = True) -> None:
    """Attributes that the file system cannot hold are left out, as are those of users on what is no file."""
    try:
        if isinstance(file, int):
            os.setxattr(file, name, value)
        else:
            os.setxattr(file, name, value, follow_symlinks=False)
    except OSError as err:
        if err.errno not in _UNSUPPORTED and not (lenient and err.errno == errno.EPERM):
            raise


def drop_acl(fd: int) -> None:
    try:
        os.removexattr(fd, _ACL)
    except OSError as err:
        if err.errno not in (errno.ENODATA, *_UNSUPPORTED):
            raise


def copy(source: int, target: int) -> None:
    for name in list(names(source)):
        if not name.startswith(OVERLAY):
            value = get(source, name)
            if value is not None:
                put(target, name, value)
