from __future__ import annotations

import threading
import time

import pytest

from kernel.metadata import reaper
from kernel.metadata.reaper import Reaper
from plugin_sdk import errors


def test_a_kick_leads_to_an_attempt_for_that_plugin() -> None:
    done = threading.Event()
    seen: list[tuple[str, str]] = []

    def work(kind: str, id: str) -> int:
        seen.append((kind, id))
        done.set()
        return 0

    made = Reaper(work)
    made.kick("kind", "id")
    assert done.wait(60)
    made.close()
    assert seen == [("kind", "id")]


def test_a_defect_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    failed, done = threading.Event(), threading.Event()

    def work(kind: str, id: str) -> int:
        if not failed.is_set():
            failed.set()
            raise ValueError("a defect")
        done.set()
        return 0

    made = Reaper(work)
    made.kick("kind", "id")
    assert failed.wait(60)
    made.kick("kind", "id")
    assert done.wait(60)
    made.close()
    assert "ValueError: a defect" in caplog.text


def test_what_is_left_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "FIRST_DELAY", 0.005)
    done = threading.Event()
    moments: list[float] = []

    def work(kind: str, id: str) -> int:
        moments.append(time.monotonic())
        if len(moments) == 4:
            done.set()
            return 0
        if len(moments) == 2:
            raise errors.Unavailable("not now")
        return 3

    made = Reaper(work)
    made.kick("kind", "id")
    assert done.wait(60)
    made.close()
    assert moments[3] - moments[2] >= 0.015


def test_a_plugin_that_hangs_holds_up_no_other_and_not_the_end() -> None:
    gate, done = threading.Event(), threading.Event()

    def work(kind: str, id: str) -> int:
        if id == "hung":
            gate.wait()
        done.set()
        return 0

    made = Reaper(work)
    made.kick("kind", "hung")
    made.kick("kind", "well")
    assert done.wait(60)
    made.close(timeout=0.02)
    gate.set()


def test_after_close_nothing_begins() -> None:
    made = Reaper(lambda kind, id: pytest.fail("too late"))
    made.close()
    made.kick("kind", "id")
