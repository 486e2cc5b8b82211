from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.metadata.database import Database
from kernel.metadata.images import Images
from kernel.metadata.namespaces import Namespaces
from kernel.metadata.store import Metadata
from plugin_sdk import errors, oci
from plugin_sdk.events import Envelope
from plugin_sdk.images import Image
from plugin_sdk.namespaces import Namespace
from plugin_sdk.scope import Scope
from tests import scripted
from tests.registries import FixedRegistry


@pytest.fixture
def published() -> list[Envelope]:
    return []


@pytest.fixture
def database(tmp_path: Path, published: list[Envelope]) -> Iterator[Database]:
    database = Database(tmp_path / "meta.db", published.extend)
    yield database
    database.close()


def namespaces(database: Database, caller: str = "") -> Namespaces:
    return Metadata(database, FixedRegistry(scripted.Store()), background=False).namespaces(Scope(caller))


def test_get_of_a_missing_namespace_answers_its_name(database: Database) -> None:
    assert namespaces(database).get("nope") == Namespace("nope")
    assert namespaces(database).list() == []


def test_create_update_and_delete_publish_their_events(database: Database, published: list[Envelope]) -> None:
    store = namespaces(database, "caller")
    store.create(Namespace("a", {"x": "1"}))
    store.update(Namespace("a", {"y": "2"}), ["labels.y"])
    store.delete("a")
    assert [(event.namespace, event.topic, event.event.type_url) for event in published] == [
        ("caller", "/namespaces/create", "containerd.events.NamespaceCreate"),
        ("caller", "/namespaces/update", "containerd.events.NamespaceUpdate"),
        ("a", "/namespaces/delete", "containerd.events.NamespaceDelete"),
    ]


def test_update_changes_named_labels_and_an_empty_value_removes(database: Database) -> None:
    store = namespaces(database)
    store.create(Namespace("a", {"x": "1", "k.with/dots.b": "2"}))
    assert store.update(Namespace("a", {"k.with/dots.b": "3"}), ["labels.k.with/dots.b"]).labels["k.with/dots.b"] == "3"
    assert store.update(Namespace("a", {"x": ""}), ["labels.x"]).labels == {"k.with/dots.b": "3"}
    assert store.update(Namespace("a", {"z": "9"})).labels == store.get("a").labels == {"z": "9"}


def test_update_refuses_other_paths_and_missing_namespaces(database: Database) -> None:
    store = namespaces(database)
    with pytest.raises(errors.NotFound):
        store.update(Namespace("a", {}))
    store.create(Namespace("a"))
    with pytest.raises(errors.InvalidArgument, match="labels"):
        store.update(Namespace("a", {}), ["labels"])


def test_a_second_create_already_exists(database: Database) -> None:
    namespaces(database).create(Namespace("a"))
    with pytest.raises(errors.AlreadyExists, match='namespace "a": already exists'):
        namespaces(database).create(Namespace("a"))


def test_a_malformed_name_is_invalid(database: Database) -> None:
    with pytest.raises(errors.InvalidArgument, match="b@d"):
        namespaces(database).create(Namespace("b@d"))


def test_the_first_write_creates_the_namespace_and_delete_wants_it_empty(database: Database) -> None:
    images = Images(database, Scope("a"))
    images.create(Image("i", oci.Descriptor("m", "sha256:" + "0" * 64, 3)))
    store = namespaces(database)
    assert [namespace.name for namespace in store.list()] == ["a"]
    with pytest.raises(errors.FailedPrecondition, match="images"):
        store.delete("a")
    images.delete("i")
    store.delete("a")
    with pytest.raises(errors.NotFound):
        store.delete("a")


def test_list_filters_by_name_and_label(database: Database) -> None:
    store = namespaces(database)
    store.create(Namespace("a", {"x": "1"}))
    store.create(Namespace("b"))
    assert [namespace.name for namespace in store.list(["name==b"])] == ["b"]
    assert [namespace.name for namespace in store.list(["labels.x==1"])] == ["a"]


def test_writes_in_progress_go_with_the_namespace(database: Database) -> None:
    store = scripted.Store()
    metadata = Metadata(database, FixedRegistry(store), background=False)
    metadata.view(Scope("a")).content.writer("ref").close()
    assert store.ingests
    metadata.namespaces().delete("a")
    assert metadata.settle_plugin("io.containerd.content.v1", "content") == 0
    assert not store.ingests
