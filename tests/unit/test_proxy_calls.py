"""Calls to a proxy plugin: deadlines, repetition, and what the breaker hears of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from kernel.proxies.calls import Calls
from kernel.proxies.tables import ProxyPlugin, Spec
from kernel.toml import Duration
from plugin_sdk import errors, plugin
from plugin_sdk.api.services.content.v1 import content_pb2
from plugin_sdk.api.services.snapshots.v1 import snapshots_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc
from plugin_sdk.wire.transport import Lost

SNAPSHOTS = snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"]
CONTENT = content_pb2.DESCRIPTOR.services_by_name["Content"]
STAT = rpc.methods(SNAPSHOTS)["Stat"]
LIST = rpc.methods(SNAPSHOTS)["List"]
WRITE = rpc.methods(CONTENT)["Write"]
REQUEST = snapshots_pb2.StatSnapshotRequest(key="a")
ANSWER = snapshots_pb2.StatSnapshotResponse()

LATE = errors.DeadlineExceeded("Deadline Exceeded")


class Channel:
    """Answers what ``outcomes`` say, one a call; errors are raised."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.scopes: list[Scope] = []

    def unary(self, service: str, method: rpc.Method, request: object, scope: Scope) -> Any:
        self.scopes.append(scope)
        return _take(self.outcomes)

    def stream(self, service: str, method: rpc.Method, requests: object, scope: Scope) -> Any:
        return Stream(self.outcomes)


class Stream:
    def __init__(self, outcomes: list[Any]) -> None:
        self._outcomes = outcomes
        self.cancelled = False

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        outcome = _take(self._outcomes)
        return outcome() if callable(outcome) else outcome

    def cancel(self) -> None:
        self.cancelled = True


def _take(outcomes: list[Any]) -> Any:
    outcome = outcomes.pop(0) if outcomes else StopIteration()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class Plugin:
    """What is asked of a Remote, written down."""

    noun = 'snapshotter "s"'

    def __init__(self, channel: Channel, timeout: float = 60.0) -> None:
        table = ProxyPlugin(type="snapshot", address="/s", timeout=Duration(timeout))
        self.spec = Spec("s", plugin.SNAPSHOTTER, "here:1", table)
        self.link: Any = SimpleNamespace(channel=channel)
        self.told: list[str] = []
        self.admitted: list[float] = []

    def admit(self, begun: float) -> Any:
        self.admitted.append(begun)
        return self, self.link

    def answered(self) -> None:
        self.told.append("answered")

    def failed(self, error: errors.Error) -> None:
        self.told.append(f"failed: {error.message}")

    def lost(self, link: object) -> None:
        assert link is self.link
        self.told.append("lost")

    def complain(self, text: str) -> None:
        self.told.append(f"complains: {text}")

    @contextmanager
    def watched(self, cancel: Callable[[], None]) -> Iterator[None]:
        yield


def call(plugin: Plugin, scope: Scope | None = None, method: rpc.Method = STAT) -> tuple[Any, Calls]:
    scope = scope or Scope("ns")
    calls = Calls(plugin, scope)
    return calls.unary(SNAPSHOTS.full_name, method, REQUEST, scope), calls


def test_a_call_is_bounded_by_the_plugins_timeout_and_the_callers_deadline() -> None:
    channel = Channel(ANSWER, ANSWER)
    begin = time.monotonic()
    call(Plugin(channel, 20))
    call(Plugin(channel, 20), Scope("ns", deadline=begin + 5))
    assert [round((scope.deadline or 0) - begin) for scope in channel.scopes] == [20, 5]


@pytest.mark.parametrize("outcome", [ANSWER, errors.NotFound("a"), errors.Unavailable("locked")])
def test_every_answer_shows_that_the_plugin_lives(outcome: Any) -> None:
    made = Plugin(Channel(outcome))
    if isinstance(outcome, Exception):
        with pytest.raises(type(outcome)):
            call(made)
    else:
        assert call(made)[0] is ANSWER
    assert made.told == ["answered"]


def test_one_that_does_not_answer_in_time_is_told_by_name_and_not_repeated() -> None:
    made = Plugin(Channel(LATE, ANSWER), 0.5)
    with pytest.raises(errors.DeadlineExceeded) as caught:
        call(made)
    assert caught.value.message == 'snapshotter "s" has not answered Stat within 0.5 s'
    assert made.told == [f"failed: {caught.value.message}"]


def test_a_callers_own_deadline_is_not_the_plugins_fault() -> None:
    made = Plugin(Channel(LATE))
    scope = Scope("ns", deadline=time.monotonic() + 0.01)
    time.sleep(0.02)
    with pytest.raises(errors.DeadlineExceeded):
        call(made, scope)
    assert made.told == []


def test_a_caller_that_goes_away_is_not_the_plugins_fault() -> None:
    made = Plugin(Channel(errors.Canceled("gone")))
    with pytest.raises(errors.Canceled):
        call(made)
    assert made.told == []


def test_a_lost_call_is_made_again_when_the_plugin_is_back() -> None:
    made = Plugin(Channel(Lost("x"), ANSWER))
    begun = time.monotonic()
    answer, calls = call(made, Scope("ns", begun=begun - 100))
    assert answer is ANSWER
    assert calls.repeated
    assert made.told == ["lost", "answered"]
    assert made.admitted[0] == begun - 100
    assert made.admitted[1] >= begun  # the grace begins with the loss


def test_a_call_that_is_answered_at_once_is_not_repeated() -> None:
    _, calls = call(Plugin(Channel(ANSWER)))
    assert not calls.repeated


def test_what_a_plugin_dies_of_is_not_made_for_ever() -> None:
    made = Plugin(Channel(*[Lost("x")] * 10))
    with pytest.raises(Lost, match=r"snapshotter \"s\" has gone during Stat: x"):
        call(made)
    assert made.told == ["lost"] * 3


@pytest.mark.parametrize("name", ["Apply", "Diff"])
def test_what_must_not_be_begun_again_is_not_repeated(name: str) -> None:
    made = Plugin(Channel(Lost("x"), ANSWER))
    with pytest.raises(Lost):
        call(made, method=rpc.Method(name, type(REQUEST), type(ANSWER)))
    assert made.told == ["lost"]


def test_one_that_comes_again_by_itself_does_not_wait() -> None:
    made = Plugin(Channel(Lost("x"), ANSWER))
    with pytest.raises(Lost):
        call(made, Scope("ns", begun=-math.inf))
    assert made.admitted == [-math.inf]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (errors.Internal("Exception deserializing response!"), errors.Internal, "that cannot be read"),
        (
            errors.ResourceExhausted("CLIENT: Received message larger than max (20 vs. 10)"),
            errors.ResourceExhausted,
            "of more than 16777216 bytes",
        ),
    ],
)
def test_answers_that_are_none_are_told_by_name(error: errors.Error, kind: type[errors.Error], said: str) -> None:
    with pytest.raises(kind) as caught:
        call(Plugin(Channel(error)))
    assert caught.value.message == f'snapshotter "s" gave an answer to Stat {said}'


# --- streams


def stream(plugin: Plugin, method: rpc.Method = LIST, scope: Scope | None = None) -> Any:
    scope = scope or Scope("ns")
    return Calls(plugin, scope).stream(SNAPSHOTS.full_name, method, [], scope)


def test_a_stream_passes_its_messages_on() -> None:
    made = Plugin(Channel(1, 2))
    assert list(stream(made)) == [1, 2]
    assert made.told == ["answered"] * 2


def test_a_stream_that_only_reads_is_begun_again_when_its_first_message_is_lost() -> None:
    made = Plugin(Channel(Lost("x"), 1, 2))
    assert list(stream(made)) == [1, 2]
    assert len(made.admitted) == 2


def test_a_stream_that_was_cut_off_later_is_not() -> None:
    made = Plugin(Channel(1, Lost("x"), 2))
    messages = stream(made)
    assert next(messages) == 1
    with pytest.raises(Lost, match="has gone during List"):
        next(messages)


def test_a_stream_that_writes_is_not_begun_again() -> None:
    made = Plugin(Channel(Lost("x"), 1))
    with pytest.raises(Lost, match="has gone during Write"):
        next(stream(made, WRITE))


def test_a_message_that_does_not_come_in_time_counts_as_a_call_without_an_answer() -> None:
    def late() -> None:
        time.sleep(0.06)
        raise errors.Canceled("cancelled by whoever watches")

    made = Plugin(Channel(late), 0.05)
    with pytest.raises(errors.DeadlineExceeded, match=r"has not answered Write within 0\.05 s"):
        next(stream(made, WRITE))
    assert made.told == ['failed: snapshotter "s" has not answered Write within 0.05 s']


def test_a_stream_that_its_caller_ends_is_no_failure() -> None:
    made = Plugin(Channel(errors.Canceled("gone")))
    with pytest.raises(errors.Canceled):
        next(stream(made))
    assert made.told == []
