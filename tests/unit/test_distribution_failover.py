"""Fetching over hosts in their order: mirrors that lack, fail, are slow, are away or send other bytes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from plugin_sdk import errors, oci, transfer
from plugin_sdk.oci import Descriptor
from tests import scripted_registry
from tests.repositories import DATA, OTHER, Make, fetched
from tests.scripted_registry import Registry, cut_after, times, trickle


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
