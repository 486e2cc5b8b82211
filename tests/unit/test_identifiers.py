from collections.abc import Callable

import pytest

from plugin_sdk import errors, identifiers


@pytest.mark.parametrize("name", ["default", "k8s.io", "moby", "a-b_c.d", "9", "x" * 76])
def test_an_identifier_is_accepted(name: str) -> None:
    identifiers.validate(name)


@pytest.mark.parametrize("name", ["a b", "-a", "a-", "a..b", "a_.b", "a/b", "é", "a\n", "x" * 77, "../a", "."])
def test_a_malformed_identifier_is_refused_by_name(name: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        identifiers.validate(name)
    assert name in caught.value.message


def test_an_empty_identifier_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="must not be empty"):
        identifiers.validate("")


@pytest.mark.parametrize("digits", [("sha256", 64), ("sha384", 96), ("sha512", 128)])
def test_a_digest_is_accepted(digits: tuple[str, int]) -> None:
    identifiers.validate_digest(f"{digits[0]}:{'0a' * (digits[1] // 2)}")


@pytest.mark.parametrize(
    ("digest", "reason"),
    [
        ("", "format"),
        ("xyz", "format"),
        ("sha256:", "format"),
        ("sha256:abc", "length"),
        ("sha256:" + "0" * 65, "length"),
        ("sha512:" + "0" * 64, "length"),
        ("md5:" + "0" * 32, "unsupported"),
        ("sha256:" + "A" * 64, "format"),
        ("sha256:" + "g" * 64, "format"),
        ("sha256:" + "0" * 64 + "\n", "format"),
        ("sha256:../" + "0" * 61, "format"),
    ],
)
def test_a_malformed_digest_is_refused(digest: str, reason: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=reason):
        identifiers.validate_digest(digest)


@pytest.mark.parametrize("topic", ["/a", "/tasks/exit", "/a/b.c/d-e"])
def test_a_topic_is_accepted(topic: str) -> None:
    identifiers.validate_topic(topic)


@pytest.mark.parametrize("topic", ["", "a", "a/b", "/", "//a", "/a/", "/a b", "/a//b"])
def test_a_malformed_topic_is_refused(topic: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        identifiers.validate_topic(topic)


def test_a_label_may_take_4096_bytes() -> None:
    identifiers.validate_labels({"k": "v" * 4095, "": "", "any thing": "at all"})


@pytest.mark.parametrize("label", [("k", "v" * 4096), ("k" * 4097, ""), ("k", "é" * 2048)])
def test_a_longer_label_is_refused(label: tuple[str, str]) -> None:
    check: Callable[[dict[str, str]], None] = identifiers.validate_labels
    with pytest.raises(errors.InvalidArgument, match="4096"):
        check(dict([label]))
