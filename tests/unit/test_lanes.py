"""Lanes bound what one plugin can take from the others."""

from __future__ import annotations

import threading
import time

import pytest

from plugin_sdk import errors
from plugin_sdk.lanes import Lane


def test_results_and_errors_come_back() -> None:
    lane = Lane("a")
    assert lane.submit(lambda x, y: x + y, 1, y=2).result(60) == 3
    with pytest.raises(errors.NotFound, match="nothing"):
        lane.submit(_raise).result(60)
    lane.shutdown()


def _raise() -> None:
    raise errors.NotFound("nothing")


def test_calls_beyond_threads_and_waiting_are_refused_by_name() -> None:
    lane, gate = Lane("snapshotter.slow", threads=2, waiting=3), threading.Event()
    futures = [lane.submit(gate.wait) for _ in range(5)]
    with pytest.raises(errors.ResourceExhausted, match=r"snapshotter\.slow"):
        lane.submit(gate.wait)
    gate.set()
    assert all(future.result(60) for future in futures)
    assert lane.submit(lambda: 7).result(60) == 7
    lane.shutdown()


def test_threads_are_made_when_needed_and_used_again() -> None:
    lane = Lane("a", threads=4)
    names = {
        lane.submit(lambda: threading.current_thread().name).result(60) for _ in range(20) if not time.sleep(0.002)
    }
    assert len(names) < 4
    lane.shutdown()


def test_a_full_lane_says_so() -> None:
    lane, gate = Lane("a", threads=1, waiting=1), threading.Event()
    futures = [lane.submit(gate.wait), lane.submit(gate.wait)]
    _eventually(lambda: lane.full)
    gate.set()
    for future in futures:
        future.result(60)
    _eventually(lambda: not lane.full)
    lane.shutdown()


def test_a_lane_that_is_shut_down_takes_nothing_more() -> None:
    lane, gate = Lane("a", threads=1), threading.Event()
    running, waiting = lane.submit(gate.wait), lane.submit(gate.wait)
    _eventually(running.running)
    lane.shutdown(cancel_futures=True)
    assert waiting.cancelled()
    gate.set()
    assert running.result(60)
    with pytest.raises(errors.Unavailable):
        lane.submit(gate.wait)


def _eventually(condition: object) -> None:
    until = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.001)
