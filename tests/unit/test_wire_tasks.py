import asyncio
import threading
import time

import pytest

from plugin_sdk import errors, runtime
from plugin_sdk.api.services.tasks.v1 import tasks_pb2
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc
from plugin_sdk.wire import tasks as wire
from tests import pace
from tests.recording import Recorder

MOUNTS = [Mount("overlay", "overlay", "", ("lowerdir=/a",))]
STDIO = runtime.Stdio("/in", "/out", "/err", False)
OPTIONS = runtime.Any("containerd.runc.v1.Options", b"\x08\x01")
PROCESS = runtime.Process("c", "", 42, runtime.Status.STOPPED, STDIO, 137, 10**18 + 3)
END = runtime.Exit("default", "c", "", 42, 137, 10**18 + 3)
POINT = Descriptor("application/x", "sha256:" + "0" * 64, 5)


class Manager(Recorder):
    async def wait_async(self, id, exec_id=""):
        self.calls.append(("wait_async", (id, exec_id), {}))
        if id == "sleeper":
            await asyncio.sleep(30)
        if id == "missing":
            raise errors.NotFound('task "missing": not found')
        return END


@pytest.fixture
def manager():
    nothing = ("kill", "exec", "resize_pty", "close_io", "pause", "resume", "update")
    return Manager(
        create=42,
        start=42,
        delete=END,
        get=PROCESS,
        list=[PROCESS],
        pids=[runtime.ProcessInfo(42), runtime.ProcessInfo(43, "shell")],
        checkpoint=[POINT],
        metrics=[("c", 10**18, runtime.Any("io.containerd.cgroups.v2.Metrics", b"\x01"))],
        **dict.fromkeys(nothing),
    )


@pytest.fixture
def channel(serve, manager):
    return serve(wire.Servicer(lambda call: manager))


@pytest.fixture
def proxy(channel):
    return wire.Proxy(channel, Scope("default"))


def test_create(proxy, manager):
    assert proxy.create("c", MOUNTS, STDIO, OPTIONS, "/bin/shim", POINT) == 42
    assert manager.last == ("create", ("c", MOUNTS, STDIO, OPTIONS, "/bin/shim", POINT), {})


def test_create_without_options_says_none(proxy, manager):
    proxy.create("c")
    assert manager.last == ("create", ("c", [], runtime.Stdio(), None, "", None), {})


def test_start(proxy, manager):
    assert proxy.start("c", "shell") == 42
    assert manager.last == ("start", ("c", "shell"), {})


def test_delete_of_a_task_and_of_a_process(proxy, manager, channel):
    assert proxy.delete("c") == END
    assert manager.last == ("delete", ("c",), {})
    manager.answers["delete"] = runtime.Exit("default", "c", "shell", 43, 1, 5)
    assert proxy.delete("c", "shell") == manager.answers["delete"]
    assert manager.last == ("delete", ("c", "shell"), {})
    stub = rpc.Stub(channel, wire.SERVICE, Scope("default"))
    task = stub.unary("Delete", tasks_pb2.DeleteTaskRequest(container_id="c"), tasks_pb2.DeleteResponse)
    process = tasks_pb2.DeleteProcessRequest(container_id="c", exec_id="shell")
    assert (task.id, stub.unary("DeleteProcess", process, tasks_pb2.DeleteResponse).id) == ("", "shell")


def test_an_empty_exec_id_is_refused(channel):
    stub = rpc.Stub(channel, wire.SERVICE, Scope("default"))
    with pytest.raises(errors.InvalidArgument, match="exec id"):
        stub.unary("DeleteProcess", tasks_pb2.DeleteProcessRequest(container_id="c"), tasks_pb2.DeleteResponse)
    with pytest.raises(errors.InvalidArgument, match="exec id"):
        stub.unary("Exec", tasks_pb2.ExecProcessRequest(container_id="c"), tasks_pb2.DeleteResponse)


def test_get_and_list(proxy, manager):
    assert proxy.get("c") == PROCESS
    assert manager.last == ("get", ("c", ""), {})
    assert proxy.list("x") == [PROCESS]
    assert manager.last == ("list", ("x",), {})


def test_an_exec_is_shown_by_its_own_id(proxy, manager, channel):
    manager.answers["get"] = runtime.Process("c", "shell", 43, runtime.Status.RUNNING, STDIO)
    assert proxy.get("c", "shell") == manager.answers["get"]
    stub = rpc.Stub(channel, wire.SERVICE, Scope("default"))
    request = tasks_pb2.GetRequest(container_id="c", exec_id="shell")
    process = stub.unary("Get", request, tasks_pb2.GetResponse).process
    assert (process.id, process.HasField("exited_at")) == ("shell", False)


def test_kill(proxy, manager):
    proxy.kill("c", 9, "shell", all=True)
    assert manager.last == ("kill", ("c", 9, "shell"), {"all": True})


def test_exec(proxy, manager):
    spec = runtime.Any("types.containerd.io/opencontainers/runtime-spec/1/Process", b"{}")
    proxy.exec("c", "shell", spec, STDIO)
    assert manager.last == ("exec", ("c", "shell", spec, STDIO), {})


def test_terminal_and_stdin(proxy, manager):
    proxy.resize_pty("c", 80, 24, "shell")
    assert manager.last == ("resize_pty", ("c", 80, 24, "shell"), {})
    proxy.close_io("c", "shell")
    assert manager.last == ("close_io", ("c", "shell"), {"stdin": True})


@pytest.mark.parametrize("method", ["pause", "resume"])
def test_pause_and_resume(proxy, manager, method):
    getattr(proxy, method)("c")
    assert manager.last == (method, ("c",), {})


def test_processes_made_by_exec_are_marked(proxy, channel):
    assert proxy.pids("c") == [runtime.ProcessInfo(42), runtime.ProcessInfo(43, "shell")]
    stub = rpc.Stub(channel, wire.SERVICE, Scope("default"))
    request = tasks_pb2.ListPidsRequest(container_id="c")
    init, shell = stub.unary("ListPids", request, tasks_pb2.ListPidsResponse).processes
    assert not init.HasField("info")
    assert (shell.info.type_url, shell.info.value) == ("containerd.runc.v1.ProcessDetails", b"\x0a\x05shell")


def test_checkpoint_update_metrics(proxy, manager):
    assert proxy.checkpoint("c", "parent", OPTIONS) == [POINT]
    assert manager.last == ("checkpoint", ("c", "parent", OPTIONS), {})
    proxy.update("c", OPTIONS, {"a": "b"})
    assert manager.last == ("update", ("c", OPTIONS, {"a": "b"}), {})
    assert proxy.metrics(["id==c"]) == manager.answers["metrics"]
    assert manager.last == ("metrics", (["id==c"],), {})


def test_wait(proxy, manager):
    end = proxy.wait("c", "shell")
    assert (end.status, end.exited_at, end.exec_id) == (137, 10**18 + 3, "shell")
    assert manager.last == ("wait_async", ("c", "shell"), {})
    with pytest.raises(errors.NotFound, match="missing"):
        proxy.wait("missing")


def test_wait_under_a_lease_that_does_not_exist_is_refused(serve, manager):
    def refuse(scope):
        raise errors.NotFound(f'lease "{scope.lease}": not found')

    proxy = wire.Proxy(serve(wire.Servicer(lambda call: manager), check_lease=refuse), Scope("default", "gone"))
    with pytest.raises(errors.NotFound, match='lease "gone": not found'):
        proxy.wait("c")
    assert manager.calls == []


def test_wait_ends_after_its_timeout(proxy):
    begin = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        proxy.wait("sleeper", timeout=0.3)
    assert pace.within(time.monotonic() - begin, 5)


def test_many_waits_hold_no_thread(channel, proxy):
    scope = Scope("default")
    waits = [
        threading.Thread(target=_swallow, args=(wire.Proxy(channel, scope), "sleeper"), daemon=True)
        for _ in range(20)  # more than there are threads
    ]
    for wait in waits:
        wait.start()
    time.sleep(0.3)
    assert proxy.start("c") == 42
    scope.cancel()
    for wait in waits:
        wait.join(60)
    assert not any(wait.is_alive() for wait in waits)


def _swallow(proxy, id):
    with pytest.raises(errors.Canceled):
        proxy.wait(id)
