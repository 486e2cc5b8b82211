"""Archives of images as they come: a tar that can only be read forward, plain or compressed, a member at a time.

    archive = archives.Archive(stream.file, job.check)
    for member in archive:
        for chunk in archive.chunks():           # of this member; what is not read is passed over
            ...

Nothing is kept of what has been read, and nothing is written. A damaged archive raises InvalidArgument that names the
member. Sources: POSIX.1-2017 pax for the tar; OCI image specification, image-layout.md, for why it may be one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

from plugin_sdk import errors, oci, tars

CHUNK = 1 << 20
HEADERS = 1 << 20  # bytes of one member's extended headers
MEMBERS = 32 << 20  # bytes of the headers and names of all members
_WITH_GZIP_HEADER = 31
_PADDING = 16 << 20  # bytes after the end of the tar that are still read, so that its writer can end


class File(Protocol):
    """What is read; fewer bytes than asked for are no end, none are."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Member:
    """A file, or a link to the member ``link``. Names are relative, without ``.`` and ``..``; ``size`` in bytes."""

    name: str
    size: int = 0
    link: str = ""


class Archive:
    """``check`` raises when nobody waits any more; it is called before each read."""

    def __init__(self, file: File, check: Callable[[], None]) -> None:
        self._check = check
        self._file = _opened(_Checked(file, check))
        self._tar = tars.Reader(self._take, HEADERS)
        self._name = ""
        self._left = 0

    def __iter__(self) -> Iterator[Member]:
        """Files and links; directories and devices are passed over."""
        spent = 0
        while (entry := self._next()) is not None:
            name = _clean(entry.name)
            self._name, self._left, padding = name, entry.size, -entry.size % tars.BLOCK
            spent += tars.BLOCK + len(entry.name)
            if spent > MEMBERS:
                raise errors.ResourceExhausted(f"the archive has too many members, of which one is {_shown(name)}")
            if entry.segments is not None:
                raise errors.InvalidArgument(f"{_shown(name)} of the archive is a sparse file")
            if entry.type in tars.FILES:
                yield Member(name, entry.size)
            elif entry.type == tars.SYMLINK:
                yield Member(name, link=_clean(_beside(entry.name, entry.link)))
            elif entry.type == tars.HARD_LINK:
                yield Member(name, link=_clean(entry.link))
            for _ in self.chunks():
                pass
            if len(self._take(padding)) < padding:
                raise errors.InvalidArgument(f"the archive ends within {_shown(name)}")
        self._drain()

    def chunks(self) -> Iterator[bytes]:
        """What is left of the member that came last. Raises InvalidArgument when the archive ends in it."""
        while self._left:
            chunk = self._file.read(min(self._left, CHUNK))
            if not chunk:
                raise errors.InvalidArgument(f"the archive ends within {_shown(self._name)}")
            self._left -= len(chunk)
            yield chunk

    def _next(self) -> tars.Entry | None:
        try:
            return self._tar.next()
        except _Damaged:
            raise
        except errors.InvalidArgument as err:
            what = f"is damaged after {_shown(self._name)}" if self._name else "is no tar"
            raise errors.InvalidArgument(f"the archive {what}: {err.message}") from err

    def _take(self, size: int) -> bytes:
        """Exactly ``size`` bytes, fewer at the end of the stream."""
        parts: list[bytes] = []
        while size and (part := self._file.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _drain(self) -> None:
        """Tars are padded, and a compressed one ends with a checksum."""
        left = _PADDING
        while left > 0 and (chunk := self._file.read(CHUNK)):
            left -= len(chunk)


class _Checked:
    """Asks ``check`` before each read, and gives errors of the system a class."""

    def __init__(self, file: File, check: Callable[[], None]) -> None:
        self._file = file
        self._check = check

    def read(self, size: int, /) -> bytes:
        self._check()
        try:
            return self._file.read(size)
        except OSError as err:
            raise errors.Unavailable(f"the archive cannot be read: {err.strerror or err}") from err


class _Begun:
    """A file whose first bytes were read already."""

    def __init__(self, head: bytes, file: File) -> None:
        self._head = head
        self._file = file

    def read(self, size: int, /) -> bytes:
        if not self._head:
            return self._file.read(size)
        part, self._head = self._head[:size], self._head[size:]
        return part


class _Damaged(errors.InvalidArgument):
    """What is inside of the compressed file is not to blame."""


class _Inflated:
    """A compressed file; ``damaged`` are the exceptions by which its codec says so."""

    def __init__(self, file: File, codec: str, damaged: tuple[type[Exception], ...]) -> None:
        self._file = file
        self._codec = codec
        self._damaged = damaged

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except self._damaged as err:
            raise _Damaged(f"the archive is no whole {self._codec} file: {err}") from err


def _opened(file: File) -> File:
    head = b""
    while len(head) < 4 and (part := file.read(4 - len(head))):
        head += part
    if not head:
        raise errors.InvalidArgument("the archive is empty")
    compression = oci.detect_compression(head)
    begun = _Begun(head, file)
    if compression == "gzip":
        return _gunzipped(begun)
    return _unzstd(begun) if compression == "zstd" else begun


class _Gunzipped:
    """The data of a gzip file, which may be several in a row with zeros between them."""

    def __init__(self, file: File) -> None:
        from isal import isal_zlib

        self._begin: Callable[..., Any] = isal_zlib.decompressobj
        self._file = file
        self._inflate: Any = None
        self._input = b""

    def read(self, size: int, /) -> bytes:
        while True:
            self._input = self._input or self._file.read(CHUNK)
            ended = not self._input
            if self._inflate is None:
                if ended:
                    return b""
                self._input = self._input.lstrip(b"\0")
                self._inflate = self._begin(wbits=_WITH_GZIP_HEADER) if self._input else None
                continue
            data: bytes = self._inflate.decompress(self._input, size)
            self._input = self._inflate.unconsumed_tail
            if self._inflate.eof:
                self._input, self._inflate = self._inflate.unused_data, None
            if data:
                return data
            if ended and self._inflate is not None:
                raise EOFError("it ends early")


def _gunzipped(file: File) -> File:
    from isal import isal_zlib

    return _Inflated(_Gunzipped(file), "gzip", (EOFError, cast(type[Exception], isal_zlib.error)))


def _unzstd(file: File) -> File:
    import zstandard

    inflated = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)  # type: ignore[arg-type]
    return _Inflated(inflated, "zstd", (zstandard.ZstdError,))


def _clean(name: bytes) -> str:
    if name.startswith(b"/"):
        raise errors.InvalidArgument(f"the archive has the absolute name {tars.show(name)}")
    try:
        return tars.clean(name).decode()
    except UnicodeDecodeError:
        return tars.clean(name).decode("utf-8", "backslashreplace")
    except errors.InvalidArgument as err:
        raise errors.InvalidArgument(f"the archive is not to be trusted: {err.message}") from err


def _beside(name: bytes, link: bytes) -> bytes:
    return name.rpartition(b"/")[0] + b"/" + link if b"/" in name and not link.startswith(b"/") else link


def _shown(name: str) -> str:
    return tars.show(name.encode())
