"""Debian's ctr, skopeo and Corten's own client agree on images that each of them pushed, and trees are equal."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests import holdings, registry, registry_images, sides

pytestmark = [pytest.mark.root, pytest.mark.peer]
Made = Callable[[], registry_images.Image]


def artifact() -> registry_images.Image:
    return registry_images.artifact("peers", registry_images.simple("subject").root)


KINDS: dict[str, Made] = {
    "index": lambda: registry_images.two_platforms("peers"),
    "docker": lambda: registry_images.docker_v2("peers"),
    "docker-list": lambda: registry_images.docker_v2("peers-listed", listed=True),
    "artifact": artifact,
}


def by_ctr(side: sides.Side, source: str, target: str, namespace: str) -> None:
    side.output("content", "fetch", "--plain-http", "--all-platforms", source, namespace=namespace)
    side.output("images", "push", "--plain-http", target, source, namespace=namespace)
    holdings.forget(side, namespace)


def by_skopeo(source: str, target: str) -> None:
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    command = ["skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", *plain]
    done = subprocess.run([*command, f"docker://{source}", f"docker://{target}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_has_pushed_is_the_image(
    both: sides.Both, registries: registry.Registries, fresh: str, kind: str
) -> None:
    plain, image = registries["plain"], KINDS[kind]()
    source = plain.reference(f"peers/seed-{kind}:1")
    registries.push(image, f"peers/seed-{kind}:1")
    both.each(lambda side: by_ctr(side, source, plain.reference(f"peers/{side.name}-{kind}:1"), fresh))
    by_skopeo(source, plain.reference(f"peers/skopeo-{kind}:1"))
    for name in ("containerd", "corten", "skopeo"):
        registries.check(image, f"peers/{name}-{kind}:1")
