"""Tasks go on when the daemon is killed, and a new one finds them again, with what happened in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import daemons
from scripts import images
from tests import pace, terminal
from tests.calls import ask
from tests.recorder import Recorder
from tests.sides import Side, prefix

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
BUSYBOX = images.BUSYBOX
ECHO = "while read x; do echo got $x; [ $x = end ] && exit 7; done"


@pytest.fixture(scope="module")
def mortal(scratch: Path, busybox: Path) -> Iterator[Side]:
    """A cortend of this file's own, with busybox."""
    daemon = daemons.start_corten(scratch / "r")
    try:
        side = Side(daemon, Recorder(daemon.address), prefix("r"), scratch / "work-r")
        side.output("images", "import", str(busybox))
        yield side
    finally:
        daemon.stop()
    assert not daemon.leftovers()


def crash(side: Side) -> None:
    side.daemon.kill()
    side.daemon.start()


def shutdown(side: Side) -> None:
    assert side.daemon.terminate() == 0
    side.daemon.start()


@pytest.fixture(params=[crash, shutdown], ids=["kill", "term"])
def restart(request: pytest.FixtureRequest, mortal: Side) -> Iterator[object]:
    yield lambda: request.param(mortal)
    for task in mortal.output("tasks", "ls", "-q").split():
        mortal.ctr("tasks", "rm", "-f", task)
    for container in mortal.output("containers", "ls", "-q").split():
        mortal.output("containers", "rm", container)


def run(side: Side, name: str, *command: str) -> str:
    side.output("run", "-d", BUSYBOX, name, *command)
    return name


def seconds(stamp: dict[str, int]) -> float:
    return stamp.get("seconds", 0) + stamp.get("nanos", 0) / 1e9


def test_attach_shows_new_output_and_delivers_input(mortal: Side, restart) -> None:  # type: ignore[no-untyped-def]
    run(mortal, "@attach", "/bin/sh", "-c", ECHO)
    restart()
    done = mortal.ctr("tasks", "attach", "@attach", stdin=b"first\nend\n", timeout=180)
    assert (done.stdout, done.returncode) == (b"got first\ngot end\n", 7)


def test_attach_works_at_a_terminal(mortal: Side, restart) -> None:  # type: ignore[no-untyped-def]
    code, _ = terminal.run(
        mortal.argv("run", "-d", "-t", BUSYBOX, "@tty", "/bin/sh", "-c", "read a; echo got $a; exit 4")
    )
    assert code == 0
    restart()
    code, shown = terminal.run(mortal.argv("tasks", "attach", "@tty"), [("", "word\n")])
    assert code == 4 and "got word" in shown


def test_exec_and_kill_work(mortal: Side, restart) -> None:  # type: ignore[no-untyped-def]
    run(mortal, "@exec", "/bin/sleep", "600")
    restart()
    done = mortal.ctr("tasks", "exec", "--exec-id", "e1", "@exec", "/bin/sh", "-c", "echo here; exit 3")
    assert (done.stdout, done.returncode) == (b"here\n", 3)
    assert "sleep" not in mortal.output("tasks", "ps", "@exec") and "RUNNING" in mortal.output("tasks", "ls")
    mortal.output("tasks", "kill", "-s", "KILL", "@exec")
    found = ask(mortal, "Tasks/Wait", {"container_id": "@exec"}).messages[0]
    assert found["exit_status"] == 137
    mortal.output("tasks", "rm", "@exec")
    mortal.output("containers", "rm", "@exec")


def test_the_end_of_a_task_in_between_is_known(mortal: Side) -> None:
    rest = pace.scaled(1)
    run(mortal, "@ended", "/bin/sh", "-c", f"sleep {rest}; exit 5")
    mortal.daemon.kill()
    killed = time.time()
    time.sleep(1.5 * rest)
    started = time.time()
    mortal.daemon.start()
    found = ask(mortal, "Tasks/Wait", {"container_id": "@ended"}).messages[0]
    assert found["exit_status"] == 5
    assert killed < seconds(found["exited_at"]) < started
    deleted = ask(mortal, "Tasks/Delete", {"container_id": "@ended"}).messages[0]
    assert (deleted["exit_status"], deleted["exited_at"]) == (5, found["exited_at"])
    mortal.output("containers", "rm", "@ended")


def test_the_end_of_an_exec_in_between_is_known(mortal: Side) -> None:
    rest = pace.scaled(1)
    run(mortal, "@execs", "/bin/sleep", "600")
    mortal.output("tasks", "exec", "-d", "--exec-id", "e1", "@execs", "/bin/sh", "-c", f"sleep {rest}; exit 6")
    mortal.output("tasks", "exec", "-d", "--exec-id", "e2", "@execs", "/bin/sleep", "600")
    mortal.daemon.kill()
    time.sleep(1.3 * rest)
    mortal.daemon.start()
    assert ask(mortal, "Tasks/Wait", {"container_id": "@execs", "exec_id": "e1"}).messages[0]["exit_status"] == 6
    assert ask(mortal, "Tasks/Get", {"container_id": "@execs", "exec_id": "e2"}).messages[0]["process"]["status"] == 2
    assert ask(mortal, "Tasks/DeleteProcess", {"container_id": "@execs", "exec_id": "e1"}).code == "OK"
    mortal.output("tasks", "rm", "-f", "@execs")
    mortal.output("containers", "rm", "@execs")


def test_the_end_in_between_is_told_once(mortal: Side) -> None:
    run(mortal, "@told", "/bin/sh", "-c", f"sleep {pace.scaled(0.5)}; exit 5")
    mortal.daemon.kill()
    time.sleep(pace.scaled(1))
    mortal.daemon.start()
    recorder = Recorder(mortal.daemon.address)
    recorder.start()
    ask(mortal, "Tasks/Wait", {"container_id": "@told"})
    mortal.output("tasks", "rm", "@told")
    mortal.output("containers", "rm", "@told")
    recorder.flush()
    recorder.close()
    topics = [event.topic for event in recorder.events if event.topic.startswith("/tasks")]
    assert topics.count("/tasks/exit") <= 1 and topics.count("/tasks/delete") == 1


def test_images_snapshots_and_content_are_still_there(mortal: Side) -> None:
    lines = (("images", "ls"), ("content", "ls", "-q"), ("snapshots", "ls"), ("namespaces", "ls"), ("leases", "ls"))
    before = [mortal.output(*line) for line in lines]
    crash(mortal)
    assert [mortal.output(*line) for line in lines] == before
    assert mortal.output("run", "--rm", BUSYBOX, "@after", "/bin/echo", "well") == "well\n"


def test_it_answers_within_two_seconds_of_its_start(mortal: Side) -> None:
    for number in range(3):
        run(mortal, f"@many-{number}", "/bin/sleep", "600")
    assert any(pace.within(time_to_answer(mortal), 2) for _ in range(3))
    for number in range(3):
        mortal.output("tasks", "rm", "-f", f"@many-{number}")
        mortal.output("containers", "rm", f"@many-{number}")


def time_to_answer(side: Side) -> float:
    side.daemon.kill()
    begin = time.monotonic()
    side.daemon.start()
    side.output("tasks", "ls")
    return time.monotonic() - begin


def test_a_second_daemon_on_the_same_root_is_refused(mortal: Side, scratch: Path) -> None:
    second = daemons.start_corten
    with pytest.raises(RuntimeError, match="does not answer"):
        second(scratch / "x", "--root", str(mortal.daemon.root))
