"""The part of the suite for snapshotters on keys and names: prepare, view, mounts, commit, remove."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from plugin_sdk import errors, snapshots
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.snapshot_rig import Rig, Subject, state
from plugin_sdk.conformance.snapshot_trees import commit, names, places, shown, texts
from plugin_sdk.snapshots import Info, Kind

AS_IT_IS = "Each is any text of 1 to 4096 bytes in UTF-8, kept as it is; two that differ anywhere are two snapshots."
ONE_SPACE = "Keys and names are one space: what is taken by one is taken for the other."
NAMED = "The message of an error names what is missing, taken or of the wrong kind."
WHOLE = "Each method has its whole effect or none: one that raises has changed nothing."
NO_KEY = "Raises InvalidArgument for an empty key."
EXISTS = "Raises AlreadyExists when the key exists."
NO_PARENT = "Raises NotFound when the parent does not exist."
WRONG_PARENT = "Raises InvalidArgument when the parent is not committed."
SAME_MOUNTS = "The same as prepare or view answered, for as long as the key is there."
NO_MOUNTS = "A committed snapshot has none: FailedPrecondition."
NAME_EXISTS = "Raises AlreadyExists when the name exists, also as ``key`` itself."
NOT_ACTIVE = "Raises FailedPrecondition when ``key`` is a view or committed."
COMMITS = "Makes the active snapshot ``key`` the committed one ``name``, with the same parent and these labels only."
FREE = "The key is free then."
CHILDREN = "While it has children, ``remove`` raises FailedPrecondition."
REMOVES = "Removes a snapshot of any kind, and its key or name is free."
MISSING = {
    "stat": "Without the snapshot, ``stat`` raises NotFound.",
    "update": "Without the snapshot, ``update`` raises NotFound.",
    "usage": "Without the snapshot, ``usage`` raises NotFound.",
    "mounts": "Without the snapshot, ``mounts`` raises NotFound.",
    "commit": "Without the active snapshot, ``commit`` raises NotFound.",
    "remove": "Without the snapshot, ``remove`` raises NotFound.",
}
_PATIENCE = 20  # seconds until what was removed has really gone; the daemon removes in the background

Call = Callable[[Subject], object]

# Each is refused where there are the committed "layer" with the children "active" and "view".
REFUSED: dict[str, tuple[type[errors.Error], Call]] = {
    "prepare an existing key": (errors.AlreadyExists, lambda it: it.prepare("active", "", {"a": "b"})),
    "view an existing key": (errors.AlreadyExists, lambda it: it.view("view", "", {"a": "b"})),
    "prepare on nobody": (errors.NotFound, lambda it: it.prepare("new", "nobody")),
    "view of nobody": (errors.NotFound, lambda it: it.view("new", "nobody")),
    "prepare on active": (errors.InvalidArgument, lambda it: it.prepare("new", "active")),
    "view of a view": (errors.InvalidArgument, lambda it: it.view("new", "view")),
    "commit to an existing name": (errors.AlreadyExists, lambda it: it.commit("layer", "active", {"a": "b"})),
    "commit to its own key": (errors.AlreadyExists, lambda it: it.commit("active", "active", {"a": "b"})),
    "commit a view": (errors.FailedPrecondition, lambda it: it.commit("new", "view")),
    "commit what is committed": (errors.FailedPrecondition, lambda it: it.commit("new", "layer")),
    "commit nobody": (errors.NotFound, lambda it: it.commit("new", "nobody")),
    "remove a parent": (errors.FailedPrecondition, lambda it: it.remove("layer")),
    "remove nobody": (errors.NotFound, lambda it: it.remove("nobody")),
    "update another field": (
        errors.InvalidArgument,
        lambda it: it.update(Info("active", Kind.ACTIVE, labels={"a": "b"}), ["labels.a", "kind"]),
    ),
}


def family(subject: Subject) -> None:
    commit(subject, "layer", a="1")
    subject.prepare("active", "layer", {"color": "red"})
    subject.view("view", "layer", {"color": "blue"})


class Keys(Rig):
    # Prepare and view

    @holds(EXISTS, ONE_SPACE, NAMED)
    @pytest.mark.parametrize("method", ["prepare", "view"])
    @pytest.mark.parametrize("key", ["layer", "active", "view"])
    def test_an_existing_key_is_refused(self, subject: Subject, method: str, key: str) -> None:
        family(subject)
        with pytest.raises(errors.AlreadyExists, match=key):
            getattr(subject, method)(key)
        assert names(subject) == {"layer", "active", "view"}

    @holds(NO_PARENT, NAMED)
    @pytest.mark.parametrize("method", ["prepare", "view"])
    def test_a_missing_parent_is_not_found(self, subject: Subject, method: str) -> None:
        with pytest.raises(errors.NotFound, match="nobody"):
            getattr(subject, method)("key", "nobody")
        assert names(subject) == set()

    @holds(WRONG_PARENT, NAMED)
    @pytest.mark.parametrize("method", ["prepare", "view"])
    @pytest.mark.parametrize("parent", ["active", "view"])
    def test_a_parent_must_be_committed(self, subject: Subject, method: str, parent: str) -> None:
        family(subject)
        with pytest.raises(errors.InvalidArgument, match=parent):
            getattr(subject, method)("key", parent)
        assert names(subject) == {"layer", "active", "view"}

    @holds(NO_KEY)
    @pytest.mark.parametrize("method", ["prepare", "view"])
    def test_an_empty_key_is_refused(self, subject: Subject, method: str) -> None:
        with pytest.raises(errors.InvalidArgument):
            getattr(subject, method)("")

    @holds("Makes an active snapshot.", "As prepare, but nothing can be written through the mounts.")
    def test_prepare_makes_it_active_and_view_a_view(self, subject: Subject) -> None:
        commit(subject, "layer")
        for parent in ("", "layer"):
            subject.prepare(f"active {parent}", parent)
            subject.view(f"view {parent}", parent)
            assert subject.stat(f"active {parent}").kind is Kind.ACTIVE
            assert subject.stat(f"view {parent}").kind is Kind.VIEW

    # Names

    @holds(AS_IT_IS)
    @pytest.mark.parametrize(
        "key",
        [
            *("/an/absolute/path", "extract-123-AbC sha256:0123", "../..", ".", "..", "/", " ", "%2e%2e", "-rf"),
            *("ä%\"'\\", "\N{SNOWMAN}\U0001f40b", "line\nfeed\ttab", "a==b,c~=|d|", "x" * 300, "new-1", "rm-1"),
        ],
        ids=ascii,
    )
    def test_a_key_is_any_text(self, subject: Subject, key: str) -> None:
        subject.prefix = "" if key.strip("./") == "" else subject.prefix
        with shown(subject.prepare(key)) as folder:
            (folder / "a").write_text("1")
        assert subject.stat(key).name == key
        subject.commit(f"{key} committed", key)
        assert subject.stat(f"{key} committed").name == f"{key} committed"
        assert texts(subject.view(key, f"{key} committed")) == {"a": "1"}
        assert subject.stat(key).parent == f"{key} committed"
        subject.remove(key)
        subject.remove(f"{key} committed")
        assert {key, f"{key} committed"}.isdisjoint(names(subject))

    @holds(AS_IT_IS)
    @pytest.mark.parametrize("letter", ["k", "\N{SNOWMAN}"], ids=["ascii", "three bytes each"])
    def test_a_key_may_have_4096_bytes(self, subject: Subject, letter: str) -> None:
        key = letter * ((4096 - len(subject.prefix)) // len(letter.encode()))
        name = f"n{key[1:]}"
        subject.prepare(key)
        subject.commit(name, key)
        subject.view(key, name)
        assert {info.name: info.parent for info in subject.walk()} == {key: name, name: ""}

    @holds(AS_IT_IS)
    @pytest.mark.parametrize(
        ("one", "two"),
        [("key", "Key"), ("key", "key "), ("a/b", "a//b"), ("a", "a/."), ("é", "e\u0301"), ("k" * 999, "k" * 998)],
        ids=["case", "space", "slashes", "dot", "composition", "length"],
    )
    def test_keys_that_differ_are_two_snapshots(self, subject: Subject, one: str, two: str) -> None:
        for key in (one, two):
            with shown(subject.prepare(key)) as folder:
                (folder / "file").write_text(key)
        assert names(subject) == {one, two}
        assert [texts(subject.mounts(key)) for key in (one, two)] == [{"file": one}, {"file": two}]
        subject.remove(one)
        assert names(subject) == {two}

    @holds(NAMED, *MISSING.values())
    @pytest.mark.parametrize("method", MISSING)
    def test_a_missing_snapshot_is_not_found(self, subject: Subject, method: str) -> None:
        family(subject)
        calls: dict[str, Call] = {
            "stat": lambda it: it.stat("nobody"),
            "update": lambda it: it.update(Info("nobody", Kind.ACTIVE, labels={"a": "b"})),
            "usage": lambda it: it.usage("nobody"),
            "mounts": lambda it: it.mounts("nobody"),
            "commit": lambda it: it.commit("new", "nobody"),
            "remove": lambda it: it.remove("nobody"),
        }
        with pytest.raises(errors.NotFound, match="nobody"):
            calls[method](subject)
        assert names(subject) == {"layer", "active", "view"}

    @holds(WHOLE)
    @pytest.mark.parametrize("call", REFUSED)
    def test_what_is_refused_changes_nothing(self, subject: Subject, call: str) -> None:
        family(subject)
        with shown(subject.mounts("active")) as folder:
            (folder / "b").write_text("2")
        before = state(subject)
        error, work = REFUSED[call]
        with pytest.raises(error):
            work(subject)
        assert state(subject) == before
        assert texts(subject.mounts("active")) == {"a": "1", "b": "2"}
        assert texts(subject.mounts("view")) == {"a": "1"}
        subject.prepare("new", "layer")

    # Mounts

    @holds(SAME_MOUNTS)
    @pytest.mark.parametrize("parent", ["", "one", "two"], ids=["no parent", "one layer", "two layers"])
    def test_mounts_are_those_that_prepare_and_view_answered(self, subject: Subject, parent: str) -> None:
        commit(subject, "one")
        commit(subject, "two", "one")
        assert subject.prepare("active", parent) == subject.mounts("active")
        assert subject.view("view", parent) == subject.mounts("view")

    @holds(SAME_MOUNTS)
    def test_mounts_do_not_change_when_others_come_and_go(self, subject: Subject) -> None:
        commit(subject, "layer")
        before = [subject.prepare("active", "layer"), subject.view("view", "layer")]
        subject.prepare("sibling", "layer")
        subject.update(Info("active", Kind.ACTIVE, labels={"color": "red"}))
        subject.remove("sibling")
        assert [subject.mounts("active"), subject.mounts("view")] == before

    @holds(NO_MOUNTS, NAMED)
    def test_a_committed_snapshot_has_no_mounts(self, subject: Subject) -> None:
        commit(subject, "layer")
        with pytest.raises(errors.FailedPrecondition, match="layer"):
            subject.mounts("layer")

    # Commit

    @holds(COMMITS, FREE)
    def test_commit_removes_the_active_key(self, subject: Subject) -> None:
        commit(subject, "layer", a="1")
        assert names(subject) == {"layer"}
        with pytest.raises(errors.NotFound):
            subject.stat("prepare layer")
        assert texts(subject.prepare("prepare layer")) == {}

    @holds(COMMITS)
    def test_a_committed_snapshot_has_the_parent_of_the_active_one(self, subject: Subject) -> None:
        commit(subject, "one")
        commit(subject, "two", "one")
        assert subject.stat("one") == snapshots.Info("one", Kind.COMMITTED, "", {}, *_times(subject, "one"))
        assert subject.stat("two") == snapshots.Info("two", Kind.COMMITTED, "one", {}, *_times(subject, "two"))

    @holds(NAME_EXISTS, ONE_SPACE, NAMED)
    @pytest.mark.parametrize("name", ["layer", "view", "other", "key"])
    def test_commit_to_an_existing_name_is_refused(self, subject: Subject, name: str) -> None:
        commit(subject, "layer", a="1")
        subject.view("view", "layer")
        subject.prepare("other")
        subject.prepare("key")
        with pytest.raises(errors.AlreadyExists, match=name):
            subject.commit(name, "key")
        assert subject.stat("key").kind is Kind.ACTIVE
        assert texts(subject.mounts("view")) == {"a": "1"}

    @holds(NOT_ACTIVE, NAMED)
    @pytest.mark.parametrize("key", ["layer", "view"])
    def test_only_an_active_snapshot_is_committed(self, subject: Subject, key: str) -> None:
        family(subject)
        with pytest.raises(errors.FailedPrecondition, match=key):
            subject.commit("new", key)
        assert names(subject) == {"layer", "active", "view"}

    @holds("Raises InvalidArgument for an empty name.")
    def test_an_empty_name_is_refused(self, subject: Subject) -> None:
        subject.prepare("key")
        with pytest.raises(errors.InvalidArgument):
            subject.commit("", "key")
        assert subject.stat("key").kind is Kind.ACTIVE

    # Remove

    @holds(CHILDREN)
    @pytest.mark.parametrize("kind", ["active", "view", "committed"])
    def test_a_parent_is_not_removed_before_its_children(self, subject: Subject, kind: str) -> None:
        commit(subject, "layer")
        if kind == "view":
            subject.view("child", "layer")
        elif kind == "active":
            subject.prepare("child", "layer")
        else:
            commit(subject, "child", "layer")
        with pytest.raises(errors.FailedPrecondition):
            subject.remove("layer")
        assert subject.stat("child").parent == "layer"
        subject.remove("child")
        subject.remove("layer")
        assert names(subject) == set()

    @holds(REMOVES)
    @pytest.mark.parametrize("kind", ["active", "view", "committed"])
    def test_what_is_removed_is_gone_and_its_key_free(self, subject: Subject, kind: str) -> None:
        if kind == "view":
            subject.view("key")
        elif kind == "active":
            with shown(subject.prepare("key")) as folder:
                (folder / "old").write_text("x")
        else:
            commit(subject, "key", old="x")
        subject.remove("key")
        assert names(subject) == set()
        for method in (subject.stat, subject.usage, subject.mounts, subject.remove):
            with pytest.raises(errors.NotFound):
                method("key")
        assert texts(subject.prepare("key", "", {"new": "1"})) == {}
        assert subject.stat("key").labels == {"new": "1"}

    @holds(REMOVES)
    def test_what_a_removed_snapshot_was_called_can_be_a_name(self, subject: Subject) -> None:
        subject.prepare("text")
        subject.remove("text")
        commit(subject, "text", a="1")
        assert texts(subject.view("view", "text")) == {"a": "1"}

    # Cleanup, close

    @holds("Frees what removed snapshots have left, and nothing else.")
    def test_cleanup_leaves_what_exists(self, subject: Subject, supports_cleanup: bool) -> None:
        commit(subject, "layer", a="1")
        subject.prepare("key", "layer")
        subject.prepare("removed")
        subject.remove("removed")
        before = state(subject)
        if supports_cleanup:
            subject.cleanup()
        assert state(subject) == before
        assert texts(subject.mounts("key")) == {"a": "1"}

    @holds("Frees what removed snapshots have left, and nothing else.")
    def test_nothing_is_left_of_the_places_that_mounts_named(self, subject: Subject, supports_cleanup: bool) -> None:
        commit(subject, "layer", a="1")
        view = places(subject.view("view", "layer"))
        own = places(subject.prepare("alone")) | places(subject.prepare("child", "layer"))
        own = {path for path in own - view if os.path.exists(path)}
        for key in ("view", "alone", "child"):
            subject.remove(key)
        if supports_cleanup:
            subject.cleanup()
        end = time.monotonic() + _PATIENCE
        while left := [path for path in own if os.path.exists(path)]:
            assert time.monotonic() < end, f"left: {left}"
            time.sleep(0.01)
        assert texts(subject.view("view", "layer")) == {"a": "1"}

    @holds("Raises Unimplemented where removing leaves nothing.")
    def test_cleanup_works_or_says_that_there_is_none(self, subject: Subject, supports_cleanup: bool) -> None:
        if supports_cleanup:
            subject.cleanup()
            subject.cleanup()
        else:
            with pytest.raises(errors.Unimplemented):
                subject.cleanup()


def _times(subject: Subject, key: str) -> tuple[int, int]:
    info = subject.stat(key)
    return info.created_at, info.updated_at
