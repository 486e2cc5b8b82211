"""The breaker, and delays that grow."""

from __future__ import annotations

import pytest

from kernel.proxies.breaker import THRESHOLD, Breaker, Delays


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def fail(breaker: Breaker, times: int = THRESHOLD) -> list[bool]:
    return [breaker.failed() for _ in range(times)]


def test_it_opens_after_failures_in_a_row(breaker: Breaker) -> None:
    assert fail(breaker) == [False] * (THRESHOLD - 1) + [True]
    assert breaker.is_open
    assert breaker.attempt == 1


def test_an_answer_in_between_begins_anew(breaker: Breaker) -> None:
    fail(breaker, THRESHOLD - 1)
    breaker.answered()
    assert not any(fail(breaker, THRESHOLD - 1))
    assert not breaker.is_open


def test_a_late_answer_does_not_close_it(breaker: Breaker) -> None:
    fail(breaker)
    breaker.answered()
    assert breaker.is_open


def test_a_probe_is_due_after_a_while_and_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    assert 0.8 <= breaker.remaining <= 1.2
    clock.now += 1.3
    assert breaker.remaining == 0
    breaker.probed(True)
    assert not breaker.is_open


def test_a_failed_probe_makes_the_next_one_later(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    first = breaker.remaining
    clock.now += 2
    breaker.probed(False)
    assert breaker.remaining > first
    assert breaker.attempt == 2


def test_after_a_probe_one_failure_opens_it_until_a_call_has_been_answered(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += 2
    breaker.probed(True)
    assert breaker.failed()
    assert breaker.attempt == 2
    clock.now += 4
    breaker.probed(True)
    breaker.answered()
    assert not any(fail(breaker, THRESHOLD - 1))
    assert breaker.failed()
    assert breaker.attempt == 1


def test_a_new_beginning_forgets_all(breaker: Breaker) -> None:
    fail(breaker)
    breaker.reset()
    assert not breaker.is_open
    assert not any(fail(breaker, THRESHOLD - 1))


def test_delays_grow_in_spite_of_their_jitter_and_have_a_limit(clock: Clock) -> None:
    delays = Delays(0.25, 30, clock)
    found = [delays.next() for _ in range(12)]
    assert found[:6] == sorted(found[:6])
    assert 0.2 <= found[0] <= 0.3
    assert max(found) <= 36
    assert delays.attempt == 12


def test_delays_differ_between_two(clock: Clock) -> None:
    assert len({Delays(1, 30, clock).next() for _ in range(20)}) > 10


def test_a_minute_of_health_begins_anew_and_less_does_not(clock: Clock) -> None:
    delays = Delays(1, 30, clock)
    for _ in range(4):
        delays.next()
    delays.healthy()
    clock.now += 59
    assert delays.next() > 10
    assert delays.attempt == 5
    delays.healthy()
    clock.now += 61
    assert delays.next() < 1.3
    assert delays.attempt == 1
