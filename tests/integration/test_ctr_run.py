"""``ctr run``: a container from an image to its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import images
from tests import terminal
from tests.sides import Both, Side

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
BUSYBOX = images.BUSYBOX


def test_run_passes_output_and_exit_code_on(both: Both) -> None:
    outcome = both.ctr("run", "--rm", BUSYBOX, "@run", "/bin/sh", "-c", "echo out; echo err >&2; exit 3", code=3)
    assert (outcome.stdout, outcome.stderr) == ("out\n", "err\n")
    assert both.ctr("containers", "ls", "-q").lines == []


def test_run_tells_its_events_in_order(both: Both) -> None:
    mark = both.mark()
    both.ctr("run", "--rm", BUSYBOX, "@events", "/bin/true")
    topics = both.same_events(mark, last=("/tasks/delete", "@events"))
    wanted = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert [topic for topic in topics if topic.startswith("/tasks")] == wanted


def test_a_death_by_signal_is_128_and_its_number(both: Both) -> None:
    both.ctr("run", "--rm", BUSYBOX, "@signal", "/bin/sh", "-c", "sleep 600 & exec sh -c 'kill -9 $PPID'", code=None)
    both.ctr("run", "--rm", BUSYBOX, "@fatal", "/bin/sh", "-c", "sh -c 'kill -SEGV $$'; exit $?", code=139)


def test_run_reads_its_input(both: Both) -> None:
    done = both.ctr("run", "--rm", BUSYBOX, "@input", "/bin/sh", "-c", "read a; echo got $a", stdin=b"word\n")
    assert done.stdout == "got word\n"


def test_run_detached_leaves_a_task(both: Both) -> None:
    both.ctr("run", "-d", "--pid-file", "{dir}/run.pid", BUSYBOX, "@bg", "/bin/sleep", "600")
    both.same(lambda side: (side.directory / "run.pid").read_text() in side.output("tasks", "ls"))
    both.ctr("tasks", "ls")
    both.ctr("tasks", "rm", "-f", "@bg", code=None)
    both.ctr("containers", "rm", "@bg")


def test_run_has_a_terminal(both: Both) -> None:
    line = (
        "run",
        "--rm",
        "-t",
        BUSYBOX,
        "@tty",
        "/bin/sh",
        "-c",
        "tty; sleep 0.5; stty size; read x; echo got $x; exit 4",
    )
    code, shown = both.same(lambda side: terminal.run(side.argv(*line), [("100", "word\n")]))
    assert code == 4
    assert "/dev/pts/0\n30 100\n" in shown and "got word" in shown


def test_a_read_only_root_refuses_writes(both: Both) -> None:
    done = both.ctr(
        "run",
        "--rm",
        "--read-only",
        BUSYBOX,
        "@ro",
        "/bin/sh",
        "-c",
        "touch /x; grep -c ' / .* ro' /proc/mounts",
        code=None,
    )
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize(
    ("options", "script", "expected"),
    [
        (("--env", "COLOR=blue", "--env", "EMPTY="), "echo $COLOR; env | sort", "blue\nCOLOR=blue\nEMPTY=\n"),
        (("--cwd", "/tmp"), "pwd", "/tmp\n"),
        (
            ("--mount", "type=bind,src={dir},dst=/mnt,options=rbind:ro"),
            "touch /mnt/x; grep /mnt /proc/mounts | cut -d' ' -f2-4",
            "/mnt",
        ),
        (("--mount", "type=tmpfs,src=tmpfs,dst=/tmp,options=size=64k"), "df /tmp | tail -n 1", "tmpfs"),
        (("--snapshotter", "native"), "ls /bin/busybox; grep -c overlay /proc/mounts", "/bin/busybox\n0\n"),
        (("--net-host",), "readlink /proc/self/ns/net", "net:["),
        (("--label", "a=b"), "hostname", ""),
        (("--privileged",), "grep CapEff /proc/self/status", "CapEff"),
        (("--cap-drop", "CAP_CHOWN"), "grep Cap /proc/self/status", "CapEff"),
        (("--allow-new-privs",), "grep NoNewPrivs /proc/self/status", "0"),
        ((), "cat /proc/mounts | cut -d' ' -f2-3", "/proc proc\n"),
        ((), "grep -E 'Cap|NoNew|Seccomp' /proc/self/status; ulimit -n; umask; id; ls /dev", "CapEff"),
        ((), "cut -d: -f2- /proc/self/cgroup | sort", "/default/@options"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value)[:30],
)
def test_run_takes_its_options(both: Both, options: tuple[str, ...], script: str, expected: str) -> None:
    if options[:1] == ("--snapshotter",):
        both.ctr("images", "import", "--snapshotter", "native", both.corten.resolve("{dir}/../busybox.tar"))
    done = both.ctr("run", "--rm", *options, BUSYBOX, "@options", "/bin/sh", "-c", script, code=None)
    assert expected in done.stdout, done


@pytest.mark.parametrize(
    ("options", "places", "expected"),
    [
        (("--memory-limit", "67108864"), ("memory/{}/memory.limit_in_bytes", "{}/memory.max"), "67108864"),
        (("--cpus", "0.5"), ("cpu/{}/cpu.cfs_quota_us", "{}/cpu.max"), "50000"),
    ],
    ids=["memory", "cpus"],
)
def test_limits_reach_the_cgroup(both: Both, options: tuple[str, ...], places: tuple[str, ...], expected: str) -> None:
    def limit(side: Side) -> str:
        paths = [Path("/sys/fs/cgroup", place.format(side.resolve("default/@limited"))) for place in places]
        return next(path.read_text() for path in paths if path.exists())

    both.ctr("run", "-d", *options, BUSYBOX, "@limited", "/bin/sleep", "600")
    assert both.same(limit).startswith(expected)


def test_a_container_is_a_little_more_likely_to_be_killed_than_its_daemon(both: Both) -> None:
    both.ctr("run", "--rm", BUSYBOX, "@oom", "/bin/cat", "/proc/self/oom_score_adj")


def test_an_unprivileged_user_may_reopen_its_output(both: Both) -> None:
    script = "echo by name > /dev/stdout; echo too > /dev/stderr"
    both.ctr("run", "-d", BUSYBOX, "@reopen", "/bin/sleep", "600")
    line = ("tasks", "exec", "--exec-id", "e", "--user", "65534", "@reopen", "/bin/sh", "-c", script)
    done = both.ctr(*line)
    both.ctr("tasks", "rm", "-f", "@reopen", code=None)
    both.ctr("containers", "rm", "@reopen")
    assert (done.stdout, done.stderr) == ("by name\n", "too\n")


def test_run_waits_for_all_output(both: Both) -> None:
    done = both.ctr("run", "--rm", BUSYBOX, "@much", "/bin/sh", "-c", "seq 1 20000")
    assert done.lines[-1] == "20000" and len(done.lines) == 20000


@pytest.mark.parametrize(
    "line",
    [
        ("example.test/missing:1", "@bad", "/bin/true"),
        (BUSYBOX, "@bad", "/bin/missing"),
        (BUSYBOX, "@bad", "/etc/passwd"),
        ("--cwd", "/etc/passwd", BUSYBOX, "@bad", "/bin/true"),
        ("--mount", "type=bind,src=/missing,dst=/mnt,options=rbind", BUSYBOX, "@bad", "/bin/true"),
        ("--snapshotter", "nowhere", BUSYBOX, "@bad", "/bin/true"),
        (BUSYBOX, "@bad/id", "/bin/true"),
    ],
    ids=["image", "program", "not-executable", "cwd", "mount", "snapshotter", "id"],
)
def test_what_cannot_run_is_refused_alike(both: Both, line: tuple[str, ...]) -> None:
    outcome = both.ctr("run", "--rm", *line, code=1, scrubs=REFUSALS)
    assert outcome.stderr.startswith("ctr: ")
    assert both.ctr("containers", "ls", "-q").lines == []
    assert both.ctr("tasks", "ls", "-q").lines == []
    both.each(forget)


# The right code instead of UNKNOWN; containerd names its layers.
REFUSALS = [
    (r": (unknown|invalid argument)$", ": CODE"),
    ("failed to create shim task: ", ""),
    # The engine has the client's FIFO as its own standard error, and says there too what is wrong.
    (r"(?m)^(runc create failed|cgroups in hybrid mode).*\n", ""),
    ("create container failed validation: container.ID: ", ""),
]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--runtime", "io.example.nothing.v1"), "io.example.nothing.v1"),
        (("--runc-binary", "/missing/runc"), "/missing/runc"),
    ],
    ids=["runtime", "engine"],
)
def test_what_is_not_installed_is_named(both: Both, options: tuple[str, ...], named: str) -> None:
    for done in both.each(lambda side: side.ctr("run", "--rm", *options, BUSYBOX, "@bad", "/bin/true")):
        assert done.returncode == 1 and named in done.stderr.decode()
    assert both.ctr("tasks", "ls", "-q").lines == []


def forget(side: Side) -> None:
    for key in ("@bad", "@bad/id"):
        side.ctr("snapshots", "rm", key)


def test_the_engine_may_be_crun(both: Both) -> None:
    line = ("run", "--rm", "--runc-binary", "/usr/bin/crun", BUSYBOX, "@crun", "/bin/true")
    both.ctr(*line, code=None, scrubs=REFUSALS)
