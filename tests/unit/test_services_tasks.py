import asyncio
from types import SimpleNamespace
from typing import Any

from kernel.services import tasks
from plugin_sdk.api.services.tasks.v1 import tasks_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire.tasks import LANE


class Call:
    """Runs work at once and notes the lanes."""

    scope = Scope("default")

    def __init__(self) -> None:
        self.lanes: list[str] = []

    async def run(self, work: Any, *args: object, lane: str = "") -> Any:
        self.lanes.append(lane)
        return work(*args)


class Manager(SimpleNamespace):
    """Knows the task ``known``, and of ``created`` only the container."""

    def lane(self, id: str) -> str:
        return "runtime.of.the.task" if id == "known" else ""

    def container_lane(self, id: str) -> str:
        return "runtime.of.the.container" if id == "created" else ""


def lanes(method: str, request: Any) -> list[str]:
    manager: Any = Manager(
        start=lambda id, exec_id: 1, create=lambda *args: 1, list=lambda filter: [], metrics=lambda filters: []
    )
    call: Any = Call()
    handler: Any = tasks.servicer(lambda scope: manager).methods[method].handler
    asyncio.run(handler(request, call))
    return list(call.lanes)


def test_a_call_runs_in_the_threads_of_the_task_s_runtime() -> None:
    assert lanes("Start", tasks_pb2.StartRequest(container_id="known")) == ["runtime.of.the.task"]


def test_create_runs_in_the_threads_of_the_container_s_runtime() -> None:
    request = tasks_pb2.CreateTaskRequest(container_id="created")
    assert lanes("Create", request) == ["", "runtime.of.the.container"]


def test_an_unknown_container_keeps_no_runtime_busy() -> None:
    assert lanes("Start", tasks_pb2.StartRequest(container_id="none")) == ["", ""]


def test_what_asks_all_tasks_runs_in_one_lane() -> None:
    assert lanes("List", tasks_pb2.ListTasksRequest()) == [LANE]
    assert lanes("Metrics", tasks_pb2.MetricsRequest()) == [LANE]
