"""The part of the suite for snapshotters on calls at the same time."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator

import pytest

from plugin_sdk import errors
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.snapshot_rig import Rig, Subject, kinds, state, together
from plugin_sdk.conformance.snapshot_trees import commit, names, shown, texts
from plugin_sdk.snapshots import Info, Kind

THREADS = "All methods block and may be called from several threads."
ORDER = (
    "Calls at the same time leave what they would leave one after the other: of several that want one key or name one "
    "gets it, and no child loses its parent."
)
WALK = "What comes or goes while it walks may be among them or not."

_ROUNDS = 8
_EXPECTED = errors.NotFound, errors.AlreadyExists, errors.InvalidArgument, errors.FailedPrecondition


def races(subject: Subject, *works: Callable[[str], object]) -> Iterator[tuple[str, list[object]]]:
    """Rounds, each with a text of its own that the works get; answers it and what they did."""
    for number in range(_ROUNDS):
        text = f"round-{number}"
        yield text, together(*(functools.partial(work, text) for work in works))


class Threads(Rig):
    @holds(ORDER)
    @pytest.mark.parametrize("method", ["prepare", "view"])
    def test_of_many_that_want_one_key_one_gets_it(self, subject: Subject, method: str) -> None:
        commit(subject, "layer", a="1")
        outcomes = together(*[lambda: getattr(subject, method)("key", "layer")] * 8)
        assert kinds(outcomes) == ["AlreadyExists"] * 7 + ["done"]
        assert texts(subject.mounts("key")) == {"a": "1"}

    @holds(ORDER)
    def test_a_key_becomes_active_or_a_view(self, subject: Subject) -> None:
        for key, outcomes in races(subject, subject.prepare, subject.view):
            assert kinds(outcomes) == ["AlreadyExists", "done"]
            kind = Kind.VIEW if isinstance(outcomes[0], errors.AlreadyExists) else Kind.ACTIVE
            assert subject.stat(key).kind is kind
            assert [subject.mounts(key)] == [outcome for outcome in outcomes if isinstance(outcome, list)]

    @holds(ORDER)
    def test_of_many_that_want_one_name_one_gets_it(self, subject: Subject) -> None:
        for number in range(6):
            with shown(subject.prepare(f"key-{number}")) as folder:
                (folder / "file").write_text(str(number))
        works = [functools.partial(subject.commit, "layer", f"key-{number}") for number in range(6)]
        outcomes = together(*works)
        assert kinds(outcomes) == ["AlreadyExists"] * 5 + ["done"]
        won = next(number for number, outcome in enumerate(outcomes) if outcome is None)
        assert names(subject) == {"layer", *(f"key-{number}" for number in range(6) if number != won)}
        assert texts(subject.view("view", "layer")) == {"file": str(won)}
        assert texts(subject.mounts(f"key-{won - 1 if won else 1}")) == {"file": str(won - 1 if won else 1)}

    @holds(ORDER)
    def test_of_many_that_commit_one_key_one_succeeds(self, subject: Subject) -> None:
        with shown(subject.prepare("key")) as folder:
            (folder / "file").write_text("x")
        outcomes = together(*[functools.partial(subject.commit, f"layer-{number}", "key") for number in range(6)])
        assert kinds(outcomes) == ["NotFound"] * 5 + ["done"]
        won = f"layer-{outcomes.index(None)}"
        assert names(subject) == {won}
        assert texts(subject.view("view", won)) == {"file": "x"}

    @holds(ORDER)
    def test_a_name_is_prepared_or_committed(self, subject: Subject) -> None:
        def work(text: str) -> None:
            subject.commit(text, f"work {text}")

        for number in range(_ROUNDS):
            subject.prepare(f"work round-{number}")
        for text, outcomes in races(subject, work, subject.prepare):
            assert kinds(outcomes) == ["AlreadyExists", "done"]
            expected = Kind.ACTIVE if isinstance(outcomes[0], errors.AlreadyExists) else Kind.COMMITTED
            assert subject.stat(text).kind is expected
            assert (f"work {text}" in names(subject)) == (expected is Kind.ACTIVE)

    @holds(ORDER)
    def test_of_many_that_remove_one_key_one_succeeds(self, subject: Subject) -> None:
        subject.prepare("key")
        outcomes = together(*[functools.partial(subject.remove, "key")] * 6)
        assert kinds(outcomes) == ["NotFound"] * 5 + ["done"]
        assert names(subject) == set()

    @holds(ORDER)
    @pytest.mark.parametrize("method", ["prepare", "view"])
    def test_a_child_is_made_or_its_parent_removed(self, subject: Subject, method: str) -> None:
        make = getattr(subject, method)
        for number in range(_ROUNDS):
            commit(subject, f"round-{number}", a="1")
        for layer, outcomes in races(subject, subject.remove, lambda layer: make(f"on {layer}", layer)):
            assert kinds(outcomes) in (["FailedPrecondition", "done"], ["NotFound", "done"])
            if isinstance(outcomes[0], errors.FailedPrecondition):
                assert subject.stat(f"on {layer}").parent == layer
                assert texts(subject.mounts(f"on {layer}")) == {"a": "1"}
            else:
                assert {layer, f"on {layer}"}.isdisjoint(names(subject))

    @holds(ORDER)
    def test_a_key_is_committed_or_removed(self, subject: Subject) -> None:
        for number in range(_ROUNDS):
            with shown(subject.prepare(f"round-{number}")) as folder:
                (folder / "a").write_text("1")
        for key, outcomes in races(subject, subject.remove, lambda key: subject.commit(f"{key} done", key)):
            assert kinds(outcomes) == ["NotFound", "done"]
            committed = isinstance(outcomes[0], errors.NotFound)
            assert {name for name in names(subject) if name.startswith(key)} == (
                {f"{key} done"} if committed else set()
            )
            if committed:
                assert texts(subject.view(f"view {key}", f"{key} done")) == {"a": "1"}

    @holds(ORDER)
    def test_a_child_is_made_of_the_whole_layer_or_not(self, subject: Subject) -> None:
        for number in range(_ROUNDS):
            with shown(subject.prepare(f"work round-{number}")) as folder:
                for file in range(20):
                    (folder / str(file)).write_text("x")
        works = (
            lambda layer: subject.commit(layer, f"work {layer}"),
            lambda layer: subject.prepare(f"on {layer}", layer),
        )
        for layer, outcomes in races(subject, *works):
            assert outcomes[0] is None
            assert kinds(outcomes) in (["NotFound", "done"], ["done", "done"])
            if isinstance(outcomes[1], list):
                assert texts(subject.mounts(f"on {layer}")) == {str(file): "x" for file in range(20)}

    @holds(THREADS)
    @pytest.mark.parametrize("method", ["stat", "usage", "mounts", "walk"])
    def test_many_ask_the_same_at_once(self, subject: Subject, method: str) -> None:
        commit(subject, "layer", a="1")
        subject.prepare("key", "layer", {"color": "red"})
        ask = (lambda: list(subject.walk())) if method == "walk" else functools.partial(getattr(subject, method), "key")
        expected = ask()
        assert together(*[ask] * 12) == [expected] * 12

    @holds(ORDER)
    def test_a_key_is_removed_and_made_again(self, subject: Subject) -> None:
        for number in range(_ROUNDS):
            with shown(subject.prepare(f"round-{number}")) as folder:
                (folder / "old").write_text("x")
        for key, outcomes in races(subject, subject.remove, subject.prepare):
            assert outcomes[0] is None
            assert kinds(outcomes) in (["AlreadyExists", "done"], ["done", "done"])
            if isinstance(outcomes[1], list):
                assert texts(subject.mounts(key)) == {}
            else:
                assert key not in names(subject)

    @holds(ORDER)
    def test_labels_changed_at_the_same_time_are_all_changed(self, subject: Subject) -> None:
        subject.prepare("key", "", {f"label-{number}": "before" for number in range(8)})

        def work(number: int) -> Info:
            changed = Info("key", Kind.UNKNOWN, labels={f"label-{number}": "after"})
            return subject.update(changed, [f"labels.label-{number}"])

        assert kinds(together(*[functools.partial(work, number) for number in range(8)])) == ["done"] * 8
        assert subject.stat("key").labels == {f"label-{number}": "after" for number in range(8)}

    @holds(THREADS)
    def test_many_lives_side_by_side(self, subject: Subject) -> None:
        commit(subject, "base", base="x")

        def life(number: int) -> None:
            parent = "base"
            for layer in range(3):
                commit(subject, f"{number}-{layer}", parent, **{f"file-{layer}": str(number)})
                parent = f"{number}-{layer}"
            expected = {"base": "x"} | {f"file-{layer}": str(number) for layer in range(3)}
            assert texts(subject.view(f"view {number}", parent)) == expected
            subject.remove(f"view {number}")
            for layer in (2, 1, 0):
                subject.remove(f"{number}-{layer}")

        assert kinds(together(*[functools.partial(life, number) for number in range(6)])) == ["done"] * 6
        assert names(subject) == {"base"}

    @holds(THREADS)
    def test_many_children_are_made_of_one_parent(self, subject: Subject) -> None:
        commit(subject, "layer", a="1")
        works = [functools.partial(subject.prepare, f"child-{number}", "layer") for number in range(8)]
        assert kinds(together(*works)) == ["done"] * 8
        for number in range(8):
            assert texts(subject.mounts(f"child-{number}")) == {"a": "1"}

    @holds(WALK)
    def test_a_walk_goes_on_when_something_changes(self, subject: Subject) -> None:
        steady = {f"steady-{number}" for number in range(5)}
        passing = {f"passing-{number}" for number in range(5)}
        for key in steady | passing:
            subject.prepare(key)
        walk = subject.walk()
        found = [next(walk).name]
        for key in passing - set(found):
            subject.remove(key)
        subject.prepare("new")
        found += [info.name for info in walk]
        assert sorted(steady.intersection(found)) == sorted(key for key in found if key in steady) == sorted(steady)
        assert set(found) <= steady | passing | {"new"}

    @holds(WALK, THREADS)
    def test_a_walk_shows_once_what_stays_while_others_change(self, subject: Subject) -> None:
        steady = {f"steady-{number}" for number in range(30)}
        for key in steady:
            subject.prepare(key)
        walking = threading.Event()

        def change(number: int) -> None:
            while not walking.is_set():
                subject.prepare(f"key-{number}")
                subject.commit(f"layer-{number}", f"key-{number}")
                subject.remove(f"layer-{number}")

        def walk() -> None:
            try:
                for _ in range(10):
                    found = list(subject.walk())
                    shown = [info.name for info in found if info.name in steady]
                    assert len(shown) == len(steady)
                    assert set(shown) == steady
                    for info in found:
                        assert info.kind is (Kind.COMMITTED if info.name.startswith("layer") else Kind.ACTIVE)
            finally:
                walking.set()

        works = [functools.partial(change, number) for number in range(3)]
        assert kinds(together(walk, *works)) == ["done"] * 4

    @holds(THREADS)
    @pytest.mark.parametrize("method", ["stat", "usage", "mounts"])
    def test_what_is_removed_meanwhile_is_not_found(self, subject: Subject, method: str) -> None:
        ask = getattr(subject, method)
        for number in range(_ROUNDS):
            with shown(subject.prepare(f"round-{number}")) as folder:
                for file in range(10):
                    (folder / str(file)).touch()
        for _, outcomes in races(subject, subject.remove, ask, ask):
            assert outcomes[0] is None
            assert set(kinds(outcomes)) <= {"done", "NotFound"}

    @holds(THREADS, ORDER)
    def test_many_threads_leave_a_tree_that_makes_sense(self, subject: Subject) -> None:
        def work(seed: int) -> None:
            choose = random.Random(seed)
            for _ in range(25):
                key = choose.choice([*sorted(names(subject)), ""])
                try:
                    match choose.randrange(5):
                        case 0 | 1:
                            subject.prepare(f"key-{choose.randrange(10)}", key)
                        case 2:
                            subject.commit(f"layer-{choose.randrange(10)}", key)
                        case 3:
                            subject.remove(key)
                        case 4:
                            subject.usage(key)
                except _EXPECTED:
                    pass

        assert kinds(together(*[functools.partial(work, seed) for seed in range(8)])) == ["done"] * 8
        found = state(subject)
        assert all(found[info.parent].kind is Kind.COMMITTED for info in found.values() if info.parent)
        for key, info in found.items():
            if info.kind is Kind.ACTIVE:
                assert texts(subject.mounts(key)) == {}
