"""The suite for content stores, first part: blobs from their commit to their end, and their readers."""

from __future__ import annotations

import os
import time

import pytest

from plugin_sdk import errors
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.shelf import MISSING, SLACK, Rig, Shelf, digest_of

MALFORMED = ["sha256:1234", "md5:" + "0" * 32, "nothing", "sha256:" + "G" * 64, "SHA256:" + "0" * 64, "../etc"]


class ReadSuite(Rig):
    # One use from start to end

    @holds(
        "Makes the ingest a blob and returns its digest.",
        "Opens the blob.",
        "Begins the ingest ``ref``, or goes on with it.",
    )
    def test_a_committed_blob_is_read_back(self, shelf: Shelf) -> None:
        data = shelf.data(100_000)
        with shelf.writer(shelf.ref("layer"), total=len(data), expected=digest_of(data)) as writer:
            assert writer.status().offset == 0
            assert writer.write(data) == len(data)
            assert writer.commit(len(data), digest_of(data)) == digest_of(data)
        assert shelf.get(digest_of(data)) == data

    @holds("A blob appears whole or not at all.")
    def test_an_empty_blob_is_a_blob(self, shelf: Shelf) -> None:
        digest = digest_of(b"")
        try:
            assert shelf.put(b"") == digest
        except errors.AlreadyExists:
            assert shelf.refs() == []
        assert shelf.info(digest).size == 0
        assert shelf.get(digest) == b""

    @holds("A blob appears whole or not at all.")
    def test_before_its_commit_a_blob_is_not_there(self, shelf: Shelf) -> None:
        data = shelf.data(300_000)
        with shelf.writer(shelf.ref(), len(data), digest_of(data)) as writer:
            writer.write(data[:-1])
            self._is_missing(shelf, digest_of(data))
            self._is_missing(shelf, digest_of(data[:-1]))
            writer.write(data[-1:])
            self._is_missing(shelf, digest_of(data))
            writer.commit()
        assert digest_of(data) in shelf.digests()
        assert digest_of(data[:-1]) not in shelf.digests()

    @holds("Its bytes never change.")
    def test_a_blob_stays_what_it_is_whatever_is_tried(self, shelf: Shelf) -> None:
        data = shelf.data(200_000)
        buffer = bytearray(data)
        writer = shelf.writer(shelf.ref())
        writer.write(memoryview(buffer))
        digest = writer.commit()
        buffer[:] = bytes(len(buffer))
        for attempt in (lambda: writer.write(b"more"), lambda: writer.truncate(0), lambda: writer.commit()):
            with pytest.raises(errors.Error):
                attempt()
        shelf.begin("ref", b"another ingest of the same ref")
        with pytest.raises(errors.AlreadyExists):
            shelf.put(data, "once more")
        assert shelf.get(digest) == data

    @holds(
        "A **blob** is bytes named by their **digest**.",
        "A digest is ``sha256:`` and 64 lower-case hex digits, or the like of sha384 or sha512.",
    )
    @pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
    def test_a_blob_is_named_by_the_algorithm_that_is_expected(self, shelf: Shelf, algorithm: str) -> None:
        data = shelf.data()
        with shelf.writer(shelf.ref(), expected=digest_of(data, algorithm)) as writer:
            writer.write(data)
            assert writer.commit(0, digest_of(data, algorithm)) == digest_of(data, algorithm)
        assert shelf.get(digest_of(data, algorithm)) == data
        assert digest_of(data, algorithm) in shelf.digests()
        shelf.delete(digest_of(data, algorithm))
        self._is_missing(shelf, digest_of(data, algorithm))

    @holds("Where a blob is asked for by a text that is no digest, that raises InvalidArgument or NotFound.")
    @pytest.mark.parametrize("digest", MALFORMED)
    def test_a_malformed_digest_is_no_blobs(self, shelf: Shelf, digest: str) -> None:
        for ask in (shelf.info, shelf.delete, lambda digest: shelf.reader(digest).read_at(0, 1)):
            with pytest.raises((errors.InvalidArgument, errors.NotFound)):
                ask(digest)

    # Info

    @holds(
        "Size, times and labels of a blob.",
        "``created_at`` is when the blob appeared, ``updated_at`` when its labels last changed.",
        "Times are nanoseconds since the epoch (UTC).",
    )
    def test_info_tells_size_and_times(self, shelf: Shelf) -> None:
        before = time.time_ns()
        digest = shelf.put(shelf.data(12_345))
        info = shelf.info(digest)
        assert (info.digest, info.size) == (digest, 12_345)
        assert before - SLACK <= info.created_at <= info.updated_at <= time.time_ns() + SLACK

    @holds("Size, times and labels of a blob.")
    def test_walk_tells_the_same_as_info(self, shelf: Shelf) -> None:
        digest = shelf.put(shelf.data())
        assert list(shelf.walk([f"digest=={digest}"])) == [shelf.info(digest)]

    @holds(
        "Without the blob, ``info`` raises NotFound.",
        "The message of an error names the digest or the ref that it is about.",
    )
    def test_info_of_a_missing_blob_is_not_found(self, shelf: Shelf) -> None:
        with pytest.raises(errors.NotFound, match=MISSING):
            shelf.info(MISSING)

    # Walk

    @holds("Every blob that one of the filters matches (``matcher``), all without; order is not defined.")
    def test_walk_shows_every_blob_once(self, shelf: Shelf) -> None:
        before = set(shelf.digests())
        made = [shelf.put(shelf.data()) for _ in range(5)]
        shelf.begin("no blob", b"data")
        found = [digest for digest in shelf.digests() if digest not in before]
        assert sorted(found) == sorted(made)

    @holds("Every blob that one of the filters matches (``matcher``), all without; order is not defined.")
    def test_walk_shows_more_blobs_than_fit_in_one_message(self, shelf: Shelf) -> None:
        made = {shelf.put(shelf.data(), f"put-{number}") for number in range(130)}
        assert made <= set(shelf.digests())

    @holds(
        "Every blob that one of the filters matches (``matcher``), all without; order is not defined.",
        "The filterable fields of a blob are ``digest`` and ``labels.KEY``.",
    )
    def test_walk_takes_filters_of_which_one_must_match(self, shelf: Shelf) -> None:
        first, second, third = (shelf.put(shelf.data()) for _ in range(3))
        assert sorted(shelf.digests(f'digest=="{first}"', f"digest=={second}")) == sorted([first, second])
        assert shelf.digests(f"digest~=^{third[:40]}", f"digest=={third}") == [third]
        assert shelf.digests(f"digest=={first},digest!={first}") == []
        assert shelf.digests(f"digest=={first},digest!={second}") == [first]

    @holds("A malformed filter of blobs raises InvalidArgument.")
    @pytest.mark.parametrize("filter", ["digest==", "digest=?x", 'digest=="x', "digest~=("])
    def test_a_malformed_filter_of_blobs_is_refused(self, shelf: Shelf, filter: str) -> None:
        with pytest.raises(errors.InvalidArgument):
            shelf.digests(filter)

    # Delete

    @holds("Removes the blob, whose bytes can then be written again.")
    def test_delete_removes_the_blob_and_no_other(self, shelf: Shelf) -> None:
        digest, other = shelf.put(shelf.data()), shelf.put(shelf.data())
        shelf.delete(digest)
        self._is_missing(shelf, digest)
        assert other in shelf.digests()

    @holds("Removes the blob, whose bytes can then be written again.")
    def test_a_deleted_blob_can_be_written_again(self, shelf: Shelf) -> None:
        data = shelf.data()
        for _ in range(3):
            assert shelf.get(shelf.put(data)) == data
            shelf.delete(digest_of(data))
        shelf.put(data)
        assert shelf.digests(f"digest=={digest_of(data)}") == [digest_of(data)]

    @holds(
        "Without the blob, ``delete`` raises NotFound.",
        "The message of an error names the digest or the ref that it is about.",
    )
    def test_delete_of_a_missing_blob_is_not_found(self, shelf: Shelf) -> None:
        with pytest.raises(errors.NotFound, match=MISSING):
            shelf.delete(MISSING)
        digest = shelf.put(shelf.data())
        shelf.delete(digest)
        with pytest.raises(errors.NotFound, match=digest):
            shelf.delete(digest)

    @holds("An open reader of it reads on or raises NotFound.")
    def test_delete_leaves_an_open_reader_the_right_bytes_or_none(self, shelf: Shelf) -> None:
        data = shelf.data(200_000)
        with shelf.reader(shelf.put(data)) as reader:
            assert reader.read_at(0, 1000) == data[:1000]
            shelf.delete(digest_of(data))
            shelf.put(shelf.data(200_000))
            try:
                assert reader.read_at(1000, 199_000) == data[1000:]
            except errors.NotFound as err:
                assert digest_of(data) in err.message

    # Readers

    @holds(
        "Of the blob, in bytes.", "At most ``size`` bytes from ``offset``; fewer only at the end, empty at and past it."
    )
    def test_read_at_reads_any_part(self, shelf: Shelf) -> None:
        data = shelf.data(300_000)
        with shelf.reader(shelf.put(data)) as reader:
            assert reader.size == len(data)
            for offset, size in ((0, 1), (1, 1000), (299_990, 10), (100_000, 150_000), (5, 0), (0, 300_000)):
                assert reader.read_at(offset, size) == data[offset : offset + size]

    @holds("At most ``size`` bytes from ``offset``; fewer only at the end, empty at and past it.")
    def test_read_at_is_short_only_at_the_end(self, shelf: Shelf) -> None:
        data = shelf.data(10)
        with shelf.reader(shelf.put(data)) as reader:
            assert reader.read_at(5, 100) == data[5:]
            for offset in (10, 11, 1 << 40):
                assert reader.read_at(offset, 1) == b""

    @holds("At most ``size`` bytes from ``offset``; fewer only at the end, empty at and past it.")
    @pytest.mark.parametrize("size", [1 << 20, (9 << 20) + 3])
    def test_large_reads_are_whole(self, shelf: Shelf, size: int) -> None:
        data = shelf.data(9_800_001)
        with shelf.reader(shelf.put(data)) as reader:
            assert reader.read_at(1, size) == data[1 : 1 + size]

    @holds("Raises OutOfRange for a negative offset.")
    def test_a_negative_offset_is_out_of_range(self, shelf: Shelf) -> None:
        with shelf.reader(shelf.put(shelf.data())) as reader, pytest.raises(errors.OutOfRange):
            reader.read_at(-1, 5)

    @holds(
        "A descriptor of a plain file with exactly the blob's bytes.",
        "Where there is none, ``fileno`` raises Unimplemented.",
    )
    def test_fileno_is_a_file_with_exactly_the_bytes(self, shelf: Shelf, supports_fileno: bool) -> None:
        data = shelf.data(10)
        with shelf.reader(shelf.put(data)) as reader:
            if not supports_fileno:
                with pytest.raises(errors.Unimplemented):
                    reader.fileno()
                return
            assert os.fstat(reader.fileno()).st_size == 10
            assert os.pread(reader.fileno(), 100, 0) == data
            assert reader.read_at(0, 10) == data

    @holds("Closing a reader twice does nothing.")
    def test_closing_a_reader_twice_does_nothing(self, shelf: Shelf) -> None:
        data = shelf.data()
        reader, other = shelf.reader(shelf.put(data)), shelf.reader(digest_of(data))
        reader.close()
        reader.close()
        assert other.read_at(0, 100) == data

    @holds(
        "Without it, ``reader`` or the first read raises NotFound.",
        "The message of an error names the digest or the ref that it is about.",
    )
    def test_reader_of_a_missing_blob_is_not_found(self, shelf: Shelf) -> None:
        with pytest.raises(errors.NotFound, match=MISSING):
            shelf.reader(MISSING).read_at(0, 1)

    @staticmethod
    def _is_missing(shelf: Shelf, digest: str) -> None:
        assert digest not in shelf.digests()
        for ask in (shelf.info, shelf.get):
            with pytest.raises(errors.NotFound):
                ask(digest)
