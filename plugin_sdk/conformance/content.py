"""The suite for content stores: every sentence of ``plugin_sdk.content`` has a test.

An implementation subclasses it, gives a ``store`` and says what it cannot do::

    class TestMine(content.ContentSuite):
        @pytest.fixture
        def store(self, tmp_path):
            return Mine(tmp_path)

        @pytest.fixture
        def supports_labels(self):
            return False

``reopen`` is for stores that survive their process: it answers a second object over what the first one keeps.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable

import pytest

from plugin_sdk import content, errors

MISSING = "sha256:" + "0" * 64


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


class ContentSuite:
    @pytest.fixture
    def store(self) -> content.Store:
        raise NotImplementedError("a subclass gives the store")

    @pytest.fixture
    def supports_labels(self) -> bool:
        return True

    @pytest.fixture
    def supports_fileno(self) -> bool:
        """Readers have a descriptor of a plain file."""
        return False

    @pytest.fixture
    def reopen(self) -> Callable[[], content.Store] | None:
        """Opens the same content again, as after a restart."""
        return None

    # One use from start to end

    def test_a_committed_blob_is_read_back(self, store: content.Store) -> None:
        data = os.urandom(100_000)
        with store.writer("layer", total=len(data), expected=digest_of(data)) as writer:
            assert writer.status().offset == 0
            assert writer.write(data) == len(data)
            assert writer.commit(len(data), digest_of(data)) == digest_of(data)
        assert get(store, digest_of(data)) == data

    def test_an_empty_blob_is_a_blob(self, store: content.Store) -> None:
        digest = put(store, b"")
        assert store.info(digest).size == 0
        assert get(store, digest) == b""

    @pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
    def test_a_blob_is_named_by_the_algorithm_that_is_expected(self, store: content.Store, algorithm: str) -> None:
        data = b"some bytes"
        with store.writer("ref", expected=digest_of(data, algorithm)) as writer:
            writer.write(data)
            assert writer.digest() == digest_of(data, algorithm)
            assert writer.commit(0, digest_of(data, algorithm)) == digest_of(data, algorithm)
        assert get(store, digest_of(data, algorithm)) == data

    def test_commit_may_expect_another_algorithm_than_the_writer_was_opened_with(self, store: content.Store) -> None:
        data = b"late decision"
        with store.writer("ref") as writer:
            writer.write(data)
            assert writer.commit(expected=digest_of(data, "sha512")) == digest_of(data, "sha512")

    def test_commit_without_size_and_digest_takes_what_is_there(self, store: content.Store) -> None:
        with store.writer("ref") as writer:
            writer.write(b"anything")
            assert writer.commit() == digest_of(b"anything")

    def test_a_blob_of_many_chunks_of_every_size(self, store: content.Store) -> None:
        chunks = [os.urandom(size) for size in (1, 1 << 20, 3, 700_000, 0, 300_000, 1 << 20, 17)]
        with store.writer("ref") as writer:
            for chunk in chunks:
                writer.write(chunk)
            digest = writer.commit()
        assert digest == digest_of(b"".join(chunks))
        assert get(store, digest) == b"".join(chunks)

    def test_a_view_of_a_buffer_may_change_after_write(self, store: content.Store) -> None:
        buffer = bytearray(b"x" * 500_000)
        with store.writer("ref") as writer:
            writer.write(memoryview(buffer))
            buffer[:] = b"y" * 500_000
            assert writer.commit() == digest_of(b"x" * 500_000)

    # Info, walk, delete

    def test_info_tells_size_and_times(self, store: content.Store) -> None:
        before = time.time_ns()
        digest = put(store, b"12345")
        info = store.info(digest)
        assert (info.digest, info.size) == (digest, 5)
        slack = 2 * 10**9  # clocks of file systems tick coarsely
        assert before - slack <= info.created_at <= info.updated_at <= time.time_ns() + slack

    def test_info_of_a_missing_blob_is_not_found(self, store: content.Store) -> None:
        with pytest.raises(errors.NotFound, match=MISSING):
            store.info(MISSING)

    def test_reader_of_a_missing_blob_is_not_found(self, store: content.Store) -> None:
        with pytest.raises(errors.NotFound, match=MISSING):
            store.reader(MISSING).read_at(0, 1)

    def test_delete_of_a_missing_blob_is_not_found(self, store: content.Store) -> None:
        with pytest.raises(errors.NotFound, match=MISSING):
            store.delete(MISSING)

    @pytest.mark.parametrize("digest", ["sha256:1234", "md5:" + "0" * 32, "nothing", "sha256:" + "G" * 64, "../etc"])
    def test_a_malformed_digest_is_refused(self, store: content.Store, digest: str) -> None:
        with pytest.raises((errors.InvalidArgument, errors.NotFound)):
            store.info(digest)
        with pytest.raises(errors.InvalidArgument):
            store.writer("ref", expected=digest).status()
        assert refs(store) == []

    def test_walk_shows_every_blob(self, store: content.Store) -> None:
        digests = {put(store, bytes([number])) for number in range(5)}
        assert {info.digest for info in store.walk()} == digests

    def test_walk_takes_filters_of_which_one_must_match(self, store: content.Store) -> None:
        first, second, _ = (put(store, data) for data in (b"a", b"b", b"c"))
        found = store.walk([f'digest=="{first}"', f'digest=="{second}"'])
        assert {info.digest for info in found} == {first, second}

    def test_a_malformed_filter_is_refused(self, store: content.Store) -> None:
        with pytest.raises(errors.InvalidArgument):
            list(store.walk(["digest=="]))

    def test_delete_removes_the_blob(self, store: content.Store) -> None:
        digest = put(store, b"data")
        store.delete(digest)
        with pytest.raises(errors.NotFound):
            store.info(digest)
        assert list(store.walk()) == []

    def test_delete_leaves_open_readers_what_they_read(self, store: content.Store) -> None:
        digest = put(store, b"data")
        with store.reader(digest) as reader:
            assert reader.size == 4
            assert reader.read_at(0, 4) == b"data"
            store.delete(digest)

    def test_a_deleted_blob_can_be_written_again(self, store: content.Store) -> None:
        store.delete(put(store, b"data"))
        assert get(store, put(store, b"data")) == b"data"

    # Readers

    def test_read_at_reads_any_part(self, store: content.Store) -> None:
        data = os.urandom(300_000)
        with store.reader(put(store, data)) as reader:
            assert reader.size == len(data)
            for offset, size in ((0, 1), (1, 1000), (299_990, 10), (100_000, 150_000)):
                assert reader.read_at(offset, size) == data[offset : offset + size]

    def test_read_at_is_short_only_at_the_end(self, store: content.Store) -> None:
        with store.reader(put(store, b"0123456789")) as reader:
            assert reader.read_at(5, 100) == b"56789"
            assert reader.read_at(10, 1) == b""
            assert reader.read_at(11, 1) == b""

    def test_fileno_is_a_file_with_exactly_the_bytes(self, store: content.Store, supports_fileno: bool) -> None:
        with store.reader(put(store, b"0123456789")) as reader:
            if not supports_fileno:
                with pytest.raises(errors.Unimplemented):
                    reader.fileno()
                return
            assert os.fstat(reader.fileno()).st_size == 10
            assert os.pread(reader.fileno(), 100, 0) == b"0123456789"

    def test_closing_a_reader_twice_does_nothing(self, store: content.Store) -> None:
        reader = store.reader(put(store, b"data"))
        reader.close()
        reader.close()

    # Ingests

    def test_closing_without_commit_keeps_the_ingest(self, store: content.Store) -> None:
        with store.writer("ref", total=10) as writer:
            writer.write(b"half")
        status = store.status("ref")
        assert (status.ref, status.offset, status.total) == ("ref", 4, 10)
        assert refs(store) == ["ref"]
        assert list(store.walk()) == []

    def test_a_writer_goes_on_where_the_last_one_stopped(self, store: content.Store) -> None:
        data = os.urandom(2_500_000)
        with store.writer("ref") as writer:
            writer.write(data[:1_700_001])
        with store.writer("ref") as writer:
            assert writer.status().offset == 1_700_001
            assert writer.digest() == digest_of(data[:1_700_001])
            writer.write(data[1_700_001:])
            writer.commit(len(data), digest_of(data))
        assert get(store, digest_of(data)) == data

    def test_status_tells_what_the_writer_was_opened_with(self, store: content.Store) -> None:
        before = time.time_ns()
        expected = digest_of(b"data")
        with store.writer("a ref/with: everything", total=4, expected=expected) as writer:
            writer.write(b"da")
            for status in (writer.status(), store.status("a ref/with: everything")):
                assert (status.ref, status.offset, status.total) == ("a ref/with: everything", 2, 4)
                assert status.expected in (expected, "")
                assert before - 2 * 10**9 <= status.started_at <= time.time_ns() + 2 * 10**9
                assert status.updated_at >= before - 2 * 10**9

    def test_digest_is_of_what_is_written_so_far(self, store: content.Store) -> None:
        with store.writer("ref") as writer:
            assert writer.digest() == digest_of(b"")
            writer.write(b"abc")
            assert writer.digest() == digest_of(b"abc")
            writer.write(b"def")
            assert writer.digest() == digest_of(b"abcdef")

    def test_truncate_begins_again(self, store: content.Store) -> None:
        with store.writer("ref") as writer:
            writer.write(b"wrong start")
            writer.truncate(0)
            assert writer.status().offset == 0
            writer.write(b"right")
            assert writer.commit() == digest_of(b"right")

    def test_truncate_cuts_the_end(self, store: content.Store) -> None:
        with store.writer("ref") as writer:
            writer.write(b"right wrong")
            writer.truncate(5)
            writer.write(b"!")
            assert writer.commit() == digest_of(b"right!")

    def test_truncate_beyond_the_end_is_out_of_range(self, store: content.Store) -> None:
        with store.writer("ref") as writer:
            writer.write(b"abc")
            with pytest.raises(errors.OutOfRange):
                writer.truncate(4)

    @pytest.mark.parametrize("ref", ["layer-sha256:0123", "../..", "/a/b", "ä\r\n", "x" * 1000])
    def test_a_ref_is_any_text(self, store: content.Store, ref: str) -> None:
        store.writer(ref).close()
        assert refs(store) == [store.status(ref).ref] == [ref]
        store.abort(ref)
        assert refs(store) == []

    def test_an_open_ref_is_unavailable_to_others(self, store: content.Store) -> None:
        with store.writer("ref") as writer:
            writer.write(b"mine")
            with pytest.raises(errors.Unavailable, match="ref"):
                store.writer("ref").status()
            with store.writer("other") as other:
                other.write(b"another ref is free")
            assert writer.status().offset == 4
        with store.writer("ref") as writer:
            assert writer.status().offset == 4

    def test_an_empty_ref_is_refused(self, store: content.Store) -> None:
        with pytest.raises(errors.InvalidArgument):
            store.writer("").status()

    def test_a_writer_of_an_existing_blob_says_so(self, store: content.Store) -> None:
        digest = put(store, b"data")
        with pytest.raises(errors.AlreadyExists, match=digest):
            store.writer("again", expected=digest).status()
        assert refs(store) == []

    def test_list_statuses_takes_filters(self, store: content.Store) -> None:
        for ref in ("layer-1", "layer-2", "config"):
            store.writer(ref).close()
        assert refs(store) == ["config", "layer-1", "layer-2"]
        assert refs(store, "ref~=^layer") == ["layer-1", "layer-2"]
        assert refs(store, "ref==config", "ref==layer-2") == ["config", "layer-2"]

    def test_status_of_a_missing_ref_is_not_found(self, store: content.Store) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            store.status("nobody")

    def test_abort_removes_the_ingest(self, store: content.Store) -> None:
        with store.writer("ref") as writer:
            writer.write(b"data")
        store.abort("ref")
        assert refs(store) == []
        with pytest.raises(errors.NotFound):
            store.status("ref")
        with store.writer("ref") as writer:
            assert writer.status().offset == 0

    def test_abort_of_a_missing_ref_is_not_found(self, store: content.Store) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            store.abort("nobody")

    def test_abort_makes_an_open_writer_fail(self, store: content.Store) -> None:
        with store.writer("ref") as writer:
            writer.write(b"data")
            store.abort("ref")
            with pytest.raises(errors.Error):
                writer.write(b"more")
                writer.commit()
        assert refs(store) == []
        assert list(store.walk()) == []

    def test_an_aborted_writer_does_not_touch_its_successor(self, store: content.Store) -> None:
        old = store.writer("ref")
        old.write(b"old")
        store.abort("ref")
        with store.writer("ref") as writer:
            writer.write(b"new")
            with pytest.raises(errors.Error):
                old.commit()
            old.close()
            assert writer.commit() == digest_of(b"new")

    # Commit

    def test_commit_ends_the_ingest(self, store: content.Store) -> None:
        put(store, b"data", ref="ref")
        assert refs(store) == []
        with pytest.raises(errors.NotFound):
            store.status("ref")

    def test_commit_closes_the_writer(self, store: content.Store) -> None:
        writer = store.writer("ref")
        writer.write(b"data")
        writer.commit()
        with pytest.raises(errors.Error):
            writer.write(b"more")
        writer.close()
        writer.close()

    def test_commit_of_a_wrong_size_keeps_the_ingest(self, store: content.Store) -> None:
        with store.writer("ref") as writer:
            writer.write(b"data")
            with pytest.raises(errors.FailedPrecondition, match="size"):
                writer.commit(size=5)
        assert store.status("ref").offset == 4
        assert list(store.walk()) == []

    def test_commit_of_a_wrong_digest_keeps_the_ingest(self, store: content.Store) -> None:
        with store.writer("ref") as writer:
            writer.write(b"data")
            with pytest.raises(errors.FailedPrecondition, match="digest"):
                writer.commit(expected=MISSING)
        assert store.status("ref").offset == 4
        with pytest.raises(errors.NotFound):
            store.info(MISSING)
        with store.writer("ref") as writer:
            assert writer.commit(4, digest_of(b"data")) == digest_of(b"data")

    def test_commit_of_an_existing_blob_says_so_and_ends_the_ingest(self, store: content.Store) -> None:
        with store.writer("slow") as writer:
            writer.write(b"data")
            put(store, b"data", ref="fast")
            with pytest.raises(errors.AlreadyExists, match=digest_of(b"data")):
                writer.commit()
        assert refs(store) == []
        assert get(store, digest_of(b"data")) == b"data"

    def test_of_many_writers_of_one_blob_all_see_it(self, store: content.Store) -> None:
        data = os.urandom(50_000)
        outcomes: list[str] = []

        def write(number: int) -> None:
            try:
                put(store, data, ref=f"ref-{number}")
                outcomes.append("committed")
            except errors.AlreadyExists:
                outcomes.append("exists")

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("committed") == 1
        assert outcomes.count("exists") == 7
        assert get(store, digest_of(data)) == data
        assert refs(store) == []

    # Labels

    def test_labels_of_a_commit_are_kept(self, store: content.Store, supports_labels: bool) -> None:
        with store.writer("ref") as writer:
            writer.write(b"data")
            digest = writer.commit(labels={"origin": "here", "empty": ""})
        assert store.info(digest).labels == ({"origin": "here"} if supports_labels else {})

    def test_update_replaces_all_labels(self, store: content.Store, supports_labels: bool) -> None:
        digest = self._labelled(store, supports_labels, {"a": "1", "b": "2"})
        if digest:
            updated = store.update(content.Info(digest, 0, labels={"b": "3", "c": ""}))
            assert updated.labels == store.info(digest).labels == {"b": "3"}
            assert updated.size == 4

    def test_update_changes_the_named_labels(self, store: content.Store, supports_labels: bool) -> None:
        digest = self._labelled(store, supports_labels, {"a": "1", "b/c.d": "2", "e": "3"})
        if digest:
            changed = content.Info(digest, 0, labels={"b/c.d": "4", "e": "", "f": "ignored"})
            assert store.update(changed, ["labels.b/c.d", "labels.e"]).labels == {"a": "1", "b/c.d": "4"}
            assert store.update(content.Info(digest, 0, labels={"x": "y"}), ["labels"]).labels == {"x": "y"}

    def test_update_refuses_other_fields(self, store: content.Store, supports_labels: bool) -> None:
        digest = self._labelled(store, supports_labels, {})
        if digest:
            with pytest.raises(errors.InvalidArgument, match="size"):
                store.update(content.Info(digest, 9), ["size"])

    def test_update_of_a_missing_blob_is_not_found(self, store: content.Store, supports_labels: bool) -> None:
        if self._labelled(store, supports_labels, {}):
            with pytest.raises(errors.NotFound):
                store.update(content.Info(MISSING, 0, labels={"a": "b"}))

    def test_walk_filters_by_label(self, store: content.Store, supports_labels: bool) -> None:
        digest = self._labelled(store, supports_labels, {"color": "red"})
        if digest:
            put(store, b"no label")
            assert [info.digest for info in store.walk(["labels.color==red"])] == [digest]
            assert [info.digest for info in store.walk(["labels.color"])] == [digest]

    def _labelled(self, store: content.Store, supported: bool, labels: dict[str, str]) -> str:
        """A blob with these labels; empty where there are none, after asking that update says so."""
        with store.writer("labelled") as writer:
            writer.write(b"data")
            digest = writer.commit(labels=labels)
        if supported:
            return digest
        with pytest.raises(errors.Unimplemented):
            store.update(content.Info(digest, 0, labels={"a": "b"}))
        return ""

    # Restart

    def test_blobs_and_ingests_survive_a_restart(
        self, store: content.Store, reopen: Callable[[], content.Store] | None
    ) -> None:
        if reopen is None:
            return
        digest = put(store, b"data")
        with store.writer("ref", total=10, expected=digest_of(b"0123456789")) as writer:
            writer.write(b"01234")
        again = reopen()
        assert get(again, digest) == b"data"
        status = again.status("ref")
        assert (status.offset, status.total) == (5, 10)
        with again.writer("ref") as writer:
            writer.write(b"56789")
            assert writer.commit() == digest_of(b"0123456789")
