from __future__ import annotations

import threading
import time

import pytest

from kernel.metadata.claims import Claims
from plugin_sdk import errors
from plugin_sdk.scope import Scope


def test_a_claim_is_held_by_one_at_a_time() -> None:
    claims = Claims()
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with claims.hold(Scope("ns"), "a"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 10


def test_several_are_taken_together_or_not_at_all() -> None:
    claims = Claims()
    assert claims.take("a", "b")
    assert not claims.take("b", "c")
    assert claims.take("c")
    claims.drop("a", "b")
    assert claims.take("b", "a")


def test_two_that_want_the_same_pair_do_not_block_each_other_for_ever() -> None:
    claims = Claims()

    def work(*names: str) -> None:
        for _ in range(100):
            with claims.hold(Scope("ns"), *names):
                pass

    threads = [threading.Thread(target=work, args=names) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_waiting_ends_at_the_callers_deadline() -> None:
    claims = Claims()
    with (
        claims.hold(Scope("ns"), "a"),
        pytest.raises(errors.DeadlineExceeded),
        claims.hold(Scope("ns", deadline=time.monotonic() + 0.02), "a"),
    ):
        pass
    assert claims.take("a")


def test_waiting_ends_when_the_caller_goes_away() -> None:
    claims, scope = Claims(), Scope("ns")
    with claims.hold(Scope("ns"), "a"):
        threading.Timer(0.02, scope.cancel).start()
        with pytest.raises(errors.Canceled), claims.hold(scope, "a"):
            pass


def test_waiting_without_deadline_ends_with_the_name_of_what_is_held() -> None:
    claims = Claims(limit=0.02)
    with (
        claims.hold(Scope("ns"), "the thing"),
        pytest.raises(errors.Unavailable, match="the thing"),
        claims.hold(Scope("ns"), "the thing", "another"),
    ):
        pass
    assert claims.take("another")
