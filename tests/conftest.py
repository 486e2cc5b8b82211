"""Both daemons for the session, started when a test first asks, and a check at the end that nothing of them is left."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import daemons
from scripts import images
from tests import recorder, registry, sides

# Where these are set pytest explains each difference in full, which for some hundred kilobytes takes hours, in which no
# other thread gets far: mutants of the content store fail like that in threads.
for _name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(_name, None)

MakeSide = Callable[..., sides.Side]
FIFOS = Path("/run/containerd/fifo")
NETNS = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory with a short name on tmpfs. At the end, what is still mounted or kept of it is an error."""
    spaces = entries(NETNS)
    with daemons.scratch("" if takes_attributes("/dev/shm") else "4G") as directory:
        yield directory
        left = traces(directory)
    assert not left, f"left: {left}"
    own = f"{sides.prefix('')[:-1]}*"
    for fifo in FIFOS.glob(f"*/{own}"):  # ctr leaves those of detached containers
        shutil.rmtree(fifo.parent, ignore_errors=True)
    for cgroup in [*CGROUPS.glob(own), *CGROUPS.glob(f"*/{own}")]:  # engines leave the one of a namespace, empty
        cgroup.rmdir()
    end = time.monotonic() + 60
    while spaces_left := entries(NETNS) - spaces:  # or those of tests in another process, which end
        assert time.monotonic() < end, f"linux network namespaces left: {spaces_left}"
        time.sleep(0.1)


def entries(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.exists() else set()


def traces(directory: Path) -> list[str]:
    """Mounts, loop devices and runc's records that a careless test has left in ``directory``."""
    rows = subprocess.run(["losetup", "--list", "-nO", "BACK-FILE"], capture_output=True, text=True).stdout.split()
    loops = [f"loop device of {row}" for row in rows if row.startswith(f"{directory}/")]
    mounts = [f"mount at {target}" for target in daemons.mounts_below(directory) if target != str(directory)]
    states = [
        path for path in Path("/").glob(daemons.SHIM_STATES) if str(directory) in path.read_text(errors="replace")
    ]
    return [*loops, *mounts, *(f"record {path}" for path in states)]


def takes_attributes(folder: str) -> bool:
    """Whether files there can have extended attributes of users; tmpfs before linux 6.6 has none."""
    with tempfile.NamedTemporaryFile(dir=folder) as probe:
        try:
            os.setxattr(probe.name, "user.probe", b"")
        except OSError:
            return False
        return True


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
def registries(scratch: Path) -> Iterator[registry.Registries]:
    """Debian's docker-registry, of each kind that is asked for: tests/registry.py says how to use it."""
    with registry.started(scratch / "reg", sides.prefix("y")[:-1]) as made:
        yield made


@pytest.fixture(scope="session")
def busybox(scratch: Path) -> Path:
    """An OCI archive of the image docker.io/library/busybox:latest."""
    return images.write_busybox(scratch / "busybox.tar")


@pytest.fixture(scope="session")
def make_side(scratch: Path, busybox: Path) -> Iterator[MakeSide]:
    """``make_side(daemon, prefix, ctr="")``: a side with busybox in its namespace ``default``."""
    made: list[sides.Side] = []

    def make(daemon: daemons.Daemon, prefix: str, ctr: str = "") -> sides.Side:
        directory = scratch / f"work-{prefix}"
        directory.mkdir()
        side = sides.Side(daemon, recorder.Recorder(daemon.address), prefix, directory, ctr)
        side.recorder.start()
        made.append(side)
        side.output("images", "import", str(busybox))
        return side

    yield make
    for side in made:
        side.recorder.close()


@pytest.fixture(scope="session")
def corten(corten_daemon: daemons.Daemon, make_side: MakeSide) -> sides.Side:
    return make_side(corten_daemon, sides.prefix("c"))


@pytest.fixture(scope="session")
def containerd(containerd_daemon: daemons.Daemon, make_side: MakeSide) -> sides.Side:
    return make_side(containerd_daemon, sides.prefix("p"))


@pytest.fixture(scope="session")
def both(corten: sides.Side, containerd: sides.Side) -> sides.Both:
    """Corten and Debian's containerd, both with busybox in the namespace ``default``."""
    return sides.Both(corten, containerd)


@pytest.fixture(scope="session")
def later(scratch: Path, corten_daemon: daemons.Daemon, make_side: MakeSide) -> Iterator[sides.Both]:
    """Corten and containerd 1.7, both with ctr of 1.7."""
    yield from beside("trixie", scratch / "q", corten_daemon, make_side, "dq")


@pytest.fixture(scope="session")
def newest(scratch: Path, corten_daemon: daemons.Daemon, make_side: MakeSide) -> Iterator[sides.Both]:
    """Corten and containerd 2.x, both with ctr of 2.x."""
    yield from beside("sid", scratch / "n", corten_daemon, make_side, "mn")


def beside(
    suite: str, directory: Path, corten: daemons.Daemon, make_side: MakeSide, letters: str
) -> Iterator[sides.Both]:
    daemon = daemons.start_containerd(directory, peer=package(suite))
    try:
        ctr = daemon.ctr_path
        ours = make_side(dataclasses.replace(corten), sides.prefix(letters[0]), ctr)
        yield sides.Both(ours, make_side(daemon, sides.prefix(letters[1]), ctr))
    finally:
        daemon.stop()
    assert not daemon.leftovers()


def package(suite: str) -> Path:
    """The containerd package of a later Debian release, unpacked once for this user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / f"corten/containerd-{suite}"
    done = subprocess.run(["sh", ROOT / "scripts/peer", suite, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(done.stderr.strip())
    return folder


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Removes what a failed test has left in the namespace ``default``, so that the next one does not fail of it."""
    yield
    for name in {"both", "later", "newest"} & set(request.fixturenames):
        request.getfixturevalue(name).each(tidy_side)


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
