"""Images that are wrong in themselves, and disks that are full: the right code, and nothing left but an ingest."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import daemons
from corten import Client, connect
from plugin_sdk import errors, oci
from scripts import images
from tests import pulls, registry, registry_faults, registry_images, registry_proxy

pytestmark = [pytest.mark.root]
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def own(scratch: Path) -> Iterator[daemons.Daemon]:
    """It soon gives up."""
    with pulls.daemon(scratch / "bad_input", "retries = 2") as made:
        yield made


@pytest.fixture
def view(own: daemons.Daemon, fresh: str) -> Iterator[Client]:
    with connect(own.address, f"n{fresh[1:]}") as made:
        yield made


@pytest.fixture
def proxy(registries: registry.Registries) -> Iterator[registry_proxy.Proxy]:
    with registries.proxy(registries["plain"]) as made:
        yield made


def failing(view: Client, reference: str, *names: str) -> errors.Error:
    """The error of a pull, which names the image and ``names``, and leaves nothing."""
    with pytest.raises(errors.Error) as caught:
        pulls.pull(view, reference)
    message = caught.value.message
    assert "\n" not in message
    assert len(message) < 1000
    for name in (reference, *names):
        assert name in message, message
    assert not pulls.remains(view)
    return caught.value


def test_a_manifest_of_100_mb_is_refused_before_it_is_read(
    view: Client, registries: registry.Registries, proxy: registry_proxy.Proxy
) -> None:
    image = registry_images.simple("huge")
    registries.push(image, "bad/huge:1")
    media_type, data = image.manifests[image.digest]
    proxy.on("/manifests/", registry_faults.body(data + b" " * (100 << 20), {"Content-Type": media_type}), method="")
    err = failing(view, proxy.reference("bad/huge:1"))
    assert isinstance(err, errors.ResourceExhausted)
    assert proxy.sent("/manifests/") < 50 << 20


def test_a_decompression_bomb_is_refused(scratch: Path, registries: registry.Registries) -> None:
    bomb = images.tar([images.Entry("bomb", bytes(100_000_000))])
    image = registry_images.simple("bomb", [bomb])
    registries.push(image, "bad/bomb:1")
    limit = '[plugins."io.containerd.differ.v1.walking"]\nlayer_limit = 10_000_000'
    with pulls.daemon(scratch / "bomb", limit) as own, connect(own.address) as view:
        layer = image.layers[0]["digest"]
        err = failing(view, registries["plain"].reference("bad/bomb:1"), layer)
        assert isinstance(err, errors.ResourceExhausted)
        kept = own.root / "io.containerd.snapshotter.v1.overlayfs/snapshots"
        pulls.wait_until(lambda: not any((each / "fs/bomb").exists() for each in kept.iterdir()), "it is removed")


def test_an_index_that_points_to_itself_is_refused(
    view: Client, registries: registry.Registries, proxy: registry_proxy.Proxy
) -> None:
    """Only a registry that lies can have one: the digest cannot be that of the bytes."""
    wrong = images.digest(b"any")
    size = 400
    entry = {"mediaType": oci.INDEX, "digest": wrong, "size": size}
    data = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry]}).encode().ljust(size)
    headers = {"Content-Type": oci.INDEX, "Docker-Content-Digest": wrong}
    proxy.on("/manifests/", registry_faults.body(data, headers), method="")
    assert isinstance(failing(view, proxy.reference("bad/circle:1"), wrong), errors.DataLoss)


def test_an_index_of_many_floors_is_refused(view: Client, registries: registry.Registries) -> None:
    image = registry_images.simple("deep")
    for _ in range(100):
        image.manifest(oci.INDEX, {"manifests": [{**image.root, "platform": images.PLATFORM}]})
    registries.push(image, "bad/deep:1")
    assert isinstance(failing(view, registries["plain"].reference("bad/deep:1")), errors.InvalidArgument)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"text"', b'{"manifests": 3}', b"\xff" * 50], ids=repr)
def test_a_manifest_that_is_none_is_an_invalid_argument(view: Client, proxy: registry_proxy.Proxy, data: bytes) -> None:
    headers = {"Content-Type": oci.INDEX, "Docker-Content-Digest": images.digest(data)}
    proxy.on("/manifests/", registry_faults.body(data, headers), method="")
    assert isinstance(failing(view, proxy.reference("bad/none:1")), errors.InvalidArgument)


def test_an_unknown_media_type_of_the_root_is_named(view: Client, proxy: registry_proxy.Proxy) -> None:
    data, media_type = b'{"schemaVersion": 2}', "application/vnd.unknown+json"
    headers = {"Content-Type": media_type, "Docker-Content-Digest": images.digest(data)}
    proxy.on("/manifests/", registry_faults.body(data, headers), method="")
    err = failing(view, proxy.reference("bad/unknown:1"), media_type)
    assert isinstance(err, (errors.InvalidArgument, errors.Unimplemented))


def odd_layer(media_type: str, **more: object) -> registry_images.Image:
    """An image whose one layer is of that media type."""
    image = registry_images.Image()
    tar = registry_images.small_layer(media_type)
    layer = image.layer(media_type, images.compress(tar, "gzip"), **more)
    config = image.blob(oci.CONFIG, images.image_config([tar]))
    image.manifest(oci.MANIFEST, {"config": config, "layers": [layer]})
    return image


def test_an_unknown_layer_cannot_be_unpacked(view: Client, registries: registry.Registries) -> None:
    image = odd_layer("application/vnd.unknown.layer")
    registries.push(image, "bad/layer:1")
    reference = registries["plain"].reference("bad/layer:1")
    err = failing(view, reference, image.layers[0]["digest"], "application/vnd.unknown.layer")
    assert isinstance(err, (errors.InvalidArgument, errors.Unimplemented))
    pulls.pull(view, reference, unpack=False)


def test_a_foreign_layer_is_looked_for_in_the_registry_only(
    view: Client, registries: registry.Registries, proxy: registry_proxy.Proxy
) -> None:
    """``urls`` could send the daemon anywhere."""
    image = odd_layer(oci.FOREIGN_LAYER_GZIP, urls=["http://127.0.0.1:1/layer"])
    registries.push(image, "bad/foreign:1")
    layer = image.layers[0]["digest"]
    proxy.on(layer, registry_faults.status(404), method="")
    err = failing(view, proxy.reference("bad/foreign:1"), layer)
    assert isinstance(err, errors.NotFound)
    assert "in the registry only" in err.message


def test_a_wrong_diff_id_is_noticed(view: Client, registries: registry.Registries) -> None:
    image = registry_images.Image()
    layer = image.layer(oci.LAYER_GZIP, images.compress(registry_images.small_layer("one"), "gzip"))
    config = image.blob(oci.CONFIG, images.image_config([registry_images.small_layer("another")]))
    image.manifest(oci.MANIFEST, {"config": config, "layers": [layer]})
    registries.push(image, "bad/diff-id:1")
    err = failing(view, registries["plain"].reference("bad/diff-id:1"), layer["digest"])
    assert isinstance(err, (errors.DataLoss, errors.FailedPrecondition, errors.InvalidArgument))


def test_a_layer_by_sha512_is_pulled(view: Client, registries: registry.Registries) -> None:
    image = registry_images.sha512("pulled")
    registries.push(image, "bad/sha512:1")
    reference = registries["plain"].reference("bad/sha512:1")
    pulls.pull(view, reference)
    layer = image.layers[0]["digest"]
    assert view.content.read(layer) == image.blobs[layer]
    assert view.images.is_unpacked(reference)


@pytest.fixture
def small(scratch: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    target = scratch / f"small{next(NUMBERS)}"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", target], check=True)
    try:
        yield target
    finally:
        daemons.unmount_below(target)
        target.rmdir()


def test_a_full_disk_leaves_an_ingest_and_no_more(small: Path, registries: registry.Registries) -> None:
    image = registry_images.simple("full", [registry_images.noise("full", 30_000_000)], "none")
    registries.push(image, "bad/full:1")
    registries.push(registry_images.simple("fits"), "bad/fits:1")
    plain = registries["plain"]
    layer, total = image.layers[0]["digest"], image.layers[0]["size"]
    with registries.proxy(plain) as proxy, pulls.daemon(small / "d") as own:
        reference = proxy.reference("bad/full:1")
        with connect(own.address, "other") as view:
            pulls.pull(view, plain.reference("bad/fits:1"))
        with connect(own.address) as view:
            before = (own.leftovers(), daemons.mounts_below(small))
            err = failing(view, reference, layer)
            assert isinstance(err, errors.ResourceExhausted)
            assert [layer in status.ref for status in view.content.list_statuses()] == [True]
            assert (own.leftovers(), daemons.mounts_below(small)) == before
            subprocess.run(["mount", "-o", "remount,size=200m", small], check=True)
            sent, offset = proxy.sent(layer), view.content.list_statuses()[0].offset
            pulls.pull(view, reference)
            assert proxy.sent(layer) - sent == total - offset
            assert view.images.is_unpacked(reference)
