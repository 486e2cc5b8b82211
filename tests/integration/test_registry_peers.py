"""Debian's ctr, skopeo and Corten's own client agree on images that each of them pushed, and trees are equal."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from scripts import images
from tests import holdings, pulls, registry, registry_images, sides, trees

pytestmark = [pytest.mark.root, pytest.mark.peer]
Made = Callable[[list[bytes]], registry_images.Image]
WHO = ("containerd", "corten", "skopeo", "client")


def artifact(layers: list[bytes]) -> registry_images.Image:
    return registry_images.artifact("peers", registry_images.simple("subject").root)


KINDS: dict[str, Made] = {
    "index": lambda layers: registry_images.two_platforms("peers", layers),
    "docker": lambda layers: registry_images.docker_v2("peers", layers),
    "docker-list": lambda layers: registry_images.docker_v2("peers-listed", layers, listed=True),
    "artifact": artifact,
}


def fetch(side: sides.Side, reference: str, namespace: str) -> None:
    side.output("content", "fetch", "--plain-http", "--all-platforms", reference, namespace=namespace)


def by_ctr(side: sides.Side, source: str, target: str, namespace: str) -> None:
    """ctr talks to the registry itself, and to the daemon about content only."""
    fetch(side, source, namespace)
    side.output("images", "push", "--plain-http", target, source, namespace=namespace)
    holdings.forget(side, namespace)


def by_client(side: sides.Side, source: str, target: str, namespace: str) -> None:
    with holdings.client(side, namespace) as view:
        pulls.pull(view, source, platforms=(), unpack=False)
        pulls.push(view, source, target)
    holdings.forget(side, namespace)


def skopeo(*line: str) -> bytes:
    done = subprocess.run(["skopeo", "--insecure-policy", *line], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def by_skopeo(source: str, target: str) -> None:
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", "--all", "--preserve-digests", *plain, f"docker://{source}", f"docker://{target}")


def digests(side: sides.Side, namespace: str) -> set[str]:
    return set(holdings.of(side, namespace).content)


@pytest.mark.parametrize("kind", KINDS)
def test_all_agree_on_what_each_has_pushed(
    both: sides.Both, registries: registry.Registries, fresh: str, layers: list[bytes], kind: str
) -> None:
    plain, image = registries["plain"], KINDS[kind](layers[1:3])
    source = plain.reference(f"peers/seed-{kind}:1")
    registries.push(image, f"peers/seed-{kind}:1")
    pushed = {who: plain.reference(f"peers/{who}-{kind}:1") for who in WHO}
    both.each(lambda side: by_ctr(side, source, pushed[side.name], fresh))
    by_skopeo(source, pushed["skopeo"])
    by_client(both.corten, source, pushed["client"], fresh)
    for who in WHO:
        registries.check(image, f"peers/{who}-{kind}:1")
        both.each(lambda side, who=who: fetch(side, pushed[who], fresh))
        assert both.same(lambda side: digests(side, fresh)) == image.digests
        assert (
            images.digest(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{pushed[who]}")) == image.digest
        )
        with holdings.client(both.corten, f"{fresh}-client") as view:
            pulls.pull(view, pushed[who], platforms=(), unpack=False)
            assert view.images.get(pushed[who]).target.digest == image.digest
        assert digests(both.corten, f"{fresh}-client") == image.digests


@pytest.mark.parametrize("kind", ["index", "docker", "docker-list"])
def test_the_trees_are_equal(
    both: sides.Both, registries: registry.Registries, fresh: str, layers: list[bytes], kind: str
) -> None:
    """As ctr unpacks it into either daemon, and as Corten does by itself."""
    image = KINDS[kind](layers[1:])
    registries.push(image, f"peers/tree-{kind}:1")
    reference = registries["plain"].reference(f"peers/tree-{kind}:1")
    both.each(lambda side: side.output("images", "pull", "--plain-http", reference, namespace=fresh))
    with holdings.client(both.corten, f"{fresh}-client") as view:
        pulls.pull(view, reference)
    peer, corten = both.each(lambda side: holdings.tree(side, fresh, reference))
    own = holdings.tree(both.corten, f"{fresh}-client", reference)
    assert not trees.differences(peer, corten)
    assert not trees.differences(peer, own)
    assert {"data/link", "etc/marker"} <= own.keys()
