"""After a pull by Corten's Transfer, its store equals, byte for byte, what Debian's ctr leaves in containerd's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from plugin_sdk.platforms import Platform
from scripts import images
from tests import holdings, pulls, registry, registry_images, sides, trees

pytestmark = [pytest.mark.root, pytest.mark.peer]
ALL = (pulls.AMD64, pulls.ARM64)


@pytest.fixture(scope="module")
def kinds(layers: list[bytes]) -> dict[str, Callable[[], registry_images.Image]]:
    more = layers[1:]
    return {
        "index": lambda: registry_images.two_platforms("stored", more),
        "gzip": lambda: registry_images.simple("stored", more),
        "zstd": lambda: registry_images.simple("stored", more, "zstd"),
        "none": lambda: registry_images.simple("stored", more, "none"),
        "docker": lambda: registry_images.docker_v2("stored", more),
        "docker-list": lambda: registry_images.docker_v2("stored-listed", more, listed=True),
        "twice": lambda: registry_images.simple("stored", [more[0], more[0]]),
    }


def pull_both(both: sides.Both, reference: str, namespace: str, platforms: Sequence[Platform] = ALL[:1]) -> None:
    everything = ["--all-platforms"] if len(platforms) > 1 else []
    both.peer.output("images", "pull", "--plain-http", *everything, reference, namespace=namespace)
    with holdings.client(both.corten, namespace) as view:
        pulls.pull(view, reference, platforms=platforms)


def compare(both: sides.Both, namespace: str, image: registry_images.Image) -> holdings.Holdings:
    peer, held = both.each(lambda side: holdings.of(side, namespace))
    assert held.content == peer.content
    assert unlabelled(held.snapshots) == unlabelled(peer.snapshots)
    assert (held.images, held.ingests, held.leases) == (peer.images, [], [])
    for digest in held.content:
        expected = image.blobs.get(digest) or image.manifests[digest][1]
        assert both.same(lambda side, digest=digest: holdings.on_disk(side, digest)) == expected
    return held


def unlabelled(snapshots: holdings.Snapshots) -> holdings.Snapshots:
    """Without the label that Transfer of containerd 2.x gives each snapshot, and ctr of 1.6 does not."""
    return {
        name: (kind, parent, {key: value for key, value in labels.items() if key != "containerd.io/snapshot.ref"})
        for name, (kind, parent, labels) in snapshots.items()
    }


@pytest.mark.parametrize("kind", ["index", "gzip", "zstd", "none", "docker", "docker-list", "twice"])
def test_the_store_equals_containerds(
    both: sides.Both, registries: registry.Registries, fresh: str, kinds: dict[str, Callable[..., object]], kind: str
) -> None:
    image = kinds[kind]()
    registries.push(image, f"stored/{kind}:1")
    reference = registries["plain"].reference(f"stored/{kind}:1")
    pull_both(both, reference, fresh)
    held = compare(both, fresh, image)
    assert len(held.snapshots) in (3, 4)
    peer, corten = both.each(lambda side: holdings.tree(side, fresh, reference))
    assert not trees.differences(peer, corten)
    assert "etc/marker" in corten
    both.ctr("images", "ls", namespace=fresh)
    both.ctr("images", "check", namespace=fresh)
    both.each(lambda side: holdings.forget(side, fresh))


def test_all_platforms_are_stored_as_containerd_stores_them(
    both: sides.Both, registries: registry.Registries, fresh: str
) -> None:
    image = registry_images.two_platforms("all", [images.tar([images.Entry("same", b"on both")])])
    registries.push(image, "stored/all:1")
    pull_both(both, registries["plain"].reference("stored/all:1"), fresh, ALL)
    held = compare(both, fresh, image)
    assert held.content.keys() == image.digests
    assert len(held.snapshots) == 3
    both.each(lambda side: holdings.forget(side, fresh))


def test_a_second_repository_is_added_to_the_sources(
    both: sides.Both, registries: registry.Registries, fresh: str
) -> None:
    image = registry_images.simple("sources")
    for name in ("stored/first:1", "stored/second:1"):
        registries.push(image, name)
        pull_both(both, registries["plain"].reference(name), fresh)
    held = compare(both, fresh, image)
    _, labels = held.content[image.layers[0]["digest"]]
    assert "stored/first,stored/second" in labels.values()


def test_a_pull_of_what_is_there_fetches_nothing(both: sides.Both, registries: registry.Registries, fresh: str) -> None:
    image = registry_images.two_platforms("again")
    registries.push(image, "stored/again:1")
    plain = registries["plain"]
    pull_both(both, plain.reference("stored/again:1"), fresh)
    before = holdings.of(both.corten, fresh)
    mark = plain.mark()
    with holdings.client(both.corten, fresh) as view:
        pulls.pull(view, plain.reference("stored/again:1"))
    assert not plain.asked(mark)
    assert holdings.of(both.corten, fresh) == before


def test_a_pull_without_unpacking_makes_no_snapshot(
    both: sides.Both, registries: registry.Registries, fresh: str
) -> None:
    image = registry_images.simple("packed")
    registries.push(image, "stored/packed:1")
    reference = registries["plain"].reference("stored/packed:1")
    both.peer.output("content", "fetch", "--plain-http", reference, namespace=fresh)
    with holdings.client(both.corten, fresh) as view:
        pulls.pull(view, reference, unpack=False)
    assert not compare(both, fresh, image).snapshots


def test_an_artifact_is_stored_as_containerd_stores_it(
    both: sides.Both, registries: registry.Registries, fresh: str
) -> None:
    image = registry_images.artifact("stored", registry_images.simple("subject").root)
    registries.push(image, "stored/artifact:1")
    reference = registries["plain"].reference("stored/artifact:1")
    both.peer.output("content", "fetch", "--plain-http", reference, namespace=fresh)
    with holdings.client(both.corten, fresh) as view:
        pulls.pull(view, reference, unpack=False)
    compare(both, fresh, image)


def test_another_snapshotter_gets_the_same_tree(
    both: sides.Both, registries: registry.Registries, fresh: str, layers: list[bytes]
) -> None:
    registries.push(registry_images.simple("native", layers[1:]), "stored/native:1")
    reference = registries["plain"].reference("stored/native:1")
    with holdings.client(both.corten, fresh) as view:
        pulls.pull(view, reference)
        pulls.pull(view, reference, snapshotter="native")
        chain = view.images.chain_id(reference)
        with view.snapshotter().read_only(chain) as one, view.snapshotter("native").read_only(chain) as other:
            found = [trees.scan(root, folder_times=False) for root in (one, other)]
    assert not trees.differences(*found)
