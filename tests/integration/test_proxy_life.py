"""Proxy plugins that come, die and go while clients call them: nobody else notices, and nothing is lost."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from corten import cli
from plugin_sdk import content, errors
from plugin_sdk.api.services.content.v1 import content_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content as wire_content
from plugin_sdk.wire import rpc, transport
from scripts import images
from tests import pace, proxied
from tests.proxied import RATE, Host, calling, until
from tests.sides import prefix

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
BUSYBOX = images.BUSYBOX
AGAIN = re.compile(r"attempt (\d+), again in (\d+\.\d) s")


@pytest.fixture(scope="module")
def host(scratch: Path, busybox: Path) -> Iterator[Host]:
    with proxied.hosting(scratch / "l") as host:
        host.daemon.ctr("images", "import", str(busybox), check=True)
        yield host


@pytest.fixture
def streaming(host: Host) -> Iterator[Path]:
    """A container that writes numbers, one each 50 ms, on the built-in snapshotter; the file with its output."""
    output = host.directory / "streamed"
    script = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"
    name = prefix("l") + "streams"
    with output.open("wb") as file:
        running = subprocess.Popen(
            host.daemon.argv("run", "--rm", BUSYBOX, name, "/bin/sh", "-c", script),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: output.read_text().count("\n") > 3)
        yield output
    finally:
        host.daemon.ctr("tasks", "kill", "-s", "SIGKILL", name)
        running.wait(120)


def test_a_plugin_comes_dies_five_times_and_goes_while_others_are_called(host: Host, streaming: Path) -> None:
    host.moody("steady")
    host.wait_for("steady")
    with calling(host, "steady") as other:
        begun = time.time()
        host.moody("mortal", grace="15s", drain="5s")
        use_after_two_seconds(host, "mortal", begun)
        with calling(host, "mortal") as caller:
            delays = [kill_and_wait(host, "mortal") for _ in range(5)]
            time.sleep(1)
            answers = caller.stop()
        assert all(later > earlier for earlier, later in itertools.pairwise(delays)), delays
        assert proxied.kept(host, "mortal", answers) > 5 * RATE / 3 / pace.slowness()
        assert max(answer["took"] for answer in answers) > 2  # they were there while it was away
        delete_and_wait(host, "mortal")
        time.sleep(0.5)
        undisturbed = other.stop()
    assert [answer for answer in undisturbed if "error" in answer] == []
    assert len(undisturbed) >= 0.9 * RATE * (time.time() - begun) / pace.slowness()
    assert pace.within(max(answer["took"] for answer in undisturbed), 2)
    host.withdraw("steady")
    numbers = [int(line) for line in streaming.read_text().split()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 10 * (time.time() - begun) / pace.slowness()


def use_after_two_seconds(host: Host, name: str, written: float) -> None:
    line = ("run", "--rm", "--snapshotter", name, BUSYBOX, prefix("l") + "uses", "/bin/echo", "used")
    time.sleep(max(0.0, written + pace.scaled(2) - time.time()))
    host.daemon.ctr("snapshots", "--snapshotter", name, "prepare", "by-ctr", check=True)
    assert host.daemon.ctr(*line, check=True).stdout == b"used\n"
    host.daemon.ctr("snapshots", "--snapshotter", name, "rm", "by-ctr", check=True)


def kill_and_wait(host: Host, name: str) -> float:
    """Seconds that the daemon said it would wait with the next start."""
    pid = host.kill(name)
    until(lambda: host.pid(name) != pid, 15)
    host.wait_for(name)
    [*_, told] = host.said(f"{name}': backoff: its program ended with signal SIGKILL")
    found = AGAIN.search(told)
    assert found, told
    return float(found[2])


def delete_and_wait(host: Host, name: str) -> None:
    """Its program ends, with the socket."""
    pid = host.pid(name)
    host.withdraw(name)
    host.wait_for(name, "", timeout=2)
    until(lambda: not Path(f"/proc/{pid}").exists(), 10)
    assert not os.path.exists(host.socket(name))
    refused = host.daemon.ctr("snapshots", "--snapshotter", name, "prepare", "none")
    assert f"snapshotter not loaded: {name}" in refused.stderr.decode()


# --- removing


def test_calls_that_run_are_answered_before_the_program_of_a_removed_plugin_ends(host: Host) -> None:
    host.moody("drained")
    host.wait_for("drained")
    host.snapshotter("drained").prepare("key")
    pid = host.pid("drained")
    host.order("drained", Mounts={"hold": pace.scaled(1.5)})
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(host.snapshotter("drained").mounts, "key")
        until(lambda: host.calls("drained")[-1]["method"] == "Mounts")
        host.withdraw("drained")
        host.wait_for("drained", "")
        assert not running.done()
        with pytest.raises(errors.InvalidArgument, match="snapshotter not loaded: drained"):
            host.snapshotter("drained").prepare("late")
        [mount] = running.result(120)
        assert mount.source.startswith(str(host.root("drained")))
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert not os.path.exists(host.socket("drained"))


def test_a_call_that_does_not_end_within_drain_is_told_so(host: Host) -> None:
    host.moody("cut", drain="0.3s")
    host.wait_for("cut")
    host.snapshotter("cut").prepare("key")
    host.order("cut", Mounts={"hold": 100})
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(host.snapshotter("cut").mounts, "key")
        until(lambda: host.calls("cut")[-1]["method"] == "Mounts")
        host.withdraw("cut")
        with pytest.raises(errors.Unavailable, match='snapshotter "cut"'):
            running.result(120)


def test_what_a_removed_plugin_holds_is_there_when_its_table_is_back(host: Host) -> None:
    host.moody("returns")
    host.wait_for("returns")
    host.snapshotter("returns").prepare("key")
    host.snapshotter("returns").commit("layer", "key")
    host.withdraw("returns")
    host.wait_for("returns", "")
    host.moody("returns")
    host.wait_for("returns")
    assert host.shown("returns") == host.held("returns") == {"layer"}
    host.snapshotter("returns").prepare("child", "layer")


# --- content

CONTENT = 'disabled_plugins = ["io.containerd.content.v1.content"]\n'
DATA = os.urandom(1 << 20) * 24
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
HALF = len(DATA) // 2


@pytest.fixture(scope="module")
def keeper(scratch: Path) -> Iterator[Host]:
    """A daemon whose content is in a program of its own, named ``shelf``."""
    with proxied.hosting(scratch / "k", CONTENT, start=False) as host:
        host.moody("shelf", kind="content", drain="1s")
        host.start()
        host.wait_for("shelf")
        yield host


@pytest.fixture
def ref(keeper: Host) -> Iterator[str]:
    """Of an ingest of DATA, which is not there before."""
    yield "ref"
    keeper.connection.view("default").content.delete(DIGEST)
    until(lambda: not list(keeper.root("shelf").glob("blobs/sha256/*")))


def write(host: Host, ref: str, data: bytes) -> content.Writer:
    writer = host.connection.view("default").content.writer(ref, len(DATA), DIGEST)
    writer.write(data)
    return writer


def come_back(host: Host) -> None:
    host.wait_for("shelf", "")
    until(lambda: not os.path.exists(host.socket("shelf")))
    host.moody("shelf", kind="content", drain="1s")
    host.wait_for("shelf")


def test_an_open_writer_is_in_flight_and_its_ingest_is_resumed_when_the_store_is_back(keeper: Host, ref: str) -> None:
    store = keeper.connection.view("default").content
    writer = write(keeper, ref, DATA[:HALF])
    keeper.withdraw("shelf")
    keeper.wait_for("shelf", "")
    writer.write(DATA[HALF : HALF + 100])  # while it drains
    with pytest.raises(errors.Unavailable, match="no content store"):
        store.writer("another")
    asked = CliRunner().invoke(cli.main, ["--address", keeper.daemon.address, "ready"])
    assert (asked.exit_code, asked.stderr) == (1, "there is no content store: plugins.toml enables none\n")
    until(lambda: not os.path.exists(keeper.socket("shelf")))
    with pytest.raises(errors.Unavailable):
        writer.write(b"more")
    come_back(keeper)
    with store.writer(ref, len(DATA), DIGEST) as resumed:
        assert resumed.status().offset == HALF + 100
        resumed.write(DATA[HALF + 100 :])
        assert resumed.commit(len(DATA), DIGEST) == DIGEST
    with store.reader(DIGEST) as reader:
        assert reader.read_at(0, reader.size) == DATA


def test_an_open_reader_is_in_flight_and_fails_when_draining_ends(keeper: Host, ref: str) -> None:
    with write(keeper, ref, DATA) as writer:
        writer.commit(len(DATA), DIGEST)
    channel = transport.connect(keeper.daemon.address)
    method = rpc.methods(wire_content.SERVICE)["Read"]
    request = content_pb2.ReadContentRequest(digest=DIGEST)
    received = 0
    with channel.stream(wire_content.SERVICE.full_name, method, [request], Scope("default")) as answers:
        received += len(next(answers).data)
        keeper.withdraw("shelf")
        keeper.wait_for("shelf", "")
        received += len(next(answers).data)
        until(lambda: not os.path.exists(keeper.socket("shelf")))
        with pytest.raises(errors.Unavailable):
            for answer in answers:
                received += len(answer.data)
    channel.close()
    assert 0 < received < len(DATA)
    come_back(keeper)
    with keeper.connection.view("default").content.reader(DIGEST) as reader:
        assert reader.read_at(0, reader.size) == DATA


# --- programs of somebody else


@pytest.fixture(scope="module")
def mortal(scratch: Path) -> Iterator[Host]:
    """One that had the plugins ``child`` and ``late`` when it was started; nobody serves the latter."""
    with proxied.hosting(scratch / "m", start=False) as host:
        host.moody("child")
        host.declare("late", grace="0.2s")
        host.start()
        host.wait_for("child")
        yield host


def test_a_plugin_heals_when_its_socket_appears(mortal: Host) -> None:
    told = mortal.wait_for("late", "backoff").error
    assert f'there is no socket "{mortal.socket("late")}" yet' in told
    assert f"{mortal.conf}/late.toml:1: proxy plugin 'late'" in told
    mortal.snapshotter("native").prepare("key")
    mortal.snapshotter("child").prepare("key")
    mortal.daemon.ctr("snapshots", "ls", check=True)
    with pytest.raises(errors.Unavailable, match='snapshotter "late" is backoff: there is no socket'):
        mortal.snapshotter("late").prepare("key")
    with mortal.program("late"):
        mortal.wait_for("late", timeout=2)
        mortal.snapshotter("late").prepare("key")
        assert mortal.shown("late") == mortal.held("late") == {"key"}


def test_a_program_that_somebody_starts_again_is_waited_for(host: Host) -> None:
    host.declare("foreign", grace="10s")
    with host.program("foreign") as first, ThreadPoolExecutor(1) as threads:
        host.wait_for("foreign")
        host.snapshotter("foreign").prepare("before")
        assert first.terminate() == 0
        host.wait_for("foreign", "backoff", timeout=2)
        waiting = threads.submit(host.snapshotter("foreign").prepare, "meanwhile")
        assert host.shown("foreign") == {"before"}  # what needs no program goes on
        with host.program("foreign"):
            waiting.result(120)
            host.wait_for("foreign")
            assert host.held("foreign") == {"before", "meanwhile"}
            host.withdraw("foreign")
            host.wait_for("foreign", "")


# --- the daemon's own end


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_a_program_ends_with_the_daemon_and_the_next_one_starts_it_again(mortal: Host, end: signal.Signals) -> None:
    mortal.snapshotter("child").prepare(f"before-{end}")
    pid = mortal.pid("child")
    os.kill(mortal.daemon.pid, end)
    assert mortal.daemon.process is not None
    assert mortal.daemon.process.wait(120) == (0 if end == signal.SIGTERM else -end)
    until(lambda: not mortal.daemon.leftovers(), 5)
    assert not os.path.exists(mortal.socket("child"))
    mortal.start()
    mortal.wait_for("child")
    assert mortal.pid("child") != pid
    assert mortal.held("child") == mortal.shown("child")
    assert f"before-{end}" in mortal.held("child")
