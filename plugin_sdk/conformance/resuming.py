"""The suite for content stores, last part: restarts, and programs that end in the middle.

An implementation of its own process ends one by a fork::

    @pytest.fixture
    def crash(self, tmp_path):
        def crash(work):
            resuming.in_child(lambda end: work(Mine(tmp_path), end))
            return Mine(tmp_path)

        return crash
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import pytest

from plugin_sdk import content, errors
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.shelf import Rig, Shelf, digest_of

_ENDED, _FAILED = 77, 1

NOTICE = 10.0
"""Seconds within which a ref is free after its program has ended."""

End = Callable[[], None]
"""Ends the program there and then, from any thread."""

Work = Callable[[content.Store, End], None]
Crash = Callable[[Work], content.Store]


def in_child(work: Callable[[End], None]) -> None:
    """Runs the work in a fork of this process that ends without closing anything, after the work at the latest."""
    pid = os.fork()
    if pid == 0:
        code = _FAILED
        try:
            work(lambda: os._exit(_ENDED))
            code = _ENDED
        except BaseException:  # noqa: BLE001 - nothing goes further up in the child
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == _ENDED, "the work failed in its child"


def use(store: content.Store, ref: str, data: bytes) -> Iterator[None]:
    """One use of a store, call by call; nothing is closed but by commit."""
    writer = store.writer(ref, len(data), digest_of(data))
    yield
    for piece in (data[: len(data) // 3], data[len(data) // 3 :]):
        writer.write(piece)
        yield
    writer.commit(len(data), digest_of(data))
    yield
    reader = store.reader(digest_of(data))
    yield
    reader.read_at(0, 10)
    yield
    store.delete(digest_of(data))
    yield


WRITTEN, COMMITTED, DELETED = 3, 4, 7
"""Calls of ``use`` after which the bytes are written, a blob, gone."""


class ResumeSuite(Rig):
    @pytest.fixture
    def reopen(self) -> Callable[[], content.Store] | None:
        """Opens the same content again, as after a restart; None: it does not outlive the store."""
        return None

    @pytest.fixture
    def crash(self) -> Crash | None:
        """``crash(work)`` does ``work(store, end)`` in a program that ends without closing anything, and answers the
        store as the next program sees it; None: no program can be ended here."""
        return None

    @holds(
        "Blobs and ingests are found again after a restart.",
        "The bytes are then on disk, the ingest is gone and the writer closed.",
    )
    def test_blobs_are_found_again_after_a_restart(
        self, shelf: Shelf, reopen: Callable[[], content.Store] | None
    ) -> None:
        data = {algorithm: shelf.data(100_000) for algorithm in ("sha256", "sha512")}
        for algorithm, each in data.items():
            with shelf.writer(shelf.ref()) as writer:
                writer.write(each)
                writer.commit(expected=digest_of(each, algorithm))
        infos = {digest: shelf.info(digest) for digest in (digest_of(*pair[::-1]) for pair in data.items())}
        shelf.move(_opened(reopen))
        for algorithm, each in data.items():
            assert shelf.get(digest_of(each, algorithm)) == each
        assert {info.digest: info for info in shelf.walk() if info.digest in infos} == infos

    @holds("Blobs and ingests are found again after a restart.", "Whoever opens the ref again goes on at its offset.")
    def test_ingests_are_found_again_after_a_restart(
        self, shelf: Shelf, reopen: Callable[[], content.Store] | None
    ) -> None:
        data = shelf.data(400_000)
        shelf.begin("ref", data[:150_001], total=len(data), expected=digest_of(data, "sha512"))
        before = shelf.status(shelf.ref())
        again = shelf.move(_opened(reopen))
        assert again.status(shelf.ref()) == before
        assert before in again.list_statuses()
        with again.writer(shelf.ref()) as writer:
            assert writer.digest() == digest_of(data[:150_001], "sha512")
            writer.write(data[150_001:])
            assert shelf.note(writer.commit()) == digest_of(data, "sha512")

    @holds(
        "A program that ends without closing a writer frees the ref.",
        "The ingest then has the first of the bytes that were written, possibly all.",
        "Blobs and ingests are found again after a restart.",
    )
    @pytest.mark.parametrize("calls", range(DELETED + 1))
    def test_after_a_crash_between_any_two_calls_the_next_program_goes_on(
        self, shelf: Shelf, crash: Crash | None, calls: int
    ) -> None:
        data = shelf.data(700_000)
        shelf.note(digest_of(data))
        steps = []

        def work(store: content.Store, end: End) -> None:
            steps.append(use(store, shelf.ref(), data))  # kept, so that nothing is closed by being forgotten
            for _ in range(calls):
                next(steps[0])

        again = shelf.move(_crashed(crash, work))
        if calls == DELETED:
            _is_missing(again, data)
        elif calls < COMMITTED:
            _is_missing(again, data)
            _go_on(again, shelf.ref(), data, range(len(data) + 1) if calls else range(1))
        assert shelf.ref() not in [status.ref for status in again.list_statuses()]
        if calls < DELETED:
            _is_whole(again, data)

    @holds(
        "A program that ends without closing a writer frees the ref.",
        "The ingest then has the first of the bytes that were written, possibly all.",
    )
    def test_after_a_crash_in_a_write_the_ingest_has_the_first_of_the_bytes(
        self, shelf: Shelf, crash: Crash | None
    ) -> None:
        data = shelf.data(3_000_000)
        shelf.note(digest_of(data))

        def work(store: content.Store, end: End) -> None:
            writer = store.writer(shelf.ref(), len(data), digest_of(data))
            threading.Timer(0.002, end).start()
            for start in range(0, len(data), 100_000):
                writer.write(data[start : start + 100_000])
            time.sleep(1)

        _go_on(shelf.move(_crashed(crash, work)), shelf.ref(), data, range(len(data) + 1))

    @holds(
        "When a program ends within ``commit``, there is the ingest or the blob.", "A blob appears whole or not at all."
    )
    @pytest.mark.parametrize("milliseconds", [0, 1, 3, 10, 100])
    def test_after_a_crash_in_a_commit_there_is_the_ingest_or_the_blob(
        self, shelf: Shelf, crash: Crash | None, milliseconds: float
    ) -> None:
        data = shelf.data(1_000_000)
        shelf.note(digest_of(data))

        def work(store: content.Store, end: End) -> None:
            writer = store.writer(shelf.ref(), len(data), digest_of(data))
            writer.write(data)
            threading.Timer(milliseconds / 1000, end).start()
            writer.commit(len(data), digest_of(data))
            time.sleep(1)

        again = shelf.move(_crashed(crash, work))
        _go_on(again, shelf.ref(), data, range(len(data), len(data) + 1))
        _is_whole(again, data)


def _opened(reopen: Callable[[], content.Store] | None) -> content.Store:
    if reopen is None:
        pytest.skip("the fixture `reopen` gives no second store")
    return reopen()


def _crashed(crash: Crash | None, work: Work) -> content.Store:
    if crash is None:
        pytest.skip("the fixture `crash` ends no program")
    return crash(work)


def _is_missing(store: content.Store, data: bytes) -> None:
    assert digest_of(data) not in [info.digest for info in store.walk()]
    with pytest.raises(errors.NotFound):
        store.info(digest_of(data))


def _is_whole(store: content.Store, data: bytes) -> None:
    with store.reader(digest_of(data)) as reader:
        assert reader.read_at(0, len(data) + 1) == data


def _go_on(store: content.Store, ref: str, data: bytes, offsets: range) -> None:
    """Makes the blob of what the ended program has left: an ingest that is so far, or the blob."""
    try:
        writer = _free(store, ref, data)
    except errors.AlreadyExists:
        return
    with writer:
        offset = writer.status().offset
        assert offset in offsets
        assert writer.digest() == digest_of(data[:offset])
        writer.write(data[offset:])
        assert writer.commit(len(data), digest_of(data)) == digest_of(data)


def _free(store: content.Store, ref: str, data: bytes) -> content.Writer:
    """The far end of a socket may need a moment to see that a program has ended."""
    end = time.monotonic() + NOTICE
    while True:
        try:
            return store.writer(ref, len(data), digest_of(data))
        except errors.Unavailable:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
