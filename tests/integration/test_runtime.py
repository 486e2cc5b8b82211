"""The runtime itself, without a daemon: real runc, real FIFOs, real cgroups."""

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kernel.spawner import Spawner
from plugin_sdk import errors, mounts, runtime, specs
from plugin_sdk.api.types.runc.options import oci_pb2
from plugins_builtin.runtime.plugin import Config
from plugins_builtin.runtime.runc import Runc
from tests import pace

pytestmark = [pytest.mark.root, pytest.mark.engine]

REPOSITORY = Path(__file__).resolve().parents[2]
LOG = logging.getLogger("test")
BUSYBOX = shutil.which("busybox", path="/bin:/usr/bin")
PROGRAMS = (
    "sh",
    "cat",
    "echo",
    "sleep",
    "kill",
    "true",
    "false",
    "tty",
    "stty",
    "id",
    "head",
    "wc",
    "dd",
    "ls",
    "mount",
)


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory):
    root = tmp_path_factory.mktemp("image")
    root.chmod(0o755)
    for name in ("bin", "dev", "proc", "sys", "run", "tmp", "etc"):
        (root / name).mkdir()
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in PROGRAMS:
        (root / "bin" / name).symlink_to("busybox")
    return root


@pytest.fixture
def place(tmp_path_factory):
    path = Path("/dev/shm") / f"corten-rt-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    (path / "bundles").mkdir(parents=True)
    yield path
    left = [point for point in mounts.mount_points() if point.startswith(str(path))]
    shutil.rmtree(path)
    assert not left


class Bench:
    """A runtime, what it reports, and a client's way to use it."""

    namespace = "testing"

    def __init__(self, place, rootfs, config=None):
        self.place, self.rootfs, self.config = place, rootfs, config or Config()
        self.exits, self.ooms, self.tasks = [], [], []
        self.changed = threading.Condition()
        self.spawner = Spawner()
        self.runtime = self.make_runtime()

    def make_runtime(self):
        return Runc(self.place / "engine", self.place / "s", self.spawner, self.config, LOG)

    def record(self, exit):
        with self.changed:
            self.exits.append(exit)
            self.changed.notify_all()

    def record_oom(self, namespace, id):
        with self.changed:
            self.ooms.append((namespace, id))
            self.changed.notify_all()

    def wait(self, id, exec_id="", timeout=90):
        def found():
            return next((e for e in self.exits if (e.id, e.exec_id) == (id, exec_id)), None)

        with self.changed:
            assert self.changed.wait_for(found, timeout), f"{id} {exec_id} did not end"
            return found()

    def spec(self, id, *args, change=None, **process):
        spec = specs.default_spec(self.namespace, id)
        spec["process"] |= {"args": list(args), "env": ["PATH=/bin"], **process}
        if change:
            change(spec)
        return json.dumps(spec).encode()

    def request(self, id, *args, stdio=None, options=None, mount=None, **spec):
        return runtime.Create(
            namespace=self.namespace,
            id=id,
            bundle=self.place / "bundles" / id,
            spec=self.spec(id, *args, **spec),
            rootfs=[mount or mounts.Mount("bind", str(self.rootfs), "", ("rbind", "rw"))],
            stdio=stdio or runtime.Stdio(),
            options=options or runtime.Any(),
        )

    def create(self, id, *args, **rest):
        task = self.runtime.create(self.request(id, *args, **rest), self.record, self.record_oom)
        self.tasks.append(task)
        return task

    def run(self, id, *args, **rest):
        task = self.create(id, *args, **rest)
        task.start()
        return task

    def load(self, id):
        task = self.runtime.load(self.place / "bundles" / id, self.record, self.record_oom)
        if task is not None:
            self.tasks.append(task)
        return task

    def restart(self):
        """As after the death of a daemon: another runtime and another spawner."""
        self.runtime.close()
        self.spawner.close()
        self.tasks, self.exits = [], []
        self.spawner = Spawner()
        self.runtime = self.make_runtime()

    def close(self):
        for task in self.tasks:
            with contextlib.suppress(errors.Error):
                task.kill(signal.SIGKILL)
                self.wait(task.id)
            with contextlib.suppress(errors.Error):
                task.delete()
        self.runtime.close()
        self.spawner.close()


@pytest.fixture
def bench(place, rootfs):
    made = Bench(place, rootfs)
    yield made
    made.close()
    assert os.listdir(place / "bundles") == []
    assert os.listdir(place / "s") == []


class Fifos:
    """What a client makes: FIFOs that it opens without blocking."""

    def __init__(self, place, *names, terminal=False):
        self.paths = {}
        for name in names:
            self.paths[name] = str(place / f"{name}-{time.monotonic_ns()}")
            os.mkfifo(self.paths[name])
        self.fds = {}
        self.stdio = runtime.Stdio(terminal=terminal, **self.paths)

    def open(self, name):
        if name not in self.fds:
            mode = os.O_WRONLY if name == "stdin" else os.O_RDONLY | os.O_NONBLOCK
            self.fds[name] = os.open(self.paths[name], mode)
        return self.fds[name]

    def read_until(self, name, text, timeout=60):
        """Bytes read so far once ``text`` is among them; None means until end of file."""
        fd, data, end = self.open(name), b"", time.monotonic() + timeout
        while text is None or text not in data:
            assert time.monotonic() < end, data
            if not select.select([fd], [], [], 0.1)[0]:
                continue
            part = os.read(fd, 65536)
            if not part and text is None:
                return data
            if not part:
                time.sleep(0.01)
            data += part
        return data

    def write(self, data):
        os.write(self.open("stdin"), data)

    def leave(self, *names):
        for name in names or list(self.fds):
            os.close(self.fds.pop(name))


@pytest.fixture
def fifos(place):
    made = []

    def make(*names, terminal=False):
        made.append(Fifos(place, *names, terminal=terminal))
        return made[-1]

    yield make
    for each in made:
        each.leave()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, timeout=60):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def shim_pid(task):
    return task.shim_pid


# -- the life of a task


def test_a_task_is_created_started_waited_for_and_deleted(bench, fifos):
    io = fifos("stdout", "stderr")
    io.open("stdout")
    task = bench.create("one", "sh", "-c", "echo out; echo err >&2; exit 7", stdio=io.stdio)
    assert alive(task.pid)
    assert task.state().status is runtime.Status.CREATED
    assert task.start() == task.pid
    exit = bench.wait("one")
    assert (exit.namespace, exit.exec_id, exit.status, exit.pid) == ("testing", "", 7, task.pid)
    assert abs(exit.exited_at - time.time_ns()) < 5e9
    assert io.read_until("stdout", None) == b"out\n"
    state = task.state()
    assert (state.status, state.exit_status, state.stdio) == (runtime.Status.STOPPED, 7, io.stdio)
    assert task.delete() == exit
    assert not (bench.place / "bundles/one").exists()
    assert bench.exits == [exit]


def test_the_exit_is_on_disk_before_it_is_told(bench):
    seen = []
    request = bench.request("disk", "sh", "-c", "exit 3")
    task = bench.runtime.create(
        request,
        lambda exit: (seen.append((request.bundle / "exits/init").exists()), bench.record(exit)),
        bench.record_oom,
    )
    bench.tasks.append(task)
    task.start()
    bench.wait("disk")
    assert seen == [True]
    assert json.loads((request.bundle / "exits/init").read_text())["status"] == 3


def test_an_exit_is_told_although_the_disk_is_full(bench):
    """A file in the folder's place stands for the full disk: either way the write fails."""
    task = bench.create("full", "sh", "-c", "exit 5")
    folder = bench.place / "bundles/full/exits"
    folder.rmdir()
    folder.touch()
    task.start()
    assert bench.wait("full").status == 5
    assert task.delete().status == 5


def test_a_killed_shim_is_an_exit_137_although_the_disk_is_full(bench):
    task = bench.run("full", "sleep", "60")
    folder = bench.place / "bundles/full/exits"
    folder.rmdir()
    folder.touch()
    os.kill(shim_pid(task), signal.SIGKILL)
    assert bench.wait("full").status == 137
    assert task.delete().status == 137


def test_death_by_a_signal_is_128_and_its_number(bench):
    task = bench.run("signal", "sleep", "60")
    task.kill(signal.SIGKILL)
    assert bench.wait("signal").status == 137
    with pytest.raises(errors.NotFound, match="process already finished"):
        task.kill(signal.SIGKILL)


def test_start_twice_is_refused(bench):
    task = bench.run("twice", "sleep", "60")
    with pytest.raises(errors.FailedPrecondition, match="started before"):
        task.start()


def test_a_second_task_of_the_same_bundle_is_refused(bench):
    bench.create("same", "sleep", "60")
    with pytest.raises(errors.AlreadyExists, match="same"):
        bench.create("same", "sleep", "60")
    assert bench.tasks[0].state().status is runtime.Status.CREATED


def test_deleting_a_running_task_kills_nothing(bench):
    task = bench.run("busy", "sleep", "60")
    with pytest.raises(errors.FailedPrecondition, match="busy"):
        task.delete()
    assert alive(task.pid)


def test_deleting_a_task_that_never_started_ends_it_first(bench):
    task = bench.create("never", "sleep", "60")
    pid = task.pid
    assert task.delete().status == 137
    assert not alive(pid)
    assert bench.wait("never").status == 137
    bench.tasks.clear()


def test_a_created_task_can_be_killed(bench):
    task = bench.create("early", "sleep", "60")
    task.kill(signal.SIGKILL)
    assert bench.wait("early").status == 137


def test_many_short_tasks_end_with_their_codes(bench):
    def life(number):
        task = bench.run(f"short{number}", "sh", "-c", f"exit {number}")
        bench.wait(task.id)
        task.delete()

    threads = [threading.Thread(target=life, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((exit.id, exit.status) for exit in bench.exits) == [(f"short{n}", n) for n in range(6)]


# -- streams


def test_a_user_that_is_not_root_may_open_dev_stdout(bench, fifos):
    io = fifos("stdout", "stderr")
    io.open("stdout")
    user = {"uid": 1000, "gid": 1000}
    bench.run("user", "sh", "-c", "echo reopened > /dev/stdout", user=user, stdio=io.stdio)
    assert io.read_until("stdout", None) == b"reopened\n"
    assert bench.wait("user").status == 0


def test_stdin_without_a_writer_does_not_end(bench, fifos):
    io = fifos("stdin", "stdout")
    task = bench.run("quiet", "cat", stdio=io.stdio)
    time.sleep(0.3)
    assert alive(task.pid)
    io.write(b"late\n")
    assert io.read_until("stdout", b"late") == b"late\n"


def test_stdin_ends_after_close_io_and_not_when_a_client_goes(bench, fifos):
    io = fifos("stdin", "stdout")
    task = bench.run("input", "sh", "-c", "cat; exit 5", stdio=io.stdio)
    io.write(b"first\n")
    io.leave("stdin")
    assert io.read_until("stdout", b"first")
    time.sleep(0.2)
    assert alive(task.pid)
    io.write(b"second\n")
    task.close_io()
    io.leave("stdin")
    assert io.read_until("stdout", None) == b"second\n"
    assert bench.wait("input").status == 5


def test_much_input_arrives_whole(bench, fifos):
    io = fifos("stdin", "stdout")
    io.open("stdout")
    task = bench.run("much", "sh", "-c", "sleep 0.2; wc -c", stdio=io.stdio)
    data = b"x" * 1_000_000
    writer = io.open("stdin")
    for start in range(0, len(data), 50_000):
        os.write(writer, data[start : start + 50_000])
    io.leave("stdin")
    task.close_io()
    assert io.read_until("stdout", None) == b"1000000\n"


def test_a_reader_may_leave_and_return(bench, fifos):
    io = fifos("stdin", "stdout")
    task = bench.run("reader", "sh", "-c", "while read line; do echo got $line; done", stdio=io.stdio)
    io.write(b"a\n")
    io.read_until("stdout", b"got a")
    io.leave("stdout")
    io.write(b"b\n")
    time.sleep(0.2)
    assert alive(task.pid)
    io.write(b"c\n")
    assert b"got c" in io.read_until("stdout", b"got c")


def test_output_goes_to_a_file(bench, place):
    path = place / "logs/out.txt"
    for id in ("file1", "file2"):
        uri = f"file://{path}"
        bench.run(id, "sh", "-c", f"echo {id}; echo error >&2", stdio=runtime.Stdio(stdout=uri, stderr=uri))
        bench.wait(id)
    assert path.read_text() == "file1\nerror\nfile2\nerror\n"


def test_output_goes_to_a_logging_program(bench, place):
    program, result = place / "logger", place / "logged"
    program.write_text(
        f'#!/bin/sh\nexec 5<&-\necho "$CONTAINER_NAMESPACE $CONTAINER_ID $*" > {result}\ncat <&3 >> {result}\n'
        f"cat <&4 >> {result}\necho end >> {result}\n"
    )
    program.chmod(0o755)
    uri = f"binary://{program}?tag=a%20b"
    bench.run("logged", "sh", "-c", "echo out; echo err >&2", stdio=runtime.Stdio(stdout=uri, stderr=uri))
    bench.wait("logged")
    wait_until(lambda: result.exists() and result.read_text().endswith("end\n"))
    assert result.read_text() == "testing logged tag a b\nout\nerr\nend\n"


def test_without_streams_a_task_reads_end_of_file(bench):
    bench.run("null", "cat")
    assert bench.wait("null").status == 0


def test_relayed_output_arrives_too(place, rootfs, fifos):
    bench = Bench(place, rootfs, Config(relay=True))
    io = fifos("stdout", "stderr")
    io.open("stdout"), io.open("stderr")
    bench.run("relay", "sh", "-c", "echo out; echo err >&2", stdio=io.stdio)
    assert io.read_until("stdout", None) == b"out\n"
    assert io.read_until("stderr", None) == b"err\n"
    bench.wait("relay")
    bench.close()


def test_a_missing_fifo_is_not_found_and_leaves_nothing(bench, place):
    with pytest.raises(errors.NotFound, match="nowhere"):
        bench.create("nofifo", "true", stdio=runtime.Stdio(stdout=str(place / "nowhere")))


# -- terminals


def test_a_terminal_has_the_size_it_is_given_and_echoes(bench, fifos):
    io = fifos("stdin", "stdout", terminal=True)
    task = bench.create("term", "sh", stdio=io.stdio, terminal=True)
    task.resize_pty(101, 37)
    task.start()
    io.write(b"stty size; tty\n")
    seen = io.read_until("stdout", b"/dev/")
    assert b"37 101\r\n" in seen
    task.resize_pty(80, 24)
    io.write(b"stty size\n")
    io.read_until("stdout", b"24 80\r\n")
    io.write(b"exit 3\n")
    assert bench.wait("term").status == 3
    io.read_until("stdout", None)


def test_a_terminals_last_output_is_not_lost(bench, fifos):
    io = fifos("stdout", terminal=True)
    io.open("stdout")
    bench.run(
        "burst", "sh", "-c", "dd if=/dev/zero bs=1000 count=300 2>/dev/null; echo end", stdio=io.stdio, terminal=True
    )
    assert len(io.read_until("stdout", None)) == 300_000 + len("end\r\n")
    bench.wait("burst")


# -- exec


def process(*args, **more):
    base = {"args": list(args), "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    return json.dumps(base | more).encode()


def test_an_exec_runs_in_the_task_and_is_waited_for(bench, fifos):
    io = fifos("stdout", "stderr")
    io.open("stdout")
    task = bench.run("execs", "sleep", "60")
    task.exec("e1", process("sh", "-c", "echo $$; id -u; exit 9", user={"uid": 7, "gid": 7}), io.stdio)
    assert task.state("e1").status is runtime.Status.CREATED
    pid = task.start("e1")
    exit = bench.wait("execs", "e1")
    assert (exit.status, exit.pid) == (9, pid)
    assert io.read_until("stdout", None).endswith(b"\n7\n")
    assert task.delete("e1") == exit
    with pytest.raises(errors.NotFound, match="e1"):
        task.state("e1")
    assert task.state().status is runtime.Status.RUNNING


def test_an_exec_is_killed_alone(bench):
    task = bench.run("alone", "sleep", "60")
    task.exec("e", process("sleep", "60"), runtime.Stdio())
    with pytest.raises(errors.FailedPrecondition):
        task.kill(9, "e")
    task.start("e")
    task.kill(9, "e")
    assert bench.wait("alone", "e").status == 137
    assert alive(task.pid)


def test_exec_ids_are_unique_and_known(bench):
    task = bench.run("ids", "sleep", "60")
    task.exec("e", process("true"), runtime.Stdio())
    with pytest.raises(errors.AlreadyExists, match="id e: already exists"):
        task.exec("e", process("true"), runtime.Stdio())
    with pytest.raises(errors.NotFound, match="process does not exist unknown"):
        task.start("unknown")
    with pytest.raises(errors.InvalidArgument):
        task.exec("../e", process("true"), runtime.Stdio())
    task.delete("e")
    task.exec("e", process("true"), runtime.Stdio())


def test_an_exec_that_the_engine_refuses_says_why_and_can_be_deleted(bench, fifos):
    io = fifos("stdout", "stderr")
    io.open("stdout")
    task = bench.run("refused", "sleep", "60")
    task.exec("bad", process("no-such-program"), io.stdio)
    with pytest.raises(errors.InvalidArgument, match="no-such-program"):
        task.start("bad")
    io.read_until("stdout", None)
    task.delete("bad")


def test_exec_with_a_terminal(bench, fifos):
    io = fifos("stdin", "stdout", terminal=True)
    task = bench.run("execterm", "sleep", "60")
    task.exec("t", process("sh", terminal=True), io.stdio)
    task.start("t")
    task.resize_pty(90, 30, "t")
    io.write(b"stty size; exit 4\n")
    assert b"30 90\r\n" in io.read_until("stdout", None)
    assert bench.wait("execterm", "t").status == 4


def test_nothing_is_added_to_an_ended_task(bench):
    task = bench.run("over", "true")
    bench.wait("over")
    with pytest.raises(errors.FailedPrecondition):
        task.exec("e", process("true"), runtime.Stdio())
    assert task.pids() == []


def test_pids_name_execs(bench):
    task = bench.run("pids", "sh", "-c", "sleep 60 & sleep 60; true")
    task.exec("e", process("sleep", "60"), runtime.Stdio())
    pid = task.start("e")
    wait_until(lambda: len(task.pids()) == 4)
    listed = task.pids()
    assert runtime.ProcessInfo(pid, "e") in listed
    assert runtime.ProcessInfo(task.pid) in listed
    assert [each.exec_id for each in listed].count("") == 3


# -- resources


def test_pause_stops_and_resume_goes_on(bench, fifos):
    io = fifos("stdin", "stdout")
    task = bench.run("paused", "cat", stdio=io.stdio)
    task.pause()
    assert task.state().status is runtime.Status.PAUSED
    io.write(b"x\n")
    assert not select.select([io.open("stdout")], [], [], 0.3)[0]
    task.resume()
    assert task.state().status is runtime.Status.RUNNING
    io.read_until("stdout", b"x")
    task.pause()
    task.kill(9)
    assert bench.wait("paused").status == 137


def test_metrics_and_update(bench):
    def limit(spec):
        spec["linux"]["resources"]["memory"] = {"limit": 64 << 20}

    task = bench.run("figures", "sleep", "60", change=limit)
    from plugin_sdk.api.cgroups.v1 import metrics_pb2 as v1
    from plugin_sdk.api.cgroups.v2 import metrics_pb2 as v2

    def read():
        figures = task.metrics()
        if figures.type_url == "io.containerd.cgroups.v1.Metrics":
            metrics = v1.Metrics.FromString(figures.value)
            return metrics.pids.current, metrics.memory.usage.limit
        assert figures.type_url == "io.containerd.cgroups.v2.Metrics"
        metrics = v2.Metrics.FromString(figures.value)
        return metrics.pids.current, metrics.memory.usage_limit

    wait_until(lambda: read() == (1, 64 << 20))  # runc's own threads count until they have ended
    task.update(json.dumps({"memory": {"limit": 48 << 20}}).encode(), {})
    assert read() == (1, 48 << 20)


def test_want_of_memory_is_reported(bench):
    def limit(spec):
        spec["linux"]["resources"]["memory"] = {"limit": 8 << 20, "swap": 8 << 20}

    bench.run("oom", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", change=limit)
    assert bench.wait("oom").status == 137
    wait_until(lambda: bench.ooms)
    assert bench.ooms == [("testing", "oom")]


# -- what goes wrong


def state_of_engine(bench):
    folder = bench.place / "engine/testing"
    return os.listdir(folder) if folder.exists() else []


def test_a_refused_spec_says_why_and_leaves_nothing(bench):
    with pytest.raises(errors.InvalidArgument, match="no-such-program"):
        bench.create("refused", "no-such-program")
    assert os.listdir(bench.place / "bundles") == []
    assert state_of_engine(bench) == []
    assert bench.exits == []


def test_a_refused_mount_leaves_nothing(bench):
    with pytest.raises(errors.Error, match="no-such-folder"):
        bench.create("nomount", "true", mount=mounts.Mount("bind", "/no-such-folder", "", ("rbind",)))
    assert os.listdir(bench.place / "bundles") == []


def options(**fields):
    return runtime.Any("containerd.runc.v1.Options", oci_pb2.Options(**fields).SerializeToString())


def test_a_missing_engine_is_not_found_by_name(bench):
    with pytest.raises(errors.NotFound, match="no-such-engine"):
        bench.create("engine", "true", options=options(binary_name="no-such-engine"))
    assert os.listdir(bench.place / "bundles") == []


def test_options_of_another_kind_are_refused(bench):
    with pytest.raises(errors.InvalidArgument, match="other"):
        bench.create("options", "true", options=runtime.Any("other.Options", b"\x08\x01"))


def test_options_name_the_engine_and_its_state(bench, place):
    task = bench.create("opt", "true", options=options(binary_name=shutil.which("runc"), root=str(place / "other")))
    assert os.listdir(place / "other/testing") == ["opt"]
    task.start()
    bench.wait("opt")


def test_a_killed_shim_is_an_exit_137_once(bench):
    task = bench.run("orphan", "sleep", "60")
    task.exec("e", process("sleep", "60"), runtime.Stdio())
    task.start("e")
    os.kill(shim_pid(task), signal.SIGKILL)
    assert bench.wait("orphan").status == 137
    assert bench.wait("orphan", "e").status == 137
    wait_until(lambda: not alive(task.pid))
    with pytest.raises(errors.NotFound, match="process already finished"):
        task.kill(9)
    assert task.state().status is runtime.Status.STOPPED
    assert state_of_engine(bench) == []
    assert not [point for point in mounts.mount_points() if point.startswith(str(task.bundle))]
    assert task.delete().status == 137
    assert len(bench.exits) == 2
    bench.tasks.clear()


# -- the daemon's death


def test_a_task_goes_on_after_a_restart(bench, fifos):
    io = fifos("stdin", "stdout")
    task = bench.run("kept", "sh", "-c", "while read line; do echo got $line; done; exit 6", stdio=io.stdio)
    pid = task.pid
    bench.restart()
    io.write(b"more\n")
    assert b"got more" in io.read_until("stdout", b"got more")
    task = bench.load("kept")
    assert (task.pid, task.namespace, task.id) == (pid, "testing", "kept")
    assert task.state().status is runtime.Status.RUNNING
    assert task.state().stdio == io.stdio
    task.exec("e", process("true"), runtime.Stdio())
    task.start("e")
    assert bench.wait("kept", "e").status == 0
    task.close_io()
    io.leave("stdin")
    assert bench.wait("kept").status == 6


def test_exits_of_the_time_between_are_reported_by_load(bench):
    task = bench.run("between", "sh", "-c", "sleep 0.5; exit 8")
    task.exec("e", process("sh", "-c", "exit 2"), runtime.Stdio())
    task.start("e")
    bench.restart()
    before = time.time_ns()
    wait_until(lambda: not alive(task.pid))
    task = bench.load("between")
    assert {(exit.exec_id, exit.status) for exit in bench.exits} == {("", 8), ("e", 2)}
    assert pace.within(abs(bench.wait("between").exited_at - before) / 1e9, 1)
    assert task.state().status is runtime.Status.STOPPED


def test_a_shim_that_died_in_between_is_an_exit_137(bench, fifos):
    io = fifos("stdout")
    task = bench.run("gone", "sleep", "60", stdio=io.stdio)
    pid, shim = task.pid, shim_pid(task)
    bench.restart()
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: not alive(shim))
    task = bench.load("gone")
    assert [exit.status for exit in bench.exits] == [137]
    assert not alive(pid)
    assert task.state().stdio == io.stdio
    bench.restart()
    task = bench.load("gone")
    assert [(exit.status, exit.pid) for exit in bench.exits] == [(137, pid)]
    assert task.delete().status == 137


def test_a_bundle_is_never_removed_through_a_mount(bench, place, rootfs, monkeypatch):
    """As when the spawner dies while it cleans up after a shim."""
    shutil.copytree(rootfs, place / "precious", symlinks=True)
    task = bench.run("kept", "sleep", "60", mount=mounts.Mount("bind", str(place / "precious"), "", ("rbind", "rw")))
    clean_up = bench.runtime._clean_up
    monkeypatch.setattr(bench.runtime, "_clean_up", lambda params: None)
    os.kill(shim_pid(task), signal.SIGKILL)
    assert bench.wait("kept").status == 137
    task.delete()
    assert (place / "precious/bin/busybox").exists()
    assert not (place / "bundles/kept").exists()
    clean_up(task.params)


def test_a_socket_goes_before_its_bundle(bench, place, monkeypatch):
    """So that a crash in between leaves none that nobody knows of."""
    task = bench.run("short", "true")
    bench.wait("short")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("here it crashes"))
    with pytest.raises(pytest.fail.Exception):
        task.delete()
    assert os.listdir(place / "s") == []
    monkeypatch.undo()
    bench.restart()
    bench.load("short").delete()


def test_a_half_made_bundle_is_undone(bench):
    bundle = bench.place / "bundles/half"
    for parts in ((), ("config.json",)):
        bundle.mkdir()
        for name in parts:
            (bundle / name).write_text("{}")
        assert bench.load("half") is None
        assert not bundle.exists()


DAEMON = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.integration.test_runtime import Bench
bench = Bench(Path(sys.argv[2]), Path(sys.argv[3]))
bench.run("survivor", "sh", "-c", "while test ! -e /tmp/end; do sleep 0.05; done; exit 11")
print("running", flush=True)
time.sleep(60)
"""


def test_a_task_survives_the_daemons_sudden_death(bench, rootfs):
    arguments = [sys.executable, "-c", DAEMON, str(REPOSITORY), str(bench.place), str(rootfs)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout.readline() == b"running\n"
        daemon.kill()
    task = bench.load("survivor")
    assert task.state().status is runtime.Status.RUNNING
    (rootfs / "tmp/end").touch()
    assert bench.wait("survivor").status == 11
    (rootfs / "tmp/end").unlink()


def test_the_runtime_registers_itself():
    from plugin_sdk import plugin
    from plugins_builtin.runtime import plugin as ours

    (registration,) = ours.register_runtimes()
    assert (registration.kind, registration.id) == (plugin.RUNTIME, "io.containerd.runc.v2")


CRUN = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from plugin_sdk import runtime
from plugins_builtin.runtime.plugin import Config
from tests.integration.test_runtime import Bench, process
place = Path(sys.argv[2])
bench = Bench(place, Path(sys.argv[3]), Config(engine="crun"))
try:
    uri = f"file://{place}/out"
    task = bench.run("crun", "sh", "-c", "echo one; sleep 60", stdio=runtime.Stdio(stdout=uri, stderr=uri))
    task.exec("e", process("sh", "-c", "echo two; exit 3"), runtime.Stdio(stdout=uri, stderr=uri))
    task.start("e")
    print(bench.wait("crun", "e").status, len(task.pids()) > 0)
    task.pause()
    print(task.state().status.name)
    task.resume()
    try:
        bench.create("bad", "no-such-program")
    except Exception as err:
        print(type(err).__name__, "no-such-program" in str(err))
    task.kill(9)
    print(bench.wait("crun").status, task.delete().status)
    bench.tasks.clear()
    print((place / "out").read_text().split())
finally:
    bench.close()
"""


@pytest.mark.skipif(shutil.which("crun") is None, reason="crun is not installed")
def test_crun_is_driven_too(place, rootfs):
    """In a mount namespace with one kind of cgroups: crun refuses hybrid ones."""
    hide = 'if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; exec "$@"'
    arguments = [sys.executable, "-c", CRUN, str(REPOSITORY), str(place), str(rootfs)]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.stderr, done.returncode) == ("", 0)
    expected = ["3 True", "PAUSED", "InvalidArgument True", "137 137", "['one', 'two']"]
    assert done.stdout.splitlines() == expected
    assert os.listdir(place / "bundles") == []


def hooked(place):
    """A spec change: each hook writes its name."""

    def change(spec):
        def hook(name):
            return [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {name} >> {place}/hooks; cat >/dev/null"]}]

        spec["hooks"] = {name: hook(name) for name in ("createRuntime", "poststart", "poststop")}

    return change


def test_hooks_are_run_by_the_engine(bench, place):
    task = bench.run("hooks", "true", change=hooked(place))
    bench.wait("hooks")
    task.delete()
    assert sorted((place / "hooks").read_text().split()) == ["createRuntime", "poststart", "poststop"]


def test_a_created_task_that_ends_before_its_start_is_not_started(bench):
    task = bench.create("late", "sleep", "60")
    os.kill(task.pid, signal.SIGKILL)
    bench.wait("late")
    with pytest.raises(errors.FailedPrecondition):
        task.start()


def test_a_task_that_ends_at_once_has_started(bench):
    for number in range(20):
        task = bench.create(f"brief{number}", "true")
        os.kill(task.shim_pid, signal.SIGSTOP)
        threading.Timer(0.03, os.kill, (task.shim_pid, signal.SIGCONT)).start()
        assert task.start() == task.pid
        assert bench.wait(task.id).status == 0
        task.delete()
    assert len(bench.exits) == 20
    bench.tasks.clear()


def test_start_and_sudden_death_at_once_never_hang(bench):
    for number in range(5):
        task = bench.create(f"race{number}", "sleep", "60")
        killer = threading.Thread(target=os.kill, args=(task.pid, signal.SIGKILL))
        killer.start()
        with contextlib.suppress(errors.FailedPrecondition):
            task.start()
        killer.join()
        assert bench.wait(task.id).status == 137
        task.delete()
    bench.tasks.clear()


def test_nothing_is_removed_through_a_mount_that_stays(bench, place, monkeypatch):
    """The clean-up's child is ended each time, so the rootfs stays mounted."""
    (place / "precious").mkdir()
    (place / "precious/file").touch()
    start = bench.spawner.start

    def start_and_kill(entry, params, fds=()):
        worker = start(entry, params, fds)
        if entry.endswith(":undo"):
            os.kill(worker.pid, signal.SIGKILL)
        return worker

    monkeypatch.setattr(bench.spawner, "start", start_and_kill)
    with pytest.raises(errors.InvalidArgument):
        bench.create("stays", "no-such-program", mount=mounts.Mount("bind", str(place / "precious"), "", ("rbind",)))
    assert (place / "precious/file").exists()
    monkeypatch.undo()
    assert bench.load("stays") is None
    assert (place / "precious/file").exists()
