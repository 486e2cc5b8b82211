"""``ctr content``: ls, get, ingest, label, rm, edit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.sides import Both

pytestmark = [pytest.mark.root, pytest.mark.peer]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def ingest(both: Both, namespace: str, data: bytes, ref: str = "ref") -> str:
    both.ctr("content", "ingest", ref, namespace=namespace, stdin=data)
    return digest(data)


def test_ingested_content_is_listed_read_labelled_and_removed(both: Both, fresh: str) -> None:
    name = ingest(both, fresh, b"hello\n")
    assert both.ctr("content", "ls", "-q", namespace=fresh).lines == [name]
    assert both.ctr("content", "get", name, namespace=fresh).stdout == "hello\n"
    both.ctr("content", "label", name, "color=blue", "size=big", namespace=fresh)
    both.ctr("content", "label", name, "size=", namespace=fresh)
    assert "color=blue" in both.ctr("content", "ls", namespace=fresh).stdout
    both.ctr("content", "rm", name, namespace=fresh)
    assert both.ctr("content", "ls", "-q", namespace=fresh).lines == []


def test_expected_size_and_digest_are_verified(both: Both, fresh: str) -> None:
    data = b"as expected"
    line = ("content", "ingest", "--expected-digest", digest(data), "--expected-size", str(len(data)), "ref")
    both.ctr(*line, namespace=fresh, stdin=data)
    assert both.ctr("content", "ls", "-q", namespace=fresh).lines == [digest(data)]


def test_a_wrong_digest_is_refused(both: Both, fresh: str) -> None:
    line = ("content", "ingest", "--expected-digest", digest(b"other"), "ref")
    both.ctr(*line, namespace=fresh, stdin=b"wrong digest", code=1)
    assert both.ctr("content", "ls", "-q", namespace=fresh).lines == []


def test_a_wrong_size_is_refused(both: Both, fresh: str) -> None:
    data = b"wrong size"
    line = ("content", "ingest", "--expected-digest", digest(data), "--expected-size", "3", "ref")
    words = [(r'("ref" failed size validation: 10 != 3|unexpected commit size 10, expected 3)', "SIZES")]
    assert "SIZES" in both.ctr(*line, namespace=fresh, stdin=data, code=1, scrubs=words).stderr
    assert both.ctr("content", "ls", "-q", namespace=fresh).lines == []


def test_a_failed_ingest_is_shown_as_active(both: Both, fresh: str) -> None:
    both.ctr("content", "ingest", "--expected-digest", digest(b"other"), "ref", namespace=fresh, stdin=b"x", code=1)
    assert "ref" in both.ctr("content", "active", namespace=fresh).stdout


def test_content_that_exists_can_be_ingested_again(both: Both, fresh: str) -> None:
    name = ingest(both, fresh, b"twice", "one")
    both.ctr("content", "ingest", "two", namespace=fresh, stdin=b"twice", code=None)
    assert both.ctr("content", "ls", "-q", namespace=fresh).lines == [name]


def test_content_of_another_namespace_is_not_seen(both: Both, fresh: str) -> None:
    name = ingest(both, fresh, b"of one namespace")
    assert "not found" in both.ctr("content", "get", name, namespace=fresh + "-other", code=1).stderr


def test_missing_content_is_not_found(both: Both, fresh: str) -> None:
    name = digest(b"missing")
    both.ctr("content", "rm", name, namespace=fresh)
    for verb in (("get", name), ("label", name, "a=b")):
        assert "not found" in both.ctr("content", *verb, namespace=fresh, code=None).stderr


def test_a_malformed_digest_is_refused(both: Both, fresh: str) -> None:
    both.ctr("content", "get", "sha256:abc", namespace=fresh, code=1)


def test_an_edit_makes_new_content(both: Both, fresh: str, tmp_path: Path) -> None:
    name = ingest(both, fresh, b'{"color": "blue"}')
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/blue/green/ "$1"\n')
    editor.chmod(0o755)
    edited = both.ctr(
        "content", "edit", "--editor", str(editor), "--validate", "json", name, namespace=fresh, code=None
    )
    assert digest(b'{"color": "green"}') in edited.stdout or edited.code
    both.ctr("content", "ls", namespace=fresh)
