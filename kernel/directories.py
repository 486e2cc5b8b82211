"""The daemon's directories: made with the right modes, and taken by one daemon at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from plugin_sdk import errors

LOCK = "lock"
MODE = 0o711  # a container with user namespaces passes through, nobody lists


def make(*paths: Path) -> None:
    """Raises FailedPrecondition, by name, for one that cannot be made."""
    for path in paths:
        try:
            path.mkdir(mode=MODE, parents=True, exist_ok=True)
        except OSError as err:
            raise errors.FailedPrecondition(f"directory {path} cannot be made: {err.strerror}") from err


@contextlib.contextmanager
def taken(root: Path) -> Iterator[None]:
    """Holds a lock (flock(2)) on ``root``, which ends with the process. Raises FailedPrecondition when another daemon
    holds it."""
    try:
        lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise errors.FailedPrecondition(f"directory {root} cannot be used: {err.strerror}") from err
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.FailedPrecondition(f"another cortend uses the directory {root}") from None
        yield
    finally:
        os.close(lock)
