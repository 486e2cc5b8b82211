"""The ``corten`` command in a namespace of the test's own, which is emptied at the end."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click.testing
import pytest

import corten
from benchmarks import daemons
from corten import cli
from corten.terminal import running
from tests import sides

Run = Callable[..., subprocess.CompletedProcess[str]]
Invoke = Callable[..., click.testing.Result]
NUMBERS = itertools.count(1)


@pytest.fixture
def namespace(corten_daemon: daemons.Daemon) -> Iterator[str]:
    name = f"{sides.prefix('n')}{next(NUMBERS)}"
    yield name
    with corten.connect(corten_daemon.address, name) as client:
        empty(client)


def empty(client: corten.Client) -> None:
    for container in client.containers.list():
        running.remove(container)
    for image in client.images.list():
        client.images.delete(image.name, sync=True)
    for snapshotter in ("overlayfs", "native"):
        storage = client.snapshotter(snapshotter)
        for info in sorted(storage.walk(), key=lambda info: info.created_at, reverse=True):
            storage.remove(info.name)


@pytest.fixture
def client(corten_daemon: daemons.Daemon, namespace: str) -> Iterator[corten.Client]:
    with corten.connect(corten_daemon.address, namespace) as client:
        yield client


@pytest.fixture
def environment(corten_daemon: daemons.Daemon, namespace: str) -> dict[str, str]:
    return {**os.environ, "CORTEN_ADDRESS": corten_daemon.address, "CORTEN_NAMESPACE": namespace}


@pytest.fixture
def command(environment: dict[str, str]) -> Run:
    """Runs the command as a program; ``more`` are variables of its environment."""

    def run(*arguments: str, stdin: str | None = "", **more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "corten.cli", *arguments]
        return subprocess.run(
            line, input=stdin, capture_output=True, text=True, timeout=100, env={**environment, **more}
        )

    return run


@pytest.fixture
def invoke(environment: dict[str, str]) -> Invoke:
    """Runs the command in this process, which is quicker; for what does not touch the process's own streams."""

    def run(*arguments: str, code: int = 0) -> click.testing.Result:
        result = click.testing.CliRunner().invoke(cli.main, arguments, env=environment, prog_name="corten")
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def imported(corten_daemon: daemons.Daemon, namespace: str, busybox: Path) -> str:
    """Busybox is there and unpacked; its name as people type it."""
    corten_daemon.ctr("images", "import", str(busybox), namespace=namespace, check=True)
    return "busybox"
