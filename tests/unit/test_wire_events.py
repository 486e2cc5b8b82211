import asyncio
import threading
import time

import pytest

from plugin_sdk import errors, events, runtime
from plugin_sdk.scope import Scope
from plugin_sdk.wire import events as wire

EVENT = runtime.Any("containerd.events.TaskExit", b"\x0a\x01c")
ENVELOPE = events.Envelope(10**18 + 1, "moby", "/tasks/exit", EVENT)


class Exchange:
    """Answers to each subscriber what it was made with, and then waits."""

    def __init__(self):
        self.calls = []
        self.open = 0
        self.closed = threading.Event()

    def publish(self, topic, event):
        self.calls.append(("publish", topic, event))

    def forward(self, envelope):
        self.calls.append(("forward", envelope))

    async def subscribe_async(self, filters=()):
        if filters == ["bad=="]:
            raise errors.InvalidArgument("bad filter")
        self.calls.append(("subscribe", filters))
        self.open += 1
        try:
            yield ENVELOPE
            yield ENVELOPE
            await asyncio.sleep(30)
        finally:
            self.open -= 1
            self.closed.set()


@pytest.fixture
def exchange():
    return Exchange()


@pytest.fixture
def channel(serve, exchange):
    return serve(wire.Servicer(lambda call: exchange))


@pytest.fixture
def proxy(channel):
    return wire.Proxy(channel, Scope("default"))


def test_publish_and_forward(proxy, exchange):
    proxy.publish("/a/b", EVENT)
    proxy.forward(ENVELOPE)
    assert exchange.calls == [("publish", "/a/b", EVENT), ("forward", ENVELOPE)]


def test_publish_needs_a_namespace_and_subscribe_does_not(channel):
    proxy = wire.Proxy(channel, Scope(""))
    with pytest.raises(errors.FailedPrecondition, match="namespace is required"):
        proxy.publish("/a/b", EVENT)
    subscription = proxy.subscribe()
    assert next(subscription) == ENVELOPE
    subscription.close()


def test_a_subscription_gives_envelopes_until_it_is_closed(proxy, exchange):
    subscription = proxy.subscribe(["topic==/tasks/exit"])
    assert [next(subscription), next(subscription)] == [ENVELOPE, ENVELOPE]
    assert exchange.calls == [("subscribe", ["topic==/tasks/exit"])]
    threading.Timer(0.2, subscription.close).start()
    with pytest.raises(StopIteration):
        next(subscription)
    assert exchange.closed.wait(60)


def test_a_bad_filter_is_an_invalid_argument(proxy):
    with pytest.raises(errors.InvalidArgument, match="bad filter"):
        next(proxy.subscribe(["bad=="]))


def test_many_subscriptions_hold_no_thread(proxy, exchange):
    subscriptions = [proxy.subscribe() for _ in range(20)]
    for subscription in subscriptions:
        next(subscription)
    assert exchange.open == 20
    proxy.publish("/a/b", EVENT)
    for subscription in subscriptions:
        subscription.close()
    end = time.monotonic() + 60
    while exchange.open and time.monotonic() < end:
        time.sleep(0.02)
    assert exchange.open == 0
