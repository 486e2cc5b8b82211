"""Resolving names, and reading manifests and configs: wrong answers, large ones, and what is no manifest."""

from __future__ import annotations

import pytest

from plugin_sdk import errors, oci
from plugin_sdk.oci import Descriptor
from tests import scripted_registry
from tests.repositories import DATA, OTHER, Make
from tests.scripted_registry import Handler, Registry, times


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
