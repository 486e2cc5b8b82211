"""Pushes by Transfer: whole, without what is there, mounted from another repository, and gone on with when cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corten import Client, connect
from plugin_sdk import errors, transfer
from plugin_sdk.distribution.registry import Registries
from tests import holdings, pulls, registry, registry_faults, registry_images, sides

pytestmark = [pytest.mark.root]


@pytest.fixture
def view(corten: sides.Side, fresh: str) -> Iterator[Client]:
    with holdings.client(corten, fresh) as made:
        yield made
        holdings.forget(corten, fresh)


def stored(view: Client, registries: registry.Registries, image: registry_images.Image, name: str) -> str:
    """Puts the image into the daemon; answers its name there."""
    registries.push(image, name)
    reference = registries["plain"].reference(name)
    pulls.pull(view, reference, platforms=(), unpack=False)
    return reference


KINDS = {
    "index": lambda: registry_images.two_platforms("push"),
    "docker": lambda: registry_images.docker_v2("push"),
    "docker-list": lambda: registry_images.docker_v2("push-listed", listed=True),
    "artifact": lambda: registry_images.artifact("push", registry_images.simple("push subject").root),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_pushed_image_is_the_same(view: Client, registries: registry.Registries, kind: str) -> None:
    image = KINDS[kind]()
    name = stored(view, registries, image, f"push/from-{kind}:1")
    with registries.proxy(registries["plain"]) as proxy:
        pulls.push(view, name, proxy.reference(f"push/to-{kind}:1"))
    registries.check(image, f"push/to-{kind}:1")


def test_blobs_of_another_repository_are_mounted(view: Client, registries: registry.Registries) -> None:
    image = registry_images.simple("mounted", [registry_images.noise("mounted", 500_000)])
    plain, name = registries["plain"], stored(view, registries, image, "push/mount-from:1")
    mark = plain.mark()
    pulls.push(view, name, plain.reference("push/mount-to:1"))
    requests = plain.requests(mark)
    mounts = [one for one in requests if "mount=" in one.path and one.status == 201]
    assert len(mounts) == len(image.blobs)
    assert not [one for one in requests if one.method in ("PATCH", "PUT") and "/blobs/" in one.path]
    registries.check(image, "push/mount-to:1")


def test_what_is_there_is_not_sent_again(view: Client, registries: registry.Registries) -> None:
    image = registry_images.two_platforms("there")
    plain, name = registries["plain"], stored(view, registries, image, "push/there:1")
    mark = plain.mark()
    pulls.push(view, name, plain.reference("push/there:2"))
    assert not [one for one in plain.requests(mark) if "/blobs/" in one.path and one.method != "HEAD"]
    registries.check(image, "push/there:2")


def test_a_cut_upload_goes_on(view: Client, registries: registry.Registries) -> None:
    """The registry has taken what came before the cut: the answer was lost, or the connection in the middle."""
    image = registry_images.simple("upload", [registry_images.noise("upload", 3_000_000)])
    name = stored(view, registries, image, "push/upload-from:1")
    with registries.proxy(registries["plain"]) as proxy:
        for method in ("POST", "PATCH", "PUT"):
            proxy.on("/blobs/uploads/", lost, times=1, method=method)
        proxy.on("/manifests/", registry_faults.status(503), times=1, method="PUT")
        pulls.push(view, name, proxy.reference("push/upload-to:1"))
    registries.check(image, "push/upload-to:1")


def test_an_upload_in_pieces_goes_on_at_the_one_that_failed(scratch: Path, registries: registry.Registries) -> None:
    image = registry_images.simple("pieces", [registry_images.noise("pieces", 6_000_000)], "none")
    registries.push(image, "push/pieces-from:1")
    with (
        registries.proxy(registries["plain"]) as proxy,
        pulls.daemon(scratch / "pieces", "upload_chunk = 1_000_000") as own,
        connect(own.address) as view,
    ):
        name = registries["plain"].reference("push/pieces-from:1").replace("127.0.0.1", "localhost")
        pulls.pull(view, name)  # so there is no repository of the same host to mount from
        proxy.on("/blobs/uploads/", lambda exchange: exchange.forward(exchange), times=2, method="PATCH")
        proxy.on("/blobs/uploads/", registry_faults.status(503), times=1, method="PATCH")
        pulls.push(view, name, proxy.reference("push/pieces:1"))
        pieces = [(seen.status, seen.received) for seen in proxy.seen if seen.method == "PATCH"]
    assert [size for status, size in pieces if status == 503] == [1_000_000]
    assert sum(size for status, size in pieces if status == 202) == image.layers[0]["size"]
    registries.check(image, "push/pieces:1")


def test_an_artifact_is_found_by_its_subject(view: Client, registries: registry.Registries) -> None:
    """The registry has no API for that; the tag of the subject's digest does it."""
    subject = registry_images.simple("found by")
    notes = [registry_images.artifact(f"found {number}", subject.root) for number in range(2)]
    registries.push(subject, "push/subject:1")
    plain = registries["plain"]
    for number, note in enumerate(notes):
        name = stored(view, registries, note, f"push/note{number}:1")
        pulls.push(view, name, plain.reference(f"push/subject:note{number}"))
    with Registries() as made:
        found = made.repository(transfer.Registry(plain.reference("push/subject:1"))).referrers(subject.digest)
    assert {one.digest for one in found} == {note.digest for note in notes}


def lost(exchange: registry_faults.Exchange) -> None:
    """The registry hears the request, the client no answer."""
    exchange.forward(exchange)
    raise registry_faults.Cut


def test_a_refused_push_says_what_it_was_about(view: Client, registries: registry.Registries) -> None:
    image = registry_images.simple("refused push")
    name = stored(view, registries, image, "push/refused-from:1")
    with registries.proxy(registries["plain"]) as proxy:
        proxy.on("/blobs/uploads/", registry_faults.status(403), method="POST")
        target = proxy.reference("push/refused:1")
        with pytest.raises(errors.PermissionDenied) as caught:
            pulls.push(view, name, target)
    assert target in caught.value.message
    assert "sha256:" in caught.value.message


def test_an_image_that_is_not_there_cannot_be_pushed(view: Client, registries: registry.Registries) -> None:
    with pytest.raises(errors.NotFound, match=r"none\.test/none:1"):
        pulls.push(view, "none.test/none:1", registries["plain"].reference("push/none:1"))
