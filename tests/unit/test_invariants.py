"""The eight invariants of consistency.md, section 1, each by name. The crash checker holds 2 and 3 at every crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.metadata.database import Database
from kernel.metadata.store import Metadata, View
from plugin_sdk import errors, oci, plugin
from plugin_sdk.content import Info as Blob
from plugin_sdk.events import Envelope
from plugin_sdk.images import Image
from plugin_sdk.leases import Resource
from plugin_sdk.scope import Scope
from plugin_sdk.snapshots import Info, Kind
from tests import pace, scripted
from tests.registries import FixedRegistry

DATA = b"some content"
DIGEST = scripted.digest_of(DATA)


class Daemon:
    def __init__(self, path: Path, *, background: bool = False) -> None:
        self.published: list[Envelope] = []
        self.store, self.snapshotter, self.other = scripted.Store(), scripted.Snapshotter(), scripted.Snapshotter()
        self.registry = FixedRegistry(self.store, s=self.snapshotter, other=self.other)
        self.database = Database(path, self.published.extend)
        self.metadata = Metadata(self.database, self.registry, background=background)
        self.reap = self.metadata.settle_plugin

    def view(self, namespace: str = "ns", lease: str | None = None, deadline: float | None = None) -> View:
        return self.metadata.view(Scope(namespace, lease, deadline))

    def close(self) -> None:
        self.metadata.close()
        self.database.close()

    def column(self, sql: str) -> list[object]:
        with self.database.read() as cursor:
            return [row[0] for row in cursor.execute(sql)]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "meta.db")
    yield daemon
    daemon.close()


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Daemon]:
    """With a reaper that runs by itself."""
    daemon = Daemon(tmp_path / "busy.db", background=True)
    yield daemon
    daemon.snapshotter.steps = lambda name: None
    daemon.close()


def put(view: View, data: bytes = DATA, ref: str = "ref") -> str:
    with view.content.writer(ref) as writer:
        writer.write(data)
        return writer.commit()


def layer(view: View, name: str, parent: str = "") -> None:
    snapshots = view.snapshotter("s")
    snapshots.prepare(f"{name}-key", parent)
    snapshots.commit(name, f"{name}-key")


def test_1_no_plugin_call_begins_while_its_thread_has_a_transaction_open(daemon: Daemon) -> None:
    view = daemon.view()
    layer(view, "layer")
    put(view)
    snapshots = view.snapshotter("s")
    snapshots.prepare("active")
    for call in (
        lambda: snapshots.mounts("active"),
        lambda: snapshots.usage("layer"),
        lambda: snapshots.prepare("key"),
        lambda: snapshots.remove("active"),
        lambda: view.content.reader(DIGEST),
        lambda: view.content.writer("another"),
    ):
        with daemon.database.read(), pytest.raises(errors.Internal):
            call()
    before = len(daemon.snapshotter.log)
    with daemon.metadata.backends.use(plugin.SNAPSHOTTER, "s", Scope("ns")) as made:
        with daemon.database.read(), pytest.raises(errors.Internal):
            made.stat("key")
        with pytest.raises(errors.Internal):
            daemon.database.write(lambda tx: made.stat("key"))
    assert len(daemon.snapshotter.log) == before


def test_1_no_transaction_is_open_while_a_plugin_works(daemon: Daemon) -> None:
    """Another thread writes and reads in the middle of every call."""
    others: list[str] = []

    def write_beside(name: str) -> None:
        if name.startswith("before"):
            thread = threading.Thread(target=lambda: daemon.view("beside").leases.create(f"{len(others)}"))
            thread.start()
            thread.join(60)
            assert not thread.is_alive()
            others.append(name)

    daemon.snapshotter.steps = daemon.store.steps = write_beside
    view = daemon.view()
    layer(view, "layer")
    view.snapshotter("s").remove("layer")
    view.content.delete(put(view))
    assert daemon.reap(plugin.SNAPSHOTTER, "s") == daemon.reap(plugin.CONTENT, "content") == 0
    assert {"before prepare", "before commit", "before remove", "before delete"} <= set(others)


def test_2_what_a_ready_row_names_exists_and_its_parent_is_ready_and_committed(daemon: Daemon) -> None:
    view = daemon.view()
    layer(view, "base")
    layer(view, "top", "base")
    daemon.snapshotter.modes["prepare"] = ["refused", "lost", "late"]
    for _ in range(3):
        with pytest.raises(errors.Error):
            view.snapshotter("s").prepare("key", "top")
    view.snapshotter("s").prepare("key", "top")
    with daemon.database.read() as cursor:
        rows = {row["name"]: row for row in cursor.execute("SELECT * FROM snapshots WHERE state = 'ready'")}
    assert set(rows) == {"base", "top", "key"}
    for row in rows.values():
        assert row["backend"] in daemon.snapshotter.snapshots
        assert not row["parent"] or rows[row["parent"]]["kind"] == Kind.COMMITTED


def test_3_what_a_plugin_made_on_our_order_is_named_by_a_row_or_a_grave(daemon: Daemon) -> None:
    view = daemon.view()
    daemon.snapshotter.modes["prepare"] = ["lost"]
    with pytest.raises(errors.Unavailable):
        view.snapshotter("s").prepare("key")
    assert set(daemon.column("SELECT backend FROM graves")) == set(daemon.snapshotter.snapshots)
    assert daemon.reap(plugin.SNAPSHOTTER, "s") == 0
    assert daemon.snapshotter.snapshots == {}


def test_3_only_what_stands_in_a_grave_is_removed(daemon: Daemon) -> None:
    view = daemon.view()
    stranger = Info("ns/1/of another daemon", Kind.COMMITTED)
    daemon.snapshotter.snapshots[stranger.name] = stranger
    daemon.store.blobs[DIGEST] = DATA
    layer(view, "layer")
    view.snapshotter("s").remove("layer")
    daemon.reap(plugin.SNAPSHOTTER, "s")
    daemon.reap(plugin.CONTENT, "content")
    assert list(daemon.snapshotter.snapshots) == [stranger.name]
    assert list(daemon.store.blobs) == [DIGEST]


def test_4_all_that_must_survive_a_sweep_is_told_by_edges(daemon: Daemon) -> None:
    """Collection is not there yet; what it will follow is: roots, targets, labels, parents, leases, born."""
    daemon.view().leases.create("lease")
    view = daemon.view(lease="lease")
    put(view)
    layer(view, "base")
    layer(view, "top", "base")
    config = {"containerd.io/gc.ref.snapshot.s": "top"}
    view.content.update(Blob(DIGEST, 0, labels=config))
    view.images.create(Image("image", oci.Descriptor("m", DIGEST, 3)))
    view.leases.delete("lease")
    mark = """
        WITH RECURSIVE reached(node) AS (
            SELECT target FROM edges WHERE namespace = 'ns' AND source = ''
            UNION SELECT target FROM edges JOIN reached ON source = node WHERE namespace = 'ns')
        SELECT node FROM reached ORDER BY node"""
    assert daemon.column(mark) == ["content " + DIGEST, "images image", "snapshots/s base", "snapshots/s top"]
    view.images.delete("image")
    assert daemon.column(mark) == []


def test_4_what_is_made_or_held_later_is_born_later(daemon: Daemon) -> None:
    view = daemon.view()
    layer(view, "layer")
    seen = daemon.database.write(lambda tx: tx.number)
    view.leases.create("lease")
    view.leases.add_resource("lease", Resource("layer", "snapshots/s"))
    view.snapshotter("s").prepare("key", "layer")
    assert all(born > seen for born in daemon.column("SELECT born FROM edges"))  # type: ignore[operator]
    later = daemon.database.write(lambda tx: tx.number)
    view.leases.add_resource("lease", Resource("layer", "snapshots/s"))
    held = daemon.column("SELECT born FROM edges WHERE target = 'snapshots/s layer' AND cause = 'lease'")
    assert held[0] > later  # type: ignore[operator]


def test_5_nothing_is_removed_while_something_refers_to_it(daemon: Daemon) -> None:
    view = daemon.view()
    layer(view, "layer")
    view.snapshotter("s").prepare("key", "layer")
    with pytest.raises(errors.FailedPrecondition, match="child"):
        view.snapshotter("s").remove("layer")
    daemon.snapshotter.modes["prepare"] = ["late"]
    view.snapshotter("s").remove("key")
    with pytest.raises(errors.Unavailable):
        view.snapshotter("s").prepare("key", "layer")
    view.snapshotter("s").remove("layer")
    # the plugin still has the children: the parent's grave waits for them
    daemon.snapshotter.land()
    while daemon.reap(plugin.SNAPSHOTTER, "s"):
        pass
    assert daemon.snapshotter.snapshots == {}


def test_5_a_blob_stays_while_any_namespace_names_it(daemon: Daemon) -> None:
    one, two = daemon.view("one"), daemon.view("two")
    put(one)
    with two.content.writer("ref", len(DATA), DIGEST) as writer:
        assert writer.status().offset == len(DATA)
        writer.commit(len(DATA), DIGEST)
    one.content.delete(DIGEST)
    assert daemon.reap(plugin.CONTENT, "content") == 0
    assert DIGEST in daemon.store.blobs
    two.content.delete(DIGEST)
    assert daemon.reap(plugin.CONTENT, "content") == 0
    assert DIGEST not in daemon.store.blobs


def test_6_already_exists_is_said_only_of_what_the_callers_lease_now_holds(daemon: Daemon) -> None:
    first = daemon.view()
    for lease in "abcdef":
        first.leases.create(lease)
    put(first)
    layer(first, "layer")
    first.snapshotter("s").prepare("key")
    first.snapshotter("s").prepare("spare")
    first.images.create(Image("image", oci.Descriptor("m", DIGEST, 3)))

    def under(lease: str) -> View:
        return daemon.view(lease=lease)

    attempts = {
        "a": (lambda: under("a").content.writer("r", expected=DIGEST), Resource(DIGEST, "content")),
        "b": (lambda: put(under("b"), ref="b"), Resource(DIGEST, "content")),
        "c": (lambda: under("c").snapshotter("s").prepare("key"), Resource("key", "snapshots/s")),
        "d": (lambda: under("d").snapshotter("s").view("layer"), Resource("layer", "snapshots/s")),
        "e": (lambda: under("e").snapshotter("s").commit("layer", "spare"), Resource("layer", "snapshots/s")),
        "f": (
            lambda: under("f").images.create(Image("image", oci.Descriptor("m", DIGEST, 3))),
            Resource("image", "images"),
        ),
    }
    for lease, (attempt, resource) in attempts.items():
        with pytest.raises(errors.AlreadyExists):
            attempt()
        assert resource in first.leases.list_resources(lease), lease
    with pytest.raises(errors.NotFound, match="gone"):
        under("gone").snapshotter("s").prepare("key")


def test_6_two_at_once_end_in_one_snapshot_that_both_have_leased(daemon: Daemon) -> None:
    view = daemon.view()
    leases = [f"lease-{number}" for number in range(6)]
    for lease in leases:
        view.leases.create(lease)
        daemon.view(lease=lease).snapshotter("s").prepare(f"extract-{lease}")
    daemon.snapshotter.steps = lambda name: time.sleep(0.01)
    outcomes: list[str] = []

    def pull(lease: str) -> None:
        try:
            daemon.view(lease=lease).snapshotter("s").commit("chain", f"extract-{lease}")
            outcomes.append("committed")
        except errors.AlreadyExists:
            outcomes.append("exists")

    threads = [threading.Thread(target=pull, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["committed"] + ["exists"] * 5
    for lease in leases:
        assert Resource("chain", "snapshots/s") in view.leases.list_resources(lease)


def test_7_an_event_comes_after_its_change_can_be_read_in_commit_order_once(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []
    database = Database(tmp_path / "meta.db")
    metadata = Metadata(database, FixedRegistry(scripted.Store(), s=scripted.Snapshotter()), background=False)
    view = metadata.view(Scope("ns"))

    def publish(events: list[Envelope]) -> None:
        for event in events:
            with database.read() as cursor:
                keys = {row[0] for row in cursor.execute("SELECT name FROM snapshots WHERE state = 'ready'")}
            seen.append((event.topic, bool(keys)))

    database.publish = publish  # type: ignore[assignment]
    view.snapshotter("s").prepare("key")
    view.snapshotter("s").commit("name", "key")
    view.snapshotter("s").remove("name")
    database.close()
    assert seen == [("/snapshot/prepare", True), ("/snapshot/commit", True), ("/snapshot/remove", False)]


def test_7_what_fails_publishes_nothing_and_what_is_settled_publishes_once(daemon: Daemon) -> None:
    view = daemon.view()
    view.snapshotter("s").prepare("key")
    daemon.snapshotter.modes["commit"] = ["lost"]
    with pytest.raises(errors.Unavailable):
        view.snapshotter("s").commit("name", "key")
    daemon.snapshotter.modes["prepare"] = ["refused"]
    with pytest.raises(errors.PermissionDenied):
        view.snapshotter("s").prepare("other")
    daemon.reap(plugin.SNAPSHOTTER, "s")
    daemon.reap(plugin.SNAPSHOTTER, "s")
    assert [event.topic for event in daemon.published] == ["/snapshot/prepare", "/snapshot/commit"]


def test_8_a_plugin_that_never_answers_delays_only_calls_that_name_it(busy: Daemon) -> None:
    gate = threading.Event()
    view = busy.view()
    layer(view, "layer")
    busy.snapshotter.steps = lambda name: gate.wait() and None
    hung = threading.Thread(target=lambda: view.snapshotter("s").prepare("hung", "layer"))
    hung.start()
    began = time.monotonic()
    while "hung" not in busy.column("SELECT name FROM snapshots"):
        time.sleep(0.001)
    view.snapshotter("other").prepare("key")
    view.snapshotter("other").remove("key")
    put(view)
    assert [info.name for info in view.snapshotter("s").walk()] == ["layer"]
    assert view.snapshotter("s").stat("layer").kind is Kind.COMMITTED
    with pytest.raises(errors.DeadlineExceeded):
        busy.view(deadline=time.monotonic() + 0.05).snapshotter("s").prepare("hung", "layer")
    assert pace.within(time.monotonic() - began, 2)
    gate.set()
    hung.join()
    assert {info.name for info in view.snapshotter("s").walk()} == {"layer", "hung"}


def test_8_when_it_answers_again_every_row_leaves_its_state(busy: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel.metadata.reaper.FIRST_DELAY", 0.01)
    view = busy.view()
    view.snapshotter("s").prepare("committed")
    view.snapshotter("s").prepare("labelled")
    busy.snapshotter.modes.update({"commit": ["late", "lost", "late"], "update": ["lost", "late"], "remove": ["lost"]})
    busy.snapshotter.modes["prepare"] = ["lost"]
    labels = {"containerd.io/snapshot/x": "1"}
    for change in (
        lambda: view.snapshotter("s").prepare("lost"),
        lambda: view.snapshotter("s").commit("name", "committed"),
        lambda: view.snapshotter("s").update(Info("labelled", Kind.ACTIVE, labels=labels)),
    ):
        with pytest.raises(errors.Unavailable):
            change()
    busy.metadata.plugin_ready(plugin.SNAPSHOTTER, "s", restarted=True)
    deadline = time.monotonic() + 60
    unsettled = "SELECT name FROM snapshots WHERE state <> 'ready' OR unpushed UNION SELECT backend FROM graves"
    while busy.column(unsettled) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert busy.column(unsettled) == []
    assert {info.name for info in view.snapshotter("s").walk()} == {"name", "labelled"}
    assert len(busy.snapshotter.snapshots) == 2
