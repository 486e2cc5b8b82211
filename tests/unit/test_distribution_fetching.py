"""Resolving, reading and fetching: through cuts, stalls, wrong answers and refusals, over hosts in their order."""

from __future__ import annotations

import contextlib
import email.utils
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import errors, oci, transfer
from plugin_sdk.distribution.http import exchanges, retries, statuses, waiting
from plugin_sdk.distribution.http.connections import Failed
from plugin_sdk.distribution.registry import Registries, Repository, Settings
from plugin_sdk.oci import Descriptor
from tests import scripted_registry
from tests.scripted_registry import Handler, Registry, cut_after, stall, times, trickle

QUICK = {"retries": 3, "backoff": 0.001, "docker_config": "/nonexistent"}
DATA = random.Random(7).randbytes(3 << 20)
OTHER = "sha256:" + "0" * 64


@pytest.fixture
def served() -> Iterator[Registry]:
    with scripted_registry.serve() as registry:
        yield registry


@pytest.fixture
def mirror() -> Iterator[Registry]:
    with scripted_registry.serve() as registry:
        yield registry


class Make:
    """``make(origin, *mirrors, **settings)``: ``example.com/a/b:1``, or that of a host without mirrors."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.registries: list[Registries] = []

    def __call__(
        self,
        origin: Registry,
        *mirrors: Registry,
        check: Callable[[], None] = waiting.nobody,
        name: str = "1",
        **given: Any,
    ) -> Repository:
        folder = self._folder / "example.com"
        folder.mkdir(exist_ok=True)
        tables = "".join(f'[host."{mirror.url}"]\n' for mirror in mirrors)
        (folder / "hosts.toml").write_text(f'server = "{origin.url}"\n{tables}')
        registries = Registries(Settings(config_path=str(self._folder), **{**QUICK, **given}))
        self.registries.append(self._stack.enter_context(registries))
        joint = "@" if ":" in name else ":"
        return registries.repository(transfer.Registry(f"example.com/a/b{joint}{name}"), check)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:
        yield Make(tmp_path, stack)


def fetched(repository: Repository, of: Descriptor, offset: int = 0) -> bytes:
    return b"".join(repository.fetch(of, offset))


# -- resolve


def test_a_length_that_is_no_number_is_not_believed(served: Registry, make: Make) -> None:
    of = served.add_manifest(b'{"schemaVersion":2}')
    wrong = {"Content_Type": oci.MANIFEST, "Docker_Content_Digest": of.digest, "Content_Length": "²"}
    served.faults.append(times(9, "", lambda handler: handler.answer(200, **wrong), "HEAD"))
    assert make(served).resolve() == of


def test_a_tag_is_resolved_without_reading_the_manifest(served: Registry, make: Make) -> None:
    of = served.add_manifest(b'{"schemaVersion":2}', media_type=oci.INDEX)
    assert make(served).resolve() == of
    assert [seen.method for seen in served.seen] == ["HEAD"]
    assert served.seen[0].headers["accept"].split(", ")[-1] == "*/*"
    assert oci.DOCKER_INDEX in served.seen[0].headers["accept"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_digest_is_resolved(served: Registry, make: Make, algorithm: str) -> None:
    data = b'{"schemaVersion":2}'
    digest = scripted_registry.digest(data, algorithm)
    served.manifests["a/b", digest] = (oci.MANIFEST, data)
    without = {"Content_Type": oci.MANIFEST}
    served.faults.append(lambda handler: handler.answer(200, data, **without))
    assert make(served, name=digest).resolve() == Descriptor(oci.MANIFEST, digest, len(data))


@pytest.mark.parametrize("status", [400, 405, 501])
def test_a_registry_that_knows_no_head_is_read(served: Registry, make: Make, status: int) -> None:
    of = served.add_manifest(b'{"schemaVersion":2}')
    served.faults.append(times(9, "", lambda handler: handler.answer(status), "HEAD"))
    assert make(served).resolve() == of


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json"}', oci.INDEX),
        (b'{"schemaVersion":2,"manifests":[]}', oci.INDEX),
        (b'{"schemaVersion":2}', oci.MANIFEST),
    ],
)
def test_a_registry_that_says_little_is_read(served: Registry, make: Make, data: bytes, media_type: str) -> None:
    served.faults.append(lambda handler: handler.answer(200, data, Content_Type="application/json; charset=utf-8"))
    assert make(served).resolve() == Descriptor(media_type, oci.digest_of(data), len(data))


def test_a_digest_that_was_not_asked_for_is_data_loss(served: Registry, make: Make) -> None:
    served.add_manifest(b"{}", tag=OTHER)
    with pytest.raises(
        errors.DataLoss, match=rf"cannot resolve image example\.com/a/b@{OTHER}: .* answers with the digest"
    ):
        make(served, name=OTHER).resolve()


@pytest.mark.parametrize(
    ("digest", "why"), [("sha256:short", "malformed digest"), (OTHER, "what it sends has another digest")]
)
def test_a_digest_that_is_not_that_of_the_bytes_is_data_loss(
    served: Registry, make: Make, digest: str, why: str
) -> None:
    served.faults.append(times(9, "", lambda handler: handler.answer(405), "HEAD"))
    served.faults.append(
        lambda handler: handler.answer(200, b"{}", Content_Type=oci.MANIFEST, Docker_Content_Digest=digest)
    )
    with pytest.raises(errors.DataLoss, match=why):
        make(served).resolve()


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", b"{}"),
        ("application/vnd.docker.distribution.manifest.v1+json", b"{}"),
        ("application/json", b'{"schemaVersion": 1}'),
    ],
)
def test_docker_s_first_schema_is_refused(served: Registry, make: Make, media_type: str, data: bytes) -> None:
    served.add_manifest(data, media_type=media_type)
    with pytest.raises(errors.Unimplemented, match="of Docker's schema 1, which is not supported"):
        make(served).resolve()


@pytest.mark.parametrize("data", [b"<html>", b"[]", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(served: Registry, make: Make, data: bytes) -> None:
    served.add_manifest(data, media_type="application/json")
    with pytest.raises(errors.InvalidArgument, match="it does not send a manifest"):
        make(served).resolve()


def test_a_tag_that_is_not_there(served: Registry, make: Make) -> None:
    with pytest.raises(
        errors.NotFound, match=rf"cannot resolve image example\.com/a/b:1: {served.address}: it answers 404"
    ):
        make(served).resolve()


# -- read


def test_a_manifest_is_read_and_verified(served: Registry, make: Make) -> None:
    data = b'{"schemaVersion":2}'
    of = served.add_manifest(data)
    assert make(served).read(of) == data
    assert served.requests("GET", f"/manifests/{of.digest}")


def test_a_config_is_read_from_the_blobs(served: Registry, make: Make) -> None:
    of = served.add_blob(b"{}", algorithm="sha512")
    assert make(served).read(Descriptor(oci.CONFIG, of.digest, of.size)) == b"{}"


def test_a_large_manifest_is_refused_before_it_is_asked_for(served: Registry, make: Make) -> None:
    of = Descriptor(oci.MANIFEST, OTHER, 100 << 20)
    with pytest.raises(
        errors.ResourceExhausted, match=rf"manifest {OTHER} of image example.com/a/b:1: it has 104857600"
    ):
        make(served).read(of)
    with pytest.raises(errors.ResourceExhausted, match="and 10 are allowed"):
        make(served).read(Descriptor(oci.MANIFEST, OTHER, 11), 10)
    assert served.seen == []


def test_a_large_manifest_is_refused_before_it_is_read_whole(served: Registry, make: Make) -> None:
    """A registry that does not tell its size beforehand."""
    sent = [0]

    def endless(handler: Handler) -> bool:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        while sent[0] < 100 << 20:
            sent[0] += handler.wfile.write(bytes(1 << 20))
        return True

    served.faults.extend([times(9, "", lambda handler: handler.answer(405), "HEAD"), endless])
    with pytest.raises(errors.ResourceExhausted, match="more than 1000000 bytes"):
        make(served, manifest_limit=1_000_000).resolve()
    assert sent[0] < 50 << 20


@pytest.mark.parametrize("data", [b"{ }", b"{}  more", b"[]"])
def test_a_manifest_with_other_bytes_is_data_loss(served: Registry, make: Make, data: bytes) -> None:
    of = served.add_manifest(b"{}")
    served.manifests["a/b", of.digest] = (oci.MANIFEST, data)
    with pytest.raises(errors.DataLoss, match=rf"cannot read manifest {of.digest} of image example\.com/a/b:1: "):
        make(served).read(of)


def test_a_manifest_of_more_bytes_than_its_descriptor_says_is_data_loss(served: Registry, make: Make) -> None:
    """Of a registry that does not tell the length beforehand."""

    def longer(handler: Handler) -> bool:
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        return bool(handler.wfile.write(b"{}" + bytes(100)))

    served.faults.append(longer)
    with pytest.raises(errors.DataLoss, match="its answer has more than 2 bytes"):
        make(served).read(Descriptor(oci.MANIFEST, oci.digest_of(b"{}"), 2))


def test_a_manifest_that_a_mirror_has_damaged_comes_from_the_next_host(
    served: Registry, mirror: Registry, make: Make
) -> None:
    of = served.add_manifest(b"{}")
    mirror.manifests["a/b", of.digest] = (oci.MANIFEST, b"[]")
    assert make(served, mirror).read(of) == b"{}"


def test_what_is_there_is_known(served: Registry, make: Make) -> None:
    repository = make(served)
    assert repository.has(served.add_blob(DATA))
    assert repository.has(served.add_manifest(b"{}"))
    assert not repository.has(Descriptor(oci.LAYER, OTHER, 1))
    assert not repository.has(Descriptor(oci.MANIFEST, OTHER, 1))
    assert served.served == 0


# -- fetch: one stream


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


def gone_after(event: threading.Event) -> Callable[[], None]:
    def check() -> None:
        if event.is_set():
            raise errors.Canceled("the caller has gone")

    return check


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


# -- fetch: hosts


def test_the_mirror_is_asked_first_and_told_which_registry_is_meant(
    served: Registry, mirror: Registry, make: Make
) -> None:
    of = mirror.add_blob(DATA)
    assert fetched(make(served, mirror), of) == DATA
    assert [seen.query for seen in mirror.seen] == [{"ns": ["example.com"]}]
    assert served.seen == []


def test_a_mirror_without_the_blob_is_passed_over(served: Registry, mirror: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    assert fetched(make(served, mirror), of) == DATA
    assert len(mirror.seen) == 1


def test_a_mirror_that_fails_midway_hands_over(served: Registry, mirror: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    mirror.add_blob(DATA)
    mirror.faults.append(times(1, of.digest, cut_after(DATA, 2 << 20)))
    mirror.faults.append(times(99, of.digest, lambda handler: handler.refuse(500, "UNKNOWN")))
    assert fetched(make(served, mirror), of) == DATA
    (seen,) = served.seen
    start = int(seen.span.removeprefix("bytes=").partition("-")[0])
    assert start >= 1 << 20, "what had come was not fetched again"


def test_a_mirror_that_is_slow_hands_over(served: Registry, mirror: Registry, make: Make) -> None:
    of, leave = served.add_blob(DATA), threading.Event()
    mirror.add_blob(DATA)
    mirror.faults.append(trickle(DATA, leave))
    try:
        assert fetched(make(served, mirror, min_rate=10_000, rate_window=0.3), of) == DATA
    finally:
        leave.set()
    assert len(mirror.seen) == 1


def test_a_slow_host_is_kept_when_there_is_no_other(served: Registry, make: Make) -> None:
    data, leave = DATA[:40], threading.Event()
    of = served.add_blob(data)
    served.faults.append(times(1, of.digest, trickle(data, leave)))
    assert fetched(make(served, min_rate=10_000, rate_window=0.1), of) == data


def test_a_mirror_that_is_not_there_is_asked_last_for_a_while(served: Registry, mirror: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    with scripted_registry.serve() as gone:
        pass
    repository = make(served, gone)
    assert fetched(repository, of) == DATA
    assert [host.name for host in repository._hosts.able("pull", "")] == [served.address, gone.address]


def test_each_host_is_named_with_its_reason(served: Registry, mirror: Registry, make: Make) -> None:
    mirror.faults.append(lambda handler: handler.refuse(500, "UNKNOWN"))
    with pytest.raises(errors.NotFound) as caught:
        fetched(make(served, mirror), Descriptor(oci.CONFIG, OTHER, 5))
    assert caught.value.message == (
        f"cannot fetch config {OTHER} of image example.com/a/b:1: "
        f"{mirror.address}: it answers 500 (unknown); {served.address}: it answers 404 (blob unknown)"
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, errors.PermissionDenied), (429, errors.ResourceExhausted), (404, errors.Unavailable)],
)
def test_the_more_telling_kind_counts_when_the_registry_cannot_be_reached(
    mirror: Registry, make: Make, status: int, kind: type[errors.Error]
) -> None:
    with scripted_registry.serve() as gone:
        pass
    mirror.faults.append(lambda handler: handler.refuse(status, "UNKNOWN"))
    with pytest.raises(kind, match=rf"it answers {status} .*; {gone.address}: no connection can be made"):
        fetched(make(gone, mirror), Descriptor(oci.CONFIG, OTHER, 5))


def test_who_mistypes_a_host_need_not_wait(make: Make) -> None:
    """Whose registry is gone in the middle of a pull waits for it, for hours with these settings."""
    with scripted_registry.serve() as gone:
        pass
    with pytest.raises(errors.Unavailable, match="no connection can be made"):
        make(gone, retries=1000, backoff=1.0).resolve()


def test_a_host_that_may_not_pull_is_not_asked(served: Registry, mirror: Registry, make: Make, tmp_path: Path) -> None:
    make(served)
    (tmp_path / "example.com" / "hosts.toml").write_text(
        f'server = "{served.url}"\n[host."{mirror.url}"]\ncapabilities = ["resolve"]'
    )
    of = served.add_blob(DATA)
    repository = make.registries[0].repository(transfer.Registry("example.com/a/b:1"))
    assert fetched(repository, of) == DATA
    assert mirror.seen == []


def test_without_any_host_that_may_pull_nothing_is_asked(served: Registry, make: Make, tmp_path: Path) -> None:
    make(served)
    (tmp_path / "example.com" / "hosts.toml").write_text(f'server = "{served.url}"\ncapabilities = ["push"]')
    repository = make.registries[0].repository(transfer.Registry("example.com/a/b:1"))
    with pytest.raises(errors.FailedPrecondition, match=r"image example\.com/a/b:1: none of its hosts may resolve"):
        repository.resolve()


def test_a_wrong_file_of_hosts_is_told_with_the_image(served: Registry, make: Make, tmp_path: Path) -> None:
    make(served)
    (tmp_path / "example.com" / "hosts.toml").write_text("server = 1")
    with pytest.raises(
        errors.FailedPrecondition, match=r"of image example\.com/a/b:1: .*hosts\.toml cannot be used: server"
    ):
        make.registries[0].repository(transfer.Registry("example.com/a/b:1"))


def test_a_host_that_has_sent_other_bytes_is_asked_last(served: Registry, mirror: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    mirror.blobs["a/b", of.digest] = bytes(len(DATA))
    repository = make(served, mirror)
    assert fetched(repository, of) == bytes(len(DATA))
    assert repository.reject(of)
    assert fetched(repository, of) == DATA
    assert not repository.reject(of)


def test_a_host_without_the_blob_is_no_other_host_for_it(served: Registry, mirror: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    served.blobs["a/b", of.digest] = bytes(len(DATA))
    repository = make(served, mirror)
    assert fetched(repository, of) == bytes(len(DATA))
    assert repository.reject(of)  # the mirror has sent nothing wrong
    assert fetched(repository, of) == bytes(len(DATA))
    assert not repository.reject(of)


# -- fetch: parts

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


# -- redirects


def test_a_blob_may_lie_elsewhere_and_credentials_do_not_go_there(
    served: Registry, mirror: Registry, make: Make
) -> None:
    of = mirror.add_blob(DATA)
    served.faults.append(scripted_registry.basic("me", "word"))
    elsewhere = f"{mirror.url}/v2/a/b/blobs/{of.digest}?signature=x"
    served.faults.append(lambda handler: handler.answer(307, Location=elsewhere))
    auth = {served.address: transfer.Credentials("me", "word")}
    assert fetched(make(served, auth=auth), of, 5) == DATA[5:]
    (seen,) = mirror.seen
    assert "authorization" not in seen.headers
    assert (seen.span, seen.query) == ("bytes=5-", {"signature": ["x"]})
    assert served.seen[-1].headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/x", "file:///etc/passwd", "unix:///run/x"])
def test_a_redirect_to_another_scheme_is_refused(served: Registry, make: Make, where: str) -> None:
    of = served.add_blob(DATA)
    served.faults.append(lambda handler: handler.answer(302, Location=where))
    with pytest.raises(
        errors.FailedPrecondition, match=rf"layer {of.digest} .*it redirects to another scheme"
    ) as caught:
        fetched(make(served), of)
    assert len(served.seen) == 1
    assert "passwd" not in caught.value.message


def test_a_redirect_to_what_is_no_url_is_refused(served: Registry, make: Make) -> None:
    of = served.add_blob(DATA)
    served.faults.append(lambda handler: handler.answer(302, Location="https://[x/"))
    with pytest.raises(errors.FailedPrecondition, match=rf"layer {of.digest} .*it names a malformed URL") as caught:
        fetched(make(served), of)
    assert "example.com/a/b:1" in caught.value.message
    assert served.address in caught.value.message


def test_redirects_in_a_circle_end(served: Registry, make: Make) -> None:
    served.faults.append(lambda handler: handler.answer(301, Location=handler.path))
    with pytest.raises(errors.FailedPrecondition, match="it redirects more than 5 times"):
        fetched(make(served), served.add_blob(DATA))


# -- referrers


@pytest.mark.parametrize("has_api", [True, False])
def test_what_refers_to_a_manifest_is_listed(served: Registry, make: Make, has_api: bool) -> None:
    served.has_referrers = has_api
    repository = make(served)
    subject = served.add_manifest(b"{}")
    assert repository.referrers(subject.digest) == []
    made = []
    for kind in ("a/signature", "a/sbom"):
        document = {
            "schemaVersion": 2,
            "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json"},
            "subject": {"digest": subject.digest},
        }
        data = json.dumps(document).encode()
        made.append(Descriptor(oci.MANIFEST, oci.digest_of(data), len(data)))
        repository.push_manifest(made[-1], data)
    assert sorted(repository.referrers(subject.digest), key=str) == sorted(made, key=str)
    assert repository.referrers(subject.digest, "a/sbom") == made[1:]
    tag = subject.digest.replace(":", "-")
    assert (("a/b", tag) in served.manifests) is not has_api


def test_pages_of_referrers_are_put_together(served: Registry, make: Make) -> None:
    def page(handler: Handler) -> bool:
        number = int(handler.query.get("n", ["0"])[0])
        entry = {"mediaType": oci.MANIFEST, "digest": "sha256:" + str(number) * 64, "size": 1}
        index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry]}
        more = {"Link": f'</v2/a/b/referrers/x?n={number + 1}>; rel="next"'} if number < 2 else {}
        return handler.answer(200, json.dumps(index).encode(), Content_Type=oci.INDEX, **more)

    served.faults.append(page)
    assert [of.digest[-1] for of in make(served).referrers(OTHER)] == ["0", "1", "2"]


def test_a_next_page_that_is_no_url_is_refused(served: Registry, make: Make) -> None:
    document = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": []}).encode()
    more = {"Content_Type": oci.INDEX, "Link": '<https://[x/>; rel="next"'}
    served.faults.append(lambda handler: handler.answer(200, document, **more))
    with pytest.raises(errors.FailedPrecondition, match=r"example\.com/a/b:1.*it names a malformed URL") as caught:
        make(served).referrers(OTHER)
    assert served.address in caught.value.message


def test_a_malformed_list_of_referrers_is_refused(served: Registry, make: Make) -> None:
    served.faults.append(lambda handler: handler.answer(200, b'{"manifests":[1]}', Content_Type=oci.INDEX))
    with pytest.raises(errors.InvalidArgument, match="list of referrers is malformed"):
        make(served).referrers(OTHER)


# -- pauses


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("soon", None),
        ("-1", None),
        ("²", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_the_pause_of_a_header(value: str | None, seconds: float | None) -> None:
    assert statuses.retry_after(value) == seconds


def test_a_date_is_a_pause_too() -> None:
    value = statuses.retry_after(email.utils.formatdate(time.time() + 100, usegmt=True))
    assert value is not None and 90 < value <= 100


def test_pauses_double_and_end() -> None:
    patience = retries.Patience(4, 1.0, 5.0)
    for attempt, whole in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (90, 5.0)):
        assert whole / 2 <= patience.delay(attempt) <= whole
    assert patience.delay(1, 3.0) == 3.0
    assert not patience.spent(4, Failed("x"))
    assert patience.spent(5, Failed("x"))
    assert patience.spent(1, Failed("x", again=False))
    assert patience.spent(1, Failed("x", after=6.0))


def test_an_answer_without_a_code_is_told_by_its_number(served: Registry, make: Make) -> None:
    served.faults.append(lambda handler: handler.answer(404, b'{"errors":[{"code":"a stranger\'s text"}]}'))
    with pytest.raises(errors.NotFound, match=r"it answers 404$"):
        make(served).read(Descriptor(oci.CONFIG, OTHER, 5))


def test_the_agent_is_named(served: Registry, make: Make) -> None:
    make(served).has(Descriptor(oci.CONFIG, OTHER, 5))
    assert served.seen[0].headers["user-agent"] == exchanges._AGENT
