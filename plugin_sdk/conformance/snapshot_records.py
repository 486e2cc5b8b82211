"""The part of the suite for snapshotters on what is known of snapshots: stat, walk, usage, times."""

from __future__ import annotations

import os
import time

import pytest

from plugin_sdk import errors
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.snapshot_rig import Rig, Subject, state
from plugin_sdk.conformance.snapshot_trees import commit, names, shown
from plugin_sdk.mounts import sync_file_system
from plugin_sdk.snapshots import Info, Kind

TELLS = "Kind, parent, labels and times of a key or a name."
TIMES = (
    "``created_at`` is when the snapshot became what it is, active, view or committed; ``updated_at`` when its labels "
    "last changed, if they have."
)
EPOCH = "Times are nanoseconds since the epoch."
WALK = (
    "Every snapshot that one of the filters matches (``matcher``), all without, each once with all that ``stat`` "
    "tells; order is not defined."
)
FIELDS = (
    "The filterable fields are ``kind`` (view, active, committed), ``name``, ``parent``, which is absent without one, "
    "and ``labels.KEY``."
)
ON_DISK = "What a snapshot itself takes on disk, in bytes and inodes, its own directory among them."
MOMENT = "Of an active snapshot, what is there now; of a committed one, what was there at its commit."

SLACK = 2 * 10**9  # clocks of file systems tick coarsely
_MIB = 1 << 20


def family(subject: Subject) -> None:
    commit(subject, "layer")
    subject.prepare("active", "layer", {"color": "red", "a.b/c": "d", "size": "12 34"})
    subject.view("view", "layer", {"color": "blue"})


def write(subject: Subject, key: str, size: int) -> None:
    with shown(subject.mounts(key)) as folder:
        (folder / f"file of {size}").write_bytes(os.urandom(size))
        sync_file_system(folder)  # blocks are counted when they are allocated


class Records(Rig):
    @holds(TELLS, "``name`` is the key or the name.")
    def test_stat_tells_name_kind_parent_and_labels(self, subject: Subject) -> None:
        family(subject)
        red = {"color": "red", "a.b/c": "d", "size": "12 34"}
        expected = {
            "layer": (Kind.COMMITTED, "", {}),
            "active": (Kind.ACTIVE, "layer", red),
            "view": (Kind.VIEW, "layer", {"color": "blue"}),
        }
        for key, (kind, parent, labels) in expected.items():
            info = subject.stat(key)
            assert (info.name, info.kind, info.parent, info.labels) == (key, kind, parent, labels)

    @holds("Numbers as on the wire.")
    def test_the_kinds_are_those_of_the_wire(self, subject: Subject) -> None:
        family(subject)
        assert {key: int(info.kind) for key, info in state(subject).items()} == {"view": 1, "active": 2, "layer": 3}

    # Times

    @holds(TIMES, EPOCH)
    @pytest.mark.parametrize("kind", ["active", "view", "committed"])
    def test_a_new_snapshot_was_made_now(self, subject: Subject, kind: str) -> None:
        before = time.time_ns()
        if kind == "active":
            subject.prepare("key")
        elif kind == "view":
            subject.view("key")
        else:
            commit(subject, "key")
        info = subject.stat("key")
        assert before - SLACK <= info.created_at <= info.updated_at <= time.time_ns() + SLACK

    @holds(TIMES)
    def test_a_commit_gives_a_time_of_its_own(self, subject: Subject) -> None:
        subject.prepare("key")
        prepared = subject.stat("key").created_at
        time.sleep(0.01)
        subject.commit("name", "key")
        assert subject.stat("name").created_at > prepared

    @holds(TIMES, "Kind, parent and times of ``info`` are not looked at, and stay.")
    @pytest.mark.parametrize("key", ["layer", "active", "view"])
    def test_an_update_changes_the_later_time_only(self, subject: Subject, key: str) -> None:
        family(subject)
        before = subject.stat(key)
        time.sleep(0.01)
        after = subject.update(Info(key, Kind.COMMITTED, "nobody", {"a": "b"}, 1, 1))
        assert (after.kind, after.parent, after.created_at) == (before.kind, before.parent, before.created_at)
        assert after.updated_at > before.updated_at
        assert subject.stat(key) == after

    @holds(TIMES)
    def test_times_stay_when_others_change(self, subject: Subject) -> None:
        family(subject)
        before = state(subject)
        time.sleep(0.01)
        subject.prepare("another", "layer")
        subject.update(Info("another", Kind.ACTIVE, labels={"a": "b"}))
        subject.mounts("active")
        subject.usage("active")
        subject.remove("another")
        assert state(subject) == before

    # Walk

    @holds(WALK)
    def test_walk_shows_everything_with_its_fields(self, subject: Subject) -> None:
        family(subject)
        found = list(subject.walk())
        assert len(found) == 3
        assert {info.name: info for info in found} == {key: subject.stat(key) for key in ("layer", "active", "view")}

    @holds(WALK)
    @pytest.mark.parametrize("count", [100, 101])
    def test_walk_shows_many_snapshots_once_each(self, subject: Subject, count: int) -> None:
        """A hundred go into a message at most, on the wire."""
        for number in range(count):
            subject.view(f"key-{number}", "", {"number": str(number)})
        found = sorted((info.name, info.labels["number"]) for info in subject.walk())
        assert found == sorted((f"key-{number}", str(number)) for number in range(count))

    @holds(WALK, FIELDS)
    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            (["kind==committed"], {"layer"}),
            (["kind==active", "kind==view"], {"active", "view"}),
            (["kind!=view"], {"layer", "active"}),
            (["parent==@layer"], {"active", "view"}),
            (["parent==@layer,kind==view"], {"view"}),
            (["parent"], {"active", "view"}),
            (['parent!="@layer"'], {"layer"}),
            (["name==@layer"], {"layer"}),
            (["name~=(layer|view)$"], {"layer", "view"}),
            (["name==@nobody", "name==@view"], {"view"}),
            (["labels.color==red"], {"active"}),
            (["labels.color"], {"active", "view"}),
            (['labels."a.b/c"==d'], {"active"}),
            (['labels.size=="12 34"'], {"active"}),
            (["labels.absent"], set()),
            ([""], {"layer", "active", "view"}),
        ],
        ids=lambda names: " or ".join(sorted(names)),
    )
    def test_walk_takes_filters_of_which_one_must_match(
        self, subject: Subject, filters: list[str], expected: set[str]
    ) -> None:
        family(subject)
        assert names(subject, *(text.replace("@", subject.prefix) for text in filters)) == expected

    @holds("A malformed filter raises InvalidArgument.")
    @pytest.mark.parametrize("text", ["name==", "==a", "name=a", "kind==active,", "name~=(", 'name=="'])
    def test_a_malformed_filter_is_refused(self, subject: Subject, text: str) -> None:
        subject.prepare("key")
        with pytest.raises(errors.InvalidArgument):
            list(subject.walk(["kind==active", text]))

    # Usage

    @holds(ON_DISK, "A file of several links counts once.", MOMENT)
    def test_usage_is_what_the_snapshot_itself_takes(self, subject: Subject) -> None:
        with shown(subject.prepare("key")) as folder:
            empty = subject.usage("key")
            (folder / "file").write_bytes(os.urandom(_MIB))
            os.link(folder / "file", folder / "link")
            (folder / "second").write_text("")
            sync_file_system(folder)
        usage = subject.usage("key")
        assert empty.inodes >= 1
        assert usage.inodes == empty.inodes + 2
        assert _MIB <= usage.size - empty.size < _MIB + (64 << 10)
        subject.commit("layer", "key")
        assert subject.usage("layer") == usage

    @holds(MOMENT)
    def test_usage_of_an_empty_snapshot_is_next_to_nothing(self, subject: Subject) -> None:
        subject.prepare("key")
        subject.view("view")
        for key in ("key", "view"):
            assert 0 <= subject.usage(key).size < _MIB
            assert 0 <= subject.usage(key).inodes < 10
        subject.commit("layer", "key")
        assert 1 <= subject.usage("layer").inodes < 10

    @holds(MOMENT)
    def test_usage_follows_what_is_written_and_removed(self, subject: Subject) -> None:
        subject.prepare("key")
        found = [subject.usage("key").size]
        for size in (_MIB, 3 * _MIB):
            write(subject, "key", size)
            found.append(subject.usage("key").size)
        with shown(subject.mounts("key")) as folder:
            (folder / f"file of {_MIB}").unlink()
            sync_file_system(folder)
        found.append(subject.usage("key").size)
        grown = [round((size - found[0]) / _MIB, 1) for size in found]
        assert grown == [0, 1, 4, 3]

    @holds("What a snapshot shares with its parents is not counted.")
    def test_usage_of_a_child_is_without_its_parents(self, subject: Subject, supports_sharing: bool) -> None:
        subject.prepare("key")
        write(subject, "key", 4 * _MIB)
        subject.commit("layer", "key")
        subject.prepare("child", "layer")
        write(subject, "child", _MIB)
        expected = _MIB if supports_sharing else 5 * _MIB
        assert expected <= subject.usage("child").size < expected + _MIB
        subject.commit("top", "child")
        assert expected <= subject.usage("top").size < expected + _MIB

    @holds(MOMENT)
    def test_usage_of_a_committed_snapshot_stays(self, subject: Subject) -> None:
        subject.prepare("key")
        write(subject, "key", _MIB)
        subject.commit("layer", "key")
        before = subject.usage("layer")
        subject.prepare("child", "layer")
        write(subject, "child", _MIB)
        assert subject.usage("layer") == before
        subject.remove("child")
        assert subject.usage("layer") == before
