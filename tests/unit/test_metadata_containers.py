from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernel.metadata.containers import Containers
from kernel.metadata.database import Database
from plugin_sdk import errors
from plugin_sdk.api.events import container_pb2
from plugin_sdk.containers import Container, Runtime
from plugin_sdk.events import Envelope
from plugin_sdk.runtime import Any
from plugin_sdk.scope import Scope

SPEC = Any("types.containerd.io/opencontainers/runtime-spec/1/Spec", b'{"a":1}')
BOX = Container(
    "box",
    Runtime("io.containerd.runc.v2", Any("containerd.runc.v1.Options", b"\x00\xff")),
    SPEC,
    image="i",
    snapshotter="overlayfs",
    snapshot_key="/a/key with spaces",
    labels={"l": "1", "a.b/c": "2"},
    extensions={"e.x/t": Any("t", b"\xfe")},
    sandbox="s",
)


@pytest.fixture
def published() -> list[Envelope]:
    return []


@pytest.fixture
def database(tmp_path: Path, published: list[Envelope]) -> Iterator[Database]:
    database = Database(tmp_path / "meta.db", published.extend)
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> Containers:
    return Containers(database, Scope("ns"))


def same(container: Container) -> Container:
    return replace(container, created_at=0, updated_at=0)


def test_create_keeps_every_field_byte_for_byte(store: Containers) -> None:
    made = store.create(BOX)
    assert same(made) == BOX
    assert store.get("box") == made
    with pytest.raises(errors.AlreadyExists, match='container "box": already exists'):
        store.create(BOX)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "b@d"},
        {"runtime": Runtime("")},
        {"spec": Any()},
        {"snapshotter": ""},
        {"extensions": {"": SPEC}},
        {"labels": {"k": "v" * 4096}},
    ],
)
def test_an_incomplete_container_is_invalid(store: Containers, change: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidArgument):
        store.create(replace(BOX, **change))


def test_update_without_paths_replaces_what_may_change(store: Containers) -> None:
    store.create(BOX)
    other = replace(BOX, spec=Any("t", b"2"), image="j", snapshot_key="k", labels={}, extensions={}, sandbox="other")
    assert same(store.update(other)) == replace(other, sandbox="s")


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("labels.a.b/c", "labels", {"l": "1"}),
        ("labels", "labels", {"n": "3"}),
        ("labels.n", "labels", {"l": "1", "a.b/c": "2", "n": "3"}),
        ("spec", "spec", Any("t", b"2")),
        ("image", "image", "j"),
        ("snapshotkey", "snapshot_key", "k"),
        ("extensions", "extensions", {"n": SPEC}),
        ("extensions.n", "extensions", {"e.x/t": Any("t", b"\xfe"), "n": SPEC}),
    ],
)
def test_update_replaces_only_the_named_field(store: Containers, path: str, field: str, value: object) -> None:
    store.create(BOX)
    given = Container(
        "box", Runtime("r"), Any("t", b"2"), "j", "native", "k", labels={"n": "3"}, extensions={"n": SPEC}
    )
    store.update(given, [path])
    assert same(store.get("box")) == replace(BOX, **{field: value})


def test_update_refuses_other_paths_snapshotters_and_runtimes(store: Containers) -> None:
    store.create(BOX)
    for given, paths in [
        (BOX, ["runtime"]),
        (replace(BOX, snapshotter="native"), []),
        (replace(BOX, runtime=Runtime("other")), []),
    ]:
        with pytest.raises(errors.InvalidArgument):
            store.update(given, paths)
    with pytest.raises(errors.NotFound, match='container "no" in namespace "ns": not found'):
        store.update(replace(BOX, id="no"))


def test_events_carry_the_record(store: Containers, published: list[Envelope]) -> None:
    store.create(BOX)
    store.update(BOX, ["image"])
    store.delete("box")
    assert [event.topic for event in published] == ["/containers/create", "/containers/update", "/containers/delete"]
    created = container_pb2.ContainerCreate.FromString(published[0].event.value)
    assert (created.id, created.image, created.runtime.name) == ("box", "i", "io.containerd.runc.v2")
    assert created.runtime.options.type_url == "containerd.runc.v1.Options"
    updated = container_pb2.ContainerUpdate.FromString(published[1].event.value)
    assert (updated.snapshot_key, dict(updated.labels)) == (BOX.snapshot_key, BOX.labels)


def test_the_snapshot_is_referred_to_until_the_container_goes(store: Containers, database: Database) -> None:
    store.create(BOX)
    with database.read() as cursor:
        found = {tuple(row) for row in cursor.execute("SELECT source, target FROM edges")}
    assert found == {("", "containers box"), ("containers box", "snapshots/overlayfs /a/key with spaces")}
    store.delete("box")
    with database.read() as cursor:
        assert cursor.execute("SELECT count(*) FROM edges").fetchone()[0] == 0
    with pytest.raises(errors.NotFound):
        store.delete("box")


def test_list_filters(store: Containers) -> None:
    store.create(BOX)
    store.create(replace(BOX, id="other", image="j", labels={}))
    for text, expected in [
        ("id==box", ["box"]),
        ("image==j", ["other"]),
        ("runtime.name==io.containerd.runc.v2", ["box", "other"]),
        ('labels."a.b/c"==2', ["box"]),
        ("labels.l", ["box"]),
    ]:
        assert [container.id for container in store.list([text])] == expected, text
