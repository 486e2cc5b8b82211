"""Content: immutable blobs by digest, and the ingests that become blobs.

Words. A **blob** is bytes named by its **digest** (``sha256:`` and 64 hex digits; also sha384 and sha512). A **ref**
names one **ingest**, a write in progress; it is any non-empty text and never an image's name. A **writer** is the open
handle of an ingest; at most one is open for a ref at a time.

One use from start to end::

    with store.writer("layer-1", total=len(data), expected=digest) as writer:
        offset = writer.status().offset            # > 0 when an earlier attempt left bytes: go on there
        writer.write(data[offset:])
        writer.commit(size=len(data), expected=digest, labels={"origin": "example"})
    with store.reader(digest) as reader:
        assert reader.read_at(0, reader.size) == data

Closing a writer without commit keeps the ingest: ``status(ref)`` shows it, ``writer(ref)`` goes on with it at its
offset, ``abort(ref)`` removes it. A failed commit keeps it too. A blob appears whole or not at all: when ``commit``
returns, its bytes are on disk under the digest and the ingest is gone; at a crash before that there is an ingest or
nothing.

Times are nanoseconds since the epoch (UTC). All methods block, and may be called from several threads; a writer or
reader is used by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from plugin_sdk import filters as filter_language


@dataclass(frozen=True, slots=True)
class Info:
    """A blob. ``labels`` are kept by stores that can; the kernel keeps its own by namespace."""

    digest: str
    size: int
    created_at: int = 0
    updated_at: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """An ingest. ``offset`` bytes are written of ``total`` (0: not known); ``expected`` is a digest or empty."""

    ref: str
    offset: int
    total: int = 0
    expected: str = ""
    started_at: int = 0
    updated_at: int = 0


def matcher(filters: Sequence[str]) -> Callable[[Info], bool]:
    """The filterable fields of a blob are ``digest`` and ``labels.KEY``. Raises InvalidArgument for a
    malformed filter."""
    matches = filter_language.compile(filters)

    def adaptor(info: Info) -> filter_language.Adaptor:
        return lambda path: (
            info.digest if list(path) == ["digest"] else filter_language.join(path, "labels", info.labels)
        )

    return lambda info: matches(adaptor(info))


def status_matcher(filters: Sequence[str]) -> Callable[[Status], bool]:
    """The filterable field of an ingest is ``ref``. Raises InvalidArgument for a malformed filter."""
    matches = filter_language.compile(filters)
    return lambda status: matches(lambda path: status.ref if list(path) == ["ref"] else None)


class Reader(AbstractContextManager["Reader"], Protocol):
    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset``; fewer only at the end, empty at and past it."""
        ...

    def fileno(self) -> int:
        """A descriptor of a plain file with exactly the blob's bytes. Raises Unimplemented where there is none."""
        ...

    def close(self) -> None: ...


class Writer(AbstractContextManager["Writer"], Protocol):
    def status(self) -> Status: ...

    def digest(self) -> str:
        """The digest of what is written so far."""
        ...

    def write(self, data: bytes | memoryview) -> int:
        """Appends all of ``data`` and returns its length."""
        ...

    def truncate(self, size: int) -> None:
        """Cuts the ingest back to ``size`` bytes, mostly 0 to begin again. Raises OutOfRange when it has fewer."""
        ...

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        """Makes the ingest a blob and returns its digest; the writer is closed then.

        ``size`` 0 and ``expected`` empty mean any. Raises FailedPrecondition when the size or the digest differs: the
        ingest stays. Raises AlreadyExists when the blob exists: the ingest is gone.
        """
        ...

    def close(self) -> None:
        """Keeps the ingest. Closing twice, or after commit, does nothing."""
        ...


class Store(Protocol):
    def info(self, digest: str) -> Info:
        """Raises NotFound."""
        ...

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        """Changes labels: all of them without ``fieldpaths``, else those named as ``labels.KEY`` or ``labels``.

        A label whose value is empty is removed. Raises NotFound; InvalidArgument for another path; Unimplemented by a
        store that keeps no labels.
        """
        ...

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """Every blob that one of the filters matches (``matcher``), all without; order is not defined."""
        ...

    def delete(self, digest: str) -> None:
        """Raises NotFound. Open readers keep what they read."""
        ...

    def reader(self, digest: str) -> Reader:
        """Raises NotFound."""
        ...

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Writer:
        """Opens or resumes the ingest ``ref``.

        Raises InvalidArgument for an empty ref or a malformed digest; AlreadyExists when ``expected`` is a blob
        already; Unavailable while another writer of this ref is open: repeat.
        """
        ...

    def status(self, ref: str) -> Status:
        """Raises NotFound."""
        ...

    def list_statuses(self, filters: Sequence[str] = ()) -> list[Status]:
        """Every ingest that one of the filters matches (``status_matcher``), all without."""
        ...

    def abort(self, ref: str) -> None:
        """Removes the ingest; an open writer of it fails from then on. Raises NotFound."""
        ...
