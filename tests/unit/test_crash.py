"""The crash checker: the daemon dies at every step, the plugin's answers are lost or late, and all is well in the end.

A schedule is: an operation, how the plugin answers it, the step at which the daemon dies, whether the plugin dies with
it, after how many calls a late effect comes, and the step of settling at which the daemon dies again. After each the
database file is copied as it lies there, opened by a new daemon and settled; then the client tries again. After a power
cut only what was synced of it is copied.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kernel.metadata.database import Database, Transaction, _Job
from kernel.metadata.store import Metadata, View
from plugin_sdk import errors, plugin
from plugin_sdk.scope import Scope
from plugin_sdk.snapshots import TARGET_LABEL, Info, Kind
from tests import scripted
from tests.registries import FixedRegistry
from tests.scripted import Kill, Steps

NAMESPACE = "ns"
LEASE = "lease"
DATA = b"some content"
DIGEST = scripted.digest_of(DATA)
NEVER = 1000
"""Calls after which a late effect comes, more than there are: it comes when all is settled."""

PLUGINS = ((plugin.CONTENT, "content"), (plugin.SNAPSHOTTER, "s"))


class SteppedDatabase(Database):
    """``durable`` bytes of its log survive a power cut: here it is never shortened."""

    steps: Steps
    durable: int

    @property
    def log(self) -> Path:
        return Path(f"{self.path}-wal")

    def write(self, change: Callable[[Transaction], object], *, synced: bool = True) -> object:
        """As the real one, in the caller's thread: there is nobody to share a commit with, and it is faster."""
        self.steps("before write")
        job = _Job(change, synced)
        self._commit([job])
        if synced:
            self.durable = self.log.stat().st_size
        if job.error is not None:
            raise job.error
        self.steps("after write")
        return job.result


@dataclass
class World:
    """What outlives the daemon: its file and the plugins."""

    folder: Path
    store: scripted.Store
    snapshotter: scripted.Snapshotter
    lives: int = 0
    database: SteppedDatabase | None = None
    metadata: Metadata | None = None
    made: dict[str, tuple[dict[str, Info], dict[str, bytes]]] = field(default_factory=dict)

    def begin(self, operation: Operation, steps: Steps) -> View:
        """A first daemon and new plugins, with what the operation needs."""
        self.stop()
        self.store, self.snapshotter = scripted.Store(), scripted.Snapshotter()
        template = self.folder / f"{operation.name}.db"
        if not template.exists():
            operation.before(self.start(Steps()))
            self.stop(copy_to=template)
            self.made[operation.name] = dict(self.snapshotter.snapshots), dict(self.store.blobs)
        snapshots, blobs = self.made[operation.name]
        self.snapshotter.snapshots, self.store.blobs = dict(snapshots), dict(blobs)
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{template}{suffix}", f"{self.folder / str(self.lives + 1)}.db{suffix}")
        return self.start(steps)

    def start(self, steps: Steps, *, power_cut: bool = False) -> View:
        """A new daemon on what the last one has left in its files, or what a power cut has left of that."""
        self.stop(copy_to=self.folder / f"{self.lives + 1}.db", power_cut=power_cut)
        self.lives += 1
        file = self.folder / f"{self.lives}.db"
        database = SteppedDatabase.__new__(SteppedDatabase)
        database.steps = steps
        database.__init__(file)  # type: ignore[misc]
        database.durable = database.log.stat().st_size
        self.store.steps = self.snapshotter.steps = steps
        self.database = database
        self.metadata = Metadata(database, FixedRegistry(self.store, s=self.snapshotter), background=False)
        return self.metadata.view(Scope(NAMESPACE, LEASE))

    def stop(self, copy_to: Path | None = None, *, power_cut: bool = False) -> None:
        if self.database is None:
            return
        if copy_to is not None:
            log = Path(f"{copy_to}-wal")
            shutil.copyfile(self.database.path, copy_to)
            shutil.copyfile(self.database.log, log)
            if power_cut:
                os.truncate(log, self.database.durable)
        self.database.close()
        self.database = None

    def settle(self) -> int:
        assert self.metadata is not None
        return sum(self.metadata.settle_plugin(kind, id) for kind, id in PLUGINS)

    def land(self) -> None:
        """All effects that are still to come, come now."""
        self.store.land()
        self.snapshotter.land()

    def plugins_restart(self) -> None:
        self.store.restart()
        self.snapshotter.restart()

    def rows(self, table: str) -> list[dict[str, object]]:
        assert self.database is not None
        with self.database.read() as cursor:
            return [dict(row) for row in cursor.execute(f"SELECT * FROM {table}")]


@pytest.fixture
def world() -> Iterator[World]:
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="corten-crash-", dir=base))
    world = World(folder, scripted.Store(), scripted.Snapshotter())
    yield world
    world.stop()
    shutil.rmtree(folder)


# --- the operations: what they need, what they do, and how to tell that they have happened


def nothing(view: View) -> None:
    view.leases.create(LEASE)


def with_parent(view: View) -> None:
    nothing(view)
    snapshots = view.snapshotter("s")
    snapshots.prepare("parent-key")
    snapshots.commit("parent", "parent-key")


def with_active(view: View) -> None:
    with_parent(view)
    view.snapshotter("s").prepare("key", "parent")


def prepare(view: View) -> None:
    view.snapshotter("s").prepare("key", "parent")


def see(view: View) -> None:
    view.snapshotter("s").view("key", "parent")


def commit(view: View) -> None:
    view.snapshotter("s").commit("name", "key")


def remove(view: View) -> None:
    view.snapshotter("s").remove("key")


def commit_content(view: View) -> None:
    with view.content.writer("ref", len(DATA), DIGEST) as writer:
        if not writer.status().offset:
            writer.write(DATA)
        writer.commit(len(DATA), DIGEST, {"a": "b"})


def with_deleted_content(view: View) -> None:
    nothing(view)
    commit_content(view)
    view.content.delete(DIGEST)


def with_remote_layer(view: View) -> None:
    with_parent(view)
    plugin = view._metadata.backends.registry.made[PLUGINS[1]]
    backend = next(name for name in plugin.snapshots if name.endswith("/parent"))
    plugin.snapshots["remote/1"] = Info("remote/1", Kind.COMMITTED, backend, {TARGET_LABEL: "chain"})


def prepare_target(view: View) -> None:
    view.snapshotter("s").prepare("key", "parent", {TARGET_LABEL: "chain"})


def target_is_there(view: View) -> None:
    assert view.snapshotter("s").stat("chain").kind is Kind.COMMITTED
    assert leased(view, "snapshots/s", "chain")
    with pytest.raises(errors.NotFound):
        view.snapshotter("s").stat("key")


def label(view: View) -> None:
    view.snapshotter("s").update(Info("key", Kind.ACTIVE, labels={"containerd.io/snapshot/x": "1", "y": "2"}))


def label_is_there(view: View) -> None:
    assert view.snapshotter("s").stat("key").labels == {"containerd.io/snapshot/x": "1", "y": "2"}


def active_is_there(view: View) -> None:
    assert view.snapshotter("s").stat("key").kind is Kind.ACTIVE
    assert leased(view, "snapshots/s", "key")


def view_is_there(view: View) -> None:
    assert view.snapshotter("s").stat("key").kind is Kind.VIEW
    assert leased(view, "snapshots/s", "key")


def name_is_there(view: View) -> None:
    assert view.snapshotter("s").stat("name").kind is Kind.COMMITTED
    assert leased(view, "snapshots/s", "name")
    with pytest.raises(errors.NotFound):
        view.snapshotter("s").stat("key")


def key_is_gone(view: View) -> None:
    with pytest.raises(errors.NotFound):
        view.snapshotter("s").stat("key")


def blob_is_there(view: View) -> None:
    assert view.content.info(DIGEST).labels == {"a": "b"}
    assert leased(view, "content", DIGEST)
    with view.content.reader(DIGEST) as reader:
        assert reader.read_at(0, reader.size) == DATA
    assert view.content.list_statuses() == []


def leased(view: View, type: str, id: str) -> bool:
    return any((resource.type, resource.id) == (type, id) for resource in view.leases.list_resources(LEASE))


@dataclass(frozen=True)
class Operation:
    name: str
    before: Callable[[View], None]
    run: Callable[[View], None]
    happened: Callable[[View], None]
    call: str
    """The plugin's method whose answer the script decides."""
    done: type[errors.Error] = errors.AlreadyExists
    """What a repetition says when it has happened already."""


OPERATIONS = (
    Operation("prepare", with_parent, prepare, active_is_there, "prepare"),
    Operation("view", with_parent, see, view_is_there, "view"),
    Operation("commit", with_active, commit, name_is_there, "commit"),
    Operation("remove", with_active, remove, key_is_gone, "remove", errors.NotFound),
    Operation("content", nothing, commit_content, blob_is_there, "commit"),
    Operation("content again", with_deleted_content, commit_content, blob_is_there, "commit"),
    Operation("target", with_remote_layer, prepare_target, target_is_there, "prepare"),
    Operation("label", with_active, label, label_is_there, "update"),
    Operation("open", nothing, commit_content, blob_is_there, "writer"),
)


@dataclass(frozen=True)
class Schedule:
    mode: str
    kill: int | None
    again: int | None
    plugin_dies: bool
    power_cut: bool
    """Of the plugin all is synced that it has done, as its contract wants."""
    delay: int


def schedules() -> Iterator[tuple[str, bool, bool, int]]:
    ends = (False, False), (True, False), (True, True), (False, True)
    for mode, (plugin_dies, power_cut) in itertools.product(scripted.MODES, ends):
        if plugin_dies and not power_cut and mode in ("refused", "unclear", "unclear but done"):
            continue  # what was answered does not come later
        for delay in (1, 4, NEVER) if mode in ("late", "killed") and not plugin_dies else (NEVER,):
            yield mode, plugin_dies, power_cut, delay


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_kill_at_any_step_leaves_nothing_dangling_orphaned_or_lost(operation: Operation, world: World) -> None:
    for mode, plugin_dies, power_cut, delay in schedules():
        for kill in itertools.count(1):
            taken, settling = play(world, operation, Schedule(mode, kill, None, plugin_dies, power_cut, delay))
            if kill > taken:
                break
            # a second kill while settling, at another of its steps each time
            if settling:
                again = 1 + kill % settling
                play(world, operation, Schedule(mode, kill, again, plugin_dies, power_cut, delay))


def play(world: World, operation: Operation, schedule: Schedule) -> tuple[int, int]:
    """The numbers of steps that the operation and the settling took."""
    try:
        return _play(world, operation, schedule)
    except AssertionError as err:
        log = world.snapshotter.log + world.store.log
        raise AssertionError(f"{operation.name}, {schedule}: {err}\n{log}") from err


def _play(world: World, operation: Operation, schedule: Schedule) -> tuple[int, int]:
    steps = Steps()
    view = world.begin(operation, steps)
    made = world.store if operation.run is commit_content else world.snapshotter
    made.modes[operation.call] = [schedule.mode]
    made.delay = schedule.delay
    steps.last = schedule.kill
    outcome = attempt(view, operation)
    first, steps.last = len(steps.taken), None
    if outcome in (None, operation.done):
        operation.happened(view)
    check(world, settled=False)

    # the next life, and perhaps its end while it settles
    made.modes.clear()
    world.store._open.clear()
    if schedule.plugin_dies:
        world.plugins_restart()
    steps = Steps(schedule.again)
    begin_life(world, steps, schedule)
    second, steps.last = len(steps.taken), None
    if schedule.again is not None:
        check(world, settled=False)
        world.store._open.clear()
        begin_life(world, Steps(), schedule)
    check(world, settled=False)
    view = world.metadata.view(Scope(NAMESPACE, LEASE))  # type: ignore[union-attr]
    if outcome in (None, operation.done):
        operation.happened(view)
    if schedule.delay == NEVER:
        world.land()
        check(world, settled=False)
    finish(world, view, operation)
    return first, second


def attempt(view: View, operation: Operation) -> type[BaseException] | None:
    """What came of it; None for success."""
    try:
        operation.run(view)
    except (Kill, errors.Error) as err:
        return type(err)
    return None


def begin_life(world: World, steps: Steps, schedule: Schedule) -> None:
    try:
        world.start(steps, power_cut=schedule.power_cut)
        assert world.metadata is not None
        for kind, id in PLUGINS:
            world.metadata.plugin_ready(kind, id, restarted=schedule.plugin_dies)
        world.settle()
        world.settle()
    except Kill:
        pass


def finish(world: World, view: View, operation: Operation) -> None:
    """The client repeats its request, late effects arrive, the plugin restarts once: then nothing may be left over."""
    for _ in range(5):
        outcome = attempt(view, operation)
        if outcome in (None, operation.done):
            break
        world.settle()
    assert outcome in (None, operation.done), outcome
    operation.happened(view)
    world.land()
    world.settle()
    check(world, settled=False)
    operation.happened(view)
    world.plugins_restart()
    for kind, id in PLUGINS:
        world.metadata.plugin_ready(kind, id, restarted=True)  # type: ignore[union-attr]
    world.settle()
    assert world.settle() == 0
    check(world, settled=True)
    operation.happened(view)


def check(world: World, *, settled: bool) -> None:
    """Invariants 2 and 3; ``settled``: every row is ready, and no grave is left."""
    snapshots = {row["name"]: row for row in world.rows("snapshots")}
    graves = {row["backend"] for row in world.rows("graves")}
    blobs, ingests = world.rows("blobs"), world.rows("ingests")
    for row in snapshots.values():
        if row["state"] != "ready":
            continue
        if settled:
            labels = {key: value for key, value in json.loads(str(row["labels"])).items() if "/snapshot" in key}
            assert world.snapshotter.snapshots[str(row["backend"])].labels == labels
        info = world.snapshotter.snapshots.get(str(row["backend"]))
        assert info is not None, f"{row['name']} dangles"
        assert int(info.kind) == row["kind"]
        if row["parent"]:
            parent = snapshots[row["parent"]]
            assert (parent["state"], parent["kind"]) == ("ready", int(Kind.COMMITTED))
            assert info.parent == parent["backend"]
    named = {row["backend"] for row in snapshots.values()}
    ours = {name for name in world.snapshotter.snapshots if not name.startswith("remote/")}
    assert ours <= named | graves, "a snapshot is an orphan"
    for row in blobs:
        assert len(world.store.blobs.get(str(row["digest"]), b"")) == row["size"], f"{row['digest']} dangles"
    committing = {row["digest"] for row in ingests if row["state"] == "committing"}
    assert set(world.store.blobs) <= {row["digest"] for row in blobs} | committing | graves, "a blob is an orphan"
    assert set(world.store.ingests) <= {row["backend"] for row in ingests} | graves, "an ingest is an orphan"
    if settled:
        assert not graves
        assert not [row for row in snapshots.values() if row["state"] != "ready" or row["unpushed"]]
        assert not committing
