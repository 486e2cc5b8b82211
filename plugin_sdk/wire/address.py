"""Addresses: ``unix:///path`` or a path with a slash is a unix socket, ``tcp://host:port`` or ``host:port`` is TCP."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from plugin_sdk import errors

_MAX_PATH = 107
"""Bytes of sun_path without its end, unix(7)."""


def split(address: str) -> tuple[str, bool]:
    """Path or ``host:port``, and whether it is a path. Raises InvalidArgument."""
    scheme, found, rest = address.partition("://")
    if not found:
        scheme, rest = ("unix" if "/" in address else "tcp"), address
    if scheme not in ("unix", "tcp") or not rest:
        raise errors.InvalidArgument(f'address "{address}": neither unix:///path nor tcp://host:port')
    if scheme == "unix" and len(os.fsencode(rest)) > _MAX_PATH:
        raise errors.InvalidArgument(f'address "{address}": a unix socket\'s path has at most {_MAX_PATH} bytes')
    return rest, scheme == "unix"


def remove_stale(path: str) -> None:
    """Removes the socket at ``path`` unless somebody listens there. Raises FailedPrecondition."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise errors.FailedPrecondition(f'"{path}" is there and is not a socket')
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise errors.FailedPrecondition(f'another server listens on "{path}"')
    os.unlink(path)


@contextmanager
def owned(path: str, uid: int, gid: int, mode: int) -> Iterator[None]:
    """Around bind(2): the socket is never open to more than ``mode`` says, and then belongs to ``uid`` and ``gid``."""
    remove_stale(path)
    before = os.umask(0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(before)
    if os.geteuid() == 0 and (uid, gid) != (0, os.getegid()):
        os.chown(path, uid, gid)
    os.chmod(path, mode)


def unlink(path: str, inode: int) -> None:
    """Removes the socket unless another server has put its own there."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)
