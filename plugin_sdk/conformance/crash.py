"""Ends a process between any two steps of a change on disk, to see what the next one finds.

::

    crash.at_every_step(work=lambda: commit(tmp_path), check=lambda: look(tmp_path))

A step is a call of ``os`` that changes something, an opened file or an SQLite statement; ``also`` names further
functions, as (module, name). ``work`` runs in a child that ends before its first step, in another that ends before its
second, and so on until one reaches the end; after each, ``check`` runs here.
"""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

_ENDED = 77
_LIMIT = 1000
_CALLS = (
    *("open", "fsync", "rename", "replace", "link", "symlink", "unlink", "mkdir", "rmdir", "mknod"),
    *("chmod", "fchmod", "chown", "ftruncate", "pwrite", "setxattr", "utime"),
)

Function = tuple[ModuleType, str]


class _Countdown:
    def __init__(self, steps: int) -> None:
        self._left = steps

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os._exit(_ENDED)


def at_every_step(work: Callable[[], None], check: Callable[[], None], also: Sequence[Function] = ()) -> int:
    """Answers how many steps the work has."""
    for last in range(1, _LIMIT):
        if not _ended(work, last, also):
            return last - 1
        check()
    raise AssertionError(f"the work has more than {_LIMIT} steps")


def _ended(work: Callable[[], None], last: int, also: Sequence[Function]) -> bool:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _arm(_Countdown(last), also)
            work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, _ENDED), f"the work failed in its child at step {last}"
    return code == _ENDED


def _arm(countdown: _Countdown, also: Iterable[Function]) -> None:
    """Only ever in a child: what it changes stays changed."""
    for module, name in [*((os, call) for call in _CALLS), (io, "open"), *also]:
        setattr(module, name, _counted(getattr(module, name), countdown))
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            countdown.step()
            return super().execute(*arguments)

    sqlite3.connect = lambda *arguments, **options: connect(*arguments, **{"factory": Connection, **options})


def _counted(function: Callable[..., object], countdown: _Countdown) -> Callable[..., object]:
    def step(*arguments: object, **options: object) -> object:
        countdown.step()
        return function(*arguments, **options)

    return step
