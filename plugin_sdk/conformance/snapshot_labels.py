"""The part of the suite for snapshotters on labels, small and huge."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from plugin_sdk import errors
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.snapshot_rig import Rig, Subject
from plugin_sdk.conformance.snapshot_trees import commit, names, texts
from plugin_sdk.snapshots import Info, Kind

KEPT = "They are kept as they are given, thousands of them too, for as long as a request fits into a message of 16 MiB."
SIZE = (
    "A key and its value have at most 4096 bytes together; a longer label is refused with InvalidArgument or kept, "
    "never cut."
)
EMPTY = "A label whose value is empty is not kept."
NOT_INHERITED = "Nobody inherits labels: neither a child from its parent, nor the name from the key."
HINTS = (
    "Labels that begin with ``containerd.io/snapshot/`` are hints; one that a snapshotter does not know changes "
    "nothing."
)
COMMIT = "Makes the active snapshot ``key`` the committed one ``name``, with the same parent and these labels only."
CHANGES = "Changes the labels of the snapshot ``info.name``, of any kind, and answers its new info."
ALL = "Without ``fieldpaths`` the labels given replace all."
NAMED = (
    "With them, only those change that are named as ``labels.KEY``, where KEY is all that follows the first dot, or "
    "all by ``labels``; one that is named and not given is removed."
)

_LIMIT = 4096
ODD = ("a.b.c/d", "/", ".", "..a", "with space", '"quoted"', "\N{SNOWMAN}", "back\\slash", "a=b,c", "A", "a")
METHODS = pytest.mark.parametrize("method", ["prepare", "view", "commit", "update"])


def give(subject: Subject, method: str, labels: Mapping[str, str]) -> None:
    """Makes a snapshot ``key`` with these labels."""
    match method:
        case "prepare":
            subject.prepare("key", "", labels)
        case "view":
            subject.view("key", "", labels)
        case "commit":
            subject.prepare("work")
            subject.commit("key", "work", labels)
        case "update":
            subject.prepare("key", "", {"before": "x"})
            subject.update(Info("key", Kind.UNKNOWN, labels=labels))


class Labels(Rig):
    @holds(KEPT)
    @METHODS
    def test_labels_are_kept(self, subject: Subject, method: str) -> None:
        labels = {"containerd.io/snapshot/color": "red", "containerd.io/gc.ref.x": "sha256:1", "plain": " \n\t= "}
        give(subject, method, labels)
        assert subject.stat("key").labels == labels

    @holds(KEPT)
    @pytest.mark.parametrize("key", ODD, ids=ascii)
    def test_any_key_of_a_label_is_kept(self, subject: Subject, key: str) -> None:
        subject.prepare("key", "", {key: "1", f"{key}{key}": "2"})
        assert subject.stat("key").labels == {key: "1", f"{key}{key}": "2"}
        subject.update(Info("key", Kind.UNKNOWN, labels={key: "\N{SNOWMAN}"}), [f"labels.{key}"])
        assert subject.stat("key").labels == {key: "\N{SNOWMAN}", f"{key}{key}": "2"}
        quoted = key.replace("\\", "\\\\").replace('"', '\\"')
        assert names(subject, f'labels."{quoted}"') == {"key"}

    @holds(KEPT)
    @METHODS
    def test_thousands_of_labels_are_kept(self, subject: Subject, method: str) -> None:
        labels = {f"containerd.io/snapshot/number.{number}": f"value {number}" for number in range(5000)}
        give(subject, method, labels)
        assert subject.stat("key").labels == labels

    @holds(
        KEPT, "Each is any text of 1 to 4096 bytes in UTF-8, kept as it is; two that differ anywhere are two snapshots."
    )
    def test_one_of_thousands_is_changed(self, subject: Subject) -> None:
        labels = {f"number.{number}": f"value {number}" for number in range(3000)}
        subject.prepare("key", "", labels)
        after = subject.update(Info("key", Kind.UNKNOWN, labels={"number.7": "other"}), ["labels.number.7"])
        assert after.labels == labels | {"number.7": "other"}
        assert subject.stat("key").labels == after.labels

    @holds(KEPT, SIZE)
    def test_labels_of_many_mebibytes_are_kept_and_walked(self, subject: Subject) -> None:
        """Each fits into a message, both together do not."""
        labels = {f"containerd.io/snapshot/{number}": f"{number % 10}" * 4000 for number in range(2200)}
        subject.prepare("one", "", labels)
        subject.view("two", "", labels)
        assert subject.stat("one").labels == labels
        assert {info.name: info.labels == labels for info in subject.walk()} == {"one": True, "two": True}

    @holds(SIZE)
    @METHODS
    def test_a_label_of_4096_bytes_is_kept(self, subject: Subject, method: str) -> None:
        key = "containerd.io/snapshot/"
        label = {key: "\N{SNOWMAN}" * ((_LIMIT - len(key)) // 3), f"{key}ascii": "v" * (_LIMIT - len(key) - 5)}
        give(subject, method, label)
        assert subject.stat("key").labels == label

    @holds(SIZE)
    @METHODS
    def test_a_longer_label_is_refused_or_kept(self, subject: Subject, method: str) -> None:
        label = {"containerd.io/snapshot/long": "v" * _LIMIT}
        try:
            give(subject, method, label)
        except errors.InvalidArgument:
            left = {"update": {"key"}, "commit": {"work"}}.get(method, set())
            assert names(subject) == left
        else:
            assert subject.stat("key").labels == label

    @holds(EMPTY)
    @METHODS
    def test_a_label_without_value_is_not_kept(self, subject: Subject, method: str) -> None:
        give(subject, method, {"empty": "", "full": "x"})
        assert subject.stat("key").labels == {"full": "x"}

    @holds(NOT_INHERITED)
    @pytest.mark.parametrize("method", ["prepare", "view"])
    def test_a_child_has_none_of_its_parents_labels(self, subject: Subject, method: str) -> None:
        subject.prepare("work")
        subject.commit("layer", "work", {"containerd.io/snapshot/color": "red", "plain": "x"})
        getattr(subject, method)("child", "layer", {"own": "y"})
        assert subject.stat("child").labels == {"own": "y"}

    @holds(NOT_INHERITED, COMMIT)
    def test_a_committed_snapshot_has_the_labels_of_the_commit_only(self, subject: Subject) -> None:
        subject.prepare("key", "", {"containerd.io/snapshot/old": "1", "plain": "1"})
        subject.commit("layer", "key", {"containerd.io/snapshot/new": "2"})
        assert subject.stat("layer").labels == {"containerd.io/snapshot/new": "2"}
        subject.prepare("key", "", {"containerd.io/snapshot/old": "1"})
        subject.commit("plain", "key")
        assert subject.stat("plain").labels == {}

    @holds(HINTS)
    def test_an_unknown_hint_changes_nothing(self, subject: Subject) -> None:
        commit(subject, "layer", a="1")
        hint = {"containerd.io/snapshot/invented-by-the-suite": "x"}
        assert texts(subject.prepare("key", "layer", hint)) == {"a": "1"}
        assert subject.stat("key").kind is Kind.ACTIVE
        subject.commit("top", "key", hint)
        assert texts(subject.view("view", "top", hint)) == {"a": "1"}

    # Update

    @holds(CHANGES, ALL, EMPTY)
    @pytest.mark.parametrize("kind", ["active", "view", "committed"])
    def test_update_replaces_all_labels(self, subject: Subject, kind: str) -> None:
        give(subject, {"active": "prepare", "committed": "commit"}.get(kind, kind), {"a": "1", "b": "2"})
        changed = Info("key", Kind.UNKNOWN, labels={"b": "3", "c": ""})
        assert subject.update(changed) == subject.stat("key")
        assert subject.stat("key").labels == {"b": "3"}
        subject.update(Info("key", Kind.UNKNOWN))
        assert subject.stat("key").labels == {}

    @holds(NAMED, EMPTY)
    def test_update_changes_the_named_labels(self, subject: Subject) -> None:
        subject.prepare("key", "", {"a": "1", "b/c.d": "2", "e": "3", "g": "5"})
        changed = Info("key", Kind.UNKNOWN, labels={"b/c.d": "4", "e": "", "f": "ignored"})
        paths = ["labels.b/c.d", "labels.e", "labels.g"]
        assert subject.update(changed, paths).labels == {"a": "1", "b/c.d": "4"}
        assert subject.stat("key").labels == {"a": "1", "b/c.d": "4"}

    @holds(NAMED)
    @pytest.mark.parametrize("paths", [["labels"], ["labels.b/c.d", "labels"], ["labels", "labels.e"]], ids=str)
    def test_update_changes_all_labels_by_name(self, subject: Subject, paths: list[str]) -> None:
        subject.prepare("key", "", {"a": "1", "b/c.d": "2", "e": "3"})
        changed = Info("key", Kind.UNKNOWN, labels={"b/c.d": "4", "f": "new"})
        assert subject.update(changed, paths).labels == {"b/c.d": "4", "f": "new"}

    @holds("Another path raises InvalidArgument.")
    @pytest.mark.parametrize("path", ["parent", "kind", "name", "created_at", "label.a", "Labels", "nothing"])
    def test_update_refuses_other_fields(self, subject: Subject, path: str) -> None:
        subject.prepare("key", "", {"a": "1"})
        with pytest.raises(errors.InvalidArgument, match=path):
            subject.update(Info("key", Kind.VIEW, "other", {"a": "2"}), ["labels.a", path])
        assert subject.stat("key").labels == {"a": "1"}

    @holds("Kind, parent and times of ``info`` are not looked at, and stay.")
    def test_update_does_not_look_at_other_fields(self, subject: Subject) -> None:
        commit(subject, "layer", a="1")
        subject.prepare("key", "layer")
        before = subject.stat("key")
        after = subject.update(Info("key", Kind.COMMITTED, "nobody", {"a": "b"}, 1, 1), ["labels.a"])
        assert (after.kind, after.parent, after.created_at) == (Kind.ACTIVE, "layer", before.created_at)
        assert after.labels == {"a": "b"}
        assert texts(subject.mounts("key")) == {"a": "1"}
