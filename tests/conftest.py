"""Both daemons for the session, started when a test first asks, and a check at the end that nothing of them is left."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import daemons
from scripts import images
from tests import recorder, sides

PREFIXES = {"corten": "zqc-", "peer": "zqp-"}


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory with a short name on tmpfs. At the end, what was mounted or runs in it is an error."""
    before = traces()
    with daemons.scratch() as directory:
        yield directory
        left = daemons.mounts_below(directory)
    for path in set(os.listdir(FIFOS) if FIFOS.exists() else ()) - before["fifos"]:
        shutil.rmtree(FIFOS / path, ignore_errors=True)
    assert not left, f"still mounted: {left}"
    after = traces()
    for kind in ("loop devices", "linux network namespaces", "runc states"):
        assert not after[kind] - before[kind], f"{kind} left: {after[kind] - before[kind]}"


FIFOS = Path("/run/containerd/fifo")


def traces() -> dict[str, set[str]]:
    """What a careless test leaves on a machine."""
    loops = subprocess.run(["losetup", "--list", "--noheadings", "--output", "NAME"], capture_output=True, text=True)
    netns = Path("/run/netns")
    return {
        "loop devices": set(loops.stdout.split()),
        "linux network namespaces": set(os.listdir(netns) if netns.exists() else ()),
        "runc states": {str(path) for path in Path("/").glob(daemons.SHIM_STATES)},
        "fifos": set(os.listdir(FIFOS) if FIFOS.exists() else ()),
    }


@pytest.fixture(scope="session")
def corten_daemon(scratch: Path) -> Iterator[daemons.Daemon]:
    yield from served(start_first(scratch / "c"))


@pytest.fixture(scope="session")
def containerd_daemon(scratch: Path) -> Iterator[daemons.Daemon]:
    yield from served(daemons.start_containerd(scratch / "p"))


def start_first(directory: Path) -> daemons.Daemon:
    """Corten; or containerd once more, to see that the comparison itself finds no difference."""
    if os.environ.get("CORTEN_TEST_PEERS_ONLY"):
        return daemons.start_containerd(directory)
    return daemons.start_corten(directory)


def served(daemon: daemons.Daemon) -> Iterator[daemons.Daemon]:
    try:
        yield daemon
    finally:
        log = daemon.log.read_text(errors="replace")
        daemon.stop()
        sys.stderr.write(f"\n{daemon.name}'s log ends:\n{log[-3000:]}\n")
    assert not daemon.leftovers(), f"processes of {daemon.name} left: {daemon.leftovers()}"


@pytest.fixture(scope="session")
def busybox(scratch: Path) -> Path:
    """An OCI archive of the image docker.io/library/busybox:latest."""
    return images.write_busybox(scratch / "busybox.tar")


@pytest.fixture(scope="session")
def make_side(scratch: Path, busybox: Path) -> Iterator[Callable[[daemons.Daemon, str], sides.Side]]:
    made: list[sides.Side] = []

    def make(daemon: daemons.Daemon, prefix: str) -> sides.Side:
        directory = scratch / f"work-{prefix}"
        directory.mkdir()
        side = sides.Side(daemon, recorder.Recorder(daemon.address), prefix, directory)
        side.recorder.start()
        made.append(side)
        side.output("images", "import", str(busybox))
        return side

    yield make
    for side in made:
        side.recorder.close()


@pytest.fixture(scope="session")
def corten(corten_daemon: daemons.Daemon, make_side: Callable[[daemons.Daemon, str], sides.Side]) -> sides.Side:
    return make_side(corten_daemon, PREFIXES["corten"])


@pytest.fixture(scope="session")
def containerd(containerd_daemon: daemons.Daemon, make_side: Callable[[daemons.Daemon, str], sides.Side]) -> sides.Side:
    return make_side(containerd_daemon, PREFIXES["peer"])


@pytest.fixture(scope="session")
def both(corten: sides.Side, containerd: sides.Side) -> sides.Both:
    """Corten and Debian's containerd, both with busybox in the namespace ``default``."""
    return sides.Both(corten, containerd)


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Removes what a failed test has left in the namespace ``default``, so that the next one does not fail of it."""
    yield
    if "both" in request.fixturenames:
        request.getfixturevalue("both").each(tidy_side)


def tidy_side(side: sides.Side) -> None:
    for task in side.output("tasks", "ls", "-q").split():
        side.ctr("tasks", "rm", "-f", task)
    for container in side.output("containers", "ls", "-q").split():
        side.ctr("containers", "rm", container)
    for row in side.output("snapshots", "ls").splitlines()[1:]:
        if not row.startswith("sha256:"):
            side.ctr("snapshots", "rm", row.split()[0])


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> str:
    """The name of a namespace that no other test uses; ``@`` in it is resolved per side."""
    return f"@{next(NUMBERS)}"


NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def layers() -> list[bytes]:
    """Four layers: busybox; files, links and owners; what is changed and removed; a directory made opaque."""
    return [images.busybox_layer(), *(images.tar(entries) for entries in (FILES, CHANGES, OPAQUE))]


FILES = [
    images.directory("data", 0o750, 12, 34),
    images.Entry("data/first", b"first\n", mode=0o4755, uid=12, gid=34, mtime=1700000000.123456),
    images.Entry("data/second", b"second\n", pax={"SCHILY.xattr.user.color": "blue"}),
    images.hardlink("data/third", "data/second", 0o644),
    images.symlink("data/link", "../etc/passwd"),
    images.directory("old"),
    images.Entry("old/a", b"a"),
    images.Entry("old/b", b"b"),
    images.directory("replaced"),
    images.Entry("replaced/inner", b"inner"),
    images.Entry("pipe", kind=tarfile.FIFOTYPE, mode=0o600),
    images.Entry("null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
    images.Entry("a-long-name/" + "x" * 120 + "/" + "y" * 120, b"long"),
]
CHANGES = [
    images.Entry("data/first", b"changed\n", mode=0o600),
    images.Entry("data/.wh.third"),
    images.Entry("replaced", b"a file now\n"),
    images.Entry("etc/motd", b"hello\n"),
]
OPAQUE = [
    images.directory("old"),
    images.Entry("old/.wh..wh..opq"),
    images.Entry("old/c", b"c"),
    images.Entry(".wh.pipe"),
]


@pytest.fixture(scope="session")
def archives(scratch: Path, layers: list[bytes], busybox: Path) -> dict[str, Path]:
    """Archives by name: oci, oci-gzip, oci-zstd and oci-none, docker and docker-gzip; all but ``oci`` of four layers.

    Each holds the image ``example.test/NAME:1``; ``oci`` holds busybox.
    """
    made = {"oci": busybox}
    for compression in ("gzip", "zstd", "none"):
        name = f"oci-{compression}"
        files = images.oci_files(layers, f"example.test/{name}:1", compression)
        made[name] = images.write_archive(scratch / f"{name}.tar", files)
    for name, compression in (("docker", "none"), ("docker-gzip", "gzip")):
        files = images.docker_files(layers, f"example.test/{name}:1", compression)
        made[name] = images.write_archive(scratch / f"{name}.tar", files)
    return made
