"""Pushing: nothing twice, from other repositories where that is possible, and on where it was cut."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plugin_sdk import errors, oci, transfer
from plugin_sdk.distribution.registry import Registries, Repository, Settings
from plugin_sdk.oci import Descriptor
from tests import scripted_registry
from tests.scripted_registry import Handler, Registry, stall, times

DATA = random.Random(11).randbytes(6 << 20)
OF = Descriptor(oci.LAYER_GZIP, oci.digest_of(DATA), len(DATA))
SMALL = Descriptor(oci.CONFIG, oci.digest_of(b"{}"), 2)


@pytest.fixture
def make(served: Registry) -> Iterator[Callable[..., Repository]]:
    made: list[Registries] = []

    def repository(check: Callable[[], None] = lambda: None, **given: Any) -> Repository:
        settings = {"retries": 3, "backoff": 0.001, "docker_config": "/nonexistent", **given}
        made.append(Registries(Settings(**settings)))
        return made[-1].repository(transfer.Registry(f"{served.address}/a/b:1"), check)

    yield repository
    for registries in made:
        registries.close()


class Source:
    """Bytes as the content store gives them; ``asked`` are the offsets."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.asked: list[int] = []

    def __call__(self, offset: int) -> Iterator[bytes]:
        self.asked.append(offset)
        for start in range(offset, len(self._data), 100_000):
            yield self._data[start : start + 100_000]


def methods(registry: Registry) -> list[str]:
    return [seen.method for seen in registry.seen]


def test_a_blob_that_is_there_is_not_sent(served: Registry, make: Callable[..., Repository]) -> None:
    served.add_blob(DATA)
    source = Source(DATA)
    assert make().push_blob(OF, source) == "exists"
    assert (source.asked, methods(served)) == ([], ["HEAD"])


def test_a_small_blob_goes_with_the_request_that_ends_its_upload(
    served: Registry, make: Callable[..., Repository]
) -> None:
    sent: list[int] = []
    assert make().push_blob(SMALL, Source(b"{}"), sent=sent.append) == "uploaded"
    assert served.blobs["a/b", SMALL.digest] == b"{}"
    assert methods(served) == ["HEAD", "POST", "PUT"]
    assert sent == [2]


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_an_empty_blob_of_any_algorithm_is_pushed(
    served: Registry, make: Callable[..., Repository], algorithm: str
) -> None:
    of = Descriptor(oci.LAYER, scripted_registry.digest(b"", algorithm), 0)
    assert make().push_blob(of, Source(b"")) == "uploaded"
    assert served.blobs["a/b", of.digest] == b""


def test_a_large_blob_goes_in_one_piece(served: Registry, make: Callable[..., Repository]) -> None:
    sent: list[int] = []
    assert make().push_blob(OF, Source(DATA), sent=sent.append) == "uploaded"
    assert served.blobs["a/b", OF.digest] == DATA
    assert methods(served) == ["HEAD", "POST", "PATCH", "PUT"]
    assert sent == sorted(set(sent)) and sent[-1] == len(DATA)


def test_it_goes_in_pieces_of_the_size_that_is_set(served: Registry, make: Callable[..., Repository]) -> None:
    source = Source(DATA)
    assert make(chunk_size=2_500_000).push_blob(OF, source) == "uploaded"
    assert served.blobs["a/b", OF.digest] == DATA
    spans = [seen.headers.get("content-range") for seen in served.requests("PATCH")]
    assert spans == ["0-2499999", "2500000-4999999", f"5000000-{len(DATA) - 1}"]
    assert source.asked == [0, 2_500_000, 5_000_000]


def test_another_repository_s_blob_is_mounted(served: Registry, make: Callable[..., Repository]) -> None:
    served.add_blob(DATA, "c/d")
    source = Source(DATA)
    assert make().push_blob(OF, source, ["e/f", "c/d"]) == "mounted"
    assert served.blobs["a/b", OF.digest] == DATA
    assert source.asked == []
    assert [seen.query["from"] for seen in served.requests("POST")] == [["e/f"], ["c/d"]]


def test_a_mount_that_is_refused_becomes_an_upload(served: Registry, make: Callable[..., Repository]) -> None:
    assert make().push_blob(OF, Source(DATA), ["x/a", "x/b", "x/c", "x/d", "x/e"]) == "uploaded"
    assert methods(served) == ["HEAD", "POST", "POST", "DELETE", "POST", "DELETE", "PATCH", "PUT"]
    assert served.uploads == {}, "none is left at the registry"


def cut_while_it_comes(size: int) -> Callable[[Handler], bool]:
    """Takes ``size`` bytes of an upload and then cuts the connection."""

    def act(handler: Handler) -> bool:
        kept = handler.registry.uploads[handler.where.rpartition("/")[2]]
        taken = 0
        while taken < size:
            part = handler.rfile.read1(min(1 << 16, size - taken))
            kept += part
            taken += len(part)
        return handler.cut()

    return act


def test_an_upload_that_was_cut_goes_on_where_it_ended(served: Registry, make: Callable[..., Repository]) -> None:
    served.faults.append(times(2, "/uploads/", cut_while_it_comes(1_500_000), "PATCH"))
    source, sent = Source(DATA), list[int]()
    assert make().push_blob(OF, source, sent=sent.append) == "uploaded"
    assert served.blobs["a/b", OF.digest] == DATA
    assert source.asked == [0, 1_500_000, 3_000_000]
    assert sent == sorted(set(sent)) and sent[-1] == len(DATA)
    assert methods(served) == ["HEAD", "POST", "PATCH", "GET", "PATCH", "GET", "PATCH", "PUT"]


def test_more_cuts_than_retries_are_survived_if_much_has_come_in_between(
    served: Registry, make: Callable[..., Repository]
) -> None:
    served.faults.append(times(5, "/uploads/", cut_while_it_comes(1_100_000), "PATCH"))
    assert make(retries=1).push_blob(OF, Source(DATA)) == "uploaded"
    assert served.blobs["a/b", OF.digest] == DATA


def test_an_upload_that_the_registry_has_forgotten_begins_again(
    served: Registry, make: Callable[..., Repository]
) -> None:
    def forget(handler: Handler) -> bool:
        handler.registry.uploads.clear()
        return handler.cut()

    served.faults.append(times(1, "/uploads/", forget, "PATCH"))
    source = Source(DATA)
    assert make().push_blob(OF, source) == "uploaded"
    assert source.asked[-1] == 0
    assert served.blobs["a/b", OF.digest] == DATA


def test_an_upload_of_which_one_byte_has_come_begins_again(served: Registry, make: Callable[..., Repository]) -> None:
    """Registries say the same of none."""
    served.faults.append(times(1, "/uploads/", cut_while_it_comes(1), "PATCH"))
    assert make().push_blob(OF, Source(DATA)) == "uploaded"
    assert served.blobs["a/b", OF.digest] == DATA


def test_a_registry_that_keeps_less_gets_the_rest_again(served: Registry, make: Callable[..., Repository]) -> None:
    def keep_half(handler: Handler) -> bool:
        *_, repository, name = ("", *re.fullmatch(r"/v2/(.+)/blobs/uploads/(.+)", handler.where).groups())  # type: ignore[union-attr]
        kept = handler.registry.uploads[name]
        handler.receive(kept)
        del kept[len(kept) // 2 :]
        handler.at(repository, name, 202)
        return True

    served.faults.append(times(2, "/uploads/", keep_half, "PATCH"))
    assert make().push_blob(OF, Source(DATA)) == "uploaded"
    assert served.blobs["a/b", OF.digest] == DATA


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
@pytest.mark.parametrize("status", [500, 429])
def test_a_passing_refusal_is_repeated(
    served: Registry, make: Callable[..., Repository], method: str, status: int
) -> None:
    served.faults.append(times(2, "/blobs/", lambda handler: handler.refuse(status, "UNKNOWN"), method))
    assert make().push_blob(OF, Source(DATA)) == "uploaded"
    assert served.blobs["a/b", OF.digest] == DATA


def test_a_refusal_names_blob_image_and_host(served: Registry, make: Callable[..., Repository]) -> None:
    served.faults.append(times(9, "/uploads/", lambda handler: handler.refuse(403, "DENIED"), "POST"))
    with pytest.raises(errors.PermissionDenied) as caught:
        make().push_blob(OF, Source(DATA))
    where = served.address
    assert caught.value.message == (
        f"cannot push layer {OF.digest} of image {where}/a/b:1: {where}: it answers 403 (denied)"
    )


def test_other_bytes_than_those_of_the_digest_are_data_loss(served: Registry, make: Callable[..., Repository]) -> None:
    with pytest.raises(errors.DataLoss, match=r"it answers 400 \(digest invalid\)"):
        make(retries=1).push_blob(OF, Source(bytes(len(DATA))))
    assert ("a/b", OF.digest) not in served.blobs


def test_content_that_cannot_be_read_ends_the_push(served: Registry, make: Callable[..., Repository]) -> None:
    def broken(offset: int) -> Iterator[bytes]:
        yield DATA[:100_000]
        raise errors.NotFound("the blob has gone")

    with pytest.raises(errors.NotFound, match="the blob has gone"):
        make().push_blob(OF, broken)


def test_an_upload_may_go_to_another_host_which_gets_no_credentials(
    served: Registry, make: Callable[..., Repository]
) -> None:
    with scripted_registry.serve() as other:
        other.uploads["x"] = bytearray()
        served.faults.append(scripted_registry.basic("me", "word"))
        away = f"{other.url}/v2/a/b/blobs/uploads/x"
        served.faults.append(times(1, "/uploads/", lambda handler: handler.answer(202, Location=away), "POST"))
        auth = {served.address: transfer.Credentials("me", "word")}
        assert make(auth=auth).push_blob(OF, Source(DATA)) == "uploaded"
        assert other.blobs["a/b", OF.digest] == DATA
        assert not any("authorization" in seen.headers for seen in other.seen)


@pytest.mark.parametrize("location", ["", "ftp://127.0.0.1/x"])
def test_an_upload_that_goes_nowhere_is_refused(
    served: Registry, make: Callable[..., Repository], location: str
) -> None:
    headers = {"Location": location} if location else {}
    served.faults.append(times(9, "/uploads/", lambda handler: handler.answer(202, **headers), "POST"))
    with pytest.raises(errors.FailedPrecondition, match="does not say where the upload goes on"):
        make().push_blob(OF, Source(DATA))


def test_credentials_that_are_wanted_in_the_middle_are_given(served: Registry, make: Callable[..., Repository]) -> None:
    tokens = scripted_registry.Tokens({"me": "word"}, uses=1)
    served.faults.append(tokens)
    auth = {served.address: transfer.Credentials("me", "word")}
    assert make(auth=auth).push_blob(OF, Source(DATA)) == "uploaded"
    assert served.blobs["a/b", OF.digest] == DATA


def test_a_caller_that_has_gone_is_noticed_while_a_registry_takes_nothing(
    served: Registry, make: Callable[..., Repository]
) -> None:
    leave, asked = threading.Event(), threading.Event()

    def check() -> None:
        if asked.is_set():
            raise errors.Canceled("the caller has gone")

    def takes_nothing(handler: Handler) -> bool:
        asked.set()
        return stall(leave)(handler)

    served.faults.append(times(9, "/uploads/", takes_nothing, "PATCH"))
    data = bytes(64 << 20)
    try:
        with pytest.raises(errors.Canceled, match="has gone"):
            make(check).push_blob(Descriptor(oci.LAYER, OF.digest, len(data)), Source(data))
    finally:
        leave.set()


def test_a_manifest_is_put_under_its_tag_or_its_digest(served: Registry, make: Callable[..., Repository]) -> None:
    data = b'{"schemaVersion":2}'
    of = Descriptor(oci.DOCKER_MANIFEST, oci.digest_of(data), len(data))
    make().push_manifest(of, data, "new")
    make().push_manifest(of, data)
    assert served.manifests["a/b", "new"] == served.manifests["a/b", of.digest] == (oci.DOCKER_MANIFEST, data)
    assert [seen.path.rpartition("/")[2] for seen in served.requests("PUT")] == ["new", of.digest]


def test_a_manifest_that_is_stored_otherwise_is_data_loss(served: Registry, make: Callable[..., Repository]) -> None:
    served.faults.append(lambda handler: handler.answer(201, Docker_Content_Digest="sha256:" + "0" * 64))
    data = b"{}"
    with pytest.raises(errors.DataLoss, match="it has stored the manifest with another digest"):
        make().push_manifest(Descriptor(oci.MANIFEST, oci.digest_of(data), 2), data)


def test_a_manifest_whose_parts_are_missing_is_refused(served: Registry, make: Callable[..., Repository]) -> None:
    served.faults.append(lambda handler: handler.refuse(400, "MANIFEST_BLOB_UNKNOWN"))
    with pytest.raises(errors.InvalidArgument, match=r"cannot push manifest .*400 \(manifest blob unknown\)"):
        make().push_manifest(Descriptor(oci.MANIFEST, oci.digest_of(b"{}"), 2), b"{}", "1")


def test_an_upload_that_goes_on_at_what_is_no_url_is_refused(served: Registry, make: Callable[..., Repository]) -> None:
    served.faults.append(times(9, "uploads", lambda handler: handler.answer(202, Location="https://[x/"), "POST"))
    with pytest.raises(errors.FailedPrecondition, match="it names a malformed URL") as caught:
        make().push_blob(OF, Source(DATA))
    assert f"{served.address}/a/b:1" in caught.value.message


def test_no_more_uploads_than_allowed_go_at_once(served: Registry, make: Callable[..., Repository]) -> None:
    repository = make(max_uploads=1)
    entered, leave = threading.Event(), threading.Event()

    def slow(offset: int) -> Iterator[bytes]:
        entered.set()
        leave.wait(60)
        yield b"{}"

    first = threading.Thread(target=repository.push_blob, args=(SMALL, slow))
    first.start()
    assert entered.wait(60)
    asked = [0]

    def check() -> None:
        asked[0] += 1
        if asked[0] > 2:
            raise errors.Canceled("the caller has gone")

    try:
        with pytest.raises(errors.Canceled):
            repository.watched(check).push_blob(OF, Source(DATA))
    finally:
        leave.set()
        first.join(60)
    assert not served.requests("HEAD", OF.digest)
