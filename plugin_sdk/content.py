"""Content: immutable blobs by digest, and the ingests that become blobs.

Words. A **blob** is bytes named by their **digest**. A digest is ``sha256:`` and 64 lower-case hex digits, or the like
of sha384 or sha512. A **ref** names one **ingest**, a write in progress. A **writer** is the open handle of an ingest.

One use from start to end::

    with store.writer("layer-1", total=len(data), expected=digest) as writer:
        offset = writer.status().offset            # > 0 when an earlier attempt left bytes: go on there
        writer.write(data[offset:])
        writer.commit(size=len(data), expected=digest, labels={"origin": "example"})
    with store.reader(digest) as reader:
        assert reader.read_at(0, reader.size) == data

Blobs. A blob appears whole or not at all. Its bytes never change. A digest is computed from the bytes, never believed.
Where a blob is asked for by a text that is no digest, that raises InvalidArgument or NotFound. Blobs and ingests are
found again after a restart.

Ingests. A ref is any non-empty text, and refs that differ in one character name two ingests. At most one writer is open
for a ref at a time. Writers of different refs do not disturb each other. Closing a writer without commit keeps the
ingest. Whoever opens the ref again goes on at its offset. A program that ends without closing a writer frees the ref.
The ingest then has the first of the bytes that were written, possibly all. When a program ends within ``commit``, there
is the ingest or the blob. Of several ingests with the same bytes one becomes the blob, the commits of the others raise
AlreadyExists.

Times are nanoseconds since the epoch (UTC). All methods block, and may be called from several threads. A writer or
reader is used by one thread at a time. The message of an error names the digest or the ref that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from plugin_sdk import filters as filter_language


@dataclass(frozen=True, slots=True)
class Info:
    """A blob. A store that keeps no labels has none here: the kernel keeps its own by namespace.

    ``created_at`` is when the blob appeared, ``updated_at`` when its labels last changed.
    """

    digest: str
    size: int
    created_at: int = 0
    updated_at: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """An ingest. ``offset`` bytes are written of ``total``, which is 0 when it is not known.

    ``total`` and ``expected`` are what ``writer`` was told, also after it was opened again without them. ``started_at``
    is when the ingest began, ``updated_at`` when it was last written.
    """

    ref: str
    offset: int
    total: int = 0
    expected: str = ""
    started_at: int = 0
    updated_at: int = 0


def matcher(filters: Sequence[str]) -> Callable[[Info], bool]:
    """The filterable fields of a blob are ``digest`` and ``labels.KEY``. A malformed filter of blobs raises
    InvalidArgument."""
    matches = filter_language.compile(filters)

    def adaptor(info: Info) -> filter_language.Adaptor:
        return lambda path: (
            info.digest if list(path) == ["digest"] else filter_language.join(path, "labels", info.labels)
        )

    return lambda info: matches(adaptor(info))


def status_matcher(filters: Sequence[str]) -> Callable[[Status], bool]:
    """The filterable field of an ingest is ``ref``. A malformed filter of ingests raises InvalidArgument."""
    matches = filter_language.compile(filters)
    return lambda status: matches(lambda path: status.ref if list(path) == ["ref"] else None)


class Reader(AbstractContextManager["Reader"], Protocol):
    """Any number may be open for a blob, in any number of threads."""

    @property
    def size(self) -> int:
        """Of the blob, in bytes."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset``; fewer only at the end, empty at and past it.

        Raises OutOfRange for a negative offset.
        """
        ...

    def fileno(self) -> int:
        """A descriptor of a plain file with exactly the blob's bytes. Where there is none, ``fileno`` raises
        Unimplemented."""
        ...

    def close(self) -> None:
        """Closing a reader twice does nothing."""
        ...


class Writer(AbstractContextManager["Writer"], Protocol):
    def status(self) -> Status:
        """Offset, total and times as the store's ``status`` of this ref tells them."""
        ...

    def digest(self) -> str:
        """The digest of what is written so far, by the algorithm of the expected one, else sha256."""
        ...

    def write(self, data: bytes | memoryview) -> int:
        """Appends all of ``data`` and returns its length. A buffer may change when ``write`` has returned."""
        ...

    def truncate(self, size: int) -> None:
        """Cuts the ingest back to ``size`` bytes, mostly 0 to begin again. Raises OutOfRange when it has fewer.

        A store that can only begin again raises Unimplemented for another size.
        """
        ...

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        """Makes the ingest a blob and returns its digest. The bytes are then on disk, the ingest is gone and the writer
        closed.

        ``size`` 0 and ``expected`` empty mean any, if ``writer`` was not told them either. Another size raises
        FailedPrecondition. Another digest raises FailedPrecondition. After either the ingest is as it was, and the next
        writer of the ref can commit it. An ``expected`` that is no digest raises InvalidArgument here, too. When the
        blob exists already, AlreadyExists is raised and the ingest is gone. The new blob has these labels, if the store
        keeps labels.
        """
        ...

    def close(self) -> None:
        """Closing a writer twice, or after commit, does nothing. A closed writer cannot write."""
        ...


class Store(Protocol):
    def info(self, digest: str) -> Info:
        """Size, times and labels of a blob. Without the blob, ``info`` raises NotFound."""
        ...

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        """Changes the labels of the blob ``info.digest`` and answers its new info. Size and times of ``info`` are not
        looked at.

        Without ``fieldpaths`` the labels given replace all that it has. With them, those change that are named as
        ``labels.KEY``, or all by ``labels``. One that is named and not given is removed. A label whose value is empty
        is removed. A label may have 4096 bytes, key and value together. One that has more raises InvalidArgument.
        Raises InvalidArgument for a path to something else. Without the blob, ``update`` raises NotFound. A store that
        keeps no labels raises Unimplemented.
        """
        ...

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """Every blob that one of the filters matches (``matcher``), all without; order is not defined.

        Blobs that come or go while it walks may be among them or not.
        """
        ...

    def delete(self, digest: str) -> None:
        """Removes the blob, whose bytes can then be written again. An open reader of it reads on or raises NotFound.

        Without the blob, ``delete`` raises NotFound.
        """
        ...

    def reader(self, digest: str) -> Reader:
        """Opens the blob. Without it, ``reader`` or the first read raises NotFound."""
        ...

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Writer:
        """Begins the ingest ``ref``, or goes on with it. ``total`` is a hint and no limit.

        An empty ref raises InvalidArgument. An ``expected`` that is no digest raises InvalidArgument. Raises
        AlreadyExists when ``expected`` is a blob, and then leaves no ingest. Raises Unavailable while another writer of
        this ref is open: repeat.
        """
        ...

    def status(self, ref: str) -> Status:
        """Of an ingest, also while a writer of it is open. Without the ingest, ``status`` raises NotFound."""
        ...

    def list_statuses(self, filters: Sequence[str] = ()) -> list[Status]:
        """Every ingest that one of the filters matches (``status_matcher``), all without."""
        ...

    def abort(self, ref: str) -> None:
        """Removes the ingest, and the ref is free at once. An open writer of it fails from then on. What is done with
        that writer does not touch a new ingest of this ref.

        Without the ingest, ``abort`` raises NotFound.
        """
        ...
