"""A pull goes on where it was: after a cut connection, after ``kill -9``. Asserted from the registry's access log."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import daemons
from corten import connect
from plugin_sdk import errors, transfer
from tests import holdings, pulls, registry, registry_faults, registry_images, sides

pytestmark = [pytest.mark.root]
NUMBERS = itertools.count()
SIZE = 12_000_000
Begin = Callable[..., daemons.Daemon]


class Arrived:
    """Counts the bytes of layers that the steps of a transfer tell of."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()

    def __call__(self, step: transfer.Progress) -> None:
        digest = step.descriptor.digest if step.descriptor else step.name
        self.bytes[digest] = max(self.bytes[digest], step.progress)


@pytest.fixture
def own(scratch: Path) -> Iterator[daemons.Daemon]:
    with pulls.daemon(scratch / f"resume{next(NUMBERS)}") as made:
        yield made


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_killed_at_99_percent_it_downloads_at_most_1_percent_again(
    registries: registry.Registries, own: daemons.Daemon, compression: str
) -> None:
    marker = f"killed-{compression}"
    image = registry_images.simple(marker, [registry_images.noise(marker, SIZE)], compression)
    registries.push(image, f"resume/{marker}:1")
    layer, total = image.layers[0]["digest"], image.layers[0]["size"]
    arrived, lifted = Arrived(), threading.Event()
    plain = registries["plain"]
    with registries.proxy(plain) as proxy:
        reference = proxy.reference(f"resume/{marker}:1")
        proxy.on(layer, registry_faults.barrier(total * 997 // 1000, lifted, total * 8 // 10))
        with connect(own.address) as view:
            running = pulls.Running(lambda: pulls.pull(view, reference, told=arrived))
            pulls.wait_until(lambda: arrived.bytes[layer] >= total * 0.99, "99 % of the layer")
            own.kill()
            running.join(60)
            assert isinstance(running.failure, errors.Unavailable)
        lifted.set()
        mark = plain.mark()
        own.start()
        with connect(own.address) as view:
            pulls.pull(view, reference)
            assert view.images.is_unpacked(reference)
            assert view.content.read(layer) == image.blobs[layer]
            assert not view.content.list_statuses()
        again = arrived.bytes[layer] + plain.served(mark)[layer] - total
        assert again <= total // 100


def test_a_cut_connection_is_gone_on_with_by_range(
    corten: sides.Side, registries: registry.Registries, fresh: str
) -> None:
    image = registry_images.simple("cut", [registry_images.noise("cut", 5_000_000)], "none")
    registries.push(image, "resume/cut:1")
    layer, total = image.layers[0]["digest"], image.layers[0]["size"]
    with registries.proxy(registries["plain"]) as proxy, holdings.client(corten, fresh) as view:
        proxy.on(layer, registry_faults.cut(1_500_000), times=3)
        pulls.pull(view, proxy.reference("resume/cut:1"))
        assert proxy.sent(layer) == total
        starts = [seen.range.partition("-")[0] for seen in proxy.seen if layer in seen.path]
        assert starts == ["", "bytes=1500000", "bytes=3000000", "bytes=4500000"]


def test_a_pull_that_was_given_up_is_gone_on_with(
    corten: sides.Side, registries: registry.Registries, fresh: str
) -> None:
    """The retries do not suffice; the next pull downloads the rest only."""
    image = registry_images.simple("given up", [registry_images.noise("given up", 3_000_000)], "none")
    registries.push(image, "resume/given-up:1")
    layer, total = image.layers[0]["digest"], image.layers[0]["size"]
    with registries.proxy(registries["plain"]) as proxy, holdings.client(corten, fresh) as view:
        proxy.on(layer, registry_faults.cut(2_000_000), times=1)
        proxy.on(layer, registry_faults.status(404), times=1)
        with pytest.raises(errors.NotFound):
            pulls.pull(view, proxy.reference("resume/given-up:1"))
        assert [status.offset for status in view.content.list_statuses()] == [2_000_000]
        assert not pulls.remains(view)
        pulls.pull(view, proxy.reference("resume/given-up:1"))
        assert proxy.sent(layer) == total
        assert not view.content.list_statuses()
