import asyncio
import logging
import os
import stat
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import errors
from plugin_sdk.api.services.content.v1 import content_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc
from tests.serving import Connect, Serve

SERVICE = content_pb2.DESCRIPTOR.services_by_name["Content"]


class Fake:
    """Content's method table over functions that a test gives."""

    service = SERVICE.full_name

    def __init__(self, namespaced: bool = True, **handlers: Any) -> None:
        self.methods = rpc.served(SERVICE, handlers, namespaced=namespaced)


def ask(channel: rpc.Channel, scope: Scope | None = None, digest: str = "") -> content_pb2.InfoResponse:
    stub = rpc.Stub(channel, SERVICE, scope or Scope("default"))
    return stub.unary("Info", content_pb2.InfoRequest(digest=digest), content_pb2.InfoResponse)


def read(channel: rpc.Channel, scope: Scope | None = None) -> rpc.Stream[content_pb2.ReadContentResponse]:
    stub = rpc.Stub(channel, SERVICE, scope or Scope("default"))
    return stub.stream("Read", [content_pb2.ReadContentRequest()], content_pb2.ReadContentResponse)


async def echo(request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
    scope = call.scope
    labels = {"namespace": scope.namespace, "lease": scope.lease or "", "deadline": str(scope.deadline is not None)}
    return content_pb2.InfoResponse(info=content_pb2.Info(digest=request.digest, labels=labels))


def test_a_call_carries_namespace_lease_and_deadline(serve: Serve) -> None:
    scope = Scope("moby", "lease-1", time.monotonic() + 30)
    answer = ask(serve(Fake(Info=echo)), scope, "sha256:0")
    assert answer.info.digest == "sha256:0"
    assert dict(answer.info.labels) == {"namespace": "moby", "lease": "lease-1", "deadline": "True"}


def test_a_channel_to_a_plugin_leaves_the_lease_out(serve: Serve, connect: Connect) -> None:
    outer = serve(Fake(Info=echo))
    channel = connect(outer.address, lease=False)
    assert ask(channel, Scope("moby", "lease-1")).info.labels["lease"] == ""
    channel.close()


def test_a_missing_namespace_is_refused(serve: Serve) -> None:
    with pytest.raises(errors.FailedPrecondition, match="namespace is required"):
        ask(serve(Fake(Info=echo)), Scope(""))


def test_a_malformed_namespace_is_refused(serve: Serve) -> None:
    with pytest.raises(errors.InvalidArgument, match="must match"):
        ask(serve(Fake(Info=echo)), Scope("no/way"))


def test_a_method_that_needs_no_namespace_is_served_without(serve: Serve) -> None:
    assert ask(serve(Fake(namespaced=False, Info=echo)), Scope("")).info.labels["namespace"] == ""


def test_an_unknown_lease_is_not_found_before_any_work(serve: Serve) -> None:
    done: list[int] = []

    async def work(request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
        await call.run(done.append, 1)
        await call.run(done.append, 2)
        return content_pb2.InfoResponse()

    def check(scope: Scope) -> None:
        if scope.lease != "known":
            raise errors.NotFound(f'lease "{scope.lease}": not found')

    channel = serve(Fake(Info=work), check_lease=check)
    with pytest.raises(errors.NotFound, match='lease "other": not found'):
        ask(channel, Scope("default", "other"))
    assert done == []
    ask(channel, Scope("default", "known"))
    assert done == [1, 2]


def test_an_error_keeps_its_class_and_its_words(serve: Serve) -> None:
    async def fail(request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
        raise errors.AlreadyExists('snapshot "größe": already exists')

    with pytest.raises(errors.AlreadyExists) as caught:
        ask(serve(Fake(Info=fail)))
    assert caught.value.message == 'snapshot "größe": already exists'


def test_a_defect_is_unknown_and_logged_with_its_traceback(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
        raise KeyError("oops")

    with caplog.at_level(logging.ERROR), pytest.raises(errors.Unknown, match="KeyError"):
        ask(serve(Fake(Info=fail)))
    assert any(record.exc_info for record in caplog.records)


def test_an_unknown_method_is_unimplemented(serve: Serve) -> None:
    with pytest.raises(errors.Unimplemented):
        ask(serve(Fake()))


def test_work_runs_in_the_lane_it_names(serve: Serve) -> None:
    async def work(request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
        name = await call.run(lambda: threading.current_thread().name, lane="x")
        return content_pb2.InfoResponse(info=content_pb2.Info(digest=name))

    assert ask(serve(Fake(Info=work))).info.digest.startswith("ThreadPoolExecutor")


def test_a_passed_deadline_ends_the_call_and_cancels_its_scope(serve: Serve) -> None:
    canceled = threading.Event()

    async def slow(request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
        call.scope.on_cancel(canceled.set)
        await asyncio.sleep(30)
        return content_pb2.InfoResponse()

    with pytest.raises(errors.DeadlineExceeded):
        ask(serve(Fake(Info=slow)), Scope("default", None, time.monotonic() + 0.2))
    assert canceled.wait(60)


def test_cancelling_waits_for_the_work_that_has_begun(serve: Serve) -> None:
    begun, go, order = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go.wait(10)
        order.append("work")

    async def slow(request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
        try:
            await call.run(work)
        finally:
            order.append("closed")
            closed.set()
        return content_pb2.InfoResponse()

    closed = threading.Event()
    with pytest.raises(errors.DeadlineExceeded):
        ask(serve(Fake(Info=slow)), Scope("default", None, time.monotonic() + 0.2))
    assert begun.is_set()
    go.set()
    assert closed.wait(60)
    assert order == ["work", "closed"]


def test_a_cancelled_scope_ends_a_call_from_another_thread(serve: Serve) -> None:
    async def slow(request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
        await asyncio.sleep(30)
        return content_pb2.InfoResponse()

    scope = Scope("default")
    threading.Timer(0.2, scope.cancel).start()
    with pytest.raises(errors.Canceled):
        ask(serve(Fake(Info=slow)), scope)


def test_messages_of_nearly_sixteen_mebibytes_pass_both_ways(serve: Serve) -> None:
    size = (16 << 20) - 100

    async def big(request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
        return content_pb2.InfoResponse(info=content_pb2.Info(digest=request.digest))

    assert len(ask(serve(Fake(Info=big)), digest="x" * size).info.digest) == size


def test_a_stream_may_answer_encoded_messages(serve: Serve) -> None:
    async def chunks(request: Any, call: rpc.Call) -> AsyncIterator[bytes]:
        for offset in (0, 3):
            yield content_pb2.ReadContentResponse(offset=offset, data=b"abc").SerializeToString()

    with read(serve(Fake(Read=chunks))) as answers:
        assert [(each.offset, each.data) for each in answers] == [(0, b"abc"), (3, b"abc")]


def test_a_stream_that_fails_gives_what_came_before(serve: Serve) -> None:
    async def chunks(request: Any, call: rpc.Call) -> AsyncIterator[content_pb2.ReadContentResponse]:
        yield content_pb2.ReadContentResponse(data=b"abc")
        raise errors.DataLoss("gone")

    with read(serve(Fake(Read=chunks))) as answers:
        assert next(answers).data == b"abc"
        with pytest.raises(errors.DataLoss, match="gone"):
            next(answers)


def test_leaving_a_stream_closes_it_at_the_server(serve: Serve) -> None:
    closed = threading.Event()

    async def chunks(request: Any, call: rpc.Call) -> AsyncIterator[content_pb2.ReadContentResponse]:
        try:
            while True:
                yield content_pb2.ReadContentResponse(data=b"abc")
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    with read(serve(Fake(Read=chunks))) as answers:
        next(answers)
    assert closed.wait(60)


def test_a_conversation_alternates(serve: Serve) -> None:
    async def write(requests: Any, call: rpc.Call) -> AsyncIterator[content_pb2.WriteContentResponse]:
        async for request in requests:
            yield content_pb2.WriteContentResponse(offset=request.offset + 1)

    stub = rpc.Stub(serve(Fake(Write=write)), SERVICE, Scope("default"))
    requests = (content_pb2.WriteContentRequest(offset=each) for each in range(3))
    with stub.stream("Write", requests, content_pb2.WriteContentResponse) as answers:
        assert [each.offset for each in answers] == [1, 2, 3]


def test_nobody_at_the_address_is_unavailable_by_name(tmp_path: Path, connect: Connect) -> None:
    channel = connect(f"{tmp_path}/none.sock")
    with pytest.raises(errors.Unavailable) as refused:
        ask(channel)
    assert refused.value.message == f'"{tmp_path}/none.sock" does not answer: No such file or directory'
    channel.close()


def test_a_channel_finds_a_server_that_came_back(serve: Serve, tmp_path: Path, connect: Connect) -> None:
    channel = connect(f"{tmp_path}/0.sock")
    with pytest.raises(errors.Unavailable):
        ask(channel)
    serve(Fake(Info=echo))
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            ask(channel)
            break
        except errors.Unavailable:
            time.sleep(0.05)
    else:
        pytest.fail("the channel never came back")
    channel.close()


def test_the_socket_is_for_owner_and_group(serve: Serve) -> None:
    path = serve(Fake()).address.removeprefix("unix://")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


def test_tcp_and_stop(tmp_path: Path, server_kind: Any, connect: Connect) -> None:
    async def main() -> None:
        server = server_kind(lambda name: pytest.fail("no work here"))
        server.mount(Fake(Info=echo))
        port = server.listen("tcp://127.0.0.1:0")
        server.listen(f"{tmp_path}/x.sock")
        await server.start()
        channel = connect(f"tcp://127.0.0.1:{port}")
        answer = await asyncio.to_thread(ask, channel, Scope("default"), "d")
        assert answer.info.digest == "d"
        channel.close()
        await server.stop(1)
        assert not (tmp_path / "x.sock").exists()

    asyncio.run(main())


def test_a_call_says_who_calls(serve: Serve) -> None:
    async def who(request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
        return content_pb2.InfoResponse(info=content_pb2.Info(digest=call.peer + call.headers[rpc.NAMESPACE]))

    assert ask(serve(Fake(Info=who))).info.digest.startswith("unix:")
