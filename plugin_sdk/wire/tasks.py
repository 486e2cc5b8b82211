"""Tasks: the two wire halves of ``plugin_sdk.tasks``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty

from plugin_sdk import errors, plugin, runtime, tasks
from plugin_sdk.api.services.tasks.v1 import tasks_pb2
from plugin_sdk.api.types import metrics_pb2
from plugin_sdk.api.types.runc.options import oci_pb2
from plugin_sdk.api.types.task import task_pb2
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.scope import Scope
from plugin_sdk.wire import messages, rpc

SERVICE = tasks_pb2.DESCRIPTOR.services_by_name["Tasks"]
LANE = f"{plugin.RUNTIME}.io.containerd.runc.v2"

T = TypeVar("T")

_DETAILS = oci_pb2.ProcessDetails.DESCRIPTOR.full_name


class Manager(tasks.Manager, Protocol):
    """What the servicer needs beside the contract: a wait that holds no thread."""

    async def wait_async(self, id: str, exec_id: str = "") -> runtime.Exit:
        """Answers when the process has ended; at once when it has. Raises NotFound."""
        ...


Lane = Callable[[rpc.Call, str], Awaitable[str]]
"""The lane of a container's runtime, by the container's id; "" for what asks all of them."""


async def _one_lane(call: rpc.Call, id: str) -> str:
    return LANE


class Servicer:
    """``resolve`` answers the caller's tasks and does not block."""

    service = SERVICE.full_name

    def __init__(self, resolve: Callable[[rpc.Call], Manager], lane: Lane = _one_lane) -> None:
        self._resolve = resolve
        self._lane = lane
        self.methods: Mapping[str, rpc.Method] = rpc.served(
            SERVICE,
            {
                "Create": self._create,
                "Start": self._start,
                "Delete": self._delete,
                "DeleteProcess": self._delete_process,
                "Get": self._get,
                "List": self._list,
                "Kill": self._kill,
                "Exec": self._exec,
                "ResizePty": self._resize_pty,
                "CloseIO": self._close_io,
                "Pause": self._pause,
                "Resume": self._resume,
                "ListPids": self._list_pids,
                "Checkpoint": self._checkpoint,
                "Update": self._update,
                "Metrics": self._metrics,
                "Wait": self._wait,
            },
        )

    async def _run(self, call: rpc.Call, id: str, work: Callable[..., T], *args: object) -> T:
        """``work(id, …)`` in the lane of the container ``id``."""
        return await call.run(work, id, *args, lane=await self._lane(call, id))

    async def _create(self, request: tasks_pb2.CreateTaskRequest, call: rpc.Call) -> tasks_pb2.CreateTaskResponse:
        create = self._resolve(call).create
        pid = await self._run(
            call,
            request.container_id,
            create,
            messages.mounts(request.rootfs),
            _stdio(request),
            messages.any_value(request.options) if request.HasField("options") else None,
            request.runtime_path,
            messages.descriptor(request.checkpoint) if request.HasField("checkpoint") else None,
        )
        return tasks_pb2.CreateTaskResponse(container_id=request.container_id, pid=pid)

    async def _start(self, request: tasks_pb2.StartRequest, call: rpc.Call) -> tasks_pb2.StartResponse:
        start = self._resolve(call).start
        pid = await self._run(call, request.container_id, start, request.exec_id)
        return tasks_pb2.StartResponse(pid=pid)

    async def _delete(self, request: tasks_pb2.DeleteTaskRequest, call: rpc.Call) -> tasks_pb2.DeleteResponse:
        end = await self._run(call, request.container_id, self._resolve(call).delete)
        return _deleted(end)

    async def _delete_process(
        self, request: tasks_pb2.DeleteProcessRequest, call: rpc.Call
    ) -> tasks_pb2.DeleteResponse:
        if not request.exec_id:
            raise errors.InvalidArgument(f'container "{request.container_id}": an exec id is required')
        delete = self._resolve(call).delete
        end = await self._run(call, request.container_id, delete, request.exec_id)
        return _deleted(end, request.exec_id)

    async def _get(self, request: tasks_pb2.GetRequest, call: rpc.Call) -> tasks_pb2.GetResponse:
        process = await self._run(call, request.container_id, self._resolve(call).get, request.exec_id)
        return tasks_pb2.GetResponse(process=_process_message(process))

    async def _list(self, request: tasks_pb2.ListTasksRequest, call: rpc.Call) -> tasks_pb2.ListTasksResponse:
        found = await call.run(self._resolve(call).list, request.filter, lane=await self._lane(call, ""))
        return tasks_pb2.ListTasksResponse(tasks=map(_process_message, found))

    async def _kill(self, request: tasks_pb2.KillRequest, call: rpc.Call) -> Empty:
        kill = self._resolve(call).kill
        await self._run(
            call,
            request.container_id,
            lambda id: kill(id, request.signal, request.exec_id, all=request.all),
        )
        return Empty()

    async def _exec(self, request: tasks_pb2.ExecProcessRequest, call: rpc.Call) -> Empty:
        if not request.exec_id:
            raise errors.InvalidArgument(f'container "{request.container_id}": an exec id is required')
        spec = messages.any_value(request.spec)
        run = self._resolve(call).exec
        await self._run(call, request.container_id, run, request.exec_id, spec, _stdio(request))
        return Empty()

    async def _resize_pty(self, request: tasks_pb2.ResizePtyRequest, call: rpc.Call) -> Empty:
        resize = self._resolve(call).resize_pty
        await self._run(call, request.container_id, resize, request.width, request.height, request.exec_id)
        return Empty()

    async def _close_io(self, request: tasks_pb2.CloseIORequest, call: rpc.Call) -> Empty:
        close = self._resolve(call).close_io
        await self._run(call, request.container_id, lambda id: close(id, request.exec_id, stdin=request.stdin))
        return Empty()

    async def _pause(self, request: tasks_pb2.PauseTaskRequest, call: rpc.Call) -> Empty:
        await self._run(call, request.container_id, self._resolve(call).pause)
        return Empty()

    async def _resume(self, request: tasks_pb2.ResumeTaskRequest, call: rpc.Call) -> Empty:
        await self._run(call, request.container_id, self._resolve(call).resume)
        return Empty()

    async def _list_pids(self, request: tasks_pb2.ListPidsRequest, call: rpc.Call) -> tasks_pb2.ListPidsResponse:
        found = await self._run(call, request.container_id, self._resolve(call).pids)
        return tasks_pb2.ListPidsResponse(processes=map(_info_message, found))

    async def _checkpoint(
        self, request: tasks_pb2.CheckpointTaskRequest, call: rpc.Call
    ) -> tasks_pb2.CheckpointTaskResponse:
        options = messages.any_value(request.options) if request.HasField("options") else None
        checkpoint = self._resolve(call).checkpoint
        parent = request.parent_checkpoint
        found = await self._run(call, request.container_id, checkpoint, parent, options)
        return tasks_pb2.CheckpointTaskResponse(descriptors=map(messages.descriptor_message, found))

    async def _update(self, request: tasks_pb2.UpdateTaskRequest, call: rpc.Call) -> Empty:
        resources = messages.any_value(request.resources)
        update = self._resolve(call).update
        await self._run(call, request.container_id, update, resources, dict(request.annotations))
        return Empty()

    async def _metrics(self, request: tasks_pb2.MetricsRequest, call: rpc.Call) -> tasks_pb2.MetricsResponse:
        found = await call.run(self._resolve(call).metrics, list(request.filters), lane=await self._lane(call, ""))
        return tasks_pb2.MetricsResponse(
            metrics=(
                metrics_pb2.Metric(id=id, timestamp=messages.timestamp(time), data=messages.any_message(figures))
                for id, time, figures in found
            )
        )

    async def _wait(self, request: tasks_pb2.WaitRequest, call: rpc.Call) -> tasks_pb2.WaitResponse:
        if call.scope.lease:
            await call.run(int)  # the wait itself needs no thread, the check of the lease does
        end = await self._resolve(call).wait_async(request.container_id, request.exec_id)
        return tasks_pb2.WaitResponse(exit_status=end.status, exited_at=messages.timestamp(end.exited_at))


def _stdio(request: tasks_pb2.CreateTaskRequest | tasks_pb2.ExecProcessRequest) -> runtime.Stdio:
    return runtime.Stdio(request.stdin, request.stdout, request.stderr, request.terminal)


def _deleted(end: runtime.Exit, id: str = "") -> tasks_pb2.DeleteResponse:
    return tasks_pb2.DeleteResponse(
        id=id, pid=end.pid, exit_status=end.status, exited_at=messages.timestamp(end.exited_at)
    )


def _process_message(process: runtime.Process) -> task_pb2.Process:
    """``id`` is the container's for init, the exec's for others; the container id is left empty, as clients know it."""
    return task_pb2.Process(
        id=process.exec_id or process.id,
        pid=process.pid,
        status=task_pb2.Status.Name(process.status),
        stdin=process.stdio.stdin,
        stdout=process.stdio.stdout,
        stderr=process.stdio.stderr,
        terminal=process.stdio.terminal,
        exit_status=process.exit_status,
        exited_at=messages.timestamp(process.exited_at),
    )


def _process(message: task_pb2.Process, id: str, exec_id: str = "") -> runtime.Process:
    return runtime.Process(
        id,
        exec_id,
        message.pid,
        runtime.Status(message.status),
        runtime.Stdio(message.stdin, message.stdout, message.stderr, message.terminal),
        message.exit_status,
        messages.nanoseconds(message.exited_at),
    )


def _info_message(info: runtime.ProcessInfo) -> task_pb2.ProcessInfo:
    details = None
    if info.exec_id:
        value = oci_pb2.ProcessDetails(exec_id=info.exec_id).SerializeToString()
        details = any_pb2.Any(type_url=_DETAILS, value=value)
    return task_pb2.ProcessInfo(pid=info.pid, info=details)


def _info(message: task_pb2.ProcessInfo) -> runtime.ProcessInfo:
    if message.info.type_url.rpartition("/")[2] != _DETAILS:
        return runtime.ProcessInfo(message.pid)
    return runtime.ProcessInfo(message.pid, oci_pb2.ProcessDetails.FromString(message.info.value).exec_id)


class Proxy(tasks.Manager):
    """The tasks of a daemon at the far end."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._channel = channel
        self._stub = rpc.Stub(channel, SERVICE, scope)

    def create(
        self,
        id: str,
        rootfs: Sequence[Mount] = (),
        stdio: runtime.Stdio | None = None,
        options: runtime.Any | None = None,
        runtime_path: str = "",
        checkpoint: Descriptor | None = None,
    ) -> int:
        stdio = stdio or runtime.Stdio()
        request = tasks_pb2.CreateTaskRequest(
            container_id=id,
            rootfs=messages.mount_messages(rootfs),
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
            options=messages.any_message(options),
            runtime_path=runtime_path,
            checkpoint=None if checkpoint is None else messages.descriptor_message(checkpoint),
        )
        return self._stub.unary("Create", request, tasks_pb2.CreateTaskResponse).pid

    def start(self, id: str, exec_id: str = "") -> int:
        request = tasks_pb2.StartRequest(container_id=id, exec_id=exec_id)
        return self._stub.unary("Start", request, tasks_pb2.StartResponse).pid

    def delete(self, id: str, exec_id: str = "") -> runtime.Exit:
        if exec_id:
            process = tasks_pb2.DeleteProcessRequest(container_id=id, exec_id=exec_id)
            answer = self._stub.unary("DeleteProcess", process, tasks_pb2.DeleteResponse)
        else:
            task = tasks_pb2.DeleteTaskRequest(container_id=id)
            answer = self._stub.unary("Delete", task, tasks_pb2.DeleteResponse)
        return self._exit(id, exec_id, answer.pid, answer)

    def _exit(
        self, id: str, exec_id: str, pid: int, answer: tasks_pb2.DeleteResponse | tasks_pb2.WaitResponse
    ) -> runtime.Exit:
        time = messages.nanoseconds(answer.exited_at)
        return runtime.Exit(self._stub.scope.namespace, id, exec_id, pid, answer.exit_status, time)

    def get(self, id: str, exec_id: str = "") -> runtime.Process:
        request = tasks_pb2.GetRequest(container_id=id, exec_id=exec_id)
        return _process(self._stub.unary("Get", request, tasks_pb2.GetResponse).process, id, exec_id)

    def list(self, filter: str = "") -> Sequence[runtime.Process]:
        request = tasks_pb2.ListTasksRequest(filter=filter)
        found = self._stub.unary("List", request, tasks_pb2.ListTasksResponse).tasks
        return [_process(each, each.container_id or each.id) for each in found]

    def kill(self, id: str, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        request = tasks_pb2.KillRequest(container_id=id, exec_id=exec_id, signal=signal, all=all)
        self._stub.unary("Kill", request, Empty)

    def exec(self, id: str, exec_id: str, spec: runtime.Any, stdio: runtime.Stdio) -> None:
        request = tasks_pb2.ExecProcessRequest(
            container_id=id,
            exec_id=exec_id,
            spec=messages.any_message(spec),
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
        )
        self._stub.unary("Exec", request, Empty)

    def resize_pty(self, id: str, width: int, height: int, exec_id: str = "") -> None:
        request = tasks_pb2.ResizePtyRequest(container_id=id, exec_id=exec_id, width=width, height=height)
        self._stub.unary("ResizePty", request, Empty)

    def close_io(self, id: str, exec_id: str = "", *, stdin: bool = True) -> None:
        self._stub.unary("CloseIO", tasks_pb2.CloseIORequest(container_id=id, exec_id=exec_id, stdin=stdin), Empty)

    def pause(self, id: str) -> None:
        self._stub.unary("Pause", tasks_pb2.PauseTaskRequest(container_id=id), Empty)

    def resume(self, id: str) -> None:
        self._stub.unary("Resume", tasks_pb2.ResumeTaskRequest(container_id=id), Empty)

    def pids(self, id: str) -> Sequence[runtime.ProcessInfo]:
        request = tasks_pb2.ListPidsRequest(container_id=id)
        return [_info(each) for each in self._stub.unary("ListPids", request, tasks_pb2.ListPidsResponse).processes]

    def checkpoint(self, id: str, parent: str = "", options: runtime.Any | None = None) -> Sequence[Descriptor]:
        request = tasks_pb2.CheckpointTaskRequest(
            container_id=id, parent_checkpoint=parent, options=messages.any_message(options)
        )
        answer = self._stub.unary("Checkpoint", request, tasks_pb2.CheckpointTaskResponse)
        return [messages.descriptor(each) for each in answer.descriptors]

    def update(self, id: str, resources: runtime.Any, annotations: Mapping[str, str] | None = None) -> None:
        request = tasks_pb2.UpdateTaskRequest(
            container_id=id, resources=messages.any_message(resources), annotations=annotations
        )
        self._stub.unary("Update", request, Empty)

    def metrics(self, filters: Sequence[str] = ()) -> Sequence[tuple[str, int, runtime.Any]]:
        answer = self._stub.unary("Metrics", tasks_pb2.MetricsRequest(filters=filters), tasks_pb2.MetricsResponse)
        return [
            (each.id, messages.nanoseconds(each.timestamp), messages.any_value(each.data)) for each in answer.metrics
        ]

    def wait(self, id: str, exec_id: str = "", timeout: float | None = None) -> runtime.Exit:
        """The pid is 0: the wire does not carry it."""
        request = tasks_pb2.WaitRequest(container_id=id, exec_id=exec_id)
        if timeout is None:
            return self._exit(id, exec_id, 0, self._stub.unary("Wait", request, tasks_pb2.WaitResponse))
        with self._stub.scope.within(timeout) as scope:
            stub = rpc.Stub(self._channel, SERVICE, scope)
            return self._exit(id, exec_id, 0, stub.unary("Wait", request, tasks_pb2.WaitResponse))
