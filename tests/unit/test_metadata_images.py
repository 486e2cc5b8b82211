from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.metadata.database import Database
from kernel.metadata.images import Images
from kernel.metadata.leases import Leases
from plugin_sdk import errors, leases
from plugin_sdk.events import Envelope
from plugin_sdk.images import Image
from plugin_sdk.oci import Descriptor
from plugin_sdk.scope import Scope

TARGET = Descriptor("application/vnd.oci.image.index.v1+json", "sha256:" + "1" * 64, 10, {"a": "b"})
OTHER = Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "2" * 64, 20)


@pytest.fixture
def published() -> list[Envelope]:
    return []


@pytest.fixture
def database(tmp_path: Path, published: list[Envelope]) -> Iterator[Database]:
    database = Database(tmp_path / "meta.db", published.extend)
    yield database
    database.close()


@pytest.fixture
def images(database: Database) -> Images:
    return Images(database, Scope("ns"))


def edges(database: Database) -> set[tuple[str, str, str]]:
    with database.read() as cursor:
        return {tuple(row) for row in cursor.execute("SELECT owner, source, target FROM edges")}


def test_create_keeps_what_was_given(images: Images) -> None:
    made = images.create(Image("docker.io/x:1", TARGET, {"l": "1", "empty": ""}))
    assert made == images.get("docker.io/x:1")
    assert made.target == TARGET
    assert made.labels == {"l": "1"}
    assert made.created_at == made.updated_at > 0


def test_a_namespace_does_not_see_anothers(images: Images, database: Database) -> None:
    images.create(Image("x", TARGET))
    with pytest.raises(errors.NotFound, match='image "x": not found'):
        Images(database, Scope("other")).get("x")


def test_update_without_paths_replaces_all_but_the_time_of_creation(images: Images) -> None:
    made = images.create(Image("x", TARGET, {"l": "1"}))
    changed = images.update(Image("x", OTHER, {"m": "2"}))
    assert (changed.target, changed.labels, changed.created_at) == (OTHER, {"m": "2"}, made.created_at)
    assert changed.updated_at > made.updated_at


@pytest.mark.parametrize(
    ("paths", "labels", "target"),
    [
        (["labels"], {"n": "9"}, TARGET),
        (["labels.n"], {"a.b/c": "1", "n": "9"}, TARGET),
        (["labels.a.b/c"], {}, TARGET),
        (["target"], {"a.b/c": "1"}, OTHER),
        (["annotations"], {"a.b/c": "1"}, Descriptor(TARGET.media_type, TARGET.digest, TARGET.size, {})),
        (["annotations.a"], {"a.b/c": "1"}, Descriptor(TARGET.media_type, TARGET.digest, TARGET.size, {})),
    ],
)
def test_update_replaces_the_named_fields(
    images: Images, paths: list[str], labels: dict[str, str], target: Descriptor
) -> None:
    images.create(Image("x", TARGET, {"a.b/c": "1"}))
    images.update(Image("x", OTHER, {"n": "9"}), paths)
    assert (images.get("x").labels, images.get("x").target) == (labels, target)


def test_update_refuses_another_path(images: Images) -> None:
    images.create(Image("x", TARGET))
    with pytest.raises(errors.InvalidArgument, match=r'"name" field on image "x"'):
        images.update(Image("x", TARGET), ["name"])


@pytest.mark.parametrize(
    "image",
    [
        Image("", TARGET),
        Image("x", Descriptor("m", "sha256:12", 1)),
        Image("x", Descriptor("m", TARGET.digest, 0)),
        Image("x", Descriptor("", TARGET.digest, 1)),
        Image("x", TARGET, {"k": "v" * 4096}),
    ],
)
def test_an_incomplete_image_is_invalid(images: Images, image: Image) -> None:
    with pytest.raises(errors.InvalidArgument):
        images.create(image)
    assert images.list() == []


def test_events_are_of_the_image_service(images: Images, published: list[Envelope]) -> None:
    images.create(Image("x", TARGET))
    images.update(Image("x", OTHER))
    images.delete("x")
    assert [(event.topic, event.event.type_url) for event in published] == [
        (f"/images/{verb}", f"containerd.services.images.v1.Image{verb.capitalize()}")
        for verb in ("create", "update", "delete")
    ]


def test_edges_follow_target_and_labels_and_go_with_the_image(images: Images, database: Database) -> None:
    images.create(Image("x", TARGET, {"containerd.io/gc.ref.content.0": OTHER.digest}))
    assert edges(database) == {
        ("images x", "", "images x"),
        ("images x", "images x", f"content {TARGET.digest}"),
        ("images x", "images x", f"content {OTHER.digest}"),
    }
    images.update(Image("x", OTHER))
    assert edges(database) == {("images x", "", "images x"), ("images x", "images x", f"content {OTHER.digest}")}
    images.delete("x")
    assert edges(database) == set()


def test_create_and_already_exists_add_the_image_to_the_lease(images: Images, database: Database) -> None:
    manager = Leases(database, Scope("ns"))
    for id in ("first", "second"):
        manager.create(id)
    Images(database, Scope("ns", "first")).create(Image("x", TARGET))
    with pytest.raises(errors.AlreadyExists, match='image "x": already exists'):
        Images(database, Scope("ns", "second")).create(Image("x", TARGET))
    for id in ("first", "second"):
        assert manager.list_resources(id) == [leases.Resource("x", "images")]


def test_create_under_a_missing_lease_makes_nothing(images: Images, database: Database) -> None:
    with pytest.raises(errors.NotFound, match='lease "gone": not found'):
        Images(database, Scope("ns", "gone")).create(Image("x", TARGET))
    assert images.list() == []


def test_delete_with_another_target_is_not_found(images: Images) -> None:
    images.create(Image("x", TARGET))
    with pytest.raises(errors.NotFound):
        images.delete("x", target=OTHER)
    images.delete("x", target=TARGET)
    with pytest.raises(errors.NotFound):
        images.delete("x")


def test_a_given_time_becomes_that_of_creation_and_update(images: Images) -> None:
    made = images.create(Image("x", TARGET), 5)
    assert (made.created_at, made.updated_at) == (5, 5)
    assert images.update(Image("x", OTHER), (), 7).updated_at == 7


def test_list_filters(images: Images) -> None:
    images.create(Image("x", TARGET, {"l": "1"}))
    images.create(Image("y", OTHER))
    for text, expected in [
        ("name==y", ["y"]),
        (f"target.digest=={TARGET.digest}", ["x"]),
        ("target.mediatype~=manifest", ["y"]),
        ("labels.l", ["x"]),
        ("annotations.a==b", ["x"]),
        ("name~=[xy]", ["x", "y"]),
    ]:
        assert [image.name for image in images.list([text])] == expected, text
