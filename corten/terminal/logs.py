"""Logs: what a container in the background has printed, from the file to which the runtime writes it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from plugin_sdk import errors

_CHUNK = 64 << 10
_PAUSE = 0.03  # seconds between looks at a file that is followed


def show(path: Path, tail: int | None, ended: Callable[[], bool] | None) -> None:
    """Writes the last ``tail`` lines, all if None, to the standard output; goes on until ``ended`` if it is given.

    Raises NotFound when the file is gone."""
    with _opened(path) as file:
        if tail is not None:
            file.seek(_start(file, tail))
        _copy(file, ended)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as err:
        raise errors.NotFound(f"log {path}: {err.strerror}") from err


def _copy(file: BinaryIO, ended: Callable[[], bool] | None) -> None:
    """All that is there after the end is known is copied, too."""
    out = sys.stdout.buffer
    while True:
        over = ended is None or ended()
        while data := file.read(_CHUNK):
            out.write(data)
        out.flush()
        if over:
            return
        time.sleep(_PAUSE)


def _start(file: BinaryIO, lines: int) -> int:
    """Where the last ``lines`` lines begin; the last one counts also without its end."""
    end = place = file.seek(0, os.SEEK_END)
    wanted, found = lines, 0
    if lines == 0:
        return end
    while place:
        size = min(_CHUNK, place)
        place -= size
        file.seek(place)
        data = file.read(size)
        at = len(data) - 1 if place + size == end and data.endswith(b"\n") else len(data)
        while (at := data.rfind(b"\n", 0, at)) >= 0:
            found += 1
            if found == wanted:
                return place + at + 1
    return 0


@contextlib.contextmanager
def following(path: Path) -> Iterator[None]:
    """What is printed from now on comes to our standard output, until the context ends.

    Raises NotFound when the file is gone."""
    over = threading.Event()
    with _opened(path) as file:
        file.seek(0, os.SEEK_END)  # before anything can be typed: the answer to that is to be seen
        thread = threading.Thread(target=_copy_on, args=(file, over.is_set), name="log", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _copy_on(file: BinaryIO, ended: Callable[[], bool]) -> None:
    with contextlib.suppress(OSError):  # nobody reads us any more
        _copy(file, ended)
