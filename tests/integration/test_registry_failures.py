"""Registries that fail, lie or are slow: the right status code, one sentence, nothing left but an ingest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import daemons
from corten import Client, connect
from plugin_sdk import errors
from tests import pulls, registry, registry_faults, registry_images, registry_proxy

pytestmark = [pytest.mark.root]
SIZE = 400_000


@pytest.fixture(scope="module")
def own(scratch: Path) -> Iterator[daemons.Daemon]:
    """It soon gives up."""
    with pulls.daemon(scratch / "failures", "retries = 2") as made:
        yield made


@pytest.fixture
def view(own: daemons.Daemon, fresh: str) -> Iterator[Client]:
    with connect(own.address, f"n{fresh[1:]}") as made:
        yield made


@pytest.fixture
def proxy(registries: registry.Registries) -> Iterator[registry_proxy.Proxy]:
    with registries.proxy(registries["plain"]) as made:
        yield made


@pytest.fixture
def image(registries: registry.Registries, request: pytest.FixtureRequest) -> registry_images.Image:
    """Of this test alone, at failures/image:1 of the proxy."""
    name = request.node.name
    made = registry_images.simple(name, [registry_images.noise(name, SIZE)])
    registries.push(made, "failures/image:1")
    return made


def failing(view: Client, reference: str, *names: str) -> errors.Error:
    """The error of a pull, which names the image, its host and ``names``, in one line, and leaves nothing."""
    with pytest.raises(errors.Error) as caught:
        pulls.pull(view, reference)
    message = caught.value.message
    assert "\n" not in message
    for name in (reference, *names):
        assert name in message, message
    assert not pulls.remains(view)
    return caught.value


def layer_of(image: registry_images.Image) -> str:
    return str(image.layers[0]["digest"])


@pytest.mark.parametrize("path", ["/manifests/", "/blobs/"])
@pytest.mark.parametrize("code", [500, 502, 503])
def test_a_registry_that_recovers_is_asked_again(
    view: Client, proxy: registry_proxy.Proxy, image: registry_images.Image, path: str, code: int
) -> None:
    proxy.on(path, registry_faults.status(code), times=2, method="")
    pulls.pull(view, proxy.reference("failures/image:1"))
    assert view.content.read(layer_of(image)) == image.blobs[layer_of(image)]


def test_retry_after_is_kept(view: Client, proxy: registry_proxy.Proxy, image: registry_images.Image) -> None:
    proxy.on(layer_of(image), registry_faults.status(429, {"Retry-After": "2"}), times=1)
    began = time.monotonic()
    pulls.pull(view, proxy.reference("failures/image:1"))
    assert time.monotonic() - began >= 2
    assert proxy.count(layer_of(image)) == 2


def test_too_many_requests_for_good_are_resource_exhausted(
    view: Client, proxy: registry_proxy.Proxy, image: registry_images.Image
) -> None:
    proxy.on(layer_of(image), registry_faults.status(429, {"Retry-After": "100000"}))
    err = failing(view, proxy.reference("failures/image:1"), layer_of(image))
    assert isinstance(err, errors.ResourceExhausted)


def test_a_stalled_connection_is_left(view: Client, proxy: registry_proxy.Proxy, image: registry_images.Image) -> None:
    proxy.on(layer_of(image), registry_faults.stall(SIZE // 2, 2), times=1)
    pulls.pull(view, proxy.reference("failures/image:1"))
    assert proxy.sent(layer_of(image)) == image.layers[0]["size"]


def test_corrupt_bytes_are_data_loss(view: Client, proxy: registry_proxy.Proxy, image: registry_images.Image) -> None:
    proxy.on(layer_of(image), registry_faults.corrupt(SIZE // 2))
    err = failing(view, proxy.reference("failures/image:1"), layer_of(image), f"from {proxy.host} ")
    assert isinstance(err, errors.DataLoss)
    proxy.rules.clear()
    pulls.pull(view, proxy.reference("failures/image:1"))


@pytest.mark.parametrize("difference", [-1000, 1000])
def test_a_wrong_length_is_noticed(
    view: Client, proxy: registry_proxy.Proxy, image: registry_images.Image, difference: int
) -> None:
    proxy.on(layer_of(image), registry_faults.length(difference))
    err = failing(view, proxy.reference("failures/image:1"), layer_of(image))
    assert isinstance(err, (errors.DataLoss, errors.Unavailable))


def test_another_manifest_than_its_digest_is_data_loss(
    view: Client, proxy: registry_proxy.Proxy, image: registry_images.Image
) -> None:
    media_type, data = image.manifests[image.digest]
    proxy.on("/manifests/", registry_faults.body(data + b" ", {"Content-Type": media_type}))
    err = failing(view, proxy.reference(f"failures/image@{image.digest}"), image.digest)
    assert isinstance(err, errors.DataLoss)


@pytest.mark.parametrize("scheme", ["file", "ftp", "unix", "gopher"])
def test_a_redirect_to_another_scheme_is_refused(
    view: Client, proxy: registry_proxy.Proxy, image: registry_images.Image, scheme: str
) -> None:
    proxy.on(layer_of(image), registry_faults.redirect(f"{scheme}:///etc/passwd"))
    err = failing(view, proxy.reference("failures/image:1"), layer_of(image))
    assert not isinstance(err, errors.Unknown)


def test_a_redirect_to_another_host_is_followed_without_credentials(
    view: Client, registries: registry.Registries, image: registry_images.Image
) -> None:
    from plugin_sdk import transfer

    credentials = transfer.Credentials("reader", registry.USERS["reader"])
    with registries.proxy(registries["basic"]) as proxy, registries.proxy(registries["plain"]) as other:
        proxy.on("/blobs/", registry_faults.redirect(other.url.replace("127.0.0.1", "localhost") + "{path}"))
        pulls.pull(view, proxy.reference("failures/image:1"), ask=lambda _: credentials)
        assert [seen.authorization for seen in other.seen] == [""] * len(other.seen)
        assert other.sent(layer_of(image)) == image.layers[0]["size"]


def test_a_redirect_in_a_circle_ends(view: Client, proxy: registry_proxy.Proxy, image: registry_images.Image) -> None:
    proxy.on(layer_of(image), registry_faults.redirect("{path}"))
    failing(view, proxy.reference("failures/image:1"), layer_of(image))


def test_an_unreachable_registry_is_unavailable(view: Client) -> None:
    assert isinstance(failing(view, "127.0.0.1:1/failures/image:1"), errors.Unavailable)


@pytest.mark.parametrize("name", ["failures/none:1", "failures/image:none"])
def test_an_image_that_is_not_there_is_not_found(
    view: Client, proxy: registry_proxy.Proxy, image: registry_images.Image, name: str
) -> None:
    assert isinstance(failing(view, proxy.reference(name)), errors.NotFound)


@pytest.mark.parametrize("name", ["host.test/", "", "host.test/a b:1", "host.test/a@sha256:12", "busybox"])
def test_a_name_that_is_none_is_an_invalid_argument(view: Client, name: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        pulls.pull(view, name, name="none.test/image:1")
    assert name in caught.value.message
    assert not pulls.remains(view)


def test_an_expired_certificate_is_refused(
    view: Client,
    registries: registry.Registries,
    image: registry_images.Image,
    tmp_path: Path,
) -> None:
    ca = registries.certificates_of("expired").ca
    with registries.proxy(registries["plain"], tls="expired") as proxy:
        registries.hosts(tmp_path, proxy.host, {"url": proxy.url, "ca": ca}, server=proxy.url)
        with pytest.raises(errors.Unavailable, match="expired") as caught:
            pulls.pull(view, proxy.reference("failures/image:1"), host_dir=tmp_path)
        assert proxy.host in caught.value.message
        assert not proxy.seen


def test_an_unknown_authority_is_refused(
    view: Client, registries: registry.Registries, image: registry_images.Image
) -> None:
    reference = registries["tls"].reference("failures/image:1")
    with pytest.raises(errors.Unavailable, match="certificate") as caught:
        pulls.pull(view, reference, scheme="https")
    assert reference in caught.value.message
