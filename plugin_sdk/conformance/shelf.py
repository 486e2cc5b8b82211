"""What the checks of content stand on: a part of the store for each check, and calls from several threads.

The store may be in use by others: it is never assumed to be empty, and what a check makes is removed after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

import pytest

from plugin_sdk import content, errors

T = TypeVar("T")

MISSING = "sha256:" + secrets.token_hex(32)
"""A digest that is no blob's."""

SLACK = 2 * 10**9
"""Nanoseconds: clocks of file systems tick coarsely."""

PATIENCE = 60.0
"""Seconds after which a call counts as hanging."""


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def put(store: content.Store, data: bytes, ref: str = "put") -> str:
    with store.writer(ref) as writer:
        writer.write(data)
        return writer.commit(len(data), digest_of(data))


def get(store: content.Store, digest: str) -> bytes:
    with store.reader(digest) as reader:
        return reader.read_at(0, reader.size)


def refs(store: content.Store, *filters: str) -> list[str]:
    return sorted(status.ref for status in store.list_statuses(filters))


def together(*works: Callable[[], T], stop: threading.Event | None = None) -> list[T]:
    """Begins all at once, each in a thread, and answers what they return; raises what one of them raises.

    ``stop`` is set when one raises, for those that would go on without an end."""
    begin = threading.Barrier(len(works))
    futures: list[Future[T]] = [Future() for _ in works]

    def run(work: Callable[[], T], future: Future[T]) -> None:
        begin.wait()
        try:
            future.set_result(work())
        except BaseException as err:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(err)
            if stop is not None:
                stop.set()

    for work, future in zip(works, futures, strict=True):
        threading.Thread(target=run, args=(work, future), daemon=True).start()
    return [future.result(PATIENCE) for future in futures]


class Shelf(content.Store):
    """A store as one check uses it: with refs and bytes that nobody else has, and a note of what has to be removed."""

    def __init__(self, store: content.Store) -> None:
        self._store = store
        self._prefix = f"check-{secrets.token_hex(6)}-"
        self._open: list[content.Reader | content.Writer] = []
        self._digests: set[str] = set()

    def ref(self, text: str = "ref") -> str:
        """The check's own ref of this text."""
        return self._prefix + text

    def data(self, size: int = 20) -> bytes:
        return os.urandom(size)

    def put(self, data: bytes, ref: str = "put") -> str:
        return put(self, data, self.ref(ref))

    def get(self, digest: str) -> bytes:
        return get(self._store, digest)

    def begin(self, ref: str, data: bytes, **options: object) -> str:
        """An ingest that is left with these bytes; its ref."""
        with self.writer(self.ref(ref), **options) as writer:  # type: ignore[arg-type]
            writer.write(data)
        return self.ref(ref)

    def refs(self, *filters: str) -> list[str]:
        """Those of the check among the store's, as they were given to ``ref``."""
        return [ref.removeprefix(self._prefix) for ref in refs(self._store, *filters) if ref.startswith(self._prefix)]

    def digests(self, *filters: str) -> list[str]:
        """All of the store's."""
        return [info.digest for info in self._store.walk(filters)]

    def note(self, digest: str) -> str:
        """A blob that is to be removed; those that are committed here need no note."""
        self._digests.add(digest)
        return digest

    def move(self, store: content.Store) -> content.Store:
        """To another object over the same content, after which the first one is used no more."""
        self._store = store
        return store

    def clear(self) -> None:
        for handle in self._open:
            with contextlib.suppress(errors.Error):
                handle.close()
        for ref in self.refs():
            with contextlib.suppress(errors.Error):
                self._store.abort(self.ref(ref))
        for digest in self._digests:
            with contextlib.suppress(errors.Error):
                self._store.delete(digest)

    # content.Store

    def info(self, digest: str) -> content.Info:
        return self._store.info(digest)

    def update(self, info: content.Info, fieldpaths: Sequence[str] = ()) -> content.Info:
        return self._store.update(info, fieldpaths)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[content.Info]:
        return self._store.walk(filters)

    def delete(self, digest: str) -> None:
        self._store.delete(digest)

    def reader(self, digest: str) -> content.Reader:
        reader = self._store.reader(digest)
        self._open.append(reader)
        return reader

    def writer(self, ref: str, total: int = 0, expected: str = "") -> content.Writer:
        writer = _Noted(self._store.writer(ref, total, expected), self.note)
        self._open.append(writer)
        return writer

    def status(self, ref: str) -> content.Status:
        return self._store.status(ref)

    def list_statuses(self, filters: Sequence[str] = ()) -> list[content.Status]:
        return self._store.list_statuses(filters)

    def abort(self, ref: str) -> None:
        self._store.abort(ref)


class _Noted(content.Writer):
    def __init__(self, writer: content.Writer, note: Callable[[str], str]) -> None:
        self._writer = writer
        self._note = note

    def status(self) -> content.Status:
        return self._writer.status()

    def digest(self) -> str:
        return self._writer.digest()

    def write(self, data: bytes | memoryview) -> int:
        return self._writer.write(data)

    def truncate(self, size: int) -> None:
        self._writer.truncate(size)

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        return self._note(self._writer.commit(size, expected, labels))

    def close(self) -> None:
        self._writer.close()

    def __exit__(self, *failure: object) -> None:
        self.close()


class Rig:
    """Fixtures that the parts of the suite share."""

    @pytest.fixture
    def store(self) -> content.Store:
        raise NotImplementedError("a subclass gives the store")

    @pytest.fixture
    def shelf(self, store: content.Store) -> Iterator[Shelf]:
        shelf = Shelf(store)
        yield shelf
        shelf.clear()

    @pytest.fixture
    def supports_labels(self) -> bool:
        """Blobs have labels."""
        return True

    @pytest.fixture
    def supports_fileno(self) -> bool:
        """Readers have a descriptor of a plain file."""
        return False

    @pytest.fixture
    def supports_truncate(self) -> bool:
        """An ingest can be cut to any size, not to 0 only."""
        return True
