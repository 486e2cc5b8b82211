"""The part of the suite for snapshotters on restarts: orderly ones, and a crash between any two calls."""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from plugin_sdk import errors
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.snapshot_rig import Rig, Subject, state
from plugin_sdk.conformance.snapshot_trees import appearance, commit, fill, names, shown, texts
from plugin_sdk.mounts import Mount, sync_file_system
from plugin_sdk.snapshots import Info, Kind, Usage

AFTER = "All that was answered before a crash is true after it: snapshots and their fields, files, usage and mounts."
REPEAT = "Repeating a call that was cut off is safe: it succeeds, or says AlreadyExists or NotFound."
WITHIN = "At a crash within a method, the snapshotter is after its next start in the state before or after it."
SAME_MOUNTS = "The same as prepare or view answered, for as long as the key is there."

_CUT_OFF = errors.Unavailable, errors.DeadlineExceeded, errors.Canceled, errors.Unknown, errors.Internal, OSError


def write(subject: Subject, key: str, **files: str) -> None:
    with shown(subject.mounts(key)) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)
        sync_file_system(folder)


def update(subject: Subject) -> Info:
    return subject.update(Info("layer-2", Kind.COMMITTED, labels={"color": "blue"}), ["labels.color"])


LIFE: dict[str, Callable[[Subject], object]] = {
    "prepare": lambda it: it.prepare("first"),
    "write": lambda it: write(it, "first", a="1"),
    "commit": lambda it: it.commit("layer-1", "first", {"containerd.io/snapshot/one": "1"}),
    "prepare on it": lambda it: it.prepare("second", "layer-1", {"color": "red"}),
    "write on it": lambda it: write(it, "second", b="2"),
    "commit on it": lambda it: it.commit("layer-2", "second", {"color": "green"}),
    "update": update,
    "view": lambda it: it.view("view", "layer-2", {"color": "white"}),
    "prepare again": lambda it: it.prepare("third", "layer-2"),
    "remove the view": lambda it: it.remove("view"),
    "remove the active one": lambda it: it.remove("third"),
    "remove the child": lambda it: it.remove("layer-2"),
    "remove the parent": lambda it: it.remove("layer-1"),
}

# What may be cut off: what there is before, the call, and what there is after it, beside "layer".
CUTS: dict[str, tuple[set[str], Callable[[Subject], object], set[str]]] = {
    "prepare": (set(), lambda it: it.prepare("new", "layer", {"color": "red"}), {"new"}),
    "view": (set(), lambda it: it.view("new", "layer", {"color": "red"}), {"new"}),
    "commit": ({"key"}, lambda it: it.commit("new", "key", {"color": "red"}), {"new"}),
    "remove": ({"key"}, lambda it: it.remove("key"), set()),
}


@dataclass(frozen=True, slots=True)
class Answers:
    """All that a snapshotter answers about what it has."""

    infos: dict[str, Info]
    usages: dict[str, Usage]
    mounts: dict[str, list[Mount]]
    files: dict[str, dict[str, str]]


def answers(subject: Subject) -> Answers:
    infos = state(subject)
    working = [key for key, info in infos.items() if info.kind is not Kind.COMMITTED]
    shown_by = {key: subject.mounts(key) for key in working}
    usages = {key: subject.usage(key) for key, info in infos.items() if info.kind is not Kind.VIEW}
    return Answers(infos, usages, shown_by, {key: texts(shown_by[key]) for key in working})


def ready(subject: Subject, before: set[str]) -> None:
    commit(subject, "layer", a="1")
    for key in before:
        subject.prepare(key, "layer")
        write(subject, key, b="2")


class Restarts(Rig):
    @holds(AFTER)
    def test_everything_survives_a_restart(self, subject: Subject) -> None:
        with shown(subject.prepare("work")) as folder:
            fill(folder)
            before = appearance(folder)
        subject.commit("layer", "work", {"color": "green"})
        subject.prepare("key", "layer", {"color": "red"})
        write(subject, "key", b="2")
        subject.view("view", "layer", {"color": "blue"})
        expected = answers(subject)
        subject.reopen()
        assert answers(subject) == expected
        with shown(subject.mounts("view")) as folder:
            assert appearance(folder) == before

    @holds(AFTER)
    @pytest.mark.parametrize("last", LIFE)
    def test_a_crash_between_any_two_calls_loses_nothing(self, subject: Subject, last: str) -> None:
        for name, call in LIFE.items():
            call(subject)
            if name == last:
                before = answers(subject)
                subject.crash()
                assert answers(subject) == before
        assert names(subject) == set()

    @holds(AFTER)
    def test_a_crash_after_every_call_loses_nothing(self, subject: Subject) -> None:
        for call in LIFE.values():
            call(subject)
            before = answers(subject)
            subject.crash()
            assert answers(subject) == before

    @holds(AFTER, SAME_MOUNTS)
    @pytest.mark.parametrize("method", ["prepare", "view"])
    @pytest.mark.parametrize("parent", ["", "one", "two"], ids=["no parent", "one layer", "two layers"])
    def test_mounts_are_the_same_after_a_crash(self, subject: Subject, method: str, parent: str) -> None:
        commit(subject, "one", a="1")
        commit(subject, "two", "one", b="2")
        before = getattr(subject, method)("key", parent)
        subject.crash()
        assert subject.mounts("key") == before
        assert texts(before) == {"": {}, "one": {"a": "1"}, "two": {"a": "1", "b": "2"}}[parent]

    @holds(AFTER, "Removes a snapshot of any kind, and its key or name is free.")
    def test_a_removed_snapshot_stays_removed(self, subject: Subject, supports_cleanup: bool) -> None:
        subject.prepare("key")
        write(subject, "key", old="x")
        commit(subject, "layer", old="x")
        for key in ("key", "layer"):
            subject.remove(key)
        subject.crash()
        if supports_cleanup:
            subject.cleanup()
        assert names(subject) == set()
        for key in ("key", "layer"):
            assert texts(subject.prepare(key)) == {}

    @holds(AFTER)
    def test_work_goes_on_after_a_crash(self, subject: Subject) -> None:
        subject.prepare("work")
        write(subject, "work", a="1")
        subject.crash()
        write(subject, "work", b="2")
        subject.commit("layer", "work")
        subject.crash()
        assert texts(subject.prepare("child", "layer")) == {"a": "1", "b": "2"}
        with pytest.raises(errors.FailedPrecondition):
            subject.remove("layer")

    @holds(AFTER)
    def test_huge_labels_survive_a_crash(self, subject: Subject) -> None:
        labels = {f"containerd.io/snapshot/{number}": f"{number % 10}" * 4000 for number in range(500)}
        subject.prepare("key", "", labels)
        subject.crash()
        assert subject.stat("key").labels == labels

    @holds(REPEAT)
    @pytest.mark.parametrize("call", CUTS)
    def test_repeating_a_call_whose_answer_was_lost_is_safe(self, subject: Subject, call: str) -> None:
        before, work, after = CUTS[call]
        ready(subject, before)
        work(subject)
        expected = answers(subject)
        subject.crash()
        with contextlib.suppress(errors.AlreadyExists, errors.NotFound):
            work(subject)
        assert names(subject) == {"layer", *after}
        assert answers(subject) == expected

    @holds(REPEAT)
    def test_repeating_a_cut_off_change_of_labels_is_safe(self, subject: Subject) -> None:
        commit(subject, "layer-2")
        first = update(subject)
        subject.crash()
        assert update(subject).labels == first.labels == {"color": "blue"}

    @holds(REPEAT)
    def test_a_repeated_commit_says_that_it_has_happened(self, subject: Subject) -> None:
        commit(subject, "layer", a="1")
        with pytest.raises((errors.AlreadyExists, errors.NotFound)):
            subject.commit("layer", "prepare layer")
        assert texts(subject.view("view", "layer")) == {"a": "1"}

    @holds(WITHIN, REPEAT)
    @pytest.mark.parametrize("call", CUTS)
    def test_a_crash_within_a_call_leaves_the_state_before_or_after(
        self, subject: Subject, call: str, supports_kill: bool
    ) -> None:
        if not supports_kill:
            pytest.skip("supports_kill is false: the snapshotter cannot be ended within a call")
        before, work, after = CUTS[call]
        ready(subject, set())
        for attempt in range(4):
            ready_again = before - names(subject)
            for key in ready_again:
                subject.prepare(key, "layer")
                write(subject, key, b="2")
            _kill_within(subject, functools.partial(work, subject), attempt)
            assert names(subject) in ({"layer", *before}, {"layer", *after})
            with contextlib.suppress(errors.AlreadyExists, errors.NotFound):
                work(subject)
            assert names(subject) == {"layer", *after}
            assert all(files.items() >= {"a": "1"}.items() for files in answers(subject).files.values())
            for key in after:
                subject.remove(key)

    @holds("Ends the use of the object; a second time does nothing.")
    def test_closing_twice_does_nothing(self, subject: Subject) -> None:
        subject.prepare("key")
        subject.close()
        subject.close()
        subject.reopen()
        assert names(subject) == {"key"}


def _kill_within(subject: Subject, work: Callable[[], object], attempt: int) -> None:
    """The call may also end before, or be refused since the program has gone."""
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(work)
        time.sleep(random.uniform(0, 0.002) * attempt)
        subject.crash()
        with contextlib.suppress(*_CUT_OFF):
            future.result()
