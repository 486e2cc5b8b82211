"""The suite for content stores, third part: commits, and the labels of blobs."""

from __future__ import annotations

import pytest

from plugin_sdk import content, errors
from plugin_sdk.conformance.reading import MALFORMED
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.shelf import MISSING, Rig, Shelf, digest_of, together
from plugin_sdk.identifiers import MAX_LABEL


class CommitSuite(Rig):
    @holds("The bytes are then on disk, the ingest is gone and the writer closed.")
    def test_commit_ends_the_ingest(self, shelf: Shelf) -> None:
        shelf.begin("other", b"stays")
        shelf.put(shelf.data(), "ref")
        assert shelf.refs() == ["other"]
        with pytest.raises(errors.NotFound):
            shelf.status(shelf.ref())
        with shelf.writer(shelf.ref()) as writer:
            assert writer.status().offset == 0

    @holds(
        "The bytes are then on disk, the ingest is gone and the writer closed.",
        "Closing a writer twice, or after commit, does nothing.",
    )
    def test_commit_closes_the_writer(self, shelf: Shelf) -> None:
        data = shelf.data()
        writer = shelf.writer(shelf.ref())
        writer.write(data)
        writer.commit()
        for call in (lambda: writer.write(b"more"), writer.commit):
            with pytest.raises(errors.Error):
                call()
        writer.close()
        writer.close()
        assert shelf.refs() == []
        assert shelf.get(digest_of(data)) == data

    @holds("``size`` 0 and ``expected`` empty mean any, if ``writer`` was not told them either.")
    def test_commit_without_size_and_digest_takes_what_is_there(self, shelf: Shelf) -> None:
        data = shelf.data()
        with shelf.writer(shelf.ref()) as writer:
            writer.write(data)
            assert writer.commit() == digest_of(data)

    @holds("``size`` 0 and ``expected`` empty mean any, if ``writer`` was not told them either.")
    def test_commit_may_give_either(self, shelf: Shelf) -> None:
        for options in ({"size": 20}, {"expected": ""}):
            data = shelf.data(20)
            with shelf.writer(shelf.ref()) as writer:
                writer.write(data)
                assert writer.commit(**options) == digest_of(data)

    @holds("A digest is computed from the bytes, never believed.")
    @pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
    def test_commit_may_expect_another_algorithm_than_the_writer_was_opened_with(
        self, shelf: Shelf, algorithm: str
    ) -> None:
        data = shelf.data(400_000)
        with shelf.writer(shelf.ref()) as writer:
            writer.write(data)
            assert writer.commit(expected=digest_of(data, algorithm)) == digest_of(data, algorithm)
        assert shelf.get(digest_of(data, algorithm)) == data

    @holds("A digest is computed from the bytes, never believed.")
    def test_a_digest_told_at_the_beginning_is_not_believed(self, shelf: Shelf) -> None:
        data, claimed = shelf.data(), digest_of(shelf.data())
        with shelf.writer(shelf.ref(), len(data), claimed) as writer:
            writer.write(data)
            with pytest.raises(errors.FailedPrecondition):
                writer.commit(len(data), claimed)
        assert claimed not in shelf.digests()

    @holds(
        "Another size raises FailedPrecondition.",
        "After either the ingest is as it was, and the next writer of the ref can commit it.",
    )
    @pytest.mark.parametrize("size", [1, 19, 21, 1 << 40])
    def test_commit_of_a_wrong_size_keeps_the_ingest(self, shelf: Shelf, size: int) -> None:
        data = shelf.data(20)
        with shelf.writer(shelf.ref()) as writer:
            writer.write(data)
            with pytest.raises(errors.FailedPrecondition):
                writer.commit(size)
        self._can_be_committed(shelf, data)

    @holds(
        "Another digest raises FailedPrecondition.",
        "After either the ingest is as it was, and the next writer of the ref can commit it.",
    )
    @pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
    def test_commit_of_a_wrong_digest_keeps_the_ingest(self, shelf: Shelf, algorithm: str) -> None:
        data = shelf.data(20)
        wrong = digest_of(shelf.data(), algorithm)
        with shelf.writer(shelf.ref()) as writer:
            writer.write(data)
            with pytest.raises(errors.FailedPrecondition):
                writer.commit(expected=wrong)
        with pytest.raises(errors.NotFound):
            shelf.info(wrong)
        self._can_be_committed(shelf, data)

    @holds("An ``expected`` that is no digest raises InvalidArgument here, too.")
    @pytest.mark.parametrize("digest", MALFORMED)
    def test_commit_of_a_malformed_digest_is_refused(self, shelf: Shelf, digest: str) -> None:
        data = shelf.data()
        with shelf.writer(shelf.ref()) as writer:
            writer.write(data)
            with pytest.raises(errors.InvalidArgument):
                writer.commit(expected=digest)
        assert digest_of(data) not in shelf.digests()
        assert shelf.refs() == ["ref"]

    @holds(
        "When the blob exists already, AlreadyExists is raised and the ingest is gone.",
        "The message of an error names the digest or the ref that it is about.",
    )
    def test_commit_of_an_existing_blob_says_so_and_ends_the_ingest(self, shelf: Shelf) -> None:
        data = shelf.data()
        with shelf.writer(shelf.ref("slow")) as writer:
            writer.write(data)
            shelf.put(data, "fast")
            with pytest.raises(errors.AlreadyExists, match=digest_of(data)):
                writer.commit()
        assert shelf.refs() == []
        assert shelf.get(digest_of(data)) == data

    @holds("When the blob exists already, AlreadyExists is raised and the ingest is gone.")
    def test_after_that_the_ref_begins_anew(self, shelf: Shelf) -> None:
        data = shelf.data()
        shelf.put(data)
        shelf.begin("ref", data)
        with shelf.writer(shelf.ref()) as writer, pytest.raises(errors.AlreadyExists):
            writer.commit(len(data), digest_of(data))
        with shelf.writer(shelf.ref()) as writer:
            assert writer.status().offset == 0

    @holds(
        "Of several ingests with the same bytes one becomes the blob, the commits of the others raise AlreadyExists.",
        "All methods block, and may be called from several threads.",
    )
    def test_of_many_writers_of_one_blob_all_see_it(self, shelf: Shelf) -> None:
        data = shelf.data(50_000)

        def commit(writer: content.Writer) -> str:
            try:
                return writer.commit(len(data), digest_of(data)) and "committed"
            except errors.AlreadyExists:
                return "exists" if shelf.get(digest_of(data)) == data else "broken"

        for _ in range(3):
            writers = [shelf.writer(shelf.ref(f"ref-{number}")) for number in range(8)]
            for writer in writers:
                writer.write(data)
            outcomes = together(*[lambda writer=writer: commit(writer) for writer in writers])
            assert sorted(outcomes) == ["committed"] + ["exists"] * 7
            assert shelf.get(digest_of(data)) == data
            assert shelf.refs() == []
            shelf.delete(digest_of(data))

    @staticmethod
    def _can_be_committed(shelf: Shelf, data: bytes) -> None:
        assert shelf.status(shelf.ref()).offset == len(data)
        assert digest_of(data) not in shelf.digests()
        with shelf.writer(shelf.ref()) as writer:
            assert writer.digest() == digest_of(data)
            assert writer.commit(len(data), digest_of(data)) == digest_of(data)
        assert shelf.get(digest_of(data)) == data


class LabelSuite(Rig):
    @holds(
        "The new blob has these labels, if the store keeps labels.",
        "A store that keeps no labels has none here: the kernel keeps its own by namespace.",
    )
    def test_labels_of_a_commit_are_kept(self, shelf: Shelf, supports_labels: bool) -> None:
        digest = self._commit(shelf, {"origin": "here", "containerd.io/x.y": 'ä b=c,"d"'})
        expected = {"origin": "here", "containerd.io/x.y": 'ä b=c,"d"'} if supports_labels else {}
        assert dict(shelf.info(digest).labels) == expected
        assert [dict(info.labels) for info in shelf.walk([f"digest=={digest}"])] == [expected]

    @holds("The new blob has these labels, if the store keeps labels.")
    def test_a_blob_without_labels_has_none(self, shelf: Shelf) -> None:
        assert dict(shelf.info(shelf.put(shelf.data())).labels) == {}

    @holds("A label whose value is empty is removed.")
    def test_an_empty_label_is_none(self, shelf: Shelf, supports_labels: bool) -> None:
        digest = self._labelled(shelf, supports_labels, {"a": "", "b": "1"})
        if digest:
            assert shelf.info(digest).labels == {"b": "1"}
            assert shelf.update(content.Info(digest, 0, labels={"a": "1", "b": ""})).labels == {"a": "1"}
            assert shelf.info(digest).labels == {"a": "1"}

    @holds("Without ``fieldpaths`` the labels given replace all that it has.")
    def test_update_replaces_all_labels(self, shelf: Shelf, supports_labels: bool) -> None:
        digest = self._labelled(shelf, supports_labels, {"a": "1", "b": "2"})
        if digest:
            updated = shelf.update(content.Info(digest, 0, labels={"b": "3", "c": "4"}))
            assert updated.labels == shelf.info(digest).labels == {"b": "3", "c": "4"}

    @holds(
        "With them, those change that are named as ``labels.KEY``, or all by ``labels``.",
        "One that is named and not given is removed.",
    )
    def test_update_changes_the_named_labels(self, shelf: Shelf, supports_labels: bool) -> None:
        digest = self._labelled(shelf, supports_labels, {"a": "1", "b/c.d": "2", "e": "3"})
        if digest:
            changed = content.Info(digest, 0, labels={"b/c.d": "4", "f": "ignored"})
            assert shelf.update(changed, ["labels.b/c.d", "labels.e"]).labels == {"a": "1", "b/c.d": "4"}
            assert shelf.update(content.Info(digest, 0, labels={"x": "y"}), ["labels"]).labels == {"x": "y"}
            assert shelf.info(digest).labels == {"x": "y"}

    @holds(
        "With them, those change that are named as ``labels.KEY``, or all by ``labels``.",
        "One that is named and not given is removed.",
        "All methods block, and may be called from several threads.",
    )
    def test_updates_at_once_all_count(self, shelf: Shelf, supports_labels: bool) -> None:
        digest = self._labelled(shelf, supports_labels, {})
        if digest:
            infos = [content.Info(digest, 0, labels={f"key-{number}": "1"}) for number in range(8)]
            together(*[lambda info=info: shelf.update(info, [f"labels.{next(iter(info.labels))}"]) for info in infos])
            assert shelf.info(digest).labels == {f"key-{number}": "1" for number in range(8)}

    @holds(
        "Changes the labels of the blob ``info.digest`` and answers its new info.",
        "Size and times of ``info`` are not looked at.",
        "``created_at`` is when the blob appeared, ``updated_at`` when its labels last changed.",
    )
    def test_update_changes_nothing_but_labels_and_the_time(self, shelf: Shelf, supports_labels: bool) -> None:
        digest = self._labelled(shelf, supports_labels, {})
        if digest:
            before = shelf.info(digest)
            after = shelf.update(content.Info(digest, 99, 5, 6, {"a": "b"}))
            assert (after.digest, after.size, after.created_at) == (digest, before.size, before.created_at)
            assert after.updated_at > before.updated_at
            assert shelf.info(digest) == after

    @holds("Raises InvalidArgument for a path to something else.")
    @pytest.mark.parametrize("path", ["size", "digest", "label", "labelsx", "created_at"])
    def test_update_refuses_other_fields(self, shelf: Shelf, supports_labels: bool, path: str) -> None:
        digest = self._labelled(shelf, supports_labels, {"a": "1"})
        if digest:
            with pytest.raises(errors.InvalidArgument, match=path):
                shelf.update(content.Info(digest, 9, labels={"b": "2"}), [path])
            assert shelf.info(digest).labels == {"a": "1"}

    @holds("Without the blob, ``update`` raises NotFound.", "A store that keeps no labels raises Unimplemented.")
    def test_update_of_a_missing_blob_is_not_found(self, shelf: Shelf, supports_labels: bool) -> None:
        if self._labelled(shelf, supports_labels, {}):
            with pytest.raises(errors.NotFound, match=MISSING):
                shelf.update(content.Info(MISSING, 0, labels={"a": "b"}))

    @holds("The filterable fields of a blob are ``digest`` and ``labels.KEY``.")
    def test_walk_filters_by_label(self, shelf: Shelf, supports_labels: bool) -> None:
        key = shelf.ref("color")
        digest = self._labelled(shelf, supports_labels, {key: "red", "example.com/a.b": key})
        if digest:
            shelf.put(shelf.data())
            for filter in (f'labels."{key}"==red', f'labels."{key}"', f'labels."example.com/a.b"~=^{key}$'):
                assert shelf.digests(filter) == [digest]
            assert shelf.digests(f'labels."{key}"==blue') == []

    @holds("A label may have 4096 bytes, key and value together.")
    def test_many_huge_labels_are_kept(self, shelf: Shelf, supports_labels: bool) -> None:
        labels = {f"key-{number:03}": "ü" * ((MAX_LABEL - 7) // 2) + "x" for number in range(100)}
        digest = self._labelled(shelf, supports_labels, labels)
        if digest:
            assert shelf.info(digest).labels == labels
            assert shelf.update(content.Info(digest, 0, labels=labels)).labels == labels

    @holds("One that has more raises InvalidArgument.")
    def test_a_label_that_is_too_long_is_refused(self, shelf: Shelf, supports_labels: bool) -> None:
        digest = self._labelled(shelf, supports_labels, {"a": "1"})
        if digest:
            for labels in ({"key": "x" * (MAX_LABEL - 2)}, {"k" * MAX_LABEL: "x"}):
                with pytest.raises(errors.InvalidArgument):
                    shelf.update(content.Info(digest, 0, labels=labels))
                with pytest.raises(errors.InvalidArgument):
                    self._commit(shelf, labels)
            assert shelf.info(digest).labels == {"a": "1"}

    @staticmethod
    def _commit(shelf: Shelf, labels: dict[str, str]) -> str:
        with shelf.writer(shelf.ref("labelled")) as writer:
            writer.write(shelf.data())
            return writer.commit(labels=labels)

    def _labelled(self, shelf: Shelf, supported: bool, labels: dict[str, str]) -> str:
        """A blob with these labels; empty where there are none, after asking that update says so."""
        digest = self._commit(shelf, labels)
        if supported:
            return digest
        with pytest.raises(errors.Unimplemented):
            shelf.update(content.Info(digest, 0, labels={"a": "b"}))
        return ""
