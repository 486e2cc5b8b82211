"""From a descriptor to the bytes of a tar: reading, verifying, inflating, each in a thread of its own.

The threads begin after the process is fenced, and the process forks no more. hashlib and the codecs release the
interpreter lock while they work on a block. Codecs that are no part of the standard library are loaded by name from
the folder that the daemon's own are in; without them zlib does gzip, and zstd is Unimplemented.
"""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

from plugin_sdk import errors

NONE, GZIP, ZSTD, DETECT = "", "gzip", "zstd", "detect"
CHUNK = 1 << 20
_ISAL_LEVEL, _ZLIB_LEVEL, _ZSTD_LEVEL = 3, 6, 3
_WITH_GZIP_HEADER = 31
_ZSTD_INPUT = 1 << 16  # bytes at a time, which bounds what they may become
_AHEAD = 8  # blocks that a stage may be ahead of the next
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)


class Deflate(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class Codecs:
    """Loaded before the process loses sight of the file system."""

    def __init__(self, site: Sequence[str]) -> None:
        sys.path += site
        self.igzip = _load("isal.igzip_lib")
        self.isal = _load("isal.isal_zlib")
        self.zstd = _load("zstandard")

    def inflate(self, compression: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
        if compression == DETECT:
            compression, blocks = _detect(blocks)
        if compression == GZIP:
            return self._gunzip_fast(blocks) if self.igzip else _gunzip(blocks)
        if compression == ZSTD:
            return self._unzstd(blocks)
        return blocks

    def deflate(self, compression: str) -> Deflate:
        if compression == GZIP:
            return self._gzip()
        if compression == ZSTD:
            if self.zstd is None:
                raise errors.Unimplemented("zstd is not installed")
            return cast(Deflate, self.zstd.ZstdCompressor(level=_ZSTD_LEVEL).compressobj())
        return _Plain()

    def _gzip(self) -> Deflate:
        """The header's time is 0: the same tar gives the same blob."""
        if self.isal is not None:
            return cast(Deflate, self.isal.compressobj(_ISAL_LEVEL, wbits=_WITH_GZIP_HEADER))
        return zlib.compressobj(_ZLIB_LEVEL, wbits=_WITH_GZIP_HEADER)

    def _gunzip_fast(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        failure = self.igzip.error
        decoder = None
        for block in blocks:
            rest: bytes | None = block
            while rest:
                if decoder is None:
                    if not rest.strip(b"\0"):
                        break
                    decoder = self.igzip.IgzipDecompressor(flag=self.igzip.DECOMP_GZIP)
                try:
                    yield decoder.decompress(rest, CHUNK)
                    while not decoder.needs_input and not decoder.eof:
                        yield decoder.decompress(b"", CHUNK)
                except (failure, EOFError) as err:
                    raise errors.InvalidArgument(f"the gzip stream is damaged: {err}") from None
                rest = None
                if decoder.eof:
                    rest, decoder = decoder.unused_data, None
        if decoder is not None:
            raise errors.InvalidArgument("the gzip stream is cut off")

    def _unzstd(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        if self.zstd is None:
            raise errors.Unimplemented("zstd is not installed")
        decoder = None
        parts: list[bytes] = []
        held = 0
        for block in blocks:
            view = memoryview(block)
            for at in range(0, len(view), _ZSTD_INPUT):
                rest = bytes(view[at : at + _ZSTD_INPUT])
                while rest:
                    decoder = decoder or self.zstd.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                    try:
                        parts.append(decoder.decompress(rest))
                    except self.zstd.ZstdError as err:
                        raise errors.InvalidArgument(f"the zstd stream is damaged: {err}") from None
                    held += len(parts[-1])
                    rest = b""
                    if decoder.eof:
                        rest, decoder = decoder.unused_data, None
                if held >= CHUNK:
                    yield b"".join(parts)
                    parts, held = [], 0
        yield b"".join(parts)
        if decoder is not None:
            raise errors.InvalidArgument("the zstd stream is cut off")


def _load(name: str) -> Any:
    try:
        return __import__(name, fromlist=["*"])
    except ImportError:
        return None


def _detect(blocks: Iterator[bytes]) -> tuple[str, Iterator[bytes]]:
    first = b""
    for block in blocks:
        first += block
        if len(first) >= 4:
            break
    compression = NONE
    if first.startswith(_GZIP_MAGIC):
        compression = GZIP
    elif first.startswith(_ZSTD_MAGIC) or int.from_bytes(first[:4], "little") in _ZSTD_SKIPPABLE:
        compression = ZSTD
    return compression, _chain(first, blocks)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _gunzip(blocks: Iterator[bytes]) -> Iterator[bytes]:
    decoder = None
    for block in blocks:
        rest = block
        while rest:
            if decoder is None:
                if not rest.strip(b"\0"):
                    break
                decoder = zlib.decompressobj(_WITH_GZIP_HEADER)
            try:
                yield decoder.decompress(rest, CHUNK)
                rest = decoder.unconsumed_tail
            except zlib.error as err:
                raise errors.InvalidArgument(f"the gzip stream is damaged: {err}") from None
            if decoder.eof:
                rest, decoder = decoder.unused_data, None
    if decoder is not None:
        raise errors.InvalidArgument("the gzip stream is cut off")


def read(fd: int) -> Iterator[bytes]:
    """The whole file from its beginning, leaving its offset alone; or a pipe to its end."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        while block := os.read(fd, CHUNK):
            yield block
        return
    offset = 0
    while block := os.pread(fd, CHUNK, offset):
        offset += len(block)
        yield block


class Count:
    """Length of what flows by, where nobody asks for its digest."""

    def __init__(self) -> None:
        self.size = 0

    def add(self, block: bytes) -> None:
        self.size += len(block)

    def digest(self) -> str:
        return ""


class Hash:
    """Digest and length of what flows by, computed in a thread of its own."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self.size = 0
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._queue: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._run, name="hash", daemon=True)
        self._thread.start()

    def add(self, block: bytes) -> None:
        self.size += len(block)
        self._queue.put(block)

    def digest(self) -> str:
        """Ends it."""
        self._queue.put(None)
        self._thread.join()
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def _run(self) -> None:
        while (block := self._queue.get()) is not None:
            self._hash.update(block)


class Source:
    """The tar in ``fd``: ``take`` for headers, ``pieces`` for data, ``finish`` for both digests.

    A thread reads and inflates ahead; what it raises is raised here. ``limit`` bounds the tar's size in bytes: above
    it ResourceExhausted. Without an ``algorithm`` the blob has no digest.
    """

    def __init__(self, fd: int, codecs: Codecs, compression: str, algorithm: str, limit: int) -> None:
        self.blob = Hash(algorithm) if algorithm else Count()
        self.tar = Hash()
        self._limit = limit
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
        self._block = memoryview(b"")
        self._at = 0
        self._before = 0  # bytes of the blocks before this one
        self._ended = self._abandoned = False
        self._thread = threading.Thread(target=self._run, args=(fd, codecs, compression), name="inflate", daemon=True)
        self._thread.start()

    @property
    def position(self) -> int:
        """Bytes of the tar taken so far."""
        return self._before + self._at

    def take(self, count: int) -> bytes:
        """Exactly ``count`` bytes, fewer at the end of the stream."""
        end = self._at + count
        if end <= len(self._block):
            part = bytes(self._block[self._at : end])
            self._at = end
            return part
        return b"".join(self.pieces(count, strict=False))

    def pieces(self, count: int, *, strict: bool = True) -> Iterator[memoryview]:
        """``count`` bytes, as they lie in memory. Raises InvalidArgument when the stream ends before, if strict."""
        while count:
            if self._at == len(self._block) and not self._next():
                if strict:
                    raise errors.InvalidArgument("the tar is cut off")
                return
            piece = self._block[self._at : self._at + count]
            self._at += len(piece)
            count -= len(piece)
            yield piece

    def skip(self, count: int) -> None:
        end = self._at + count
        if end <= len(self._block):
            self._at = end
        else:
            for _ in self.pieces(count):
                pass

    def finish(self) -> None:
        """Reads what follows the archive: it is part of the layer's digests."""
        while self._next():
            pass

    def abandon(self) -> str:
        """Gives up the tar, reads the blob to its end and returns the blob's digest."""
        self._abandoned = True
        while not self._ended:
            self._ended = not isinstance(self._queue.get(), bytes)
        return self.blob.digest()

    def _next(self) -> bool:
        if self._ended:
            return False
        block = self._queue.get()
        self._ended = not isinstance(block, bytes)
        if isinstance(block, BaseException):
            raise block
        self._before += len(self._block)
        self._block = memoryview(block or b"")
        self._at = 0
        return not self._ended

    def _run(self, fd: int, codecs: Codecs, compression: str) -> None:
        end: BaseException | None = None
        blocks = self._verified(fd)
        try:
            self._inflate(codecs.inflate(compression, blocks))
            for _ in blocks:
                pass
        except errors.Error as err:
            end = err
            for _ in blocks:
                pass
        except BaseException as err:  # noqa: BLE001 - raised again by the thread that takes
            end = err
        self._queue.put(end)

    def _inflate(self, tar: Iterator[bytes]) -> None:
        for block in tar:
            if self._abandoned:
                return
            if block:
                self.tar.add(block)
                if self.tar.size > self._limit:
                    raise errors.ResourceExhausted(f"the layer's tar exceeds {self._limit} bytes")
                self._queue.put(block)

    def _verified(self, fd: int) -> Iterator[bytes]:
        for block in read(fd):
            self.blob.add(block)
            yield block
