"""Every example of docs/client.md, and that of the README, run against Corten and against Debian's containerd."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import daemons
from scripts import images
from tests import clients, registry, registry_images, sides

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.engine]

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"^#+ (?P<title>[^\n]+)$|^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
HOST = "docker.io/library"
TREE = [*images.busybox_entries(), *(images.directory(name) for name in ("data", "proc", "dev", "sys", "run", "tmp"))]


def examples() -> Iterator[pytest.param]:
    title = ""
    for found in EXAMPLE.finditer((ROOT / "docs/client.md").read_text() + (ROOT / "README.md").read_text()):
        title = found["title"] or title
        if found["code"]:
            yield pytest.param(found["code"], id=re.sub(r"[^a-z]+", "-", title.lower()).strip("-"))


@pytest.fixture(scope="module")
def repository(registries: registry.Registries) -> str:
    """Where the images of the examples are, instead of on Docker Hub."""
    image = registry_images.two_platforms("examples", [images.tar(TREE)])
    registries.push(image, "examples/busybox:latest")
    return registries["plain"].reference("examples")


@pytest.fixture(scope="module", params=["corten", "containerd"])
def daemon(request: pytest.FixtureRequest) -> daemons.Daemon:
    found: daemons.Daemon = request.getfixturevalue(f"{request.param}_daemon")
    return found


@pytest.fixture(scope="module")
def namespace(daemon: daemons.Daemon) -> Iterator[str]:
    name = f"{sides.prefix('x')}examples"
    with clients.connected(daemon.address, name, "elsewhere"):
        yield name


@pytest.mark.parametrize("code", list(examples()))
def test_an_example_runs(code: str, daemon: daemons.Daemon, namespace: str, repository: str) -> None:
    environment = {"CORTEN_ADDRESS": daemon.address, "CORTEN_NAMESPACE": namespace, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code.replace(HOST, repository)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
