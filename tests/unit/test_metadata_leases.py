from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.metadata import leases
from kernel.metadata.database import Database
from kernel.metadata.leases import Leases
from plugin_sdk import errors
from plugin_sdk.leases import Resource
from plugin_sdk.scope import Scope


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "meta.db")
    yield database
    database.close()


@pytest.fixture
def manager(database: Database) -> Leases:
    return Leases(database, Scope("ns"))


def test_a_lease_exists_from_create_to_delete(manager: Leases, database: Database) -> None:
    made = manager.create("/an id", {"a": "b"})
    assert list(manager.list()) == [made]
    assert leases.exists(database, "ns", "/an id")
    assert not leases.exists(database, "other", "/an id")
    with pytest.raises(errors.AlreadyExists, match='lease "/an id": already exists'):
        manager.create("/an id")
    manager.delete("/an id")
    assert not leases.exists(database, "ns", "/an id")
    with pytest.raises(errors.NotFound):
        manager.delete("/an id")


def test_a_lease_without_an_id_gets_one(manager: Leases) -> None:
    made = manager.create("")
    assert made.id
    assert list(manager.list()) == [made]


def test_resources_are_listed_until_they_are_deleted(manager: Leases) -> None:
    manager.create("l")
    resources = [
        Resource("sha256:" + "0" * 64, "content"),
        Resource("a name", "images"),
        Resource("a ref", "ingests"),
        Resource("a key", "snapshots/overlayfs"),
    ]
    for resource in resources:
        manager.add_resource("l", resource)
        manager.add_resource("l", resource)
    assert list(manager.list_resources("l")) == resources
    manager.delete_resource("l", resources[1])
    assert list(manager.list_resources("l")) == [resources[0], *resources[2:]]


def test_other_resource_types_are_refused(manager: Leases) -> None:
    manager.create("l")
    with pytest.raises(errors.Unimplemented):
        manager.add_resource("l", Resource("x", "containers"))
    with pytest.raises(errors.InvalidArgument):
        manager.add_resource("l", Resource("x", "snapshots"))


def test_resources_of_a_missing_lease_are_not_found(manager: Leases) -> None:
    for work in (
        lambda: manager.list_resources("l"),
        lambda: manager.add_resource("l", Resource("x", "content")),
        lambda: manager.delete_resource("l", Resource("x", "content")),
    ):
        with pytest.raises(errors.NotFound, match='lease "l": not found'):
            work()


def test_labels_of_a_lease_are_edges_but_no_resources(manager: Leases, database: Database) -> None:
    expire = "2030-01-02T03:04:05.25Z"
    manager.create("l", {"containerd.io/gc.ref.snapshot.overlayfs": "s", "containerd.io/gc.expire": expire})
    assert manager.list_resources("l") == []
    with database.read() as cursor:
        found = {tuple(row) for row in cursor.execute("SELECT source, target, expires FROM edges")}
    assert found == {("", "leases l", 1893553445_250000000), ("leases l", "snapshots/overlayfs s", 0)}


def test_a_flat_lease_holds_by_flat_edges(manager: Leases, database: Database) -> None:
    manager.create("l", {"containerd.io/gc.flat": "1"})
    manager.add_resource("l", Resource("x", "content"))
    with database.read() as cursor:
        row = cursor.execute("SELECT flat FROM edges WHERE target = 'content x'").fetchone()
    assert row[0] == 1


def test_list_filters(manager: Leases) -> None:
    manager.create("a", {"x": "1"})
    manager.create("b")
    assert [lease.id for lease in manager.list(["id==b"])] == ["b"]
    assert [lease.id for lease in manager.list(["labels.x"])] == ["a"]
