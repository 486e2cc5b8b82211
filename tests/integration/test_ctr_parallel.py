"""Many clients at once, and a daemon that is killed among them."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import daemons
from scripts import images
from tests.recorder import Recorder
from tests.sides import Side, prefix

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
BUSYBOX = images.BUSYBOX


@pytest.fixture
def mortal(scratch: Path) -> Iterator[Side]:
    """A cortend of the test's own, without images."""
    daemon = daemons.start_corten(scratch / "k")
    try:
        yield Side(daemon, Recorder(daemon.address), prefix("k"), scratch / "work-k")
    finally:
        daemon.stop()
    assert not daemon.leftovers()


def test_containers_run_side_by_side(corten: Side) -> None:
    def run(number: int) -> str:
        script = f"echo {number}; exit {number}"
        done = corten.ctr("run", "--rm", BUSYBOX, f"@side-{number}", "/bin/sh", "-c", script)
        return f"{done.stdout.decode()}{done.returncode}"

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(24))) == [f"{number}\n{number}" for number in range(24)]
    assert corten.output("containers", "ls", "-q") == corten.output("tasks", "ls", "-q") == ""


def test_execs_run_side_by_side(corten: Side) -> None:
    corten.output("run", "-d", BUSYBOX, "@execs", "/bin/sleep", "600")

    def run(number: int) -> str:
        line = ("tasks", "exec", "--exec-id", f"e{number}", "@execs", "/bin/sh", "-c", f"echo {number}; exit {number}")
        done = corten.ctr(*line)
        return f"{done.stdout.decode()}{done.returncode}"

    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(run, range(16))) == [f"{number}\n{number}" for number in range(16)]
        assert len(corten.output("tasks", "ps", "@execs").splitlines()) == 2
    finally:
        corten.ctr("tasks", "rm", "-f", "@execs")
        corten.ctr("containers", "rm", "@execs")


def test_the_same_image_is_imported_by_many_at_once(corten: Side, fresh: str, archives: dict[str, Path]) -> None:
    def run(_: int) -> int:
        return corten.ctr("images", "import", str(archives["oci-gzip"]), namespace=fresh).returncode

    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(run, range(6)))
    assert 0 in codes
    assert corten.ctr("images", "import", str(archives["oci-gzip"]), namespace=fresh).returncode == 0
    assert corten.output("snapshots", "ls", namespace=fresh).count("Committed") == 4
    line = ("run", "--rm", "example.test/oci-gzip:1", "@many", "/bin/cat", "/old/c")
    assert corten.output(*line, namespace=fresh) == "c"


def test_a_daemon_killed_while_it_works_loses_nothing_it_has_answered(mortal: Side, archives: dict[str, Path]) -> None:
    chance = random.Random(7)
    for round_ in range(6):
        namespace = f"@{round_}"
        line = mortal.argv("images", "import", str(archives["oci-gzip"]), namespace=namespace)
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            time.sleep(chance.uniform(0.02, 0.35))
            mortal.daemon.kill()
            client.kill()
            client.communicate()
            answered = client.returncode == 0
        mortal.daemon.start()
        if answered:
            assert "example.test/oci-gzip:1" in mortal.output("images", "ls", "-q", namespace=namespace)
        mortal.output("images", "import", str(archives["oci-gzip"]), namespace=namespace)
        run = ("run", "--rm", "example.test/oci-gzip:1", "@well", "/bin/sh", "-c", "cat /old/c /data/second /etc/motd")
        assert mortal.output(*run, namespace=namespace) == "csecond\nhello\n"


def test_a_daemon_killed_while_containers_start_knows_each_or_none_of_it(mortal: Side, busybox: Path) -> None:
    mortal.output("images", "import", str(busybox))
    chance = random.Random(11)
    for round_ in range(6):
        line = mortal.argv("run", "-d", BUSYBOX, f"@start-{round_}", "/bin/sleep", "600")
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            time.sleep(chance.uniform(0.02, 0.2))
            mortal.daemon.kill()
            client.kill()
            client.communicate()
        mortal.daemon.start()
        for task in mortal.output("tasks", "ls", "-q").split():
            mortal.output("tasks", "rm", "-f", task)
        for container in mortal.output("containers", "ls", "-q").split():
            mortal.output("containers", "rm", container)
        mortal.ctr("snapshots", "rm", f"@start-{round_}")
        assert mortal.output("run", "--rm", BUSYBOX, f"@start-{round_}", "/bin/echo", "again") == "again\n"
    bundles = mortal.daemon.state / "io.containerd.runtime.v2.task/default"
    assert list(bundles.iterdir()) == []
