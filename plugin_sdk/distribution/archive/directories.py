"""A layout in a directory, read as if it were an archive."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from plugin_sdk import errors, tar_headers, tars

_CHUNK = 1 << 20


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The archive at ``path``, or one of the files below it, to be read from its beginning to its end.

    Raises NotFound, and PermissionDenied.
    """
    try:
        file = Packed(path) if path.is_dir() else path.open("rb", buffering=0)
    except FileNotFoundError as err:
        raise errors.NotFound(f"{path}: not found") from err
    except PermissionError as err:
        raise errors.PermissionDenied(f"{path}: permission denied") from err
    with file:
        yield file  # type: ignore[misc]


class Packed(io.RawIOBase):
    """A tar of the files below a directory, made while it is read. Links are followed as far as they stay inside."""

    def __init__(self, root: Path) -> None:
        self._parts = _pack(root.resolve())
        self._part = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        while not self._part:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._part = part
        size = len(self._part) if size < 0 else size
        taken, self._part = self._part[:size], self._part[size:]
        return taken


def _pack(root: Path) -> Iterator[bytes]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if not path.resolve().is_relative_to(root):
            raise errors.InvalidArgument(f"{str(name)!r} leads out of {root}")
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                yield from _member(bytes(name), file.seek(0, io.SEEK_END), file)
    yield tar_headers.END


def _member(name: bytes, size: int, file: io.FileIO) -> Iterator[bytes]:
    yield tar_headers.format(tars.file(name, size))
    file.seek(0)
    left = size
    while left and (chunk := file.read(min(left, _CHUNK))):
        left -= len(chunk)
        yield chunk
    if left:
        raise errors.Aborted(f"{tars.show(name)} became shorter while it was read")
    yield tar_headers.padding(size)
