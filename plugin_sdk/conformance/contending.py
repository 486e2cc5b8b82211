"""The suite for content stores, fourth part: many callers at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

from plugin_sdk import content, errors
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.shelf import Rig, Shelf, digest_of, together

THREADS = "All methods block, and may be called from several threads."
SECONDS, TURNS = 0.2, 20
"""How long the checks go on that look for a rare coincidence, and through how many changes and looks at least."""


class ContendSuite(Rig):
    @holds("Writers of different refs do not disturb each other.", THREADS)
    def test_many_write_different_refs_at_once(self, shelf: Shelf) -> None:
        def write(number: int) -> None:
            for turn in range(3):
                chunks = [shelf.data(size) for size in (70_001, 1, 130_000 + number)]
                with shelf.writer(shelf.ref(f"{number}")) as writer:
                    for chunk in chunks:
                        writer.write(chunk)
                    digest = writer.commit(expected=digest_of(b"".join(chunks)))
                assert shelf.get(digest) == b"".join(chunks), turn

        together(*[lambda number=number: write(number) for number in range(8)])
        assert shelf.refs() == []

    @holds("Writers of different refs do not disturb each other.")
    def test_a_writer_that_rests_holds_up_nobody(self, shelf: Shelf) -> None:
        resting = [shelf.writer(shelf.ref(f"resting-{number}")) for number in range(40)]
        for writer in resting:
            writer.write(b"first")
        digest = together(lambda: shelf.put(shelf.data()))[0]
        assert shelf.info(digest).size > 0
        for writer in resting:
            writer.write(b"second")
            assert writer.status().offset == 11

    @holds("At most one writer is open for a ref at a time.", THREADS)
    def test_of_those_who_want_one_ref_each_gets_its_turn(self, shelf: Shelf) -> None:
        inside, stop = threading.Semaphore(1), threading.Event()

        def append(letter: bytes) -> None:
            while not stop.is_set():
                try:
                    with shelf.writer(shelf.ref()) as writer:
                        assert inside.acquire(blocking=False), "two writers of one ref"
                        before = writer.status().offset
                        writer.write(letter * 1000)
                        assert writer.status().offset == before + 1000
                        inside.release()
                        return
                except errors.Unavailable:
                    time.sleep(0.001)

        together(*[lambda letter=letter: append(letter.encode()) for letter in "abcdef"], stop=stop)
        with shelf.writer(shelf.ref()) as writer:
            data = shelf.get(writer.commit())
        assert sorted(data[start : start + 1000] for start in range(0, 6000, 1000)) == [
            letter.encode() * 1000 for letter in "abcdef"
        ]

    @holds("Its bytes never change.", "At most one writer is open for a ref at a time.")
    def test_opening_writers_against_committing_ones_never_damages_a_blob(self, shelf: Shelf) -> None:
        end = time.monotonic() + SECONDS

        def work(name: str) -> list[str]:
            made: list[str] = []
            while time.monotonic() < end:
                data = f"{name} {len(made)} {shelf.ref()}".encode() * 100
                try:
                    with shelf.writer(shelf.ref()) as writer:
                        writer.truncate(0)
                        writer.write(data)
                        made.append(writer.commit())
                    assert shelf.get(made[-1]) == data
                except errors.Unavailable:
                    time.sleep(0)
            return made

        made = [digest for digests in together(lambda: work("a"), lambda: work("b")) for digest in digests]
        assert made
        for digest in made:
            assert digest_of(shelf.get(digest)) == digest

    @holds("Any number may be open for a blob, in any number of threads.")
    def test_many_read_one_blob_at_once(self, shelf: Shelf) -> None:
        data = shelf.data(1_500_000)
        digest = shelf.put(data)

        def read(start: int) -> None:
            with shelf.reader(digest) as one, shelf.reader(digest) as other:
                for offset in range(start, len(data), 500_009):
                    assert digest_of(one.read_at(offset, 100_000)) == digest_of(data[offset : offset + 100_000])
                    assert other.read_at(0, 1000) == data[:1000]
                one.close()
                assert other.read_at(0, 1000) == data[:1000]

        together(*[lambda start=start: read(start) for start in range(8)])

    @holds("An open reader of it reads on or raises NotFound.", "Its bytes never change.")
    def test_readers_of_a_blob_that_is_deleted_see_its_bytes_or_nothing(self, shelf: Shelf) -> None:
        data, stop = shelf.data(300_000), threading.Event()

        def read() -> int:
            count = 0
            while not stop.is_set():
                try:
                    with shelf.reader(digest_of(data)) as reader:
                        assert digest_of(reader.read_at(0, 300_000)) == digest_of(data)
                        assert reader.read_at(299_000, 5000) == data[299_000:]
                    count += 1
                except errors.NotFound:
                    break
            return count

        def delete() -> int:
            time.sleep(0.02)
            shelf.delete(digest_of(data))
            return 0

        for _ in range(3):
            shelf.put(data)
            together(read, read, read, delete, stop=stop)
            assert digest_of(data) not in shelf.digests()

    @holds("Blobs that come or go while it walks may be among them or not.", THREADS)
    def test_walking_goes_on_while_blobs_come_and_go(self, shelf: Shelf) -> None:
        stays = shelf.put(shelf.data())
        change = self._coming_and_going(lambda number: shelf.put(shelf.data(), f"busy-{number}"), shelf.delete)
        self._while_busy(change, lambda: stays in shelf.digests())

    @holds("Every ingest that one of the filters matches (``status_matcher``), all without.", THREADS)
    def test_listing_goes_on_while_ingests_come_and_go(self, shelf: Shelf) -> None:
        shelf.begin("stays", b"data")
        change = self._coming_and_going(lambda number: shelf.begin(f"busy-{number}", b"data"), shelf.abort)
        self._while_busy(change, lambda: "stays" in shelf.refs())

    @holds("Of an ingest, also while a writer of it is open.", THREADS)
    def test_status_can_be_asked_while_another_writes(self, shelf: Shelf) -> None:
        with shelf.writer(shelf.ref()) as writer:
            writer.write(b"x")
            offsets: list[int] = []

            def look() -> bool:
                offsets.append(shelf.status(shelf.ref()).offset)
                return offsets == sorted(offsets)

            self._while_busy(lambda: writer.write(bytes(5000)), look)
            assert (writer.status().offset - 1) % 5000 == 0
            assert max(offsets) <= writer.status().offset

    @holds("An open writer of it fails from then on.", "Removes the ingest, and the ref is free at once.")
    def test_abort_in_the_midst_of_writing_ends_that_writer(self, shelf: Shelf) -> None:
        stop = threading.Event()

        def write(writer: content.Writer) -> None:
            while not stop.is_set():
                try:
                    writer.write(bytes(10_000))
                    writer.status()
                except errors.Error:
                    return

        def abort() -> None:
            time.sleep(0.02)
            shelf.abort(shelf.ref())
            with shelf.writer(shelf.ref()) as successor:
                assert successor.status().offset == 0

        old = shelf.writer(shelf.ref())
        together(lambda: write(old), abort, stop=stop)
        old.close()
        assert shelf.status(shelf.ref()).offset == 0

    @staticmethod
    def _coming_and_going(add: Callable[[int], str], remove: Callable[[str], object]) -> Callable[[], object]:
        """Each call adds one, and removes the oldest when there are five."""
        there: list[str] = []
        numbers = itertools.count()

        def change() -> None:
            there.append(add(next(numbers)))
            if len(there) == 5:
                remove(there.pop(0))

        return change

    @staticmethod
    def _while_busy(change: Callable[[], object], holds: Callable[[], bool]) -> None:
        """One thread changes something while another sees that a condition holds."""
        end = time.monotonic() + SECONDS
        ended = threading.Event()
        enough = threading.Event()

        def work() -> bool:
            try:
                for turn in itertools.count():
                    if ended.is_set():
                        break
                    if turn == TURNS:
                        enough.set()
                    change()
            finally:
                ended.set()
            return True

        def watch() -> bool:
            try:
                for turn in itertools.count():
                    if ended.is_set() or (turn >= TURNS and enough.is_set() and time.monotonic() > end):
                        break
                    if not holds():
                        return False
                return True
            finally:
                ended.set()

        assert together(work, watch) == [True, True]
