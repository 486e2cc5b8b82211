import asyncio
import threading
from collections.abc import Iterator

import pytest

from kernel import events
from plugin_sdk import errors, runtime
from plugin_sdk.api.events import container_pb2, snapshot_pb2, task_pb2
from plugin_sdk.events import Envelope


@pytest.fixture
def exchange() -> Iterator[events.Exchange]:
    exchange = events.Exchange()
    yield exchange
    exchange.close()


def envelope(topic: str = "/tasks/start", namespace: str = "default", event: runtime.Any | None = None) -> Envelope:
    return Envelope(1, namespace, topic, event or runtime.Any("x", b""))


def packed(message: object) -> runtime.Any:
    return runtime.Any(message.DESCRIPTOR.full_name, message.SerializeToString())  # type: ignore[attr-defined]


def publish(exchange: events.Exchange, prefix: str, count: int) -> None:
    for number in range(count):
        exchange.publish([envelope(f"{prefix}/{number}")])


def topics(listener: events.Listener, count: int) -> list[str]:
    return [next(listener).topic for _ in range(count)]


def test_a_subscriber_sees_what_comes_after_it_in_order(exchange: events.Exchange) -> None:
    exchange.publish([envelope("/before")])
    listener = exchange.listen()
    exchange.publish([envelope("/a"), envelope("/b")])
    exchange.publish([envelope("/c")])
    assert topics(listener, 3) == ["/a", "/b", "/c"]


def test_every_subscriber_sees_every_namespace(exchange: events.Exchange) -> None:
    first, second = exchange.listen(), exchange.bind("other").subscribe()
    exchange.publish([envelope(namespace="one"), envelope(namespace="two")])
    for listener in (first, second):
        assert [next(listener).namespace, next(listener).namespace] == ["one", "two"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], ["/tasks/exit", "/snapshot/commit", "/containers/create"]),
        (['topic=="/tasks/exit"'], ["/tasks/exit"]),
        (["namespace==moby,topic~=|^/tasks/|"], ["/tasks/exit"]),
        (["namespace==other"], []),
        (["event.container_id==web"], ["/tasks/exit"]),
        (["event.id"], ["/containers/create"]),
        (["event.exit_status==3"], ["/tasks/exit"]),
        (["event.runtime.name==runc"], ["/containers/create"]),
        (["event.runtime"], []),
        (["event.nosuch"], []),
        (["event.key==k", "event.image==i"], ["/snapshot/commit", "/containers/create"]),
        (["event"], []),
        (["topic.x"], []),
    ],
)
def test_a_filter_chooses_events(exchange: events.Exchange, wanted: list[str], expected: list[str]) -> None:
    listener = exchange.listen([*wanted, *(["namespace==end"] if wanted else [])])
    create = container_pb2.ContainerCreate(id="web", image="i")
    create.runtime.name = "runc"
    exchange.publish(
        [
            envelope("/tasks/exit", "moby", packed(task_pb2.TaskExit(container_id="web", exit_status=3))),
            envelope("/snapshot/commit", "moby", packed(snapshot_pb2.SnapshotCommit(key="k", name="n"))),
            envelope("/containers/create", "moby", packed(create)),
            envelope("/end", "end", runtime.Any("no.such.Type", b"\xff")),
        ]
    )
    assert topics(listener, len(expected) + 1) == [*expected, "/end"]


def test_an_event_of_another_type_url_or_broken_bytes_has_no_fields(exchange: events.Exchange) -> None:
    listener = exchange.listen(["event.container_id==web", "topic=='/x'", 'topic=="/end"'])
    broken = runtime.Any("containerd.events.TaskExit", b"\xff\xff")
    prefixed = runtime.Any("type.googleapis.com/containerd.events.TaskExit", b"\x0a\x03web")
    exchange.publish([envelope("/broken", event=broken), envelope("/prefixed", event=prefixed), envelope("/end")])
    assert topics(listener, 2) == ["/prefixed", "/end"]


def test_close_ends_a_listener_that_waits_in_another_thread(exchange: events.Exchange) -> None:
    listener = exchange.listen()
    ended: list[Envelope] = []
    thread = threading.Thread(target=lambda: ended.extend(listener))
    thread.start()
    exchange.publish([envelope("/a")])
    listener.close()
    thread.join(60)
    assert not thread.is_alive()
    assert [event.topic for event in ended] in ([], ["/a"])


def test_a_slow_subscriber_is_ended_and_others_are_not() -> None:
    exchange = events.Exchange(max_events=10)
    slow, quick = exchange.listen(), exchange.listen()
    for number in range(11):
        exchange.publish([envelope(f"/{number}")])
        assert next(quick).topic == f"/{number}"
    with pytest.raises(errors.ResourceExhausted, match="too slow"):
        next(slow)
    with pytest.raises(errors.ResourceExhausted):
        next(slow)
    exchange.close()


def test_a_subscriber_is_ended_by_bytes_too() -> None:
    exchange = events.Exchange(max_bytes=1000)
    listener = exchange.listen()
    exchange.publish([envelope(event=runtime.Any("x", b"y" * 1000))])
    with pytest.raises(errors.ResourceExhausted):
        next(listener)


def test_a_malformed_filter_is_refused(exchange: events.Exchange) -> None:
    with pytest.raises(errors.InvalidArgument):
        exchange.listen(["topic="])


def test_a_closed_exchange_takes_no_subscriber(exchange: events.Exchange) -> None:
    exchange.close()
    with pytest.raises(errors.Unavailable):
        exchange.listen()


def test_publish_in_a_namespace_stamps_the_time(exchange: events.Exchange) -> None:
    listener = exchange.listen()
    exchange.bind("default").publish("/my/topic", runtime.Any("a", b"b"))
    event = next(listener)
    assert (event.namespace, event.topic, event.event) == ("default", "/my/topic", runtime.Any("a", b"b"))
    assert event.timestamp > 1_600_000_000_000_000_000


@pytest.mark.parametrize(
    "bad",
    [
        Envelope(0, "default", "/a", runtime.Any()),
        Envelope(1, "", "/a", runtime.Any()),
        Envelope(1, "-", "/a", runtime.Any()),
        Envelope(1, "default", "", runtime.Any()),
        Envelope(1, "default", "a", runtime.Any()),
        Envelope(1, "default", "/a b", runtime.Any()),
    ],
)
def test_forward_refuses_a_malformed_envelope(exchange: events.Exchange, bad: Envelope) -> None:
    with pytest.raises(errors.InvalidArgument):
        exchange.forward(bad)


def test_a_stream_awaits_what_other_threads_publish(exchange: events.Exchange) -> None:
    async def read() -> list[str]:
        stream = exchange.subscribe(["namespace==default"])
        thread = threading.Thread(target=publish, args=(exchange, "", 500))
        thread.start()
        found = [(await asyncio.wait_for(anext(stream), 10)).topic for _ in range(500)]
        thread.join()
        stream.close()
        assert [event async for event in stream] == []
        return found

    assert asyncio.run(read()) == [f"/{n}" for n in range(500)]


def test_a_stream_that_waits_ends_with_the_exchange(exchange: events.Exchange) -> None:
    async def read() -> None:
        stream = exchange.subscribe()
        asyncio.get_running_loop().call_later(0.01, exchange.close)
        with pytest.raises(errors.Unavailable):
            await asyncio.wait_for(anext(stream), 10)

    asyncio.run(read())


def test_publishing_after_the_loop_has_ended_does_no_harm(exchange: events.Exchange) -> None:
    async def subscribe() -> events.Stream:
        return exchange.subscribe()

    stream = asyncio.run(subscribe())
    exchange.publish([envelope()])
    stream.close()


def test_publishers_in_many_threads_are_seen_in_one_order(exchange: events.Exchange) -> None:
    first, second = exchange.listen(), exchange.listen()
    threads = [threading.Thread(target=publish, args=(exchange, f"/{name}", 100)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert topics(first, 400) == topics(second, 400)
