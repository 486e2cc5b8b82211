"""``corten`` works with Debian's containerd, too: it pulls and unpacks by itself there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

import corten
from benchmarks import daemons
from corten.terminal import running
from tests import registry, registry_images, sides

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def there(containerd_daemon: daemons.Daemon) -> Iterator[Run]:
    """Runs the command with containerd."""
    namespace = f"{sides.prefix('q')}1"
    environment = {
        **os.environ,
        "CORTEN_ADDRESS": containerd_daemon.address,
        "CORTEN_NAMESPACE": namespace,
    }

    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "corten.cli", *words]
        return subprocess.run(line, input=stdin, env=environment, capture_output=True, text=True, timeout=110)

    yield run
    with corten.connect(containerd_daemon.address, namespace) as client:
        for container in client.containers.list():
            running.remove(container)
        for image in client.images.list():
            client.images.delete(image.name, sync=True)


def test_it_pulls_runs_logs_and_removes(there: Run, registries: registry.Registries, layers: list[bytes]) -> None:
    registries.push(registry_images.simple("peer", layers[:1]), "command/peer:1")
    name = registries["plain"].reference("command/peer:1")
    done = there("run", "--rm", "-i", name, "sh", "-c", "cat; exit 3", stdin="in\n")
    assert (done.returncode, done.stdout) == (3, "in\n"), done.stderr
    assert there("run", "-d", "--name", "a", name, "sh", "-c", "echo out; exec sleep 1000").stdout == "a\n"
    deadline = time.monotonic() + 60
    while there("logs", "a").stdout != "out\n":
        assert time.monotonic() < deadline
    assert there("exec", "a", "echo", "hi").stdout == "hi\n"
    assert there("ps", "-q").stdout == "a\n"
    assert there("rm", "-f", "a").stdout == "a\n"
    assert there("images", "-q").stdout == f"{name}\n"
