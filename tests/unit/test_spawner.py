import ast
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from kernel import spawner, spawner_child
from plugin_sdk import errors

REPOSITORY = Path(spawner.__file__).resolve().parent.parent

ENTRIES = """
import ctypes, json, os, signal, sys, time

def exit_with(params, fds):
    return params["status"]

def die_by(params, fds):
    os.kill(os.getpid(), params["signal"])

def fail(params, fds):
    os.close(2)
    raise ValueError("as told")

def describe(params, fds):
    listed = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    answer = {"pid": os.getpid(), "open": listed, "fds": fds, "bytes": len(params.get("text", "")), "argv": sys.argv}
    os.write(fds[0], json.dumps(answer).encode())

def sleep(params, fds):
    time.sleep(60)

def outlive(params, fds):
    ctypes.CDLL(None).prctl(1, 0)
    os.setsid()
    time.sleep(60)
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "kernel").symlink_to(REPOSITORY / "kernel")
    (tmp_path / "plugin_sdk").symlink_to(REPOSITORY / "plugin_sdk")
    folder = tmp_path / "plugins_builtin/diff"
    folder.mkdir(parents=True)
    for path in (folder.parent, folder):
        (path / "__init__.py").touch()
    (folder / "unpack.py").write_text(ENTRIES)
    return tmp_path


@pytest.fixture
def workers(root):
    made = spawner.Spawner(root)
    yield made
    made.close()


def entry(name):
    return f"plugins_builtin.diff.unpack:{name}"


def described(workers, params):
    reader, writer = os.pipe()
    with open(reader, "rb") as file:
        worker = workers.start(entry("describe"), params, [writer])
        os.close(writer)
        answer = json.loads(file.read())
    assert worker.wait(60) == 0
    assert answer["pid"] == worker.pid
    return answer


def wait_until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_worker_answers_its_exit_status(workers):
    assert workers.start(entry("exit_with"), {"status": 3}).wait(60) == 3
    assert workers.start(entry("exit_with"), {"status": None}).wait(60) == 0


def test_a_signal_is_a_negative_status(workers):
    assert workers.start(entry("die_by"), {"signal": 15}).wait(60) == -15


def test_an_exception_is_status_1(workers):
    assert workers.start(entry("fail"), {}).wait(60) == 1


def test_a_worker_has_only_standard_descriptors_and_those_given(workers):
    answer = described(workers, {})
    assert len(set(answer["open"]) - {0, 1, 2} - set(answer["fds"])) == 1  # that of listdir itself


def test_large_params_arrive_whole(workers):
    assert described(workers, {"text": "x" * 1_000_000})["bytes"] == 1_000_000


def test_kill_ends_a_worker_and_is_harmless_afterwards(workers):
    worker = workers.start(entry("sleep"), {})
    with pytest.raises(errors.DeadlineExceeded):
        worker.wait(0.05)
    worker.kill()
    assert worker.wait(60) == -9
    worker.kill()
    worker.close()
    worker.close()


def test_an_entry_that_is_not_listed_is_refused(workers):
    with pytest.raises(errors.InvalidArgument, match="os:system"):
        workers.start("os:system", {})


def test_many_threads_start_workers_at_once(workers):
    statuses = {}

    def run(number):
        statuses[number] = workers.start(entry("exit_with"), {"status": number}).wait(60)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {number: number for number in range(40)}


def test_a_dead_spawner_takes_its_workers_along_and_is_started_again(workers):
    worker = workers.start(entry("sleep"), {})
    dead = workers.pids[-1]
    os.kill(dead, signal.SIGKILL)
    assert worker.wait(60) == -9
    assert workers.start(entry("exit_with"), {"status": 4}).wait(60) == 4
    assert dead not in workers.pids


def test_a_request_under_way_is_unavailable_when_the_spawner_dies(workers):
    (stopped,) = workers.pids  # the one of the shims
    os.kill(stopped, signal.SIGSTOP)
    killer = threading.Timer(0.2, os.kill, (stopped, signal.SIGKILL))
    killer.start()
    with pytest.raises(errors.Unavailable, match="spawner"):
        workers.start("plugins_builtin.runtime.shim:main", {})
    killer.join()


def test_the_process_for_workers_ends_when_there_are_none(root):
    workers = spawner.Spawner(root, idle=0.1)
    worker = workers.start(entry("sleep"), {})
    assert len(workers.pids) == 2
    with pytest.raises(errors.DeadlineExceeded):
        worker.wait(0.5)
    worker.kill()
    assert worker.wait(60) == -9
    wait_until(lambda: len(workers.pids) == 1)
    assert workers.start(entry("exit_with"), {"status": 5}).wait(60) == 5
    workers.close()


def test_a_closed_spawner_starts_nothing(root):
    workers = spawner.Spawner(root)
    workers.close()
    with pytest.raises(errors.Unavailable, match="closed"):
        workers.start(entry("sleep"), {})


def test_a_child_that_takes_the_death_signal_back_outlives_the_spawner(root):
    workers = spawner.Spawner(root)
    worker = workers.start(entry("outlive"), {})
    wait_until(lambda: os.getsid(worker.pid) == worker.pid)
    workers.close()
    with pytest.raises(errors.DeadlineExceeded):
        worker.wait(0.05)
    worker.kill()
    assert worker.wait(60) == -9
    worker.close()


def test_close_ends_the_spawner_and_its_workers(root):
    workers = spawner.Spawner(root)
    worker, pids = workers.start(entry("sleep"), {}), workers.pids
    workers.close()
    assert worker.wait(60) == -9
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def loadable():
    return [path for path in spawner.LOADABLE if (REPOSITORY / path).exists()]


@pytest.mark.parametrize("path", loadable())
def test_what_the_spawner_loads_imports_only_the_standard_library_and_each_other(path):
    allowed = {spawner_child.module_of(other) for other in spawner.LOADABLE}
    for node in ast.parse((REPOSITORY / path).read_text()).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            ours = name in allowed or name.rpartition(".")[0] in allowed
            assert ours or name.split(".")[0] in sys.stdlib_module_names | {"__future__"}, name
