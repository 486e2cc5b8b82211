"""``ctr tasks``: ls, exec, kill, ps, attach, rm, start."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from scripts import images
from tests import terminal
from tests.proxied import until
from tests.sides import Both

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
BUSYBOX = images.BUSYBOX
PIDS = [(r"(?m)^\d+( |$)", r"PID\1")]
Running = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def running(both: Both) -> Running:
    """``with running("@id", COMMAND…) as id``: a detached container on both sides, removed afterwards."""

    @contextmanager
    def run(name: str, *command: str) -> Iterator[str]:
        both.ctr("run", "-d", BUSYBOX, name, *(command or ("/bin/sleep", "600")))
        yield name
        both.ctr("tasks", "rm", "-f", name, code=None)
        both.ctr("containers", "rm", name)

    return run


def stopped(both: Both, name: str) -> None:
    """Waits until both tasks have ended."""
    for side in both:
        deadline = time.monotonic() + 120
        while not re.search(rf"^{side.resolve(name)}\s+\d+\s+STOPPED", side.output("tasks", "ls"), re.MULTILINE):
            assert time.monotonic() < deadline, f"{side.name}: {name} goes on"
            time.sleep(0.05)


def test_a_task_is_listed_killed_and_removed(both: Both) -> None:
    mark = both.mark()
    both.ctr("run", "-d", BUSYBOX, "@life", "/bin/sleep", "600")
    assert "@life PID RUNNING" in both.ctr("tasks", "ls").lines
    assert both.ctr("tasks", "ls", "-q").lines == ["@life"]
    both.ctr("tasks", "ps", "@life", scrubs=PIDS)
    both.ctr("tasks", "rm", "@life", code=None)
    both.ctr("tasks", "kill", "-s", "KILL", "@life")
    stopped(both, "@life")
    both.ctr("tasks", "ls")
    both.ctr("tasks", "ps", "@life", scrubs=PIDS)
    both.ctr("tasks", "kill", "@life", code=None)
    both.ctr("tasks", "rm", "@life")
    both.ctr("containers", "rm", "@life")
    both.same_events(mark, last=("/containers/delete", "@life"))


def test_exec_runs_a_second_process(both: Both, running: Running) -> None:
    with running("@exec") as name:
        mark = both.mark()
        script = "echo out; echo err >&2; id -u; pwd; exit 5"
        done = both.ctr("tasks", "exec", "--exec-id", "e1", name, "/bin/sh", "-c", script, code=5)
        assert (done.stdout, done.stderr) == ("out\n0\n/\n", "err\n")
        topics = both.same_events(mark, last=("/tasks/exit", name))
        assert topics == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]


def test_exec_takes_user_and_directory(both: Both, running: Running) -> None:
    with running("@user") as name:
        line = ("tasks", "exec", "--exec-id", "e1", "--user", "65534:65534", "--cwd", "/tmp", name)
        assert both.ctr(*line, "/bin/sh", "-c", "id -u; id -g; pwd").lines == ["65534", "65534", "/tmp"]
        both.ctr("tasks", "exec", "--exec-id", "e2", "--user", "nobody", name, "/bin/id", code=None)
        both.ctr("tasks", "exec", "--exec-id", "e3", "--user", "stranger", name, "/bin/id", code=None)


def test_exec_passes_its_input_on(both: Both, running: Running) -> None:
    with running("@input") as name:
        line = ("tasks", "exec", "--exec-id", "e1", name, "/bin/sh", "-c", "read a; read b; echo $b $a")
        assert both.ctr(*line, stdin=b"one\ntwo\n").stdout == "two one\n"


def test_exec_has_a_terminal(both: Both, running: Running) -> None:
    with running("@tty") as name:
        line = (
            "tasks",
            "exec",
            "-t",
            "--exec-id",
            "e1",
            name,
            "/bin/sh",
            "-c",
            "test -t 1 && echo terminal; sleep 0.5; stty size; read x; echo got $x; exit 4",
        )
        code, shown = both.same(lambda side: terminal.run(side.argv(*line), [("100", "word\n")]))
        assert code == 4
        assert "terminal" in shown and "30 100" in shown and "got word" in shown


def test_a_detached_exec_is_shown_and_killed(both: Both, running: Running) -> None:
    with running("@detached") as name:
        both.ctr("tasks", "exec", "-d", "--exec-id", "e1", name, "/bin/sleep", "600")
        assert "e1" in both.ctr("tasks", "ps", name, scrubs=PIDS).stdout
        both.ctr("tasks", "kill", "-s", "KILL", "--exec-id", "e1", name)
        both.each(lambda side: side.recorder.wait(0, "/tasks/exit", side.resolve(name)))
        both.ctr("tasks", "ps", name, scrubs=PIDS)
        both.ctr("tasks", "rm", "--exec-id", "e1", name, code=None)


def test_exec_refuses_what_is_wrong(both: Both, running: Running) -> None:
    with running("@refused") as name:
        codes = [(r": (unknown|invalid argument)$", ": CODE"), (r"(?m)^exec failed: .*\n", "")]
        both.ctr("tasks", "exec", "--exec-id", "e1", name, "/bin/missing", code=1, scrubs=codes)
        both.ctr("tasks", "exec", "--exec-id", "not/valid", name, "/bin/true", code=1)
        both.ctr("tasks", "exec", "-d", "--exec-id", "e2", name, "/bin/sleep", "600")
        taken = ("tasks", "exec", "--exec-id", "e2", name, "/bin/true")
        assert "already exists" in both.ctr(*taken, code=1).stderr
        both.ctr("tasks", "kill", "--exec-id", "e9", name, code=1)


def test_kill_delivers_the_signal(both: Both, running: Running) -> None:
    script = 'trap "exit 9" USR1; : >/ready; while :; do sleep 0.05; done'
    with running("@signal", "/bin/sh", "-c", script) as name:
        look = ("tasks", "exec", "--exec-id", "look", name, "/bin/test", "-e", "/ready")
        both.each(lambda side: until(lambda: side.ctr(*look).returncode == 0))
        both.ctr("tasks", "kill", "-s", "SIGUSR1", name)
        stopped(both, name)
        assert "exit code 9" in both.ctr("tasks", "rm", name).stderr


def test_kill_all_reaches_every_process(both: Both, running: Running) -> None:
    with running("@all", "/bin/sh", "-c", "sleep 600 & sleep 600") as name:
        both.ctr("tasks", "kill", "-a", "-s", "KILL", name)
        stopped(both, name)
        both.ctr("tasks", "ls")


def test_attach_delivers_input_and_output(both: Both, running: Running) -> None:
    script = "while read x; do echo got $x; [ $x = end ] && exit 7; done"
    with running("@attach", "/bin/sh", "-c", script) as name:
        done = both.ctr("tasks", "attach", name, stdin=b"first\nend\n", code=7)
        assert done.stdout == "got first\ngot end\n"


def test_a_created_container_is_started(both: Both) -> None:
    both.ctr("containers", "create", BUSYBOX, "@start", "/bin/cat", "/etc/group", "/missing")
    mark = both.mark()
    assert both.ctr("tasks", "start", "@start", code=1).stdout.startswith("root:x:0:")
    both.same_events(mark, last=("/tasks/delete", "@start"))
    both.ctr("containers", "rm", "@start")


def test_a_task_starts_detached_with_a_pid_file(both: Both) -> None:
    both.ctr("containers", "create", BUSYBOX, "@bg", "/bin/sleep", "600")
    both.ctr("tasks", "start", "-d", "--pid-file", "{dir}/bg.pid", "@bg")
    both.same(lambda side: (side.directory / "bg.pid").read_text() in side.output("tasks", "ls"))
    assert "already exists" in both.ctr("tasks", "start", "-d", "@bg", code=1).stderr
    both.ctr("tasks", "rm", "-f", "@bg", code=None)
    both.ctr("containers", "rm", "@bg")


def test_a_container_with_a_task_is_not_removed(both: Both, running: Running) -> None:
    with running("@busy") as name:
        both.ctr("containers", "rm", name, code=1)


def test_a_task_is_paused_and_resumed(both: Both, running: Running) -> None:
    with running("@pause") as name:
        mark = both.mark()
        both.ctr("tasks", "pause", name)
        assert "PAUSED" in both.ctr("tasks", "ls").stdout
        both.ctr("tasks", "resume", name)
        both.ctr("tasks", "ls")
        both.same_events(mark)


@pytest.mark.parametrize(
    "line",
    [
        ("kill", "@no"),
        ("rm", "@no"),
        ("ps", "@no"),
        ("start", "@no"),
        ("attach", "@no"),
        ("exec", "--exec-id", "e", "@no", "x"),
    ],
)
def test_a_missing_task_is_not_found(both: Both, line: tuple[str, ...]) -> None:
    assert "not found" in both.ctr("tasks", *line, code=None).stderr


def test_the_task_of_a_container_without_one_is_not_found(both: Both) -> None:
    both.ctr("containers", "create", BUSYBOX, "@idle", "/bin/true")
    for line in (("kill", "@idle"), ("rm", "@idle"), ("ps", "@idle"), ("attach", "@idle")):
        both.ctr("tasks", *line, code=None)
    both.ctr("containers", "rm", "@idle")
