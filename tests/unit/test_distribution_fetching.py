"""Fetching a blob from one host: offsets, cuts, stalls, refusals, wrong lengths, and callers that go away."""

from __future__ import annotations

import threading
import time

import pytest

from plugin_sdk import errors, oci
from plugin_sdk.oci import Descriptor
from tests.repositories import DATA, OTHER, QUICK, Make, fetched, gone_after
from tests.scripted_registry import Handler, Registry, cut_after, stall, times


def test_a_blob_comes_in_order_in_pieces_of_at_most_a_mebibyte(served: Registry, make: Make) -> None:
    chunks = list(make(served).fetch(served.add_blob(DATA)))
    assert b"".join(chunks) == DATA
    assert max(map(len, chunks)) <= 1 << 20
    assert [seen.span for seen in served.seen] == [""]


def test_an_empty_blob_needs_no_request(served: Registry, make: Make) -> None:
    assert fetched(make(served), Descriptor(oci.LAYER, OTHER, 0)) == b""
    assert served.seen == []


@pytest.mark.parametrize("offset", [1, 4096, len(DATA) - 1, len(DATA)])
def test_it_goes_on_at_any_offset(served: Registry, make: Make, offset: int) -> None:
    of = served.add_blob(DATA)
    assert fetched(make(served), of, offset) == DATA[offset:]
    assert served.served == len(DATA) - offset


@pytest.mark.parametrize("offset", [0, 1, 2 << 20])
def test_a_host_without_ranges_is_read_past_what_is_there(served: Registry, make: Make, offset: int) -> None:
    served.knows_ranges = False
    assert fetched(make(served), served.add_blob(DATA), offset) == DATA[offset:]


def test_a_cut_costs_nothing_that_has_arrived(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    served.faults.append(times(4, of.digest, cut_after(DATA, 700_000)))
    assert fetched(make(served), of) == DATA
    spans = [seen.span for seen in served.seen]
    assert spans == ["", *(f"bytes={number * 700_000}-" for number in range(1, 5))]
    assert served.served == len(DATA)


def test_what_has_come_is_handed_out_when_the_rest_does_not_follow(served: Registry, make: Make) -> None:
    of, leave = served.add_blob(DATA), threading.Event()

    def pauses(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.wfile.write(DATA[:2_000_001])
        leave.wait(60)
        handler.wfile.write(DATA[2_000_001:])
        return True

    served.faults.append(pauses)
    place = 0
    for chunk in make(served).fetch(of):
        place += len(chunk)
        if place == 2_000_001:
            leave.set()
    assert leave.is_set() and place == len(DATA)


def test_a_host_that_cuts_without_progress_is_given_up(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    served.faults.append(times(99, of.digest, lambda handler: handler.cut()))
    with pytest.raises(
        errors.Unavailable,
        match=rf"cannot fetch layer {of.digest} of image example\.com/a/b:1: {served.address}: it has",
    ):
        fetched(make(served), of)
    assert len(served.seen) == 1 + QUICK["retries"]


def test_progress_gives_a_host_new_attempts(served: Registry, make: Make) -> None:
    data = DATA * 3
    of = served.add_blob(data)
    served.faults.append(times(6, of.digest, cut_after(data, (1 << 20) + 100)))
    assert fetched(make(served, retries=2), of) == data


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_refusal_is_repeated(served: Registry, make: Make, status: int) -> None:
    of = served.add_blob(DATA)
    served.faults.append(times(2, of.digest, lambda handler: handler.refuse(status, "UNKNOWN")))
    assert fetched(make(served), of) == DATA


def test_too_many_requests_are_told_in_the_end(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    served.faults.append(times(99, of.digest, lambda handler: handler.refuse(429, "TOOMANYREQUESTS")))
    with pytest.raises(errors.ResourceExhausted, match=r"it answers 429 \(toomanyrequests\)"):
        fetched(make(served), of)


def test_a_host_that_wants_a_long_pause_is_not_waited_for(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    served.faults.append(times(9, of.digest, lambda handler: handler.refuse(503, "UNKNOWN", Retry_After="86400")))
    with pytest.raises(errors.Unavailable):
        fetched(make(served), of)
    assert len(served.seen) == 1


def test_the_pause_that_a_host_wants_is_made(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    served.faults.append(times(1, of.digest, lambda handler: handler.refuse(429, "UNKNOWN", Retry_After="1")))
    began = time.monotonic()
    assert fetched(make(served), of) == DATA
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, errors.PermissionDenied), (404, errors.NotFound), (418, errors.Unknown), (451, errors.PermissionDenied)],
)
def test_a_final_refusal_is_not_repeated(served: Registry, make: Make, status: int, kind: type[errors.Error]) -> None:
    of = served.add_blob(DATA)
    served.faults.append(lambda handler: handler.refuse(status, "A_CODE"))
    with pytest.raises(kind, match=rf"it answers {status} \(a code\)"):
        fetched(make(served), of)
    assert len(served.seen) == 1


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
@pytest.mark.parametrize("offset", [0, 4096])
def test_another_length_than_that_of_the_descriptor_is_data_loss(
    served: Registry, make: Make, size: int, offset: int
) -> None:
    of = served.add_blob(DATA)
    with pytest.raises(errors.DataLoss, match=rf"{len(DATA)} bytes instead of {size}"):
        fetched(make(served), Descriptor(of.media_type, of.digest, size), offset)


def test_an_answer_longer_than_the_blob_is_data_loss(served: Registry, make: Make) -> None:
    def longer(handler: Handler) -> bool:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        handler.wfile.write(DATA + b"more")
        return True

    served.faults.append(longer)
    with pytest.raises(errors.DataLoss, match=rf"it sends more than {len(DATA)} bytes"):
        fetched(make(served), served.add_blob(DATA))


def test_an_offset_that_the_host_does_not_have_is_data_loss(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    served.faults.append(lambda handler: handler.refuse(416, "RANGE_INVALID"))
    with pytest.raises(errors.DataLoss, match="it has fewer bytes than 101"):
        fetched(make(served), of, 100)


@pytest.mark.parametrize(
    "span", ["", "bytes 0-9/10", "bytes 200-300/{size}", "bytes 100-100000000/{size}", "items 1-2/3"]
)
def test_another_range_than_asked_for_is_data_loss(served: Registry, make: Make, span: str) -> None:
    of = served.add_blob(DATA)
    headers = {"Content_Range": span.format(size=len(DATA))} if span else {}
    served.faults.append(lambda handler: handler.answer(206, b"0123456789", **headers))
    with pytest.raises(errors.DataLoss):
        fetched(make(served), of, 100)


def test_a_range_that_ends_early_is_gone_on_with(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)

    def short(handler: Handler) -> bool:
        part = DATA[100:2_000_000]
        return handler.answer(206, part, Content_Range=f"bytes 100-{99 + len(part)}/{len(DATA)}")

    served.faults.append(times(1, of.digest, short))
    assert fetched(make(served), of, 100) == DATA[100:]


def test_a_silent_host_is_given_up(served: Registry, make: Make) -> None:
    of, leave = served.add_blob(DATA), threading.Event()
    served.faults.append(stall(leave))
    try:
        with pytest.raises(errors.Unavailable, match="it does not answer in time"):
            fetched(make(served, timeout=0.3, retries=1), of)
    finally:
        leave.set()


def test_a_caller_that_has_gone_is_noticed_while_a_host_is_silent(served: Registry, make: Make) -> None:
    of, leave, asked = served.add_blob(DATA), threading.Event(), threading.Event()
    served.faults.extend([lambda handler: asked.set() or False, stall(leave)])  # type: ignore[func-returns-value]
    try:
        with pytest.raises(errors.Canceled, match="has gone"):
            fetched(make(served, check=gone_after(asked)), of)
    finally:
        leave.set()
    assert len(served.seen) == 1


def test_a_caller_that_has_gone_is_noticed_in_a_pause(served: Registry, make: Make) -> None:
    of, asked = served.add_blob(DATA), threading.Event()
    served.faults.extend([lambda handler: asked.set() or False])  # type: ignore[func-returns-value]
    served.faults.append(lambda handler: handler.refuse(503, "UNKNOWN", Retry_After="50"))
    with pytest.raises(errors.Canceled, match="has gone"):
        fetched(make(served, check=gone_after(asked)), of)


def test_an_iterator_that_is_closed_frees_its_place(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    repository = make(served, max_downloads=1)
    for _ in range(3):
        chunks = repository.fetch(of)
        next(chunks)
        chunks.close()
    assert fetched(repository, of) == DATA


def test_no_more_blobs_than_allowed_come_at_once(served: Registry, make: Make) -> None:
    of, asked = served.add_blob(DATA), threading.Event()
    repository = make(served, max_downloads=1)
    first = repository.fetch(of)
    next(first)
    asked.set()
    with pytest.raises(errors.Canceled):
        next(repository.watched(gone_after(asked)).fetch(of))
    first.close()
