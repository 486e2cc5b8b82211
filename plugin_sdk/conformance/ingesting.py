"""The suite for content stores, second part: refs, writers and what ``status`` tells of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from plugin_sdk import content, errors
from plugin_sdk.conformance.reading import MALFORMED
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.shelf import SLACK, Rig, Shelf, digest_of, together

REFS = ["layer-sha256:0123", "../..", "/a/b", ".", "a ref/with: everything?*%00", "ä\r\n\t", "\U0001f600", "x" * 1000]


class IngestSuite(Rig):
    # Refs

    @holds("A ref is any non-empty text, and refs that differ in one character name two ingests.")
    @pytest.mark.parametrize("text", REFS)
    def test_a_ref_is_any_text(self, shelf: Shelf, text: str) -> None:
        ref = text + shelf.ref("")
        with shelf.writer(ref) as writer:
            writer.write(b"1234")
        assert shelf.status(ref).ref == ref
        assert [status.offset for status in shelf.list_statuses() if status.ref == ref] == [4]
        shelf.abort(ref)
        assert ref not in [status.ref for status in shelf.list_statuses()]

    @holds("A ref is any non-empty text, and refs that differ in one character name two ingests.")
    def test_refs_that_look_alike_are_different(self, shelf: Shelf) -> None:
        texts = ["a", "A", "a/", "a ", "a\n", "a/../a", "./a", "a\u0301", "\u00e1"]
        for size, text in enumerate(texts, 1):
            shelf.begin(text, bytes(size))
        assert shelf.refs() == sorted(texts)
        assert [shelf.status(shelf.ref(text)).offset for text in texts] == [*range(1, len(texts) + 1)]

    @holds("An empty ref raises InvalidArgument.")
    def test_an_empty_ref_is_refused(self, shelf: Shelf) -> None:
        with pytest.raises(errors.InvalidArgument):
            shelf.writer("")

    @holds("An ``expected`` that is no digest raises InvalidArgument.")
    @pytest.mark.parametrize("digest", MALFORMED)
    def test_a_writer_that_expects_no_digest_is_refused(self, shelf: Shelf, digest: str) -> None:
        with pytest.raises(errors.InvalidArgument):
            shelf.writer(shelf.ref(), expected=digest)
        assert shelf.refs() == []

    @holds(
        "At most one writer is open for a ref at a time.",
        "Raises Unavailable while another writer of this ref is open: repeat.",
    )
    def test_an_open_ref_is_unavailable_to_others(self, shelf: Shelf) -> None:
        with shelf.writer(shelf.ref()) as writer:
            writer.write(b"mine")
            for options in ({}, {"total": 9}, {"expected": digest_of(b"another")}):
                with pytest.raises(errors.Unavailable, match=shelf.ref()):
                    shelf.writer(shelf.ref(), **options)
            assert writer.status().offset == 4
            writer.write(b"more")
        with shelf.writer(shelf.ref()) as writer:
            assert writer.digest() == digest_of(b"minemore")

    @holds("Writers of different refs do not disturb each other.")
    def test_writers_of_different_refs_take_turns(self, shelf: Shelf) -> None:
        data = {text: [shelf.data(50_000 + size) for _ in range(4)] for size, text in enumerate("abc")}
        writers = {text: shelf.writer(shelf.ref(text)) for text in data}
        for turn in range(4):
            for text, writer in writers.items():
                writer.write(data[text][turn])
        assert shelf.refs() == [*data]
        for text, writer in writers.items():
            digest = writer.commit()
            assert shelf.get(digest) == b"".join(data[text])

    @holds("Raises AlreadyExists when ``expected`` is a blob, and then leaves no ingest.")
    def test_a_writer_of_an_existing_blob_says_so(self, shelf: Shelf) -> None:
        data = shelf.data()
        digest = shelf.put(data)
        with pytest.raises(errors.AlreadyExists, match=digest):
            shelf.writer(shelf.ref("again"), expected=digest)
        assert shelf.refs() == []
        shelf.delete(digest)
        with shelf.writer(shelf.ref("again"), expected=digest) as writer:
            writer.write(data[writer.status().offset :])
            assert writer.commit() == digest

    # Status

    @holds("Closing a writer without commit keeps the ingest.")
    def test_closing_without_commit_keeps_the_ingest(self, shelf: Shelf) -> None:
        data = shelf.data()
        with shelf.writer(shelf.ref(), total=100) as writer:
            writer.write(data)
        status = shelf.status(shelf.ref())
        assert (status.ref, status.offset, status.total) == (shelf.ref(), len(data), 100)
        assert shelf.refs() == ["ref"]
        assert digest_of(data) not in shelf.digests()

    @holds("Closing a writer without commit keeps the ingest.")
    def test_an_ingest_without_a_byte_is_kept_too(self, shelf: Shelf) -> None:
        shelf.writer(shelf.ref()).close()
        assert shelf.status(shelf.ref()).offset == 0
        assert shelf.refs() == ["ref"]

    @holds(
        "Of an ingest, also while a writer of it is open.",
        "``offset`` bytes are written of ``total``, which is 0 when it is not known.",
        "Offset, total and times as the store's ``status`` of this ref tells them.",
    )
    def test_status_tells_of_an_open_writer_how_far_it_is(self, shelf: Shelf) -> None:
        with shelf.writer(shelf.ref()) as writer:
            for count in range(4):
                for status in (writer.status(), shelf.status(shelf.ref()), *self._listed(shelf)):
                    assert (status.ref, status.offset, status.total) == (shelf.ref(), count * 1000, 0)
                writer.write(bytes(1000))
            assert writer.status().started_at == shelf.status(shelf.ref()).started_at

    @holds("``total`` and ``expected`` are what ``writer`` was told, also after it was opened again without them.")
    def test_status_tells_what_the_writer_was_opened_with(self, shelf: Shelf) -> None:
        expected = digest_of(shelf.data(), "sha512")
        with shelf.writer(shelf.ref(), total=12, expected=expected) as writer:
            assert (writer.status().total, writer.status().expected) == (12, expected)
            assert (shelf.status(shelf.ref()).total, shelf.status(shelf.ref()).expected) == (12, expected)
        with shelf.writer(shelf.ref()) as writer:
            assert writer.status().total == 12
        assert (shelf.status(shelf.ref()).total, shelf.status(shelf.ref()).expected) == (12, expected)

    @holds(
        "``started_at`` is when the ingest began, ``updated_at`` when it was last written.",
        "Times are nanoseconds since the epoch (UTC).",
    )
    def test_status_tells_when_it_began_and_was_last_written(self, shelf: Shelf) -> None:
        before = time.time_ns()
        shelf.begin("ref", b"first")
        first = shelf.status(shelf.ref())
        assert before - SLACK <= first.started_at <= first.updated_at + SLACK <= time.time_ns() + 2 * SLACK
        time.sleep(0.05)
        shelf.begin("ref", b"second")
        second = shelf.status(shelf.ref())
        assert second.started_at == first.started_at
        assert second.updated_at > first.updated_at

    @holds(
        "Without the ingest, ``status`` raises NotFound.",
        "The message of an error names the digest or the ref that it is about.",
    )
    def test_status_of_a_missing_ref_is_not_found(self, shelf: Shelf) -> None:
        with pytest.raises(errors.NotFound, match=shelf.ref("nobody")):
            shelf.status(shelf.ref("nobody"))

    @holds(
        "Every ingest that one of the filters matches (``status_matcher``), all without.",
        "The filterable field of an ingest is ``ref``.",
    )
    def test_list_statuses_takes_filters(self, shelf: Shelf) -> None:
        for text in ("layer-1", "layer-2", "config"):
            shelf.writer(shelf.ref(text)).close()
        assert shelf.refs() == ["config", "layer-1", "layer-2"]
        assert shelf.refs(f"ref~=^{shelf.ref('layer')}") == ["layer-1", "layer-2"]
        assert shelf.refs(f"ref=={shelf.ref('config')}", f"ref=={shelf.ref('layer-2')}") == ["config", "layer-2"]
        assert shelf.refs("ref==another") == []

    @holds("Every ingest that one of the filters matches (``status_matcher``), all without.")
    def test_list_statuses_tells_the_same_as_status(self, shelf: Shelf) -> None:
        shelf.begin("a", b"1", total=7)
        shelf.begin("b", b"22", expected=digest_of(b"another"))
        listed = {status.ref: status for status in self._listed(shelf)}
        assert listed == {ref: shelf.status(ref) for ref in (shelf.ref("a"), shelf.ref("b"))}

    @holds("A malformed filter of ingests raises InvalidArgument.")
    def test_a_malformed_filter_of_ingests_is_refused(self, shelf: Shelf) -> None:
        shelf.begin("ref", b"data")
        with pytest.raises(errors.InvalidArgument):
            shelf.refs("ref==")

    # Writing

    @holds("Whoever opens the ref again goes on at its offset.")
    def test_a_writer_goes_on_where_the_last_one_stopped(self, shelf: Shelf) -> None:
        data = shelf.data(2_500_000)
        shelf.begin("ref", data[:1_700_001])
        with shelf.writer(shelf.ref()) as writer:
            assert writer.status().offset == 1_700_001
            assert writer.digest() == digest_of(data[:1_700_001])
            writer.write(data[1_700_001:])
            writer.commit(len(data), digest_of(data))
        assert shelf.get(digest_of(data)) == data

    @holds("Whoever opens the ref again goes on at its offset.")
    def test_a_blob_may_be_written_in_many_sittings(self, shelf: Shelf) -> None:
        pieces = [shelf.data(size) for size in (1, 70_000, 3, 300_001, 17)]
        for number, piece in enumerate(pieces):
            with shelf.writer(shelf.ref(), expected=digest_of(b"".join(pieces))) as writer:
                assert writer.status().offset == sum(map(len, pieces[:number]))
                writer.write(piece)
        with shelf.writer(shelf.ref()) as writer:
            assert writer.commit() == digest_of(b"".join(pieces))

    @holds("The digest of what is written so far, by the algorithm of the expected one, else sha256.")
    @pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
    def test_digest_is_of_what_is_written_so_far(self, shelf: Shelf, algorithm: str) -> None:
        expected = "" if algorithm == "sha256" else digest_of(shelf.data(), algorithm)
        with shelf.writer(shelf.ref(), expected=expected) as writer:
            written = b""
            for piece in (b"", b"abc", b"def", shelf.data(600_000)):
                writer.write(piece)
                written += piece
                assert writer.digest() == digest_of(written, algorithm)

    @holds("Appends all of ``data`` and returns its length.")
    def test_a_blob_of_many_chunks_of_every_size(self, shelf: Shelf) -> None:
        chunks = [shelf.data(size) for size in (1, 1 << 20, 3, 700_000, 0, 300_000, 1 << 20, 17, 524_287, 65_537)]
        with shelf.writer(shelf.ref()) as writer:
            assert [writer.write(chunk) for chunk in chunks] == [*map(len, chunks)]
            digest = writer.commit()
        assert digest == digest_of(b"".join(chunks))
        assert shelf.get(digest) == b"".join(chunks)

    @holds("Appends all of ``data`` and returns its length.")
    def test_one_chunk_may_be_larger_than_a_message(self, shelf: Shelf) -> None:
        data = shelf.data((17 << 20) + 5)
        with shelf.writer(shelf.ref()) as writer:
            assert writer.write(data) == len(data)
            assert writer.status().offset == len(data)
            assert writer.commit() == digest_of(data)
        with shelf.reader(digest_of(data)) as reader:
            assert reader.read_at(len(data) - 9, 100) == data[-9:]

    @holds("Appends all of ``data`` and returns its length.")
    def test_any_buffer_of_bytes_can_be_written(self, shelf: Shelf) -> None:
        data = shelf.data(64)
        with shelf.writer(shelf.ref()) as writer:
            for buffer in (memoryview(data)[:32], memoryview(bytearray(data))[32:], memoryview(data)[::1]):
                assert writer.write(buffer) == len(buffer)
            assert writer.digest() == digest_of(data + data)

    @holds("A buffer may change when ``write`` has returned.")
    def test_a_view_of_a_buffer_may_change_after_write(self, shelf: Shelf) -> None:
        data, buffer = shelf.data(500_000), bytearray(500_000)
        with shelf.writer(shelf.ref()) as writer:
            for start in range(0, len(data), 100_000):
                buffer[:100_000] = data[start : start + 100_000]
                writer.write(memoryview(buffer)[:100_000])
            buffer[:] = bytes(len(buffer))
            assert writer.commit() == digest_of(data)
        assert shelf.get(digest_of(data)) == data

    @holds("``total`` is a hint and no limit.")
    @pytest.mark.parametrize("total", [1, 20, 1 << 40])
    def test_another_total_than_is_written_does_no_harm(self, shelf: Shelf, total: int) -> None:
        data = shelf.data()
        with shelf.writer(shelf.ref(), total=total) as writer:
            writer.write(data)
            assert writer.commit(len(data), digest_of(data)) == digest_of(data)
        assert shelf.info(digest_of(data)).size == len(data)

    # Truncate

    @holds("Cuts the ingest back to ``size`` bytes, mostly 0 to begin again.")
    def test_truncate_begins_again(self, shelf: Shelf) -> None:
        data = shelf.data()
        with shelf.writer(shelf.ref()) as writer:
            writer.write(b"wrong start, and longer than what follows")
            writer.truncate(0)
            assert writer.status().offset == 0
            assert writer.digest() == digest_of(b"")
            writer.write(data)
            assert writer.commit() == digest_of(data)
        assert shelf.get(digest_of(data)) == data

    @holds("Cuts the ingest back to ``size`` bytes, mostly 0 to begin again.")
    def test_an_old_ingest_can_begin_again(self, shelf: Shelf) -> None:
        data = shelf.data()
        shelf.begin("ref", b"left over from an earlier attempt")
        with shelf.writer(shelf.ref()) as writer:
            writer.truncate(0)
            writer.write(data)
        assert shelf.status(shelf.ref()).offset == len(data)
        with shelf.writer(shelf.ref()) as writer:
            assert writer.commit() == digest_of(data)

    @holds(
        "Cuts the ingest back to ``size`` bytes, mostly 0 to begin again.",
        "A store that can only begin again raises Unimplemented for another size.",
    )
    def test_truncate_cuts_the_end(self, shelf: Shelf, supports_truncate: bool) -> None:
        data = shelf.data(700_000)
        with shelf.writer(shelf.ref()) as writer:
            writer.write(data)
            if not supports_truncate:
                with pytest.raises(errors.Unimplemented, match=shelf.ref()):
                    writer.truncate(5)
                assert writer.status().offset == len(data)
                return
            writer.truncate(300_001)
            assert writer.digest() == digest_of(data[:300_001])
            writer.write(b"!")
            assert shelf.get(writer.commit()) == data[:300_001] + b"!"

    @holds("Cuts the ingest back to ``size`` bytes, mostly 0 to begin again.")
    def test_truncate_to_what_is_there_changes_nothing(self, shelf: Shelf) -> None:
        data = shelf.data()
        with shelf.writer(shelf.ref()) as writer:
            writer.truncate(0)
            writer.write(data)
            writer.truncate(len(data))
            assert writer.commit() == digest_of(data)

    @holds("Raises OutOfRange when it has fewer.")
    def test_truncate_beyond_the_end_is_out_of_range(self, shelf: Shelf) -> None:
        data = shelf.data()
        with shelf.writer(shelf.ref()) as writer:
            writer.write(data)
            with pytest.raises(errors.OutOfRange):
                writer.truncate(len(data) + 1)
            assert writer.commit() == digest_of(data)

    # Close and abort

    @holds("A closed writer cannot write.")
    def test_a_closed_writer_does_nothing_more(self, shelf: Shelf) -> None:
        writer = shelf.writer(shelf.ref())
        writer.write(b"data")
        writer.close()
        self._fails_at_all(writer)
        assert shelf.status(shelf.ref()).offset == 4

    @holds("Closing a writer twice, or after commit, does nothing.")
    def test_closing_again_does_not_close_the_next_writer(self, shelf: Shelf) -> None:
        first, data = shelf.writer(shelf.ref()), shelf.data()
        first.close()
        with shelf.writer(shelf.ref()) as writer:
            first.close()
            writer.write(data)
            assert writer.commit() == digest_of(data)
            writer.close()
        assert shelf.refs() == []

    @holds("Removes the ingest, and the ref is free at once.")
    def test_abort_removes_the_ingest(self, shelf: Shelf) -> None:
        shelf.begin("ref", b"data", total=9)
        shelf.begin("other", b"data")
        shelf.abort(shelf.ref())
        assert shelf.refs() == ["other"]
        with pytest.raises(errors.NotFound):
            shelf.status(shelf.ref())
        with shelf.writer(shelf.ref()) as writer:
            assert (writer.status().offset, writer.status().total) == (0, 0)

    @holds(
        "Without the ingest, ``abort`` raises NotFound.",
        "The message of an error names the digest or the ref that it is about.",
    )
    def test_abort_of_a_missing_ref_is_not_found(self, shelf: Shelf) -> None:
        with pytest.raises(errors.NotFound, match=shelf.ref("nobody")):
            shelf.abort(shelf.ref("nobody"))
        shelf.abort(shelf.begin("ref", b"data"))
        with pytest.raises(errors.NotFound, match=shelf.ref()):
            shelf.abort(shelf.ref())

    @holds("An open writer of it fails from then on.")
    def test_abort_makes_an_open_writer_fail(self, shelf: Shelf) -> None:
        data = shelf.data()
        with shelf.writer(shelf.ref()) as writer:
            writer.write(data)
            shelf.abort(shelf.ref())
            with pytest.raises(errors.Error):
                writer.write(b"more")
                writer.commit()
            with pytest.raises(errors.Error):
                writer.commit()
        assert shelf.refs() == []
        assert digest_of(data) not in shelf.digests()

    @holds("What is done with that writer does not touch a new ingest of this ref.")
    @pytest.mark.parametrize("end", ["commit", "write", "truncate", "close"])
    def test_an_aborted_writer_does_not_touch_its_successor(self, shelf: Shelf, end: str) -> None:
        data = shelf.data()
        old = shelf.writer(shelf.ref())
        old.write(b"old")
        shelf.abort(shelf.ref())
        with shelf.writer(shelf.ref()) as writer:
            writer.write(data[:7])
            self._try(old, end)
            writer.write(data[7:])
            self._try(old, end)
            old.close()
            assert writer.status().offset == len(data)
            assert writer.commit() == digest_of(data)
        assert shelf.get(digest_of(data)) == data

    # Several at once

    @holds(
        "At most one writer is open for a ref at a time.",
        "All methods block, and may be called from several threads.",
    )
    def test_of_many_who_open_a_ref_at_once_one_gets_it(self, shelf: Shelf) -> None:
        def compete() -> content.Writer | None:
            try:
                return shelf.writer(shelf.ref())
            except errors.Unavailable:
                return None

        for _ in range(3):
            writers = [writer for writer in together(*[compete] * 8) if writer is not None]
            assert len(writers) == 1
            writers[0].write(b"x")
            writers[0].close()
        assert shelf.status(shelf.ref()).offset == 3

    @staticmethod
    def _listed(shelf: Shelf) -> list[content.Status]:
        return [status for status in shelf.list_statuses() if status.ref.startswith(shelf.ref(""))]

    @staticmethod
    def _try(writer: content.Writer, end: str) -> None:
        calls: dict[str, Callable[[], object]] = {
            "commit": writer.commit,
            "write": lambda: writer.write(b"evil"),
            "truncate": lambda: writer.truncate(0),
            "close": writer.close,
        }
        if end == "close":
            writer.close()
            return
        with pytest.raises(errors.Error):
            calls[end]()
            writer.commit()

    @staticmethod
    def _fails_at_all(writer: content.Writer) -> None:
        for call in (lambda: writer.write(b"more"), lambda: writer.truncate(0), writer.commit):
            with pytest.raises(errors.Error):
                call()
