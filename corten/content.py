"""Content of a namespace, as Python's files.

::

    blob = client.content.put(b"hello")                       # or an open file
    assert client.content.read(blob.digest) == b"hello"
    with client.content.open(blob.digest) as file:            # buffered, seekable
        file.seek(1)
    with client.content.create("download-1", total=size, expected=digest) as file:
        file.write(data[file.tell():])                        # goes on where an earlier attempt has ended
        blob = file.commit(labels={"origin": "example"})
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from plugin_sdk import content, errors
from plugin_sdk.content import Info, Reader, Status, Writer
from plugin_sdk.wire.content import Proxy

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["Blob", "BlobFile", "Content", "Info", "IngestFile", "Reader", "Status", "Writer"]

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    digest: str
    size: int


class Content(Proxy):
    """A ``plugin_sdk.content.Store``."""

    def open(self, digest: str) -> io.BufferedReader:
        """Raises NotFound."""
        return io.BufferedReader(BlobFile(self.reader(digest)), _CHUNK)

    def read(self, digest: str) -> bytes:
        """The whole blob. Raises NotFound."""
        with self.reader(digest) as reader:
            return b"".join(reader.read_at(at, _CHUNK) for at in range(0, reader.size, _CHUNK))

    def create(self, ref: str, total: int = 0, expected: str = "") -> IngestFile:
        """A file to write, which ``commit`` makes a blob. Raises as ``writer`` does."""
        return IngestFile(self.writer(ref, total, expected), ref)

    def put(self, data: bytes | BinaryIO, labels: Mapping[str, str] | None = None, expected: str = "") -> Blob:
        """Writes a blob; one that exists gets the labels, too. Raises FailedPrecondition for another digest than
        ``expected``."""
        source = io.BytesIO(data) if isinstance(data, bytes) else data
        ref = f"put-{secrets.token_hex(8)}"
        try:
            with self.create(ref) as file:
                while chunk := source.read(_CHUNK):
                    file.write(chunk)
                found = Blob(file.digest(), file.tell())
                if expected not in ("", found.digest):
                    raise errors.FailedPrecondition(f'blob "{found.digest}": {expected} is expected')
                return file.commit(labels=labels)
        except errors.AlreadyExists:
            if labels:
                self.update(content.Info(found.digest, 0, labels=labels), [f"labels.{key}" for key in labels])
            return found
        except BaseException:
            self._forget(ref)
            raise

    def _forget(self, ref: str) -> None:
        try:
            self.abort(ref)
        except errors.Error:
            return  # the collection removes it in time


class BlobFile(io.RawIOBase):
    """A blob as a file to read: seekable."""

    def __init__(self, reader: content.Reader) -> None:
        self._reader = reader
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._reader.size}[whence]
        if start + offset < 0:
            raise ValueError(f"position {start + offset} is negative")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        data = self._reader.read_at(self._position, len(target))
        target[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()


class IngestFile(io.RawIOBase):
    """An ingest as a file to append to. Closed without commit it stays, and ``create`` of its ref goes on there."""

    def __init__(self, writer: content.Writer, ref: str) -> None:
        self._writer = writer
        self.ref = ref
        self._position = writer.status().offset

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: ReadableBuffer) -> int:
        """All of ``data``."""
        written = self._writer.write(memoryview(data).cast("B"))
        self._position += written
        return written

    def truncate(self, size: int | None = None) -> int:
        self._position = self._position if size is None else size
        self._writer.truncate(self._position)
        return self._position

    def digest(self) -> str:
        """Of what is written so far."""
        return self._writer.digest()

    def commit(self, expected: str = "", labels: Mapping[str, str] | None = None) -> Blob:
        """Raises FailedPrecondition for another digest, AlreadyExists when there is such a blob; closes the file."""
        made = self._writer.commit(self._position, expected, labels)
        self.close()
        return Blob(made, self._position)

    def close(self) -> None:
        if not self.closed:
            self._writer.close()
        super().close()

    def __enter__(self) -> IngestFile:
        return self
