"""``corten run``, ``exec``, ``attach``, ``logs``, ``ps``, ``stop``, ``kill``, ``rm``: containers by the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import pytest

import corten
from benchmarks import daemons
from corten.terminal import places

pytestmark = [pytest.mark.root, pytest.mark.engine]
FULL = "docker.io/library/busybox:latest"

Run = Callable[..., subprocess.CompletedProcess[str]]
Invoke = Callable[..., click.testing.Result]


def until(what: Callable[[], object], reason: str) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, reason
        time.sleep(0.02)


# --- in the foreground


def test_the_exit_code_is_passed_on(command: Run, imported: str) -> None:
    assert command("run", "--rm", imported, "sh", "-c", "exit 7").returncode == 7


def test_a_command_that_dies_of_a_signal_gives_128_and_its_number(command: Run, imported: str) -> None:
    assert command("run", "--rm", imported, "sh", "-c", "sh -c 'kill -9 $$'; exit $?").returncode == 128 + 9


def test_output_and_errors_come_apart_and_whole(command: Run, imported: str) -> None:
    done = command("run", "--rm", imported, "sh", "-c", "seq 20000; echo bad >&2")
    assert done.stdout == "".join(f"{n}\n" for n in range(1, 20001))
    assert done.stderr == "bad\n"


def test_input_reaches_its_end(command: Run, imported: str) -> None:
    text = "line\n" * 50_000
    assert command("run", "--rm", "-i", imported, "cat", stdin=text).stdout == text


def test_without_interactive_the_input_is_left_to_others(command: Run, imported: str) -> None:
    assert command("run", "--rm", imported, "cat", stdin="mine\n").stdout == ""


def test_the_options_have_their_effect(command: Run, imported: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside\n")
    (tmp_path / "variables").write_text("# a comment\nSHAPE=round\n\nCOLOR=red\nOWN\n")
    script = "echo $COLOR $SHAPE $OWN; id -u; id -g; pwd; hostname; cat /mnt/x /mnt/y; touch /no 2>/dev/null || echo no"
    mounts = ["--mount", f"src={tmp_path}/file,dst=/mnt/x,options=ro", "-v", f"{tmp_path}/file:/mnt/y:ro"]
    who = ["-u", "7:8", "-w", "/tmp", "--hostname", "star"]
    variables = ["--env-file", f"{tmp_path}/variables", "-e", "COLOR=blue"]
    done = command("run", "--rm", "--read-only", *variables, *who, *mounts, imported, "sh", "-c", script, OWN="mine")
    assert done.stderr == ""
    expected = ["blue round mine", "7", "8", "/tmp", "star", "from outside", "from outside", "no"]
    assert done.stdout.splitlines() == expected


def test_rights_and_limits_are_in_the_spec(invoke: Invoke, imported: str, client: corten.Client) -> None:
    limits = ["--memory", "64m", "--cpus", "1.5", "--pids", "50"]
    rights = ["--cap-drop", "ALL", "--cap-add", "chown", "--label", "owner=me"]
    invoke("run", "-d", "--name", "a", *limits, *rights, imported, "sleep", "100")
    found = client.containers.get("a")
    spec = found.load_spec()
    resources = spec["linux"]["resources"]
    assert resources["memory"]["limit"] == 64 << 20
    assert resources["cpu"]["quota"] / resources["cpu"]["period"] == 1.5
    assert resources["pids"]["limit"] == 50
    assert spec["process"]["capabilities"]["bounding"] == ["CAP_CHOWN"]
    assert found.labels["owner"] == "me"


def test_an_entrypoint_takes_the_place_of_the_images_command(command: Run, imported: str) -> None:
    assert command("run", "--rm", "--entrypoint", "/bin/echo", imported, "hi").stdout == "hi\n"
    assert command("run", "--rm", "--entrypoint", "/bin/echo", imported).stdout == "\n"


def test_the_hosts_network_can_be_used(command: Run, imported: str) -> None:
    own = os.readlink("/proc/self/ns/net")
    assert command("run", "--rm", "--net-host", imported, "readlink", "/proc/self/ns/net").stdout.strip() == own
    assert command("run", "--rm", imported, "readlink", "/proc/self/ns/net").stdout.strip() != own


def test_another_snapshotter_can_be_used(command: Run, imported: str) -> None:
    assert command("run", "--rm", "--snapshotter", "native", imported, "echo", "hi").stdout == "hi\n"


def test_a_privileged_container_holds_what_we_hold(command: Run, imported: str) -> None:
    def held(*options: str) -> int:
        done = command("run", "--rm", *options, imported, "grep", "CapBnd", "/proc/self/status")
        return int(done.stdout.split()[1], 16)

    assert held("--privileged").bit_count() > held().bit_count()


def test_a_signal_is_passed_on(imported: str, environment: dict[str, str]) -> None:
    script = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    line = [sys.executable, "-m", "corten.cli", "run", "--rm", imported, "sh", "-c", script]
    with subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "got it\n"
        assert process.wait(60) == 3


def code_without_reader(environment: dict[str, str], *arguments: str) -> int:
    """The exit code of a line of which a pipe's other end reads only the first line."""
    with subprocess.Popen(
        [sys.executable, "-m", "corten.cli", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        return ended(process)


def ended(process: subprocess.Popen[Any]) -> int:
    try:
        return process.wait(30)
    finally:
        process.kill()


@pytest.mark.parametrize("script", ["yes", "trap '' TERM; yes", "seq 100000; exit 3"])
def test_a_run_ends_when_nobody_reads_it_any_more(
    imported: str, environment: dict[str, str], client: corten.Client, script: str
) -> None:
    assert code_without_reader(environment, "run", "--rm", imported, "sh", "-c", script) == 128 + signal.SIGPIPE
    assert not client.tasks.list()
    assert not client.containers.list()


def test_without_rm_the_container_of_a_run_that_nobody_reads_stays_but_does_not_run(
    imported: str, environment: dict[str, str], client: corten.Client
) -> None:
    assert code_without_reader(environment, "run", "--name", "a", imported, "yes") == 128 + signal.SIGPIPE
    assert not client.tasks.list()
    assert [container.id for container in client.containers.list()] == ["a"]


@pytest.mark.parametrize("script", ["exec yes", "yes & exec yes"])
def test_an_exec_that_nobody_reads_any_more_is_killed(
    invoke: Invoke, imported: str, environment: dict[str, str], client: corten.Client, script: str
) -> None:
    invoke("run", "-d", "--name", "a", imported, "sleep", "1000")
    assert code_without_reader(environment, "exec", "a", "sh", "-c", script) == 128 + signal.SIGPIPE
    assert client.tasks.get("a").status.name == "RUNNING"
    assert [each.exec_id for each in client.containers.get("a").task().pids() if each.exec_id] == []


def test_an_attach_that_nobody_reads_any_more_leaves_the_container_alone(
    invoke: Invoke, imported: str, environment: dict[str, str], client: corten.Client
) -> None:
    invoke("run", "-dit", "--name", "a", imported, "yes")
    assert code_without_reader(environment, "attach", "a") == 128 + signal.SIGPIPE
    assert client.tasks.get("a").status.name == "RUNNING"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_third_signal_that_is_ignored_ends_the_run(
    imported: str, environment: dict[str, str], client: corten.Client, number: signal.Signals
) -> None:
    script = "trap 'echo no' INT TERM; echo ready; while :; do sleep 0.05; done"
    line = [sys.executable, "-m", "corten.cli", "run", "--rm", imported, "sh", "-c", script]
    with subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for shown in ("ready\n", "no\n", "no\n"):
            assert process.stdout.readline() == shown
            process.send_signal(number)
        assert ended(process) == 128 + number
    assert not client.tasks.list()
    assert not client.containers.list()


def test_the_third_signal_that_is_ignored_ends_an_attach_and_not_the_container(
    invoke: Invoke, imported: str, environment: dict[str, str], client: corten.Client
) -> None:
    script = "trap 'echo no' TERM; while :; do echo ready; sleep 0.05; done"
    invoke("run", "-dit", "--name", "a", imported, "sh", "-c", script)
    with subprocess.Popen(
        [sys.executable, "-m", "corten.cli", "attach", "--no-stdin", "a"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        until(lambda: mask(process.pid, "SigCgt") >> signal.SIGTERM - 1 & 1, "no handler")
        for shown in ("ready\n", "no\n", "no\n"):
            assert shown in iter(process.stdout.readline, "")
            process.terminate()
        assert ended(process) == 128 + signal.SIGTERM
    assert client.tasks.get("a").status.name == "RUNNING"


def test_a_run_leaves_nothing_behind(
    command: Run, imported: str, client: corten.Client, corten_daemon: daemons.Daemon
) -> None:
    assert command("run", "--rm", imported, "true").returncode == 0
    assert not client.containers.list()
    assert not client.tasks.list()
    assert [info.kind for info in client.snapshotter("overlayfs").walk()] == [corten.snapshots.Kind.COMMITTED]
    assert not client.leases.list()
    assert not kept(corten_daemon, client.scope.namespace)


def kept(daemon: daemons.Daemon, namespace: str) -> list[Path]:
    """What the command keeps beside the daemon's socket."""
    folder = Path(daemon.address).parent
    return [*folder.glob(f"corten-io/{namespace}/*"), *folder.glob(f"corten-logs/{namespace}/*")]


def test_without_rm_the_container_stays_and_its_name_says_of_what_it_is(
    command: Run, imported: str, client: corten.Client
) -> None:
    assert command("run", imported, "true").returncode == 0
    [found] = client.containers.list()
    assert found.id.startswith("busybox-")
    assert command("ps", "-q").stdout == ""
    assert command("ps", "-aq").stdout == f"{found.id}\n"


# --- in the background


def test_a_container_in_the_background_is_listed_logged_and_removed(
    invoke: Invoke, imported: str, corten_daemon: daemons.Daemon, namespace: str
) -> None:
    script = "echo out; echo err >&2; trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done"
    assert invoke("run", "-d", "--name", "a", imported, "sh", "-c", script).stdout == "a\n"
    [row] = invoke("ps").stdout.splitlines()[1:]
    assert row.split()[:2] == ["a", "busybox:latest"]
    assert "running" in row
    until(lambda: invoke("logs", "a").stdout_bytes == b"out\nerr\n", "the log does not come")
    assert invoke("stop", "a").stdout == "a\n"
    assert invoke("logs", "a").stdout_bytes == b"out\nerr\nbye\n"
    assert invoke("logs", "--tail", "1", "a").stdout_bytes == b"bye\n"
    [row] = invoke("ps", "-a").stdout.splitlines()[1:]
    assert "ended (0)" in row
    assert invoke("rm", "a").stdout == "a\n"
    assert invoke("ps", "-aq").stdout == ""
    assert not kept(corten_daemon, namespace)


def test_json_of_a_container_has_stable_keys(invoke: Invoke, imported: str) -> None:
    made = json.loads(invoke("run", "-d", "--json", "--name", "a", imported, "sleep", "100").stdout)
    assert (made["kind"], made["id"], made["image"]) == ("container", "a", FULL)
    assert made["task"]["status"] == "running"
    [listed] = json.loads(invoke("ps", "--json").stdout)
    assert set(listed) == {
        *("id", "image", "command", "created_at", "runtime", "labels", "status", "pid", "exit_status"),
    }
    assert listed["command"] == ["sleep", "100"]
    [shown] = json.loads(invoke("inspect", "a").stdout)
    assert shown["spec"]["process"]["args"] == ["sleep", "100"]
    assert shown["task"]["pid"] == listed["pid"]


def test_logs_follow_until_the_end(imported: str, invoke: Invoke, environment: dict[str, str]) -> None:
    invoke("run", "-d", "-i", "--name", "a", imported, "cat")
    line = [sys.executable, "-m", "corten.cli", "logs", "-f", "a"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as follower:
        assert follower.stdout is not None
        attached = subprocess.run(
            [sys.executable, "-m", "corten.cli", "attach", "a"],
            input="one\ntwo\n",
            text=True,
            env=environment,
            capture_output=True,
            timeout=60,
        )
        assert (attached.returncode, attached.stdout) == (0, "one\ntwo\n")
        assert follower.stdout.read() == "one\ntwo\n"
        assert follower.wait(60) == 0


def test_stop_makes_what_does_not_listen(invoke: Invoke, imported: str, client: corten.Client) -> None:
    invoke("run", "-d", "--name", "a", imported, "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    until(lambda: has_trap(client.tasks.get("a").pid, "SigIgn", signal.SIGTERM), "no trap")
    invoke("stop", "--time", "0.3", "a")
    assert client.tasks.get("a").exit_status == 128 + 9
    assert invoke("stop", "a").stdout == "a\n"  # it has ended


def test_stop_asks_as_the_image_wants(invoke: Invoke, imported: str, client: corten.Client) -> None:
    wants = f"{places.STOP_LABEL}=SIGUSR1"
    script = "trap 'exit 5' USR1; while :; do sleep 0.05; done"
    invoke("run", "-d", "--name", "a", "--label", wants, imported, "sh", "-c", script)
    until(lambda: signals(client.tasks.get("a").pid), "no trap")
    invoke("stop", "--time", "60", "a")
    assert client.tasks.get("a").exit_status == 5


def test_kill_sends_the_signal_that_is_named(invoke: Invoke, imported: str, client: corten.Client) -> None:
    invoke("run", "-d", "--name", "a", imported, "sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.05; done")
    until(lambda: signals(client.tasks.get("a").pid), "no trap")
    invoke("kill", "-s", "usr1", "a")
    assert client.tasks.wait("a", timeout=60).status == 5
    assert "`corten ps -a`" in invoke("kill", "a", code=1).stderr


def signals(pid: int) -> bool:
    return has_trap(pid, "SigCgt", signal.SIGUSR1)


def has_trap(pid: int, kind: str, number: int) -> bool:
    """Whether the shell, which runc becomes, catches (SigCgt) or ignores (SigIgn) a signal; proc(5)."""
    named = Path(f"/proc/{pid}/status").read_text().startswith("Name:\tsh\n")
    return named and bool(mask(pid, kind) >> number - 1 & 1)


def mask(pid: int, kind: str) -> int:
    """The signals of that kind, as bits from SIGHUP on."""
    return int(Path(f"/proc/{pid}/status").read_text().partition(f"{kind}:\t")[2].split()[0], 16)


def test_rm_spares_what_runs_unless_it_is_forced(invoke: Invoke, imported: str) -> None:
    invoke("run", "-d", "--name", "a", imported, "sleep", "100")
    refused = invoke("rm", "a", "no-such", code=1).stderr
    assert 'Error: container "a" is running' in refused
    assert "`corten stop a`" in refused
    assert "no-such" in refused
    assert invoke("rm", "-f", "a").stdout == "a\n"


# --- exec


def test_exec_runs_in_the_container(command: Run, invoke: Invoke, imported: str) -> None:
    invoke("run", "-d", "--name", "a", "-e", "COLOR=blue", imported, "sleep", "100")
    options = ["-i", "-e", "X=y", "-u", "5", "-w", "/tmp"]
    script = "cat; echo $COLOR $X; id -u; pwd; exit 4"
    done = command("exec", *options, "a", "sh", "-c", script, stdin="in\n")
    assert (done.returncode, done.stdout) == (4, "in\nblue y\n5\n/tmp\n")
    assert command("exec", "-d", "a", "touch", "/made").returncode == 0
    until(lambda: command("exec", "a", "test", "-e", "/made").returncode == 0, "not made")


# --- wrong input


@pytest.mark.parametrize(
    ("arguments", "code", "reason", "advice"),
    [
        (["run", "--pull", "never", "no.such/image:1"], 1, 'image "no.such/image:1": not found', "corten pull no.such"),
        (["run", FULL, "no-such-program"], 1, "no-such-program", ""),
        (["run", "--name", "bad/id", FULL], 1, "bad/id", ""),
        (["run", "-u", "nobody9", FULL], 1, 'user "nobody9"', ""),
        (["run", "--mount", "size=3", FULL], 1, 'unknown key "size"', ""),
        (["run", "--mount", "src=/x", FULL], 1, "has no destination", ""),
        (["run", "-v", "x", FULL], 2, "must be FROM:TO", ""),
        (["run", "--env-file", "/no/such", FULL], 1, "/no/such cannot be read", ""),
        (["run", "--cap-add", "FLY", FULL], 2, "'FLY' is no capability", ""),
        (["run", "--memory", "lots", FULL], 2, "'lots' is no size", ""),
        (["run", "--platform", "plan9/8088", FULL], 1, "plan9/8088", "corten pull --platform"),
        (["run", "--pull", "never", "--snapshotter", "zfs", FULL], 1, "snapshotter not loaded: zfs", "corten plugins"),
        (["run", "--runtime", "io.none.v1", FULL], 1, "io.none.v1", ""),
        (["run", "-d", "--rm", FULL], 2, "--detach goes not with", ""),
        (["run", "-it", FULL], 1, "-it needs a terminal", "Leave out -t"),
        (["exec", "none", "true"], 1, "none", "corten ps -a"),
        (["logs", "none"], 1, "none", "corten ps -a"),
        (["attach", "none"], 1, "none", "corten ps -a"),
        (["inspect", "none"], 1, 'nothing is named "none"', "corten images"),
    ],
)
def test_wrong_input_gets_one_sentence_and_leaves_nothing(
    invoke: Invoke, imported: str, client: corten.Client, arguments: list[str], code: int, reason: str, advice: str
) -> None:
    if "--platform" in arguments:
        arguments = [arguments[0], "--pull", "never", *arguments[1:]]
    done = invoke(*arguments, code=code)
    assert done.stdout == ""
    error, *more = done.stderr.splitlines()[-2 if advice else -1 :]
    assert error.startswith("Error: ")
    assert reason in error
    assert advice in "".join(more)
    assert not client.containers.list()
    assert len(list(client.snapshotter("overlayfs").walk())) == 1
    assert not client.leases.list()


def test_a_name_that_is_taken_is_told_and_kept(invoke: Invoke, imported: str, client: corten.Client) -> None:
    invoke("run", "-d", "--name", "a", imported, "sleep", "100")
    told = invoke("run", "--name", "a", imported, "true", code=1).stderr
    assert "already exists" in told
    assert "`corten rm a`" in told
    assert client.tasks.get("a").status.name == "RUNNING"


def test_a_container_without_log_says_how_to_see_it(invoke: Invoke, imported: str) -> None:
    invoke("run", "-dit", "--name", "a", imported, "sh")
    assert "`corten attach a`" in invoke("logs", "a", code=1).stderr


@pytest.mark.parametrize("options", [["-d"], ["-d", "-i"]])
def test_an_attach_says_that_the_container_prints_into_its_log(
    command: Run, invoke: Invoke, imported: str, options: list[str]
) -> None:
    invoke("run", *options, "--name", "a", imported, "sleep", "1000")
    told = command("attach", *(["--no-stdin"] if "-i" in options else []), "a")
    assert told.returncode == 1
    assert 'Error: container "a" prints into its log\n`corten logs -f a`' in told.stderr
