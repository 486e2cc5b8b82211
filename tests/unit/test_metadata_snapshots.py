from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.metadata.database import Database
from kernel.metadata.snapshots import Snapshots
from kernel.metadata.store import Metadata, View
from plugin_sdk import errors, plugin
from plugin_sdk.api.events import snapshot_pb2
from plugin_sdk.events import Envelope
from plugin_sdk.leases import Resource
from plugin_sdk.scope import Scope
from plugin_sdk.snapshots import TARGET_LABEL, Info, Kind
from tests import scripted
from tests.registries import FixedRegistry


@pytest.fixture
def made() -> scripted.Snapshotter:
    return scripted.Snapshotter()


@pytest.fixture
def published() -> list[Envelope]:
    return []


@pytest.fixture
def metadata(tmp_path: Path, made: scripted.Snapshotter, published: list[Envelope]) -> Iterator[Metadata]:
    database = Database(tmp_path / "meta.db", published.extend)
    yield Metadata(database, FixedRegistry(s=made), background=False)
    database.close()


@pytest.fixture
def view(metadata: Metadata) -> View:
    return metadata.view(Scope("ns"))


@pytest.fixture
def snapshots(view: View) -> Snapshots:
    return view.snapshotter("s")


def rows(metadata: Metadata, sql: str) -> list[tuple[object, ...]]:
    with metadata.database.read() as cursor:
        return [tuple(row) for row in cursor.execute(sql)]


def reap(metadata: Metadata) -> int:
    return metadata.settle_plugin(plugin.SNAPSHOTTER, "s")


def layer(snapshots: Snapshots, name: str, parent: str = "") -> None:
    snapshots.prepare(f"{name}-key", parent)
    snapshots.commit(name, f"{name}-key")


def remote(made: scripted.Snapshotter, parent: str = "") -> None:
    """The plugin has a layer that nobody asked it to make."""
    made.snapshots["remote/1"] = Info("remote/1", Kind.COMMITTED, parent, {TARGET_LABEL: "chain"})


def test_an_unknown_snapshotter_is_named(view: View) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"^snapshotter not loaded: nowhere$"):
        view.snapshotter("nowhere")


def test_the_plugin_sees_namespace_sequence_and_key(snapshots: Snapshots, made: scripted.Snapshotter) -> None:
    layer(snapshots, "base")
    snapshots.prepare("/a key", "base")
    (base, key) = made.snapshots
    assert base.startswith("ns/")
    assert base.endswith("/base")
    assert key.endswith("//a key")
    assert made.snapshots[key].parent == base


def test_the_plugin_is_told_only_the_labels_meant_for_it(snapshots: Snapshots, made: scripted.Snapshotter) -> None:
    labels = {"containerd.io/snapshot/x": "1", "containerd.io/gc.root": "2", "empty": ""}
    snapshots.prepare("key", labels=labels)
    assert snapshots.stat("key").labels == {"containerd.io/snapshot/x": "1", "containerd.io/gc.root": "2"}
    (info,) = made.snapshots.values()
    assert info.labels == {"containerd.io/snapshot/x": "1"}
    snapshots.commit("name", "key", {"containerd.io/snapshot/y": "3", "z": "4"})
    (info,) = made.snapshots.values()
    assert info.labels == {"containerd.io/snapshot/y": "3"}
    assert snapshots.stat("name").labels == {"containerd.io/snapshot/y": "3", "z": "4"}


def test_labels_of_no_concern_to_the_plugin_do_not_reach_it(snapshots: Snapshots, made: scripted.Snapshotter) -> None:
    snapshots.prepare("key")
    snapshots.update(Info("key", Kind.ACTIVE, labels={"a": "b"}))
    assert "update" not in [entry[0] for entry in made.log]
    snapshots.update(Info("key", Kind.ACTIVE, labels={"containerd.io/snapshot/a": "b"}), ["labels"])
    assert "update" in [entry[0] for entry in made.log]


def test_labels_that_the_plugin_refuses_are_as_before(snapshots: Snapshots, made: scripted.Snapshotter) -> None:
    snapshots.prepare("key", labels={"a": "1"})
    made.modes["update"] = ["refused"]
    with pytest.raises(errors.PermissionDenied):
        snapshots.update(Info("key", Kind.ACTIVE, labels={"containerd.io/snapshot/a": "b"}))
    assert snapshots.stat("key").labels == {"a": "1"}


def test_namespaces_do_not_see_each_other(snapshots: Snapshots, metadata: Metadata) -> None:
    snapshots.prepare("key")
    other = metadata.view(Scope("other")).snapshotter("s")
    assert list(other.walk()) == []
    with pytest.raises(errors.NotFound):
        other.stat("key")
    other.prepare("key")


def test_events_tell_of_active_snapshots_only(snapshots: Snapshots, published: list[Envelope]) -> None:
    layer(snapshots, "base")
    snapshots.view("seen", "base")
    snapshots.remove("seen")
    assert [event.topic for event in published] == ["/snapshot/prepare", "/snapshot/commit", "/snapshot/remove"]
    prepared = snapshot_pb2.SnapshotPrepare.FromString(published[0].event.value)
    assert (prepared.key, prepared.parent, prepared.snapshotter) == ("base-key", "", "s")
    committed = snapshot_pb2.SnapshotCommit.FromString(published[1].event.value)
    assert (committed.key, committed.name) == ("base-key", "base")


def test_while_it_is_committed_the_key_is_there_and_the_name_is_not(
    snapshots: Snapshots, made: scripted.Snapshotter, metadata: Metadata
) -> None:
    snapshots.prepare("key")
    made.modes["commit"] = ["late"]
    with pytest.raises(errors.Unavailable):
        snapshots.commit("name", "key")
    assert [info.name for info in snapshots.walk()] == ["key"]
    assert snapshots.stat("key").kind is Kind.ACTIVE
    with pytest.raises(errors.NotFound):
        snapshots.stat("name")
    with pytest.raises(errors.NotFound):
        snapshots.prepare("child", "name")
    for call in (
        lambda: snapshots.mounts("key"),
        lambda: snapshots.remove("key"),
        lambda: snapshots.commit("another", "key"),
        lambda: snapshots.prepare("name"),
    ):
        with pytest.raises(errors.Unavailable, match="not settled"):
            call()
    assert reap(metadata) == 0
    assert [info.name for info in snapshots.walk()] == ["name"]


def test_what_is_being_made_is_not_seen(snapshots: Snapshots, made: scripted.Snapshotter) -> None:
    def look(name: str) -> None:
        if name == "before prepare":
            assert list(snapshots.walk()) == []
            with pytest.raises(errors.NotFound):
                snapshots.stat("key")

    made.steps = look
    snapshots.prepare("key")


def test_a_refused_commit_gives_the_key_back(snapshots: Snapshots, made: scripted.Snapshotter) -> None:
    snapshots.prepare("key")
    made.modes["commit"] = ["refused", "unclear", "unclear but done"]
    with pytest.raises(errors.PermissionDenied):
        snapshots.commit("name", "key")
    with pytest.raises(errors.Unknown):
        snapshots.commit("name", "key")
    assert snapshots.mounts("key")
    snapshots.commit("name", "key")
    assert snapshots.stat("name").kind is Kind.COMMITTED


def test_a_commit_whose_snapshot_the_plugin_has_lost_goes_away(
    snapshots: Snapshots, made: scripted.Snapshotter, metadata: Metadata
) -> None:
    snapshots.prepare("key")
    made.modes["commit"] = ["lost"]
    with pytest.raises(errors.Unavailable):
        snapshots.commit("name", "key")
    made.snapshots.clear()
    assert reap(metadata) == 0
    assert list(snapshots.walk()) == []


def test_errors_of_the_plugin_name_the_callers_key(snapshots: Snapshots, made: scripted.Snapshotter) -> None:
    snapshots.prepare("key")
    made.snapshots.clear()
    with pytest.raises(errors.NotFound, match=r"^snapshot key does not exist: not found$"):
        snapshots.mounts("key")


def test_no_answer_in_time_is_unavailable(snapshots: Snapshots, made: scripted.Snapshotter) -> None:
    made.modes["prepare"] = ["late"]
    with pytest.raises(errors.Unavailable, match="has not answered"):
        snapshots.prepare("key")


def test_commit_moves_the_lease_from_the_key_to_the_name(metadata: Metadata, view: View) -> None:
    view.leases.create("l")
    leased = metadata.view(Scope("ns", "l")).snapshotter("s")
    leased.prepare("key")
    assert view.leases.list_resources("l") == [Resource("key", "snapshots/s")]
    leased.commit("name", "key")
    assert view.leases.list_resources("l") == [Resource("name", "snapshots/s")]
    leased.remove("name")
    assert view.leases.list_resources("l") == []


def test_edges_tell_of_parents_and_labels(snapshots: Snapshots, metadata: Metadata) -> None:
    layer(snapshots, "base")
    snapshots.prepare("key", "base", {"containerd.io/gc.root": "1"})
    sql = "SELECT source, target FROM edges ORDER BY 1, 2"
    assert rows(metadata, sql) == [("", "snapshots/s key"), ("snapshots/s key", "snapshots/s base")]
    snapshots.remove("key")
    assert rows(metadata, sql) == []


def test_removal_is_a_grave_until_the_plugin_has_done_it(
    snapshots: Snapshots, metadata: Metadata, made: scripted.Snapshotter
) -> None:
    snapshots.prepare("key")
    snapshots.remove("key")
    assert list(snapshots.walk()) == []
    assert len(made.snapshots) == 1
    made.modes["remove"] = ["refused"]
    assert reap(metadata) == 1
    assert rows(metadata, "SELECT tries, error FROM graves") == [(1, "remove is refused")]
    assert reap(metadata) == 0
    assert made.snapshots == {}


def test_a_key_can_be_used_again_while_its_grave_is_open(snapshots: Snapshots, made: scripted.Snapshotter) -> None:
    snapshots.prepare("key")
    snapshots.remove("key")
    snapshots.prepare("key")
    assert len(made.snapshots) == 2


def test_an_uncertain_grave_is_kept_until_the_plugin_has_begun_anew(
    snapshots: Snapshots, metadata: Metadata, made: scripted.Snapshotter
) -> None:
    made.delay = 1000
    made.modes["prepare"] = ["late"]
    with pytest.raises(errors.Unavailable):
        snapshots.prepare("key")
    assert reap(metadata) == 1
    made.restart()
    metadata.plugin_ready(plugin.SNAPSHOTTER, "s", restarted=True)
    assert reap(metadata) == 0


def cut_off(snapshots: Snapshots, made: scripted.Snapshotter, mode: str) -> None:
    """A prepare in whose middle the daemon has ended."""
    made.modes["prepare"] = [mode]
    made.steps = scripted.Steps(2)  # before the call, after it
    with pytest.raises(scripted.Kill):
        snapshots.prepare("key")
    made.steps = scripted.Steps()
    with pytest.raises(errors.Unavailable, match="not settled yet"):
        snapshots.prepare("key")


def test_a_prepare_that_was_cut_off_and_is_there_is_finished(
    snapshots: Snapshots, metadata: Metadata, made: scripted.Snapshotter, published: list[Envelope]
) -> None:
    cut_off(snapshots, made, "ok")
    made.modes["stat"] = ["late"]
    assert reap(metadata) == 1
    with pytest.raises(errors.NotFound):
        snapshots.stat("key")
    assert reap(metadata) == 0
    assert snapshots.stat("key").kind is Kind.ACTIVE
    assert [event.topic for event in published] == ["/snapshot/prepare"]


def test_a_prepare_that_was_cut_off_is_not_asked_for_again(
    snapshots: Snapshots, metadata: Metadata, made: scripted.Snapshotter
) -> None:
    made.delay = 1000
    cut_off(snapshots, made, "killed")
    assert reap(metadata) == 1
    assert rows(metadata, "SELECT uncertain FROM graves") == [(1,)]
    made.land()
    assert reap(metadata) == 0
    assert made.snapshots == {}
    assert [method for method, *_ in made.log].count("prepare") == 1


def test_what_a_plugin_that_has_begun_anew_does_not_have_leaves_nothing(
    snapshots: Snapshots, metadata: Metadata, made: scripted.Snapshotter
) -> None:
    cut_off(snapshots, made, "killed")
    made.restart()
    metadata.plugin_ready(plugin.SNAPSHOTTER, "s", restarted=True)
    assert reap(metadata) == 0
    assert rows(metadata, "SELECT 1 FROM snapshots") == []
    snapshots.prepare("key")


def test_an_error_that_is_no_error_of_the_contract_leaves_nothing(
    snapshots: Snapshots, metadata: Metadata, made: scripted.Snapshotter, caplog: pytest.LogCaptureFixture
) -> None:
    def prepare(*_: object) -> None:
        raise ValueError("boom")

    made.prepare = prepare  # type: ignore[method-assign, assignment]
    with pytest.raises(errors.Unknown, match="ValueError: boom"):
        snapshots.prepare("key")
    assert "Traceback" in caplog.text
    assert reap(metadata) == 0
    assert rows(metadata, "SELECT 1 FROM snapshots") == []


def test_our_own_calls_carry_the_namespace(snapshots: Snapshots, metadata: Metadata) -> None:
    snapshots.prepare("key")
    snapshots.remove("key")
    reap(metadata)
    kind, id, scope = metadata.backends.registry.calls[-1]  # type: ignore[attr-defined]
    assert (kind, id, scope.namespace) == (plugin.SNAPSHOTTER, "s", "ns")


def test_a_change_is_not_bounded_by_the_callers_deadline(metadata: Metadata) -> None:
    metadata.view(Scope("ns", deadline=1e12)).snapshotter("s").prepare("key")
    (_, _, scope) = metadata.backends.registry.calls[-1]  # type: ignore[attr-defined]
    assert scope.deadline is None


def test_a_target_that_the_plugin_has_is_recorded_by_its_own_key(
    metadata: Metadata, view: View, made: scripted.Snapshotter
) -> None:
    view.leases.create("l")
    leased = metadata.view(Scope("ns", "l")).snapshotter("s")
    remote(made)
    with pytest.raises(errors.AlreadyExists, match="chain"):
        leased.prepare("extract", "", {TARGET_LABEL: "chain"})
    assert [info.name for info in leased.walk()] == ["chain"]
    assert rows(metadata, "SELECT backend FROM snapshots") == [("remote/1",)]
    assert view.leases.list_resources("l") == [Resource("chain", "snapshots/s")]
    leased.prepare("child", "chain")
    assert [info.parent for info in made.snapshots.values()] == ["", "remote/1"]


def test_a_target_that_is_there_is_not_asked_for(snapshots: Snapshots, made: scripted.Snapshotter) -> None:
    layer(snapshots, "chain")
    made.log.clear()
    with pytest.raises(errors.AlreadyExists, match="chain"):
        snapshots.prepare("extract", "", {TARGET_LABEL: "chain"})
    assert made.log == []


def test_a_target_with_another_parent_is_not_taken(
    snapshots: Snapshots, made: scripted.Snapshotter, metadata: Metadata
) -> None:
    remote(made, parent="another")
    with pytest.raises(errors.NotFound, match="chain"):
        snapshots.prepare("extract", "", {TARGET_LABEL: "chain"})
    assert list(snapshots.walk()) == []
    assert reap(metadata) == 0
    assert list(made.snapshots) == ["remote/1"]


def test_a_shared_key_is_buried_with_its_last_row(metadata: Metadata, made: scripted.Snapshotter) -> None:
    remote(made)
    views = [metadata.view(Scope(name)).snapshotter("s") for name in ("one", "two")]
    for snapshots in views:
        with pytest.raises(errors.AlreadyExists):
            snapshots.prepare("extract", "", {TARGET_LABEL: "chain"})
    views[0].remove("chain")
    assert reap(metadata) == 0
    assert list(made.snapshots) == ["remote/1"]
    views[1].remove("chain")
    with pytest.raises(errors.AlreadyExists):
        views[0].prepare("extract", "", {TARGET_LABEL: "chain"})
    assert rows(metadata, "SELECT * FROM graves") == []
    views[0].remove("chain")
    assert reap(metadata) == 0
    assert made.snapshots == {}


def test_settling_leaves_alone_what_is_being_worked_on(
    snapshots: Snapshots, metadata: Metadata, made: scripted.Snapshotter
) -> None:
    left: list[int] = []

    def settle(name: str) -> None:
        if name == "before commit":
            made.steps = lambda name: None
            left.append(reap(metadata))

    snapshots.prepare("key")
    made.steps = settle
    snapshots.commit("name", "key")
    assert left == [1]
    assert snapshots.stat("name").kind is Kind.COMMITTED
