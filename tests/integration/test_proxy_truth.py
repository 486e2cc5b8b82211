"""What the daemon tells of its proxy plugins is so: introspection, ``corten plugins``, health, readiness, the log."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from corten import cli
from plugin_sdk import errors, plugin
from plugin_sdk.api.health.v1 import health_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import health, rpc, transport
from tests import pace, programs, proxied
from tests.proxied import Host, until

pytestmark = pytest.mark.root

SNAPSHOTS = "containerd.services.snapshots.v1.Snapshots"
CONTENT = "containerd.services.content.v1.Content"
NEEDED = f"{plugin.SNAPSHOTTER}.needed"
SHELF = f"{plugin.CONTENT}.shelf"
HEAD = f'disabled_plugins = ["io.containerd.content.v1.content"]\nrequired_plugins = ["{NEEDED}"]\n'

Begin = Callable[[str], programs.Program]


@pytest.fixture(scope="module")
def host(scratch: Path) -> Iterator[Host]:
    """Needs the snapshotter ``needed`` and keeps content in ``shelf``; the tests run their programs."""
    with proxied.hosting(scratch / "t", HEAD, start=False) as host:
        host.declare("needed", grace="0s")
        host.declare("shelf", "content", grace="0s")
        host.start()
        yield host


@pytest.fixture
def begin(host: Host) -> Iterator[Begin]:
    """Runs the program of one until the end of the test."""
    with contextlib.ExitStack() as stack:

        def begin(name: str) -> programs.Program:
            kind = "content" if name == "shelf" else "snapshot"
            made = stack.enter_context(host.program(name, kind=kind))
            stack.callback(os.kill, made.process.pid, signal.SIGCONT)
            return made

        yield begin


def corten_ready(host: Host, name: str = "") -> Result:
    return CliRunner().invoke(cli.main, ["--address", host.daemon.address, "ready", name])


def status(host: Host, name: str) -> str:
    """The row of ``corten plugins``, without the plugin's kind, name and platform."""
    [row] = [line for line in host.plugins().splitlines() if re.search(rf"v1 +{name} ", line)]
    return re.split(r" {3,}", row)[-1]


@pytest.fixture(scope="module")
def shelf(host: Host) -> Iterator[None]:
    """The program of that name, from here on."""
    with host.program("shelf", kind="content"):
        yield


@contextlib.contextmanager
def watching(host: Host, *names: str) -> Iterator[dict[str, queue.SimpleQueue[str]]]:
    """What gRPC's health service tells of each, as it comes."""
    told: dict[str, queue.SimpleQueue[str]] = {name: queue.SimpleQueue() for name in names}
    channel = transport.connect(host.daemon.address)
    method = rpc.methods(health.SERVICE)["Watch"]

    def watch(name: str) -> None:
        request = health_pb2.HealthCheckRequest(service=name)
        with contextlib.suppress(errors.Error):
            for answer in channel.stream(health.SERVICE.full_name, method, [request], Scope("")):
                told[name].put(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))  # type: ignore[attr-defined]

    threads = [threading.Thread(target=watch, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        channel.close()
        for thread in threads:
            thread.join()


def listed(host: Host) -> dict[str, bool]:
    channel = transport.connect(host.daemon.address)
    method = rpc.methods(health.SERVICE)["List"]
    answer = channel.unary(health.SERVICE.full_name, method, health_pb2.HealthListRequest(), Scope(""))
    channel.close()
    return {name: one.status == one.SERVING for name, one in answer.statuses.items()}  # type: ignore[attr-defined]


def ok_again(host: Host, *names: str) -> None:
    for name in names:
        host.wait_for(name)


# --- states


def test_it_is_ready_when_its_content_and_what_is_required_are(host: Host, begin: Begin) -> None:
    assert (host.state("needed"), host.state("shelf")) == ("backoff", "backoff")
    assert not host.connection.health()
    asked = corten_ready(host)
    assert (asked.exit_code, asked.stdout) == (1, "not ready\n"), asked.output
    assert f"{NEEDED} is backoff since" in asked.stderr
    begin("needed")
    host.wait_for("needed", timeout=2)
    assert (host.connection.health(NEEDED), host.connection.health(SHELF), host.connection.health()) == (
        True,
        False,
        False,
    )
    begin("shelf")
    host.wait_for("shelf", timeout=2)
    until(host.connection.health, 2)
    assert corten_ready(host).stdout == "ready\n"
    assert {NEEDED: True, SHELF: True, SNAPSHOTS: True, CONTENT: True, "": True}.items() <= listed(host).items()


def test_a_service_without_a_plugin_that_is_ok_does_not_serve(host: Host, begin: Begin) -> None:
    begin("needed")
    with host.program("shelf", kind="content") as program:
        ok_again(host, "needed", "shelf")
        assert host.connection.health(CONTENT)
        program.process.kill()
        until(lambda: not host.connection.health(CONTENT), 2)
        assert not host.connection.health()
        assert host.connection.health(SNAPSHOTS)
        ready = corten_ready(host, CONTENT)
        assert (ready.exit_code, ready.stdout) == (1, "not ready\n")


def test_a_killed_program_is_told_within_two_seconds(host: Host, begin: Begin, shelf: None) -> None:
    program = begin("needed")
    ok_again(host, "needed", "shelf")
    was_ok = status(host, "needed")
    assert was_ok.startswith("ok since ")
    killed = time.time()
    program.process.kill()
    info = host.wait_for("needed", "backoff", timeout=2)
    assert killed <= info.since / 1e9 <= time.time()
    assert re.search(r"needed.toml:1: proxy plugin 'needed': .*; attempt \d+, again in \d\.\d s$", info.error)
    assert host.said(f"{NEEDED}: {host.conf}/needed.toml:1: proxy plugin 'needed': backoff: ")
    shown = status(host, "needed")
    assert shown.startswith(f"backoff since {time.strftime('%Y-%m-%d', time.localtime(killed))}")
    assert "proxy plugin 'needed'" in shown
    health = {name: host.connection.health(name) for name in (NEEDED, SHELF, SNAPSHOTS, CONTENT, "")}
    assert health == {NEEDED: False, SHELF: True, SNAPSHOTS: True, CONTENT: True, "": False}


def test_a_program_that_stands_still_is_degraded_until_it_goes_on(host: Host, begin: Begin, shelf: None) -> None:
    program = begin("needed")
    ok_again(host, "needed", "shelf")
    os.kill(program.process.pid, signal.SIGSTOP)
    info = host.wait_for("needed", "degraded", timeout=3)
    assert "it has not answered a probe within 1 s" in info.error
    assert status(host, "needed").startswith("degraded since ")
    assert not host.connection.health(NEEDED)
    assert not host.connection.health()
    os.kill(program.process.pid, signal.SIGCONT)
    host.wait_for("needed", timeout=3)
    until(host.connection.health, 1)
    assert host.info("needed").error == ""  # type: ignore[union-attr]


def test_health_tells_who_watches_of_each_change(host: Host, begin: Begin, shelf: None) -> None:
    program = begin("needed")
    ok_again(host, "needed", "shelf")
    with watching(host, NEEDED, SNAPSHOTS, "", "nobody") as told:
        assert {name: said.get(timeout=60) for name, said in told.items()} == {
            NEEDED: "SERVING",
            SNAPSHOTS: "SERVING",
            "": "SERVING",
            "nobody": "SERVICE_UNKNOWN",
        }
        soon = pace.scaled(2)
        program.process.kill()
        assert (told[NEEDED].get(timeout=soon), told[""].get(timeout=soon)) == (
            "NOT_SERVING",
            "NOT_SERVING",
        )
        begin("needed")
        assert (told[NEEDED].get(timeout=soon), told[""].get(timeout=soon)) == (
            "SERVING",
            "SERVING",
        )
        assert told[SNAPSHOTS].empty()  # the built-in ones serve
    with pytest.raises(errors.NotFound, match='service "nobody": not found'):
        host.connection.health("nobody")


def test_a_program_that_does_not_listen_yet_is_starting(host: Host) -> None:
    host.declare("sleeps", command=["sleep", "100"], grace="0.1s")
    info = until(lambda: host.said("sleeps: its program runs") and host.info("sleeps"))
    assert info.state == "starting"
    assert status(host, "sleeps").startswith("starting since ")
    with pytest.raises(errors.Unavailable, match='snapshotter "sleeps" is starting'):
        host.snapshotter("sleeps").prepare("key")
    pid = host.pid("sleeps")
    host.withdraw("sleeps")
    until(lambda: not os.path.exists(f"/proc/{pid}"), 5)


# --- handshake


def test_a_program_of_another_api_is_refused_with_both_versions(host: Host) -> None:
    host.moody("newer", "--api", "2", "3")
    info = host.wait_for("newer", "refused")
    assert "it speaks versions 2 to 3 of the plugin API, and this daemon 1" in info.error
    assert f"{host.conf}/newer.toml:1: proxy plugin 'newer': " in info.error
    with pytest.raises(errors.Unavailable, match='snapshotter "newer" is refused: it speaks versions 2 to 3'):
        host.snapshotter("newer").prepare("key")
    host.withdraw("newer")


def test_a_program_of_another_type_is_refused(host: Host) -> None:
    host.declare("content-no", "diff", command=host.command("content-no"))
    info = host.wait_for("content-no", "refused")
    assert "its table says type 'diff', and it serves io.containerd.snapshotter.v1" in info.error
    host.withdraw("content-no")


def test_keys_typed_by_hand_that_contradict_the_program_are_reported_and_not_used(host: Host) -> None:
    says = '{"capabilities": ["remap-ids"], "platforms": ["linux/arm64"]}'
    typed = {"capabilities": ["rebase"], "platform": "linux/amd64", "exports": '{ root = "/srv", color = "blue" }'}
    host.moody("typed", "--says", says, **typed)
    info = host.wait_for("typed")
    assert info.capabilities == ("remap-ids",)
    assert info.platforms == ("linux/arm64",)
    assert info.exports == {"root": str(host.root("typed")), "color": "blue"}
    place = f"{plugin.SNAPSHOTTER}.typed: {host.conf}/typed.toml:1: proxy plugin 'typed': its table says "
    for doubt in (
        "capabilities = ['rebase'], the plugin itself ['remap-ids'], which is used",
        "platform = 'linux/amd64', the plugin itself 'linux/arm64', which is used",
        f"exports.root = '/srv', the plugin itself '{host.root('typed')}', which is used",
    ):
        assert host.said(place + doubt)
    host.withdraw("typed")


def test_a_program_without_handshake_is_believed_what_its_table_says(host: Host) -> None:
    root = str(host.root("plain"))
    host.moody("plain", "--plain", capabilities=["remap-ids"], platform="linux/arm64", exports=f'{{ root = "{root}" }}')
    info = host.wait_for("plain")
    assert (info.capabilities, info.platforms, info.exports) == (("remap-ids",), ("linux/arm64",), {"root": root})
    [mount] = host.snapshotter("plain").prepare("key")
    assert mount.source.startswith(root)
    assert not host.said("proxy plugin 'plain'")
    host.withdraw("plain")
