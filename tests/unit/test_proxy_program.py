"""Programs of plugins: started, their output logged, ended with all that they have started."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.proxies.program import LONGEST_LINE, Output, Program
from plugin_sdk import errors
from tests import pace

LOG = logging.getLogger("io.containerd.snapshotter.v1.stars")

Start = Callable[..., Program]


@pytest.fixture
def start(caplog: pytest.LogCaptureFixture) -> Iterator[Start]:
    caplog.set_level(logging.INFO)
    started: list[Program] = []

    def start(*command: str, **environment: str) -> Program:
        started.append(Program(command, environment, LOG))
        return started[-1]

    yield start
    for program in started:
        program.stop()


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_its_output_goes_into_the_log_under_the_plugins_name(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    program = start(*shell("echo to stdout; echo to stderr >&2; printf 'no line end'"))
    assert program.ended(5) is not None
    wait_for(lambda: len(caplog.records) >= 3)
    assert {record.getMessage() for record in caplog.records} == {"to stdout", "to stderr", "no line end"}
    assert {record.name for record in caplog.records} == {LOG.name}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo no disk >&2; exit 3", "its program ended with exit code 3 after 0.0 s: no disk"),
        ("exit 0", "its program ended with exit code 0 after 0.0 s"),
        ("kill -9 $$", "its program ended with signal SIGKILL after 0.0 s"),
    ],
)
def test_how_it_ended_is_told(start: Start, command: str, said: str) -> None:
    ended = start(*shell(command)).ended(5)
    assert ended is not None
    head, _, rest = said.partition("0.0")
    assert ended.startswith(head)
    assert ended.endswith(rest)


@pytest.mark.parametrize(
    ("command", "reason"), [("/no/such/program", "No such file or directory"), ("/etc/passwd", "Permission denied")]
)
def test_one_that_cannot_be_run_is_named_with_the_reason(start: Start, command: str, reason: str) -> None:
    assert start(command).ended(5) == f"its program cannot be run: {command}: {reason}"


def test_one_that_runs_has_not_ended(start: Start) -> None:
    assert start(*shell("exec sleep 60")).ended(0.05) is None


def test_its_environment_has_what_it_is_given_and_nothing_of_the_service_manager(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("KEPT", "kept")
    program = start(*shell('echo "$CORTEN_PLUGIN_NAME ${NOTIFY_SOCKET-none} $KEPT $(pwd)"'), CORTEN_PLUGIN_NAME="stars")
    assert program.ended(5)
    wait_for(lambda: caplog.messages)
    assert caplog.messages == ["stars none kept /"]


def test_stop_ends_all_that_it_has_started(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    program = start(*shell("sleep 60 & echo $!; exec sleep 60"))
    wait_for(lambda: caplog.messages)
    child = int(caplog.messages[0])
    program.stop()
    assert not lives(program.pid)
    wait_for(lambda: not lives(child))


def test_one_that_does_not_heed_sigterm_is_killed(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernel.proxies.program._PATIENCE", 0.2)
    program = start(*shell("trap '' TERM; echo ready; while :; do sleep 0.1; done"))
    wait_for(lambda: caplog.messages)
    begin = time.monotonic()
    program.stop()
    took = time.monotonic() - begin
    assert took >= 0.2
    assert pace.within(took, 2)
    assert not lives(program.pid)


def test_it_ends_with_the_daemon_also_when_that_is_killed(tmp_path: Path) -> None:
    text = (
        "import logging, time; from kernel.proxies.program import Program\n"
        "program = Program(['/bin/sleep', '60'], {}, logging.getLogger()); print(program.pid, flush=True)\n"
        "time.sleep(60)"
    )
    root = Path(__file__).parents[2]
    daemon = subprocess.Popen([sys.executable, "-c", text], cwd=root, stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    with daemon.stdout:
        pid = int(daemon.stdout.readline())
        wait_for(lambda: Path(f"/proc/{pid}/cmdline").read_text().startswith("/bin/sleep"))
        daemon.kill()
        daemon.wait()
        wait_for(lambda: not lives(pid))


def test_a_bare_name_is_looked_for_beside_the_daemons_python(start: Start) -> None:
    name = Path(sys.executable).name
    assert start(name, "-c", "import sys; sys.exit(7)").ended(10) is not None


def test_one_that_cannot_be_started_at_all_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(errors.Unavailable, match=r"/bin/true cannot be started: Resource temporarily unavailable"):
        Program(["/bin/true"], {}, LOG)


# --- floods


def flood(data: bytes, caplog: pytest.LogCaptureFixture) -> Output:
    caplog.set_level(logging.INFO)
    readable, writable = os.pipe()
    output = Output(LOG)
    copying = threading.Thread(target=output.copy, args=(os.fdopen(readable, "rb"),))
    copying.start()
    with os.fdopen(writable, "wb") as file:
        file.write(data)
    copying.join(60)
    assert not copying.is_alive()
    return output


def test_of_a_flood_the_beginning_is_logged_and_how_much_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    lines = 100_000
    output = flood(b"".join(b"line %d\n" % number for number in range(lines)), caplog)
    assert len(caplog.messages) == 201
    assert caplog.messages[0] == "line 0"
    assert caplog.messages[-1] == f"{lines - 200} lines of its output were left out: it writes too much"
    assert output.last == f"line {lines - 1}"


def test_a_long_line_is_cut_and_one_without_end_takes_no_memory(caplog: pytest.LogCaptureFixture) -> None:
    flood(b"x" * (8 << 20) + b"\nnext\n", caplog)
    assert [len(message) for message in caplog.messages] == [LONGEST_LINE + 1, 4]


def test_empty_lines_and_what_is_no_text_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    flood(b"\n  \n\xff\xfe\x00\n", caplog)
    assert len(caplog.messages) == 1
