"""Fetching a large blob in parts side by side."""

from __future__ import annotations

import random
import threading

import pytest

from plugin_sdk import errors
from plugin_sdk.distribution.registry import Settings
from tests.repositories import DATA, Make, fetched, gone_after
from tests.scripted_registry import Handler, Registry, cut_after, stall, times

PARTS = {"part_size": 256 << 10, "parallel_from": 512 << 10, "parallel_parts": 3, "parallel_below": 1 << 50}


def parts_of(registry: Registry) -> list[str]:
    return [seen.span for seen in registry.seen]


@pytest.mark.parametrize("offset", [0, 100_001])
def test_a_large_blob_of_a_slow_host_comes_in_parts(served: Registry, make: Make, offset: int) -> None:
    of = served.add_blob(DATA)
    repository = make(served, **PARTS)
    assert fetched(repository, of, offset) == DATA[offset:]
    assert len(set(parts_of(served))) == len(parts_of(served)) == -(-(len(DATA) - offset) // (256 << 10))
    assert served.served == len(DATA) - offset
    assert make.registries[0]._buffers._left == Settings().buffers


def test_a_fast_host_needs_no_parts(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    assert fetched(make(served, **{**PARTS, "parallel_below": 1}), of) == DATA
    assert parts_of(served) == ["bytes=0-262143", "bytes=262144-"]


def test_parts_that_fail_are_fetched_again(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    chance = random.Random(3)

    def sometimes(handler: Handler) -> bool:
        acts = [handler.cut, lambda: handler.refuse(503, "UNKNOWN"), lambda: cut_after(DATA, 1000)(handler)]
        return chance.random() < 0.3 and chance.choice(acts)()

    served.faults.append(sometimes)
    assert fetched(make(served, **PARTS, retries=9), of) == DATA


def test_what_has_come_of_a_part_is_handed_out_when_the_rest_does_not_follow(served: Registry, make: Make) -> None:
    of, leave = served.add_blob(DATA), threading.Event()

    def pauses(handler: Handler) -> bool:
        if handler.headers["Range"] != "bytes=524288-786431":
            return False
        handler.send_response(206)
        handler.send_header("Content-Length", str(256 << 10))
        handler.send_header("Content-Range", f"bytes 524288-786431/{len(DATA)}")
        handler.end_headers()
        handler.wfile.write(DATA[524_288:600_000])
        leave.wait(60)
        return handler.cut()

    served.faults.append(pauses)
    got = b""
    for chunk in make(served, **PARTS).fetch(of):
        got += chunk
        if len(got) == 600_000:
            leave.set()
    assert leave.is_set() and got == DATA
    assert "bytes=600000-786431" in parts_of(served)


def test_parts_go_on_at_the_next_host(served: Registry, mirror: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    mirror.add_blob(DATA)
    asked = [0]

    def dies(handler: Handler) -> bool:
        asked[0] += 1
        return asked[0] > 4 and handler.refuse(500, "UNKNOWN")

    mirror.faults.append(dies)
    assert fetched(make(served, mirror, **PARTS), of) == DATA


def test_a_host_that_stops_to_know_ranges_still_serves(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)

    def forgets(handler: Handler) -> bool:
        handler.registry.knows_ranges = len(handler.registry.seen) < 4
        return False

    served.faults.append(forgets)
    assert fetched(make(served, **PARTS), of) == DATA


def test_parts_without_room_for_buffers_come_one_by_one(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    assert fetched(make(served, **PARTS, buffers=1000), of) == DATA
    assert served.served == len(DATA)


def test_buffers_and_threads_are_given_back_when_nobody_reads_on(served: Registry, make: Make) -> None:
    of, leave = served.add_blob(DATA), threading.Event()
    repository = make(served, **PARTS)
    served.faults.append(times(99, of.digest, lambda handler: len(served.seen) > 2 and stall(leave)(handler)))
    chunks = repository.fetch(of)
    try:
        next(chunks)
        chunks.close()
    finally:
        leave.set()
    assert make.registries[0]._buffers._left == Settings().buffers
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("corten-fetch")]


def test_a_caller_that_has_gone_ends_the_parts(served: Registry, make: Make) -> None:
    of, leave, asked = served.add_blob(DATA), threading.Event(), threading.Event()

    def late(handler: Handler) -> bool:
        if len(served.seen) > 2:
            asked.set()
            return stall(leave)(handler)
        return False

    served.faults.append(late)
    try:
        with pytest.raises(errors.Canceled, match="has gone"):
            fetched(make(served, check=gone_after(asked), **PARTS), of)
    finally:
        leave.set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("corten-fetch")]
