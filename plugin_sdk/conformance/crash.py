"""Ends a process between any two of an implementation's system calls, to see what it finds afterwards.

An implementation's test names the modules whose calls of ``os`` and ``shutil`` are steps::

    crash.at_every_call([local, ingest], work=lambda: commit(tmp_path), check=lambda: look(tmp_path))

``work`` runs in a child that ends at its first step, in another that ends at its second, and so on until one reaches
the end; after each, ``check`` runs here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import pytest

_ENDED = 77
_LIMIT = 1000
_STEPS = ("fsync", "rename", "replace", "unlink", "mkdir", "makedirs", "rmdir", "open", "link", "fchmod", "rmtree")


class _Steps:
    """Stands in for ``os`` or ``shutil``; the process ends before its ``last``-th step."""

    def __init__(self, module: ModuleType, counter: Callable[[], None]) -> None:
        self._module = module
        self._counter = counter

    def __getattr__(self, name: str) -> object:
        found = getattr(self._module, name)
        if name not in _STEPS:
            return found

        def step(*args: object, **options: object) -> object:
            self._counter()
            return found(*args, **options)

        return step


@contextmanager
def _ending_at(modules: Sequence[ModuleType], last: int) -> Iterator[None]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done == last:
            os._exit(_ENDED)

    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for name in ("os", "shutil"):
                if hasattr(module, name):
                    patch.setattr(module, name, _Steps(getattr(module, name), count))
        yield


def at_every_call(modules: Sequence[ModuleType], work: Callable[[], None], check: Callable[[], None]) -> int:
    """Answers how many steps the work has."""
    for last in range(1, _LIMIT):
        if not _ended(modules, work, last):
            return last - 1
        check()
    raise AssertionError(f"the work has more than {_LIMIT} steps")


def _ended(modules: Sequence[ModuleType], work: Callable[[], None], last: int) -> bool:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with _ending_at(modules, last):
                work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, _ENDED), f"the work failed in its child at step {last}"
    return code == _ENDED
