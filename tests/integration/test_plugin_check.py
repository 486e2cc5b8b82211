"""``corten plugin check``, as people run it: against programs at their sockets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import handshake, plugin, snapshots
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content as wire_content
from plugin_sdk.wire import handshake as wire_handshake
from plugin_sdk.wire import snapshots as wire_snapshots
from plugin_sdk.wire import transport
from plugin_sdk.wire.http2.server import Server
from plugins_builtin.content import local
from tests import certificates, programs, terminal
from tests.serving import Serve, serve

pytestmark = pytest.mark.root
__all__ = ["serve"]
CHECK = [sys.executable, "-m", "corten.cli", "plugin", "check"]
ENVIRONMENT = {"PYTHONPATH": str(programs.ROOT)}
BROKEN = "Without the snapshot, ``mounts`` raises NotFound."

Start = Callable[..., str]


@pytest.fixture
def server_kind() -> type[Server]:
    return Server


@pytest.fixture
def connect() -> Callable[..., transport.Channel]:
    return transport.connect


@pytest.fixture
def start(scratch: Path) -> Iterator[Start]:
    """``start("native,local")`` answers the address of a program with these parts."""
    with contextlib.ExitStack() as stack:

        def begin(parts: str, *flags: str, address: str = "") -> str:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            address = address or str(folder / "s")
            command = programs.python("-m", "tests.checked", parts, "--address", address, "--root", str(folder / "r"))
            program = stack.enter_context(programs.started([*command, *flags], folder / "log", ENVIRONMENT))
            program.wait_to_say("serves")
            return address

        yield begin


def check(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CHECK, *arguments], capture_output=True, text=True, timeout=1400, **more)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """What it says when it cannot check."""
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    return done.stderr.removeprefix("Error: ").strip()


def address_of(served: Any) -> str:
    assert isinstance(served, transport.Channel)
    return served.address


@contextlib.contextmanager
def channel(address: str) -> Iterator[transport.Channel]:
    with contextlib.closing(transport.connect(address)) as made:
        yield made


@contextlib.contextmanager
def snapshotter_at(address: str) -> Iterator[snapshots.Snapshotter]:
    with channel(address) as made:
        yield wire_snapshots.Proxy(made, Scope("default"), "others")


def state(snapshotter: snapshots.Snapshotter) -> dict[str, snapshots.Info]:
    return {info.name: info for info in snapshotter.walk()}


def failed(found: dict[str, Any]) -> list[Any]:
    return [each for each in found["checks"] if each["state"] == "failed"]


# Programs that keep the contract


@pytest.mark.timeout(1500)
def test_programs_of_ours_keep_the_contract_and_are_left_as_they_were(start: Start) -> None:
    native, store, labelled = start("native"), start("local"), start("labelled")
    differ = start("walking", "--content", labelled)
    with snapshotter_at(native) as snapshotter:
        for key in ("layer", "key", "one"):
            snapshotter.prepare(key, "", {"of": "others"})
        before = state(snapshotter)
        with ThreadPoolExecutor(3) as pool:
            lines = (native, "--json"), (store, "--json"), (differ, "--content", labelled, "--json")
            found = [json.loads(done.stdout) for done in pool.map(lambda line: check(*line), lines)]
        assert state(snapshotter) == before
    assert [failed(each) for each in found] == [[], [], []]
    assert [each["types"] for each in found] == [["snapshot"], ["content"], ["diff"]]
    assert all(each["counts"]["passed"] > 40 for each in found)
    assert [each["lacks"] for each in found] == [LACKS["snapshot"], LACKS["content"], []]
    for address in (store, labelled):
        with channel(address) as made:
            left = wire_content.Proxy(made, Scope("default"))
            assert (list(left.walk()), left.list_statuses()) == ([], [])


LACKS = {
    "snapshot": [
        {"type": "snapshot", "name": "sharing", "says": "A child shares its parent's files, and does not count them."},
        {"type": "snapshot", "name": "targets", "says": "``target`` gives layers that the snapshotter has already."},
    ],
    "content": [{"type": "content", "name": "labels", "says": "Blobs have labels."}],
}


def test_a_program_without_handshake_is_asked_what_it_serves(serve: Serve, tmp_path: Path) -> None:
    """As every proxy plugin of containerd's is."""
    store = local.Store(tmp_path / "content")
    address = address_of(serve(wire_content.Servicer(lambda call: store)))
    done = check(address, "--only", "raises NotFound")
    assert done.returncode == 0, done
    assert done.stdout.endswith(f'"{address}" keeps the contract.\n')
    assert "snapshot" not in done.stdout


def test_each_check_is_told_to_programs(start: Start) -> None:
    done = check(start("native"), "--only", BROKEN, "--json", "--name", "stars", "--namespace", "space")
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (found["types"], found["name"], found["namespace"]) == (["snapshot"], "stars", "space")
    assert found["counts"] == {"passed": len(found["checks"]), "failed": 0, "unchecked": 0}
    for each in found["checks"]:
        assert each["check"].startswith("test_")
        assert BROKEN in each["sentences"]
        assert (each["type"], each["state"], each["expected"], each["came"]) == ("snapshot", "passed", "", "")
        assert each["seconds"] > 0


def test_a_program_at_a_tcp_address_is_checked_over_tls(start: Start, tmp_path: Path) -> None:
    files = certificates.make(tmp_path / "tls")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = ("--tls-cert", str(files.server), "--tls-key", str(files.server_key), "--tls-ca", str(files.ca))
    start("native", *program, address=address)
    ours = ("--tls-cert", str(files.client), "--tls-key", str(files.client_key), "--tls-ca", str(files.ca))
    done = check(address, *ours, "--only", BROKEN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "does not answer" in refusal(check(address))
    assert refusal(check(address, "--tls-ca", "/none")) == "/none: No such file or directory"


# Programs that do not


def test_a_broken_sentence_is_told_with_what_was_expected_and_what_came(start: Start) -> None:
    address = start("wrong")
    done = check(address, "--only", BROKEN)
    assert (done.returncode, done.stderr) == (1, "")
    told = " ".join(done.stdout.split())
    assert f"contract {BROKEN}" in told or BROKEN in told
    assert "raises NotFound" in told
    assert "came FailedPrecondition: snapshot conformance-" in told
    assert f'checks failed at "{address}".' in told


def test_a_program_that_ends_is_not_asked_for_ever(start: Start) -> None:
    address = start("mortal")
    done = check(address)
    assert done.returncode == 1
    assert done.stdout.endswith(f'"{address}" answers no more: the checks that follow were not made.\n')
    assert "does not answer" in done.stdout


# What cannot be checked


def test_an_address_where_nobody_answers_is_refused(tmp_path: Path) -> None:
    said = refusal(check(str(tmp_path / "none")))
    assert str(tmp_path / "none") in said and "does not answer" in said
    assert "neither unix:///path" in refusal(check("ftp://there"))


def test_a_program_that_does_not_answer_is_not_awaited_for_ever(serve: Serve, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        assert f'"{tmp_path}/silent" does not answer' in refusal(check(str(tmp_path / "silent"), "--timeout", "20"))
    slow = wire_handshake.Servicer(handshake.Description(), heard=lambda *said: time.sleep(3))
    address = address_of(serve(slow))
    assert refusal(check(address, "--timeout", "1")) == f'"{address}" has not answered Describe within 1 s'


def test_what_is_not_served_is_refused(start: Start, serve: Serve) -> None:
    address = start("local")
    assert refusal(check(address, "--type", "snapshot")) == f'"{address}" does not serve snapshot'
    bare = address_of(serve())
    assert refusal(check(bare)) == f'"{bare}" does not serve snapshots, content or diff'


def test_a_differ_needs_the_content_that_it_reads(start: Start) -> None:
    empty = start("labelled")
    address = start("walking", "--content", empty)
    assert "the address of what the differ reads is needed" in refusal(check(address))
    other = start("local")
    assert f'does not read the content at "{other}"' in refusal(check(address, "--content", other))


def test_a_program_of_another_api_is_refused(serve: Serve) -> None:
    description = handshake.Description(handshake.Range(7, 9), kinds=(plugin.CONTENT,))
    address = address_of(serve(wire_handshake.Servicer(description)))
    assert refusal(check(address)) == "the program speaks version 7 to 9 of the plugin API, this release 1"


def test_text_that_no_check_has_is_refused(start: Start) -> None:
    assert refusal(check(start("local"), "--only", "xyzzy")) == 'no check has "xyzzy" in its name or its sentences'


def line(before: str, *arguments: str) -> list[str]:
    """The same in a Python where something was done before."""
    code = f"import sys; from corten import cli; {before}; cli.main(sys.argv[1:])"
    return [sys.executable, "-c", code, "plugin", "check", *arguments]


def test_without_pytest_it_says_what_to_install(start: Start) -> None:
    command = line("sys.modules['pytest'] = None", start("local"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert refusal(done) == "the checks need pytest, which is not installed: pip install 'corten[check]'"


def test_only_root_checks_what_is_mounted(start: Start) -> None:
    """What is imported late is imported before, for others may not be able to read the checkout."""
    address = start("native,local")
    for folder in (Path(address).parent, Path(address).parent.parent):
        folder.chmod(0o755)
    os.chmod(address, 0o666)
    as_nobody = (
        "import os; from corten.commands import plugin; from corten.terminal import checking as report; "
        "from plugin_sdk.conformance import checking, asking; os.seteuid(65534)"
    )
    done = subprocess.run(line(as_nobody, address), capture_output=True, text=True, timeout=300)
    assert refusal(done) == "the checks of snapshotters and differs mount, which only root may"


# The user's surroundings


def test_the_users_own_pytest_does_not_matter(start: Start, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("raise RuntimeError('loaded')")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    environment = {**os.environ, "PYTEST_ADDOPTS": "--bogus", "PYTEST_PLUGINS": "nowhere", **ENVIRONMENT}
    done = check(start("native"), "--only", BROKEN, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"conftest.py", "pytest.ini"}


def test_a_terminal_shows_how_far_it_is(start: Start) -> None:
    code, shown = terminal.run([*CHECK, start("native"), "--only", BROKEN], timeout=300)
    assert code == 0
    assert "\x1b[K0 of " not in shown
    assert "1 of " in shown and "checks, 0 failed" in shown
    assert " ".join(shown.rpartition("\x1b[K")[2].split()).endswith("keeps the contract.")


def test_what_was_made_is_removed_at_an_interrupt(start: Start) -> None:
    address = start("native")
    with snapshotter_at(address) as snapshotter:
        process = subprocess.Popen([*CHECK, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 180
        while not state(snapshotter):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=180)
        assert (process.returncode, stdout) == (130, "")
        assert stderr == "Error: interrupted; what the checks have made is removed\n"
        assert state(snapshotter) == {}
