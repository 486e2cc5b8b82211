"""The same layer wanted by many pulls at once is fetched and unpacked once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from corten import connect
from tests import holdings, pulls, registry, registry_faults, registry_images, sides

pytestmark = [pytest.mark.root]
PULLS = 10


def test_ten_pulls_at_once_fetch_each_layer_once(
    corten: sides.Side, registries: registry.Registries, fresh: str
) -> None:
    image = registry_images.two_platforms("ten", [registry_images.noise("ten", 3_000_000)])
    registries.push(image, "sharing/ten:1")
    plain, gate = registries["plain"], threading.Event()
    with registries.proxy(plain) as proxy, holdings.client(corten, fresh) as view:
        proxy.on("/blobs/", registry_faults.budget(1_000_000, gate))
        flush = corten.recorder.flush()
        mark = plain.mark()
        reference = proxy.reference("sharing/ten:1")
        running = [
            pulls.Running(lambda number=number: pulls.pull(view, reference, name=f"ten.test/image:{number}"))
            for number in range(PULLS)
        ]
        pulls.wait_until(lambda: proxy.count("/manifests/1", "HEAD") + proxy.count("/manifests/1") >= PULLS, "all ask")
        gate.set()
        for one in running:
            one.join(60)
            assert one.failure is None
        assert len(view.images.list()) == PULLS
        asked = plain.asked(mark)
        assert [asked[layer["digest"]] for layer in image.layers[:2]] == [1, 1]
        corten.recorder.flush()
        events = [one.topic for one in corten.recorder.since(flush) if one.namespace == corten.resolve(fresh)]
        assert events.count("/snapshot/commit") == 2
        holdings.forget(corten, fresh)


def test_two_images_with_a_common_layer_fetch_it_once(
    corten: sides.Side, registries: registry.Registries, fresh: str
) -> None:
    common = registry_images.noise("common", 2_000_000)
    made = [registry_images.simple(f"common {number}", [common]) for number in range(2)]
    for number, image in enumerate(made):
        registries.push(image, f"sharing/common{number}:1")
    layer = made[0].layers[0]["digest"]
    plain, gate = registries["plain"], threading.Event()
    with registries.proxy(plain) as proxy, holdings.client(corten, fresh) as view:
        proxy.on(layer, registry_faults.budget(1_000_000, gate))
        mark = plain.mark()
        running = [
            pulls.Running(lambda number=number: pulls.pull(view, proxy.reference(f"sharing/common{number}:1")))
            for number in range(2)
        ]
        pulls.wait_until(lambda: proxy.count("/manifests/") >= 2 and proxy.count(layer), "both have begun")
        gate.set()
        for one in running:
            one.join(60)
            assert one.failure is None
        assert plain.asked(mark)[layer] == 1
        assert len(list(view.snapshotter().walk())) == 3
        holdings.forget(corten, fresh)


def test_who_waits_goes_on_when_the_one_who_fetches_is_gone(
    corten: sides.Side, registries: registry.Registries, fresh: str
) -> None:
    image = registry_images.simple("left", [registry_images.noise("left", 2_000_000)], "none")
    registries.push(image, "sharing/left:1")
    layer, gate = image.layers[0]["digest"], threading.Event()
    with registries.proxy(registries["plain"]) as proxy, holdings.client(corten, fresh) as view:
        proxy.on(layer, registry_faults.budget(1_000_000, gate))
        reference = proxy.reference("sharing/left:1")
        with holdings.client(corten, fresh) as leaving:
            first = pulls.Running(lambda: pulls.pull(leaving, reference, name="left.test/first:1"))
            pulls.wait_until(lambda: proxy.sent(layer) >= 1_000_000, "the first one has begun")
            second = pulls.Running(lambda: pulls.pull(view, reference, name="left.test/second:1"))
            pulls.wait_until(lambda: proxy.count("/manifests/") + proxy.count("/manifests/", "HEAD") >= 2, "the second")
        first.join(60)
        assert first.failure is not None
        gate.set()
        second.join(60)
        assert second.failure is None
        assert [image.name for image in view.images.list()] == ["left.test/second:1"]
        holdings.forget(corten, fresh)


def test_no_more_blobs_are_downloaded_at_once_than_are_allowed(scratch: Path, registries: registry.Registries) -> None:
    image = registry_images.simple("many", [registry_images.small_layer(f"many {number}") for number in range(8)])
    registries.push(image, "sharing/many:1")

    waiting: list[str] = []
    most = 0

    def slow(exchange: registry_faults.Exchange) -> None:
        nonlocal most
        waiting.append(exchange.path)
        most = max(most, len(waiting))
        exchange.over.wait(0.1)
        waiting.remove(exchange.path)
        exchange.forward(exchange)

    with (
        registries.proxy(registries["plain"]) as proxy,
        pulls.daemon(scratch / "many", "max_concurrent_downloads = 2") as own,
        connect(own.address) as view,
    ):
        proxy.on("/blobs/", slow)
        running = [
            pulls.Running(lambda name=name: pulls.pull(view, proxy.reference("sharing/many:1"), name=name))
            for name in ("many.test/one:1", "many.test/two:1")
        ]
        for one in running:
            one.join(60)
            assert one.failure is None
    assert most == 2
