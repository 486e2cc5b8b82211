"""References: the grammar of names, and what people type."""

from __future__ import annotations

import pytest

from plugin_sdk import errors
from plugin_sdk.distribution import references
from plugin_sdk.distribution.references import Reference

SHA256 = "sha256:" + "a" * 64
SHA384 = "sha384:" + "b" * 96
SHA512 = "sha512:" + "c" * 128


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("docker.io/library/busybox:latest", Reference("docker.io", "library/busybox", "latest")),
        ("localhost:5000/a:1", Reference("localhost:5000", "a", "1")),
        ("127.0.0.1/a/b/c:V_1.2-x", Reference("127.0.0.1", "a/b/c", "V_1.2-x")),
        ("[::1]:5000/a:1", Reference("[::1]:5000", "a", "1")),
        (f"a.io/b@{SHA256}", Reference("a.io", "b", "", SHA256)),
        (f"a.io/b:1@{SHA384}", Reference("a.io", "b", "1", SHA384)),
        (f"a.io/b__c.d---e/f@{SHA512}", Reference("a.io", "b__c.d---e/f", "", SHA512)),
    ],
)
def test_a_full_reference_is_taken_apart_and_put_together(text: str, parsed: Reference) -> None:
    assert references.parse(text) == parsed
    assert str(parsed) == text


def test_the_digest_says_what_is_asked_for() -> None:
    assert references.parse(f"a.io/b:1@{SHA256}").object == SHA256
    assert references.parse("a.io/b:1").object == "1"
    assert references.parse("a.io:1/b:1").name == "a.io:1/b"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begin with a registry's host"),
        ("busybox", "begin with a registry's host"),
        ("a.io/", "begin with a registry's host"),
        ("https://a.io/b:1", "begin with a registry's host|lower-case"),
        ("a.io/b", "neither a tag nor a digest"),
        ("a.io/B:1", "lower-case"),
        ("a.io/b//c:1", "lower-case"),
        ("a.io/../c:1", "lower-case"),
        ("a.io/b:", "a tag has"),
        ("a.io/b:-1", "a tag has"),
        (f"a.io/b:{'t' * 129}", "a tag has"),
        ("a.io/b:1?x=y", "a tag has"),
        ("a.io/b@sha256:abc", "digest"),
        ("a.io/b@", "digest"),
        ("a.io/b@md5:" + "a" * 32, "digest"),
        ("a_b.io/c:1", "begin with a registry's host"),
        ("a.io:port/c:1", "begin with a registry's host"),
        ("a.io/b c:1", "lower-case"),
        ("a.io/b:1\n", "a tag has"),
        (f"a.io/{'b' * 260}:1", "255"),
    ],
)
def test_what_is_no_reference_is_refused_in_one_sentence(text: str, why: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=why) as caught:
        references.parse(text)
    assert "\n" not in caught.value.message
    assert "is not the name of an image" in caught.value.message


def test_a_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        references.parse("x" * 100_000)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("typed", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        (f"busybox@{SHA256}", f"docker.io/library/busybox@{SHA256}"),
        ("me/app:1", "docker.io/me/app:1"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/me/app", "docker.io/me/app:latest"),
        ("a.io/app", "a.io/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("host:5000/app", "host:5000/app:latest"),
        (f"host:5000/app@{SHA512}", f"host:5000/app@{SHA512}"),
    ],
)
def test_what_people_type_becomes_a_full_reference(typed: str, full: str) -> None:
    assert references.familiar(typed) == full


@pytest.mark.parametrize("typed", ["", "Busy Box", "a/b/", "UPPER", ":1", "busybox:", "../etc"])
def test_what_people_mistype_is_refused(typed: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="is not the name of an image"):
        references.familiar(typed)
