"""Mirrors by hosts.toml: asked in order, left when they fail or are slow, edited without a restart."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten import Client, connect
from plugin_sdk import errors
from tests import holdings, pulls, registry, registry_faults, registry_images, registry_proxy, sides

pytestmark = [pytest.mark.root]
HOST = "registry.example.test"
NUMBERS = itertools.count()


@pytest.fixture
def view(corten: sides.Side, fresh: str) -> Iterator[Client]:
    with holdings.client(corten, fresh) as made:
        yield made
        holdings.forget(corten, fresh)


@pytest.fixture
def folder(scratch: Path) -> Path:
    """For hosts.toml files."""
    made = scratch / f"hosts{next(NUMBERS)}"
    made.mkdir()
    return made


@pytest.fixture
def mirror(registries: registry.Registries) -> Iterator[registry_proxy.Proxy]:
    with registries.proxy(registries["plain"]) as proxy:
        yield proxy


@pytest.fixture
def image(registries: registry.Registries, request: pytest.FixtureRequest) -> registry_images.Image:
    """Of this test alone, as mirrors/image:NAME-OF-THE-TEST."""
    name = request.node.name.replace("[", "-").replace("]", "")
    made = registry_images.two_platforms(name, [registry_images.noise(name, 300_000)])
    registries.push(made, f"mirrors/image:{tag(request)}")
    return made


def tag(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("[", "-").replace("]", "")[:100]


@pytest.fixture
def reference(request: pytest.FixtureRequest, image: registry_images.Image) -> str:
    return f"{HOST}/mirrors/image:{tag(request)}"


def test_all_comes_from_the_first_mirror(
    view: Client,
    registries: registry.Registries,
    folder: Path,
    mirror: registry_proxy.Proxy,
    reference: str,
    image: registry_images.Image,
) -> None:
    with registries.proxy(registries["plain"]) as server:
        registries.hosts(folder, HOST, {"url": mirror.url}, server=server.url)
        pulls.pull(view, reference, host_dir=folder)
        assert not server.seen
    assert mirror.sent(image.layers[0]["digest"]) == image.layers[0]["size"]
    assert view.content.info(image.layers[0]["digest"]).labels[f"containerd.io/distribution.source.{HOST}"]


@pytest.mark.parametrize("wrong", ["500", "404", "gone", "cut", "corrupt"])
def test_a_mirror_that_fails_is_left_for_the_server(
    view: Client,
    registries: registry.Registries,
    folder: Path,
    mirror: registry_proxy.Proxy,
    reference: str,
    image: registry_images.Image,
    wrong: str,
) -> None:
    faults = {
        "500": registry_faults.status(500),
        "404": registry_faults.status(404),
        "cut": registry_faults.cut(100_000),
        "corrupt": registry_faults.corrupt(100_000),
    }
    layer = image.layers[0]["digest"]
    if wrong in faults:
        mirror.on(layer, faults[wrong])
    url = "http://127.0.0.1:1" if wrong == "gone" else mirror.url
    registries.hosts(folder, HOST, {"url": url}, server=registries["plain"].url)
    mark = registries["plain"].mark()
    pulls.pull(view, reference, host_dir=folder)
    assert view.content.read(layer) == image.blobs[layer]
    assert registries["plain"].served(mark)[layer]


def test_hosts_are_read_again_without_a_restart(
    view: Client,
    registries: registry.Registries,
    folder: Path,
    mirror: registry_proxy.Proxy,
    reference: str,
    image: registry_images.Image,
) -> None:
    with registries.proxy(registries["plain"]) as other:
        other.on("", registry_faults.status(404), method="")
        registries.hosts(folder, HOST, server=other.url)
        with pytest.raises(errors.NotFound):
            pulls.pull(view, reference, host_dir=folder)
    registries.hosts(folder, HOST, {"url": mirror.url}, server="http://127.0.0.1:1")
    pulls.pull(view, reference, host_dir=folder)
    assert mirror.count("/manifests/")


def test_capabilities_say_for_what_a_host_is_asked(
    view: Client,
    registries: registry.Registries,
    folder: Path,
    mirror: registry_proxy.Proxy,
    reference: str,
    image: registry_images.Image,
) -> None:
    with registries.proxy(registries["plain"]) as server:
        registries.hosts(folder, HOST, {"url": mirror.url, "capabilities": ["pull"]}, server=server.url)
        pulls.pull(view, reference, host_dir=folder)
        tagged = [seen for seen in mirror.seen if f"/manifests/{reference.rpartition(':')[2]}" in seen.path]
        assert not tagged
        assert mirror.count("/blobs/") == 3
        assert not server.count("/blobs/")


def test_headers_and_a_path_of_the_file_are_used(
    view: Client, registries: registry.Registries, folder: Path, reference: str
) -> None:
    """The mirror keeps everything below /v2/mirrors, as some proxies do, and wants a header."""
    with registries.proxy(registries["basic"]) as proxy:
        token = base64.b64encode(f"reader:{registry.USERS['reader']}".encode()).decode()
        table = {"url": f"{proxy.url}/v2", "override_path": True, "header": {"Authorization": f"Basic {token}"}}
        registries.hosts(folder, HOST, table, server="http://127.0.0.1:1")
        pulls.pull(view, reference, host_dir=folder)
        assert {seen.authorization for seen in proxy.seen} == {f"Basic {token}"}


@pytest.mark.parametrize("kind", ["tls", "mutual"])
def test_certificates_of_the_file_are_used(
    view: Client, registries: registry.Registries, folder: Path, reference: str, kind: str
) -> None:
    files = registries.certificates
    table: dict[str, object] = {"url": registries[kind].url, "ca": files.ca}
    if kind == "mutual":
        table["client"] = [[str(files.client), str(files.client_key)]]
    registries.hosts(folder, HOST, table, server="http://127.0.0.1:1")
    pulls.pull(view, reference, host_dir=folder)


def test_verification_can_be_skipped(
    view: Client, registries: registry.Registries, folder: Path, reference: str
) -> None:
    registries.hosts(folder, HOST, {"url": registries["tls"].url, "skip_verify": True}, server="http://127.0.0.1:1")
    pulls.pull(view, reference, host_dir=folder)


def test_a_mirror_that_fetches_through_is_one(
    view: Client,
    registries: registry.Registries,
    folder: Path,
    reference: str,
    image: registry_images.Image,
) -> None:
    mirror = registries["mirror"]
    registries.hosts(folder, HOST, {"url": mirror.url}, server="http://127.0.0.1:1")
    mark = mirror.mark()
    pulls.pull(view, reference, host_dir=folder)
    assert mirror.served(mark)[image.layers[0]["digest"]] == image.layers[0]["size"]


def test_a_mirror_below_the_least_rate_is_left(scratch: Path, registries: registry.Registries) -> None:
    image = registry_images.simple("slow", [registry_images.noise("slow", 1_500_000)], "none")
    registries.push(image, "mirrors/slow:1")
    layer, total = image.layers[0]["digest"], image.layers[0]["size"]
    hosts = scratch / f"hosts{next(NUMBERS)}"
    table = f'config_path = "{hosts}"\nmin_rate = 200000\nrate_window = 1'
    plain = registries["plain"]
    with registries.proxy(plain) as mirror, registries.proxy(plain) as server:
        mirror.on(layer, registry_faults.drip(50_000))
        registries.hosts(hosts, HOST, {"url": mirror.url}, server=server.url)
        with pulls.daemon(scratch / f"slow{next(NUMBERS)}", table) as own, connect(own.address) as view:
            pulls.pull(view, f"{HOST}/mirrors/slow:1")
        rest = [seen for seen in server.seen if layer in seen.path]
        assert rest[0].range.startswith("bytes=")
        assert mirror.sent(layer) + server.sent(layer) <= total + (1 << 20)
