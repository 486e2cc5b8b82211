import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kernel.metadata.containers import Containers
from kernel.metadata.database import Database, forbid_transaction
from kernel.task_table import Table
from kernel.tasks import BoundTasks, Tasks
from plugin_sdk import containers, errors, plugin, runtime
from plugin_sdk.api.events import task_pb2
from plugin_sdk.events import Envelope
from plugin_sdk.mounts import Mount
from plugin_sdk.runtime import Exit, Status, Stdio
from plugin_sdk.scope import Scope

NAME = "io.example.scripted.v1"


class Process:
    def __init__(self, pid: int, stdio: Stdio) -> None:
        self.pid, self.stdio, self.status = pid, stdio, Status.CREATED
        self.exit = (0, 0)


class Task:
    """A ``runtime.Task`` that a test directs; ``die`` ends a process."""

    def __init__(self, request: runtime.Create, exits: Callable[[Exit], None], oom: Callable[[str, str], None]) -> None:
        self.request, self.exits, self.oom = request, exits, oom
        self.processes = {"": Process(100, request.stdio)}
        self.calls: list[tuple[Any, ...]] = []
        self.dies_at_start = False

    namespace = property(lambda self: self.request.namespace)
    id = property(lambda self: self.request.id)
    bundle = property(lambda self: self.request.bundle)
    pid = property(lambda self: self.processes[""].pid)

    def process(self, exec_id: str) -> Process:
        if exec_id not in self.processes:
            raise errors.NotFound(f"process does not exist {exec_id}")
        return self.processes[exec_id]

    def state(self, exec_id: str = "") -> runtime.Process:
        found = self.process(exec_id)
        return runtime.Process(self.id, exec_id, found.pid, found.status, found.stdio, *found.exit)

    def start(self, exec_id: str = "") -> int:
        found = self.process(exec_id)
        if found.status != Status.CREATED:
            raise errors.FailedPrecondition(f"process {exec_id} is not created")
        found.status = Status.RUNNING
        if self.dies_at_start:
            self.die(exec_id, 3)
        return found.pid

    def exec(self, exec_id: str, spec: bytes, stdio: Stdio) -> None:
        if exec_id in self.processes:
            raise errors.AlreadyExists(f"exec {exec_id}: already exists")
        self.processes[exec_id] = Process(200 + len(self.processes), stdio)

    def die(self, exec_id: str = "", status: int = 0) -> None:
        found = self.process(exec_id)
        found.status, found.exit = Status.STOPPED, (status, time.time_ns())
        self.exits(Exit(self.namespace, self.id, exec_id, found.pid, *found.exit))

    def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        if self.process(exec_id).status == Status.STOPPED:
            raise errors.NotFound("process already finished")
        self.die(exec_id, 128 + signal)

    def delete(self, exec_id: str = "") -> Exit:
        found = self.process(exec_id)
        if found.status == Status.RUNNING:
            raise errors.FailedPrecondition("the process runs")
        del self.processes[exec_id]
        if not exec_id:
            self.bundle.rmdir()
        return Exit(self.namespace, self.id, exec_id, found.pid, *found.exit)

    def pids(self) -> list[runtime.ProcessInfo]:
        return [runtime.ProcessInfo(p.pid, e) for e, p in self.processes.items() if p.status == Status.RUNNING]

    def update(self, resources: bytes, annotations: Mapping[str, str]) -> None:
        self.calls.append(("update", resources, annotations))

    def resize_pty(self, width: int, height: int, exec_id: str = "") -> None:
        self.calls.append(("resize", width, height, exec_id))

    def close_io(self, exec_id: str = "") -> None:
        self.calls.append(("close_io", exec_id))

    def pause(self) -> None:
        self.processes[""].status = Status.PAUSED

    def resume(self) -> None:
        self.processes[""].status = Status.RUNNING

    def checkpoint(self, path: Path, options: runtime.Any) -> None:
        raise errors.Unimplemented("checkpoint")

    def metrics(self) -> runtime.Any:
        return runtime.Any("figures", self.id.encode())


class Runtime:
    """What happens in ``create`` can be replaced by a test; ``survivors`` are what ``load`` finds."""

    def __init__(self) -> None:
        self.survivors: dict[str, Task] = {}
        self.error: errors.Error | None = None

    def create(self, request: runtime.Create, exits: Callable[[Exit], None], oom: Callable[[str, str], None]) -> Task:
        if self.error is not None:
            raise self.error
        request.bundle.mkdir()
        self.survivors[request.id] = task = Task(request, exits, oom)
        return task

    def load(self, bundle: Path, exits: Callable[[Exit], None], oom: Callable[[str, str], None]) -> runtime.Task | None:
        if self.error is not None:
            raise self.error
        task = self.survivors.get(bundle.name)
        if task is None:
            return None
        task.exits, task.oom = exits, oom
        for exec_id, process in task.processes.items():
            if process.status == Status.STOPPED:
                exits(Exit(task.namespace, task.id, exec_id, process.pid, *process.exit))
        return task

    def close(self) -> None:
        pass


class Plugins:
    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.pool = ThreadPoolExecutor(2)

    @contextmanager
    def use(self, kind: str, id: str, scope: Scope | None = None) -> Iterator[Any]:
        forbid_transaction("a plugin is called")
        if (kind, id) != (plugin.RUNTIME, NAME):
            raise errors.InvalidArgument(f"runtime not loaded: {id}")
        yield self.runtime

    def ids(self, kind: str) -> list[str]:
        return [NAME]

    def lane(self, name: str) -> Executor:
        return self.pool


class Kernel:
    """The parts that a task manager needs; ``restart`` makes it anew over the same database and runtime."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runtime = Runtime()
        self.events: list[Envelope] = []
        self._open()

    def _open(self) -> None:
        self.database = Database(self.root / "meta.db", self.events.extend)
        self.plugins = Plugins(self.runtime)
        self.manager = Tasks(
            self.database, self.plugins, lambda scope: Containers(self.database, scope), self.root / "state"
        )

    @property
    def tasks(self) -> BoundTasks:
        return self.manager.bind(Scope("default"))

    def add(self, id: str, name: str = NAME, **values: Any) -> None:
        made = containers.Runtime(name, runtime.Any("options", b"of the container"))
        container = containers.Container(id, made, runtime.Any("spec", b"{}"), **values)
        Containers(self.database, Scope("default")).create(container)

    def run(self, id: str = "web") -> Task:
        self.add(id)
        self.tasks.create(id)
        self.tasks.start(id)
        return self.runtime.survivors[id]

    def forget(self, id: str) -> None:
        Containers(self.database, Scope("default")).delete(id)

    def close(self) -> None:
        self.manager.close()
        self.plugins.pool.shutdown()
        self.database.close()

    def restart(self) -> None:
        self.close()
        self.events.clear()
        self._open()
        self.manager.recover()

    def topics(self, count: int | None = None) -> list[str]:
        """Of the tasks' events; waits until there are ``count``."""
        deadline = time.monotonic() + 60
        while True:
            found = [event.topic for event in self.events if event.topic.startswith("/tasks/")]
            if count is None or len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.005)

    def event(self, topic: str, message: Any) -> Any:
        """The last one of the topic, decoded."""
        found = [event for event in self.events if event.topic == topic][-1]
        assert found.event.type_url == message.DESCRIPTOR.full_name
        assert found.namespace == "default"
        return message.FromString(found.event.value)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path)
    yield kernel
    kernel.close()


def test_a_run_gives_create_start_exit_and_delete_in_this_order(kernel: Kernel) -> None:
    task = kernel.run()
    task.die(status=7)
    end = kernel.tasks.wait("web", timeout=60)
    assert (end.status, end.pid) == (7, 100)
    assert kernel.tasks.delete("web") == end
    assert kernel.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]


def test_the_events_say_what_containerd_s_say(kernel: Kernel) -> None:
    kernel.add("web")
    stdio = Stdio("in", "out", "err", False)
    kernel.tasks.create("web", [Mount("overlay", "overlay", "", ("lowerdir=/a",))], stdio)
    created = kernel.event("/tasks/create", task_pb2.TaskCreate)
    assert created.bundle == str(kernel.root / "state/io.containerd.runtime.v2.task/default/web")
    assert created.rootfs[0].options == ["lowerdir=/a"]
    assert (created.io.stdin, created.io.stdout, created.io.stderr, created.io.terminal) == ("in", "out", "err", False)
    assert created.pid == 100
    kernel.tasks.start("web")
    assert kernel.event("/tasks/start", task_pb2.TaskStart).pid == 100
    kernel.runtime.survivors["web"].die(status=5)
    end = kernel.tasks.wait("web", timeout=60)
    exited = kernel.event("/tasks/exit", task_pb2.TaskExit)
    assert (exited.container_id, exited.id, exited.pid, exited.exit_status) == ("web", "web", 100, 5)
    assert exited.exited_at.ToNanoseconds() == end.exited_at
    kernel.tasks.delete("web")
    deleted = kernel.event("/tasks/delete", task_pb2.TaskDelete)
    assert (deleted.container_id, deleted.id, deleted.pid, deleted.exit_status) == ("web", "", 100, 5)


def test_an_exit_during_the_start_comes_after_its_event(kernel: Kernel) -> None:
    kernel.add("web")
    kernel.tasks.create("web")
    kernel.runtime.survivors["web"].dies_at_start = True
    kernel.tasks.start("web")
    assert kernel.tasks.wait("web", timeout=60).status == 3
    assert kernel.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit"]


def test_the_runtime_gets_spec_bundle_and_options(kernel: Kernel) -> None:
    kernel.add("web")
    kernel.tasks.create("web", options=runtime.Any("", b""))
    request = kernel.runtime.survivors["web"].request
    assert request.spec == b"{}"
    assert request.options == runtime.Any("options", b"of the container")
    assert request.bundle.parent.name == "default"
    kernel.tasks.delete("web")
    kernel.tasks.create("web", options=runtime.Any("options", b"of the task"))
    assert kernel.runtime.survivors["web"].request.options.value == b"of the task"


def test_a_task_needs_a_container(kernel: Kernel) -> None:
    for call in (kernel.tasks.create, kernel.tasks.start, kernel.tasks.get, kernel.tasks.delete, kernel.tasks.pids):
        with pytest.raises(errors.NotFound, match='container "web" in namespace "default": not found'):
            call("web")


def test_a_container_without_task_is_told_from_no_container(kernel: Kernel) -> None:
    kernel.add("web")
    for call in (kernel.tasks.start, kernel.tasks.get, kernel.tasks.delete, kernel.tasks.pids, kernel.tasks.wait):
        with pytest.raises(errors.NotFound, match="task web not found"):
            call("web")


def test_a_second_task_of_a_container_is_refused(kernel: Kernel) -> None:
    kernel.run()
    with pytest.raises(errors.AlreadyExists, match="task web: already exists"):
        kernel.tasks.create("web")
    assert kernel.tasks.get("web").status == Status.RUNNING


def test_a_create_that_fails_leaves_nothing(kernel: Kernel) -> None:
    kernel.add("web")
    kernel.runtime.error = errors.InvalidArgument("the engine refuses")
    with pytest.raises(errors.InvalidArgument, match="the engine refuses"):
        kernel.tasks.create("web")
    assert kernel.topics() == []
    kernel.runtime.error = None
    kernel.tasks.create("web")


def test_an_unknown_runtime_is_refused_by_name(kernel: Kernel) -> None:
    kernel.add("web", name="io.nosuch.v1")
    with pytest.raises(errors.InvalidArgument, match=r"io\.nosuch\.v1"):
        kernel.tasks.create("web")
    with pytest.raises(errors.NotFound):
        kernel.tasks.get("web")


def test_wait_works_before_start_in_a_thread_and_on_the_loop(kernel: Kernel) -> None:
    kernel.add("web")
    kernel.tasks.create("web")
    found: list[Exit] = []
    thread = threading.Thread(target=lambda: found.append(kernel.tasks.wait("web")))
    thread.start()

    async def wait() -> Exit:
        waiting = asyncio.ensure_future(kernel.tasks.wait_async("web"))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        kernel.tasks.start("web")
        kernel.runtime.survivors["web"].die(status=9)
        return await asyncio.wait_for(waiting, 10)

    assert asyncio.run(wait()).status == 9
    thread.join(60)
    assert found[0].status == 9


def test_a_wait_that_is_given_up_leaves_nothing(kernel: Kernel) -> None:
    task = kernel.run()

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(kernel.tasks.wait_async("web"), 0.01)

    asyncio.run(give_up())
    with pytest.raises(errors.DeadlineExceeded):
        kernel.tasks.wait("web", timeout=0.01)
    task.die()
    assert kernel.tasks.wait("web", timeout=60).status == 0


def test_waits_fail_when_the_daemon_stops(kernel: Kernel) -> None:
    kernel.run()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            kernel.tasks.wait("web")
        except errors.Unavailable as err:
            caught.append(err)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.02)
    kernel.restart()
    thread.join(60)
    assert len(caught) == 1


def test_an_exit_is_recorded_once_however_often_it_is_reported(kernel: Kernel) -> None:
    task = kernel.run()
    task.die(status=1)
    task.exits(Exit("default", "web", "", 100, 2, 5))
    assert kernel.tasks.wait("web", timeout=60).status == 1
    kernel.restart()
    assert kernel.tasks.wait("web", timeout=60).status == 1
    assert kernel.topics() == []
    kernel.tasks.delete("web")
    assert kernel.topics() == ["/tasks/delete"]


def test_an_exit_that_nobody_reported_is_recorded_at_delete(kernel: Kernel) -> None:
    task = kernel.run()
    process = task.processes[""]
    process.status, process.exit = Status.STOPPED, (4, 44)
    assert kernel.tasks.delete("web").status == 4
    assert kernel.topics() == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]


def test_a_running_task_is_not_deleted(kernel: Kernel) -> None:
    kernel.run()
    with pytest.raises(errors.FailedPrecondition):
        kernel.tasks.delete("web")
    assert kernel.tasks.get("web").status == Status.RUNNING


def test_a_deleted_task_can_be_created_again(kernel: Kernel) -> None:
    task = kernel.run()
    for status in (1, 2):
        task.die(status=status)
        assert kernel.tasks.wait("web", timeout=60).status == status
        kernel.tasks.delete("web")
        kernel.tasks.create("web")
        kernel.tasks.start("web")
        task = kernel.runtime.survivors["web"]
    assert kernel.topics(10)[-2:] == ["/tasks/create", "/tasks/start"]


def test_an_exec_has_events_and_an_exit_of_its_own(kernel: Kernel) -> None:
    task = kernel.run()
    kernel.tasks.exec("web", "e1", runtime.Any("process", b"{}"), Stdio(stdout="/fifo"))
    assert kernel.tasks.get("web", "e1").stdio.stdout == "/fifo"
    pid = kernel.tasks.start("web", "e1")
    assert [info.exec_id for info in kernel.tasks.pids("web")] == ["", "e1"]
    task.die("e1", 4)
    assert kernel.tasks.wait("web", "e1", timeout=60).status == 4
    assert kernel.tasks.delete("web", "e1").status == 4
    assert kernel.topics() == [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
    ]
    exited = kernel.event("/tasks/exit", task_pb2.TaskExit)
    assert (exited.container_id, exited.id, exited.pid) == ("web", "e1", pid)
    started = kernel.event("/tasks/exec-started", task_pb2.TaskExecStarted)
    assert (started.container_id, started.exec_id, started.pid) == ("web", "e1", pid)
    with pytest.raises(errors.NotFound, match="process does not exist e1"):
        kernel.tasks.wait("web", "e1")


def test_an_exec_id_can_be_used_again(kernel: Kernel) -> None:
    task = kernel.run()
    for status in (1, 2):
        kernel.tasks.exec("web", "e", runtime.Any(), Stdio())
        kernel.tasks.start("web", "e")
        task.die("e", status)
        assert kernel.tasks.wait("web", "e", timeout=60).status == status
        kernel.tasks.delete("web", "e")
    assert kernel.topics().count("/tasks/exit") == 2


@pytest.mark.parametrize("exec_id", ["", "a b", "../x"])
def test_a_malformed_exec_id_is_refused(kernel: Kernel, exec_id: str) -> None:
    kernel.run()
    with pytest.raises(errors.InvalidArgument):
        kernel.tasks.exec("web", exec_id, runtime.Any(), Stdio())


def test_what_is_left_to_the_runtime_is_passed_on(kernel: Kernel) -> None:
    task = kernel.run()
    kernel.tasks.update("web", runtime.Any("resources", b"{}"), {"a": "b"})
    kernel.tasks.resize_pty("web", 80, 25)
    kernel.tasks.close_io("web")
    kernel.tasks.close_io("web", stdin=False)
    kernel.tasks.pause("web")
    kernel.tasks.resume("web")
    task.oom("default", "web")
    kernel.tasks.kill("web", 15)
    assert task.calls == [("update", b"{}", {"a": "b"}), ("resize", 80, 25, ""), ("close_io", "")]
    assert kernel.topics(6)[2:] == ["/tasks/paused", "/tasks/resumed", "/tasks/oom", "/tasks/exit"]
    with pytest.raises(errors.NotFound, match="process already finished"):
        kernel.tasks.kill("web", 15)


def test_checkpoints_and_other_shims_are_not_implemented(kernel: Kernel) -> None:
    kernel.run()
    kernel.add("other")
    with pytest.raises(errors.Unimplemented):
        kernel.tasks.checkpoint("web")
    with pytest.raises(errors.Unimplemented):
        kernel.tasks.create("other", runtime_path="/usr/bin/shim")


def test_figures_are_chosen_by_filters(kernel: Kernel) -> None:
    for name in ("a", "b"):
        kernel.run(name)
    assert [(id, figures.value) for id, _, figures in kernel.tasks.metrics()] == [("a", b"a"), ("b", b"b")]
    assert [id for id, _, _ in kernel.tasks.metrics(["id==b"])] == ["b"]
    with pytest.raises(errors.InvalidArgument):
        kernel.tasks.metrics(["id="])


def test_a_task_without_container_is_only_listed(kernel: Kernel) -> None:
    kernel.run("web")
    kernel.forget("web")
    assert [process.id for process in kernel.tasks.list()] == ["web"]
    with pytest.raises(errors.NotFound, match="container"):
        kernel.tasks.get("web")


def test_tasks_of_other_namespaces_are_not_seen(kernel: Kernel) -> None:
    kernel.run()
    other = kernel.manager.bind(Scope("other"))
    assert other.list() == []
    with pytest.raises(errors.NotFound):
        other.wait("web")


# -- after a restart


def test_a_running_task_is_found_again(kernel: Kernel) -> None:
    kernel.run()
    kernel.restart()
    assert kernel.tasks.get("web").status == Status.RUNNING
    kernel.runtime.survivors["web"].die(status=6)
    assert kernel.tasks.wait("web", timeout=60).status == 6
    assert kernel.topics() == ["/tasks/exit"]


def test_the_exit_of_the_time_between_is_recorded_with_its_event(kernel: Kernel) -> None:
    task = kernel.run()
    kernel.tasks.exec("web", "e", runtime.Any(), Stdio())
    kernel.tasks.start("web", "e")
    task.exits = lambda exit: None
    task.die("e", 8)
    task.die(status=6)
    kernel.restart()
    assert kernel.tasks.wait("web", timeout=60).status == 6
    assert kernel.tasks.wait("web", "e", timeout=60).status == 8
    assert kernel.topics(2) == ["/tasks/exit", "/tasks/exit"]


def test_a_start_that_was_not_recorded_comes_before_its_exit(kernel: Kernel) -> None:
    kernel.add("web")
    kernel.tasks.create("web")
    task = kernel.runtime.survivors["web"]
    task.exits = lambda exit: None
    task.start()
    task.die(status=2)
    kernel.restart()
    assert kernel.tasks.wait("web", timeout=60).status == 2
    assert kernel.topics() == ["/tasks/start", "/tasks/exit"]


def test_a_created_task_is_found_again_and_can_be_started(kernel: Kernel) -> None:
    kernel.add("web")
    kernel.tasks.create("web")
    kernel.restart()
    assert kernel.topics() == []
    kernel.tasks.start("web")
    assert kernel.topics() == ["/tasks/start"]


def test_an_exec_is_waited_for_after_a_restart(kernel: Kernel) -> None:
    task = kernel.run()
    kernel.tasks.exec("web", "e", runtime.Any(), Stdio())
    kernel.tasks.start("web", "e")
    kernel.restart()

    async def wait() -> Exit:
        waiting = asyncio.ensure_future(kernel.tasks.wait_async("web", "e"))
        await asyncio.sleep(0.05)
        task.die("e", 3)
        return await asyncio.wait_for(waiting, 10)

    assert asyncio.run(wait()).status == 3


def test_a_creation_that_was_never_answered_is_undone(kernel: Kernel) -> None:
    kernel.run()
    kernel.database.write(lambda tx: tx.execute("UPDATE tasks SET state = 'creating'"))
    kernel.events.clear()
    kernel.restart()
    with pytest.raises(errors.NotFound, match="task web not found"):
        kernel.tasks.get("web")
    assert not list((kernel.root / "state").glob("*/*/*"))
    assert kernel.topics() == []
    kernel.runtime.survivors.clear()
    kernel.tasks.create("web")


def test_a_task_that_has_vanished_is_recorded_as_killed(kernel: Kernel) -> None:
    kernel.run()
    kernel.runtime.survivors.clear()
    kernel.restart()
    assert kernel.topics() == ["/tasks/exit", "/tasks/delete"]
    assert kernel.event("/tasks/exit", task_pb2.TaskExit).exit_status == 137
    with pytest.raises(errors.NotFound):
        kernel.tasks.get("web")


def test_a_vanished_task_whose_exit_is_known_keeps_it(kernel: Kernel) -> None:
    kernel.run().die(status=5)
    kernel.tasks.wait("web", timeout=60)
    kernel.runtime.survivors.clear()
    kernel.restart()
    assert kernel.topics() == ["/tasks/delete"]
    assert kernel.event("/tasks/delete", task_pb2.TaskDelete).exit_status == 5


def test_a_task_that_cannot_be_loaded_is_unavailable_until_it_can(kernel: Kernel) -> None:
    kernel.run()
    kernel.runtime.error = errors.Unavailable("the shim does not answer")
    kernel.restart()
    with pytest.raises(errors.Unavailable, match="the shim does not answer"):
        kernel.tasks.get("web")
    assert kernel.tasks.list() == []
    kernel.runtime.error = None
    kernel.restart()
    assert kernel.tasks.get("web").status == Status.RUNNING


def test_a_shim_that_does_not_answer_delays_only_its_own_task(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("web", "slow"):
        kernel.run(name)
    answers, load = threading.Event(), kernel.runtime.load

    def slow(bundle: Path, *callbacks: Any) -> runtime.Task | None:
        if bundle.name == "slow":
            assert answers.wait(60)
        return load(bundle, *callbacks)

    monkeypatch.setattr(kernel.runtime, "load", slow)
    kernel.close()
    kernel._open()
    kernel.manager.recover(patience=0.1)
    assert kernel.tasks.get("web").status == Status.RUNNING
    with pytest.raises(errors.Unavailable, match="being loaded"):
        kernel.tasks.get("slow")
    answers.set()
    deadline = time.monotonic() + 60
    while len(kernel.tasks.list()) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert kernel.tasks.get("slow").status == Status.RUNNING


def test_a_task_whose_container_has_gone_is_undone(kernel: Kernel) -> None:
    kernel.run()
    kernel.forget("web")
    assert [process.status for process in kernel.tasks.list()] == [Status.RUNNING]
    kernel.restart()
    assert kernel.tasks.list() == []
    assert kernel.topics() == ["/tasks/exit", "/tasks/delete"]
    assert kernel.event("/tasks/delete", task_pb2.TaskDelete).exit_status == 137
    assert not list((kernel.root / "state").glob("*/*/*"))


def test_a_task_that_has_ended_before_its_container_went_keeps_its_exit(kernel: Kernel) -> None:
    task = kernel.run()
    kernel.forget("web")
    kernel.close()
    task.exits = lambda exit: None
    task.die(status=5)
    kernel._open()
    kernel.manager.recover()
    assert kernel.event("/tasks/delete", task_pb2.TaskDelete).exit_status == 5
    assert kernel.topics()[-2:] == ["/tasks/exit", "/tasks/delete"]


def test_a_bundle_without_row_is_kept_for_its_container(kernel: Kernel) -> None:
    kernel.run()
    kernel.database.write(lambda tx: tx.execute("DELETE FROM tasks"))
    kernel.restart()
    assert kernel.tasks.get("web").status == Status.RUNNING
    kernel.runtime.survivors["web"].die(status=1)
    assert kernel.tasks.wait("web", timeout=60).status == 1
    assert kernel.topics() == ["/tasks/exit"]


def test_a_bundle_without_row_and_container_is_undone(kernel: Kernel) -> None:
    kernel.run()
    kernel.forget("web")
    kernel.database.write(lambda tx: tx.execute("DELETE FROM tasks"))
    kernel.restart()
    assert kernel.tasks.list() == []
    assert not list((kernel.root / "state").glob("*/*/*"))


def test_a_bundle_that_cannot_be_loaded_is_kept(kernel: Kernel) -> None:
    """Something may be mounted in it."""
    kernel.run()
    kernel.forget("web")
    kernel.database.write(lambda tx: tx.execute("DELETE FROM tasks"))
    kernel.runtime.error = errors.Unavailable("the shim does not answer")
    kernel.restart()
    assert kernel.tasks.list() == []
    assert list((kernel.root / "state").glob("*/*/web"))


# -- killed at every step


class Killed(BaseException):
    """The daemon ends here; nothing after it has an effect."""


class Fuse:
    """Counts steps and ends the daemon at the last one."""

    def __init__(self, last: int) -> None:
        self.left = last

    def step(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Killed if threading.current_thread() is threading.main_thread() else errors.Unavailable("killed")

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            self.step()
            result = work(*args, **named)
            self.step()
            return result

        return run


def life(kernel: Kernel) -> None:
    kernel.tasks.create("web")
    kernel.tasks.start("web")
    kernel.runtime.survivors["web"].die(status=3)
    kernel.tasks.delete("web")


@pytest.mark.parametrize("last", range(1, 20))
def test_a_kill_at_any_step_leaves_no_half_task(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    kernel.add("web")
    fuse = Fuse(last)
    with monkeypatch.context() as patch:
        patch.setattr(kernel.database, "write", fuse.around(kernel.database.write))
        for name in ("create", "load"):
            patch.setattr(kernel.runtime, name, fuse.around(getattr(kernel.runtime, name)))
        for name in ("start", "delete"):
            patch.setattr(Task, name, fuse.around(getattr(Task, name)))
        try:
            life(kernel)
        except Killed:
            pass
        else:
            assert last > 12
        kernel.close()
    told = list(kernel.events)
    kernel.runtime.survivors = {id: task for id, task in kernel.runtime.survivors.items() if "" in task.processes}
    kernel._open()
    kernel.manager.recover()
    for process in kernel.tasks.list():
        if process.status != Status.STOPPED:
            kernel.runtime.survivors["web"].die(status=3)
        kernel.tasks.wait("web", timeout=60)
        kernel.tasks.delete("web")
    topics = [event.topic for event in told + kernel.events[len(told) :] if event.topic.startswith("/tasks/")]
    whole = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert topics in ([], whole, [topic for topic in whole if topic != "/tasks/start"]), topics
    assert not list((kernel.root / "state").glob("*/*/*"))
    kernel.runtime.survivors.clear()
    kernel.tasks.create("web")


def test_the_manager_is_a_table() -> None:
    assert issubclass(Tasks, Table)
