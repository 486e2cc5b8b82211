"""Debian's containerd as a third-party proxy plugin: its own socket serves the API that proxy plugins serve.

Its own clients go on using it meanwhile; nothing of theirs may be touched.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import daemons
from plugin_sdk import plugin
from plugin_sdk.snapshots import Kind
from scripts import images
from tests.calls import ask
from tests.recorder import Recorder
from tests.sides import Side, prefix

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
BUSYBOX = images.BUSYBOX
OURS = re.compile(r"[\w.-]+/\d{4,}/")
"""How a key begins that Corten gave to a plugin; those of another daemon, which this one does not know, look alike."""
FOREIGN = ("its-own", "default/7/its-own", "sha256:" + "7" * 64)

SNAPSHOTTER = """
disabled_plugins = ["io.containerd.snapshotter.v1.native"]
[proxy_plugins.native]
type = "snapshot"
address = "{address}"
grace = "20s"
"""

ALL_THREE = """
disabled_plugins = [
  "io.containerd.snapshotter.v1.native", "io.containerd.content.v1.content", "io.containerd.differ.v1.walking",
]
[proxy_plugins]
  [proxy_plugins.native]
    type = "snapshot"
    address = "{address}"
    grace = "20s"
  [proxy_plugins.its-content]
    type = "content"
    address = "{address}"
    grace = "20s"
  [proxy_plugins.its-differ]
    type = "diff"
    address = "{address}"
    grace = "20s"
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Corten over a containerd; on both, ``native`` is containerd's snapshotter."""

    corten: Side
    peer: Side

    def shown(self, side: Side, namespace: str = "default") -> dict[str, str]:
        """Snapshots of ``native``: key, which may hold spaces, → kind."""
        answer = ask(side, "Snapshots/List", {"snapshotter": "native"}, namespace=namespace)
        assert answer.code == "OK", answer
        return {
            info["name"]: Kind(info["kind"]).name.title() for part in answer.messages for info in part.get("info", ())
        }

    def placed(self, namespace: str = "default") -> set[str]:
        """Keys, as Corten's clients know them, of what the peer holds for Corten."""
        return {OURS.sub("", key, count=1) for key in self.shown(self.peer, namespace) if OURS.match(key)}

    def own(self, namespace: str = "default") -> tuple[dict[str, str], list[str], list[str]]:
        """What the peer holds for clients of its own: snapshots, images, blobs."""
        kept = {key: kind for key, kind in self.shown(self.peer, namespace).items() if not OURS.match(key)}
        names = self.peer.output("images", "ls", "-q", namespace=namespace).split()
        return kept, names, sorted(self.peer.output("content", "ls", "-q", namespace=namespace).split())

    def blobs(self, side: Side, namespace: str) -> set[str]:
        return set(side.output("content", "ls", "-q", namespace=namespace).split())

    def restart(self) -> None:
        """Of Corten, as a crash."""
        self.corten.daemon.kill()
        self.corten.daemon.start()


def native(side: Side, *line: str, namespace: str = "default") -> str:
    return side.output("snapshots", "--snapshotter", "native", *line, namespace=namespace)


def wait_until(true: Callable[[], object], timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def files_of(pair: Pair, key: str, namespace: str = "default") -> Path:
    answer = ask(pair.corten, "Snapshots/Mounts", {"snapshotter": "native", "key": key}, namespace=namespace)
    return Path(answer.messages[0]["mounts"][0]["source"])


@pytest.fixture(scope="module")
def pair(scratch: Path, busybox: Path) -> Iterator[Pair]:
    yield from paired(scratch / "n", SNAPSHOTTER, busybox)


@pytest.fixture(scope="module")
def whole(scratch: Path, busybox: Path) -> Iterator[Pair]:
    """Content and layers, too, are containerd's."""
    yield from paired(scratch / "w", ALL_THREE, busybox)


def paired(directory: Path, config: str, busybox: Path) -> Iterator[Pair]:
    """A pair of a directory of its own, the peer with an image, a snapshot and a blob of its own in two namespaces."""
    peer = daemons.start_containerd(directory / "p")
    started = [peer]
    try:
        file = directory / "plugins.toml"
        file.write_text(config.format(address=peer.address))
        started.append(daemons.start_corten(directory / "c", "--config", str(file)))
        sides = [Side(one, Recorder(one.address), prefix(one.directory.name[0]), directory) for one in started]
        for namespace in ("default", "elsewhere"):
            sides[0].output("images", "import", "--snapshotter", "native", str(busybox), namespace=namespace)
            for key in FOREIGN:
                native(sides[0], "prepare", key, namespace=namespace)
            sides[0].ctr("content", "ingest", "its-own", stdin=namespace.encode(), namespace=namespace)
        yield Pair(sides[1], sides[0])
    finally:
        for daemon in reversed(started):
            daemon.stop()
    assert not [pid for daemon in started for pid in daemon.leftovers()]


@pytest.fixture(autouse=True)
def spares_the_peers_own(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does: containerd's own clients find all that they made."""
    pairs = [request.getfixturevalue(name) for name in ("pair", "whole") if name in request.fixturenames]
    before = [(pair, name, pair.own(name)) for pair in pairs for name in ("default", "elsewhere")]
    yield
    for pair, name, own in before:
        assert {*FOREIGN} < own[0].keys() and all(own), own
        assert pair.own(name) == own


@pytest.fixture
def imported(pair: Pair, busybox: Path) -> str:
    """The chain ID of busybox, unpacked by Corten on the peer."""
    pair.corten.output("images", "import", "--snapshotter", "native", str(busybox))
    (chain,) = [key for key, kind in pair.shown(pair.corten).items() if kind == "Committed"]
    return chain


def test_an_image_is_unpacked_and_runs_on_containerds_snapshots(pair: Pair, imported: str) -> None:
    line = ("run", "--rm", "--snapshotter", "native", BUSYBOX, "@run", "/bin/sh", "-c")
    assert pair.corten.output(*line, "echo hello > /file; cat /file") == "hello\n"
    assert pair.shown(pair.corten) == {imported: "Committed"}
    wait_until(lambda: pair.placed() == {imported})


def test_what_a_container_writes_lies_in_containerds_directory(pair: Pair, imported: str) -> None:
    pair.corten.output("run", "-d", "--snapshotter", "native", BUSYBOX, "@lies", "/bin/sh", "-c", "sleep 100")
    try:
        files = files_of(pair, "@lies")
        assert files.is_relative_to(pair.peer.daemon.root)
        pair.corten.output("tasks", "exec", "--exec-id", "touch", "@lies", "/bin/touch", "/touched")
        assert (files / "touched").exists()
    finally:
        pair.corten.output("tasks", "rm", "-f", "@lies")
        pair.corten.output("containers", "rm", "@lies")
    wait_until(lambda: pair.placed() == {imported})


def test_snapshots_lie_in_the_namespace_of_the_caller_and_are_removed_from_there(pair: Pair) -> None:
    """containerd refuses calls without a namespace, so this also shows that each carries one, the reaper's too."""
    for namespace in ("elsewhere", "third"):
        native(pair.corten, "prepare", "active", namespace=namespace)
        native(pair.corten, "commit", "layer", "active", namespace=namespace)
        native(pair.corten, "prepare", "child", "layer", namespace=namespace)
        assert pair.placed(namespace) == {"layer", "child"}
    assert not {"layer", "child"} & pair.placed()
    native(pair.corten, "rm", "child", namespace="elsewhere")
    native(pair.corten, "rm", "layer", namespace="elsewhere")
    wait_until(lambda: not pair.placed("elsewhere"))
    assert pair.placed("third") == {"layer", "child"}
    native(pair.corten, "rm", "child", namespace="third")
    wait_until(lambda: pair.placed("third") == {"layer"})
    native(pair.corten, "rm", "layer", namespace="third")
    wait_until(lambda: not pair.shown(pair.peer, "third"))


def test_labels_and_usage_come_from_containerd(pair: Pair) -> None:
    native(pair.corten, "prepare", "labelled")
    native(pair.corten, "label", "labelled", "containerd.io/snapshot/colour=blue")
    (key,) = [key for key in pair.shown(pair.peer) if key.endswith("/labelled")]
    for side, name in ((pair.corten, "labelled"), (pair.peer, key)):
        found = json.loads(native(side, "info", name))
        assert found["Kind"] == "Active"
        assert found["Labels"]["containerd.io/snapshot/colour"] == "blue"
    usage = [native(side, "usage", name).split()[-2:] for side, name in ((pair.corten, "labelled"), (pair.peer, key))]
    assert usage[0] == usage[1]
    native(pair.corten, "rm", "labelled")


def test_a_key_that_containerds_own_clients_use_is_free_for_cortens(pair: Pair) -> None:
    native(pair.corten, "prepare", "its-own")
    native(pair.corten, "rm", "its-own")
    wait_until(lambda: "its-own" not in pair.placed())


def test_a_crash_of_corten_loses_nothing_and_leaves_nothing(pair: Pair, imported: str) -> None:
    for number in range(12):
        native(pair.corten, "prepare", f"dropped-{number}", imported)
    native(pair.corten, "prepare", "kept", imported)
    requests = [{"snapshotter": "native", "key": f"dropped-{number}"} for number in range(12)]
    for request in requests:
        assert ask(pair.corten, "Snapshots/Remove", request).code == "OK"
    pair.restart()
    assert pair.shown(pair.corten) == {imported: "Committed", "kept": "Active"}
    wait_until(lambda: pair.placed() == {imported, "kept"})
    assert (
        pair.corten.output("run", "--rm", "--snapshotter", "native", BUSYBOX, "@again", "/bin/echo", "yes") == "yes\n"
    )
    native(pair.corten, "rm", "kept")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_calls_wait_while_containerd_restarts(pair: Pair, imported: str, end: signal.Signals) -> None:
    daemon = pair.peer.daemon
    os.kill(daemon.pid, end)
    assert daemon.process is not None
    daemon.process.wait(120)
    found: list[str] = []
    line = ("run", "--rm", "--snapshotter", "native", BUSYBOX, f"@waits-{end:d}", "/bin/echo", "waited")
    caller = threading.Thread(target=lambda: found.append(pair.corten.output(*line)))
    caller.start()
    try:
        pair.corten.output("snapshots", "ls")  # of overlayfs: everything else goes on
        caller.join(0.7)
        assert caller.is_alive()
    finally:
        daemon.start()
        caller.join(120)
    assert found == ["waited\n"]
    wait_until(lambda: pair.placed() == {imported})


def test_what_was_removed_while_containerd_was_away_is_removed_when_it_is_back(pair: Pair, imported: str) -> None:
    native(pair.corten, "prepare", "late", imported)
    assert pair.placed() == {imported, "late"}
    assert pair.peer.daemon.terminate() == 0
    try:
        native(pair.corten, "rm", "late")
        assert pair.shown(pair.corten) == {imported: "Committed"}
        pair.restart()
    finally:
        pair.peer.daemon.start()
    wait_until(lambda: pair.placed() == {imported})


def test_its_containers_run_on_while_containerd_restarts(pair: Pair, imported: str) -> None:
    script = "while sleep 0.1; do echo x >> /written; done"
    pair.corten.output("run", "-d", "--snapshotter", "native", BUSYBOX, "@runs", "/bin/sh", "-c", script)
    written = files_of(pair, "@runs") / "written"
    wait_until(written.exists)
    assert pair.peer.daemon.terminate() == 0
    try:
        before = written.stat().st_size
        wait_until(lambda: written.stat().st_size > before)
    finally:
        pair.peer.daemon.start()
        pair.corten.output("tasks", "rm", "-f", "@runs")
        pair.corten.output("containers", "rm", "@runs")
    wait_until(lambda: pair.placed() == {imported})


# --- all three at one socket

IMAGE = "example.test/oci-gzip:1"
LAYERS = 4


def fill(whole: Pair, archives: dict[str, Path], namespace: str) -> None:
    whole.corten.output("images", "import", "--snapshotter", "native", str(archives["oci-gzip"]), namespace=namespace)


def run(whole: Pair, namespace: str, *line: str, keep: bool = False) -> str:
    name, *command = line
    kept = [] if keep else ["--rm"]
    return whole.corten.output("run", *kept, "--snapshotter", "native", IMAGE, name, *command, namespace=namespace)


def clear(whole: Pair, namespace: str) -> None:
    """By Corten's own clients; afterwards the peer has nothing of it."""
    corten = whole.corten
    for kind in ("containers", "images"):
        for name in corten.output(kind, "ls", "-q", namespace=namespace).split():
            corten.output(kind, "rm", name, namespace=namespace)
    for digest in whole.blobs(corten, namespace):
        corten.output("content", "rm", digest, namespace=namespace)
    for _ in range(LAYERS + 2):  # children first
        for key in whole.shown(corten, namespace):
            corten.ctr("snapshots", "--snapshotter", "native", "rm", key, namespace=namespace)
    assert not whole.shown(corten, namespace)
    for ref in corten.output("content", "active", namespace=namespace).splitlines()[1:]:
        assert ask(corten, "Content/Abort", {"ref": ref.split()[0]}, namespace=namespace).code == "OK"
    wait_until(lambda: not whole.shown(whole.peer, namespace))
    wait_until(lambda: not whole.blobs(whole.peer, namespace))
    wait_until(lambda: not whole.peer.output("content", "active", namespace=namespace).splitlines()[1:])


@pytest.fixture
def namespace(whole: Pair) -> Iterator[str]:
    """One that no other test uses; empty again at the end, on both sides."""
    name = f"whole-{next(NUMBERS)}"
    yield name
    clear(whole, name)


NUMBERS = itertools.count(1)


def test_an_image_is_imported_unpacked_and_run_by_containerd_alone(
    whole: Pair, namespace: str, archives: dict[str, Path]
) -> None:
    plugins = [line.split()[:2] for line in whole.corten.output("plugins", "ls").splitlines()]
    names = [name for kind, name in plugins if kind in (plugin.CONTENT, plugin.DIFFER)]
    assert names == ["its-content", "its-differ"]
    fill(whole, archives, namespace)
    blobs = whole.blobs(whole.corten, namespace)
    assert len(blobs) == LAYERS + 3  # an index, a manifest, a config
    assert whole.blobs(whole.peer, namespace) == blobs
    assert len(whole.shown(whole.peer, namespace)) == LAYERS
    shown = run(whole, namespace, "@alone", "cat", "/data/first", "/etc/motd", "/old/c")
    assert shown == "changed\nhello\nc"


def test_a_blob_of_two_namespaces_stays_until_both_have_removed_it(
    whole: Pair, namespace: str, archives: dict[str, Path]
) -> None:
    first, second = f"{namespace}-first", f"{namespace}-second"
    for one in (first, second):
        fill(whole, archives, one)
    blobs = whole.blobs(whole.corten, first)
    assert whole.blobs(whole.corten, second) == blobs
    for digest in blobs:
        read = [whole.corten.ctr("content", "get", digest, namespace=one).stdout for one in (first, second)]
        assert ["sha256:" + hashlib.sha256(data).hexdigest() for data in read] == [digest, digest]
    for digest in blobs:
        whole.corten.output("content", "rm", digest, namespace=first)
    assert not whole.blobs(whole.corten, first)
    whole.restart()
    for digest in blobs:
        assert whole.corten.ctr("content", "get", digest, namespace=second).stdout
    clear(whole, second)
    clear(whole, first)


def test_a_blob_that_one_namespace_asks_for_by_its_digest_is_shared(whole: Pair, namespace: str) -> None:
    """No byte of it is sent a second time."""
    other, data = f"{namespace}-other", b"shared by digest"
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    start = {"action": "WRITE", "ref": "shared", "total": len(data), "expected": digest}
    written = ask(whole.corten, "Content/Write", {**start, "action": "COMMIT", "data": data}, namespace=namespace)
    assert written.code == "OK"
    commit = {"action": "COMMIT", "offset": len(data), "total": len(data), "expected": digest}
    shared = ask(whole.corten, "Content/Write", {**start, "action": "STAT"}, commit, namespace=other)
    assert shared.code == "OK", shared
    assert whole.blobs(whole.corten, other) == {digest}
    whole.corten.output("content", "rm", digest, namespace=namespace)
    assert whole.corten.ctr("content", "get", digest, namespace=other).stdout == data
    clear(whole, other)


def test_containerd_compares_what_a_container_has_changed(
    whole: Pair, namespace: str, archives: dict[str, Path]
) -> None:
    fill(whole, archives, namespace)
    run(whole, namespace, "@changes", "/bin/sh", "-c", "echo new > /new; rm /old/c", keep=True)
    diff = ("snapshots", "--snapshotter", "native", "diff", "--keep", "--label", "made-by=its-differ")
    diff = (*diff, "--media-type", images.LAYER_TYPES["gzip"])
    before = whole.blobs(whole.corten, namespace)
    packed = whole.corten.ctr(*diff, "@changes", namespace=namespace)
    assert packed.returncode == 0, packed.stderr
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed.stdout))) as layer:
        assert {"new", "old/.wh.c"} <= set(layer.getnames())
    (digest,) = whole.blobs(whole.corten, namespace) - before
    assert digest == "sha256:" + hashlib.sha256(packed.stdout).hexdigest()
    assert digest in whole.blobs(whole.peer, namespace)
    assert labels_of(whole, digest, namespace)["made-by"] == "its-differ"


def labels_of(whole: Pair, digest: str, namespace: str) -> dict[str, str]:
    answer = ask(whole.corten, "Content/Info", {"digest": digest}, namespace=namespace)
    found: dict[str, str] = answer.messages[0]["info"]["labels"]
    return found


def test_a_committed_container_is_the_parent_of_others(whole: Pair, namespace: str, archives: dict[str, Path]) -> None:
    fill(whole, archives, namespace)
    run(whole, namespace, "@committed", "/bin/sh", "-c", "echo new > /new", keep=True)
    native(whole.corten, "commit", "layer", "@committed", namespace=namespace)
    native(whole.corten, "prepare", "child", "layer", namespace=namespace)
    assert (files_of(whole, "child", namespace) / "new").read_text() == "new\n"
    assert whole.placed(namespace) > {"layer", "child"}


def test_an_ingest_goes_on_after_a_crash_of_corten_and_a_restart_of_containerd(whole: Pair, namespace: str) -> None:
    half = os.urandom(100_000)
    digest = "sha256:" + hashlib.sha256(half + half).hexdigest()
    start = {"action": "WRITE", "ref": "half", "total": 2 * len(half), "data": half}
    assert ask(whole.corten, "Content/Write", start, namespace=namespace).code == "OK"
    whole.restart()
    assert whole.peer.daemon.terminate() == 0
    whole.peer.daemon.start()
    status = ask(whole.corten, "Content/Status", {"ref": "half"}, namespace=namespace)
    assert int(status.messages[0]["status"]["offset"]) == len(half)
    rest = {"action": "COMMIT", "ref": "half", "offset": len(half), "data": half, "expected": digest}
    written = ask(whole.corten, "Content/Write", rest, namespace=namespace)
    assert written.code == "OK", written
    assert whole.corten.ctr("content", "get", digest, namespace=namespace).stdout == half + half


def test_an_import_waits_while_containerd_restarts(whole: Pair, namespace: str, archives: dict[str, Path]) -> None:
    assert whole.peer.daemon.terminate() == 0
    importing = threading.Thread(target=fill, args=(whole, archives, namespace))
    importing.start()
    try:
        importing.join(0.7)
        assert importing.is_alive()
    finally:
        whole.peer.daemon.start()
        importing.join(60)
    assert run(whole, namespace, "@waited", "/bin/cat", "/data/first") == "changed\n"


@pytest.mark.parametrize("who", ["corten", "peer"])
@pytest.mark.parametrize("moment", [0.1, 0.25])
def test_an_import_that_a_crash_ends_can_be_made_again(
    whole: Pair, namespace: str, archives: dict[str, Path], who: str, moment: float
) -> None:
    victim: Side = getattr(whole, who)
    line = ("images", "import", "--snapshotter", "native", str(archives["oci-gzip"]))
    with subprocess.Popen(
        whole.corten.argv(*line, namespace=namespace), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as importing:
        time.sleep(moment)
        victim.daemon.kill()
        victim.daemon.start()
        importing.wait(60)
    fill(whole, archives, namespace)
    assert run(whole, namespace, f"@{who}-{moment}", "/bin/cat", "/data/first") == "changed\n"


def test_what_both_have_imported_stays_containerds_when_corten_removes_it(whole: Pair, busybox: Path) -> None:
    """The same blobs in the same namespace: they were there before Corten asked for them."""
    whole.corten.output("images", "import", "--snapshotter", "native", str(busybox))
    blobs = whole.blobs(whole.corten, "default")
    assert blobs < whole.blobs(whole.peer, "default")
    whole.corten.output("images", "rm", BUSYBOX)
    for digest in blobs:
        whole.corten.output("content", "rm", digest)
    for key in whole.shown(whole.corten):
        native(whole.corten, "rm", key)
    wait_until(lambda: not whole.placed())
    whole.restart()
    time.sleep(0.5)  # for a reaper that would remove too much
    assert blobs < whole.blobs(whole.peer, "default")
    archive = whole.peer.directory / "exported.tar"
    whole.peer.output("images", "export", str(archive), BUSYBOX)
    assert archive.stat().st_size > 100_000
