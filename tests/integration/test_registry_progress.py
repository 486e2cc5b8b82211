"""The steps that Transfer tells are monotonous, and end at the total."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest

from plugin_sdk import transfer
from tests import holdings, pulls, registry, registry_faults, registry_images, sides

pytestmark = [pytest.mark.root]
SIZE = 3_000_000


def check(steps: Sequence[transfer.Progress]) -> dict[str, int]:
    """Per name the total, which is where it ends."""
    told: dict[str, list[transfer.Progress]] = defaultdict(list)
    for step in steps:
        if step.name:
            told[step.name].append(step)
    for name, rows in told.items():
        values = [row.progress for row in rows]
        assert values == sorted(values), f"{name} falls: {values}"
        totals = {row.total for row in rows if row.total}
        assert len(totals) <= 1, f"{name} has the totals {totals}"
        assert values[-1] == rows[-1].total, f"{name} ends at {values[-1]} of {rows[-1].total}"
    return {name: rows[-1].total for name, rows in told.items()}


@pytest.fixture(scope="module")
def image(registries: registry.Registries) -> registry_images.Image:
    made = registry_images.two_platforms("progress", [registry_images.noise("progress", SIZE)])
    registries.push(made, "progress/two:1")
    return made


def test_of_a_pull(
    corten: sides.Side, registries: registry.Registries, image: registry_images.Image, fresh: str
) -> None:
    with holdings.client(corten, fresh) as view:
        totals = check(pulls.pull(view, registries["plain"].reference("progress/two:1")))
        assert set(totals.values()) >= {image.root["size"], image.layers[0]["size"]}
        holdings.forget(corten, fresh)


def test_of_a_pull_of_what_is_there_and_of_a_push(
    corten: sides.Side, registries: registry.Registries, image: registry_images.Image, fresh: str
) -> None:
    reference = registries["plain"].reference("progress/two:1")
    with holdings.client(corten, fresh) as view:
        pulls.pull(view, reference, platforms=())
        check(pulls.pull(view, reference, platforms=()))
        totals = check(pulls.push(view, reference, registries["plain"].reference("progress/pushed:1")))
        assert set(totals.values()) >= {image.root["size"], image.layers[0]["size"]}
        holdings.forget(corten, fresh)


def test_of_a_pull_that_is_cut_and_goes_on(
    corten: sides.Side, registries: registry.Registries, image: registry_images.Image, fresh: str
) -> None:
    layer = image.layers[0]["digest"]
    with registries.proxy(registries["plain"]) as proxy, holdings.client(corten, fresh) as view:
        proxy.on(layer, registry_faults.cut(SIZE // 3), times=2)
        check(pulls.pull(view, proxy.reference("progress/two:1")))
        assert proxy.count(layer) == 3
        holdings.forget(corten, fresh)
