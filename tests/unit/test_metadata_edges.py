from __future__ import annotations

import pytest

from kernel.metadata import edges
from kernel.metadata.edges import Edge

OWNER = "content o"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("containerd.io/gc.ref.content", "d", Edge(OWNER, "content d", "label")),
        ("containerd.io/gc.ref.content.l.0", "d", Edge(OWNER, "content d", "label")),
        ("containerd.io/gc.ref.content/x", "d", Edge(OWNER, "content d", "label")),
        ("containerd.io/gc.ref.snapshot.overlayfs", "c", Edge(OWNER, "snapshots/overlayfs c", "label")),
        ("containerd.io/gc.ref.snapshot.overlayfs/1", "c", Edge(OWNER, "snapshots/overlayfs c", "label")),
        ("containerd.io/gc.ref.image.1", "i", Edge(OWNER, "images i", "label")),
        ("containerd.io/gc.bref.content.1", "d", Edge("content d", OWNER, "label")),
        ("containerd.io/gc.root", "now", Edge("", OWNER, "label")),
        ("containerd.io/gc.ref.snapshot", "c", None),
        ("containerd.io/gc.ref.contents", "c", None),
        ("containerd.io/gc.ref", "c", None),
        ("containerd.io/other", "c", None),
    ],
)
def test_labels_make_edges(key: str, value: str, expected: Edge | None) -> None:
    assert list(edges.of_labels(OWNER, {key: value})) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:02Z", 2_000_000_000),
        ("1970-01-01T01:00:02.5+01:00", 2_500_000_000),
        ("1970-01-01T00:00:02.123456789Z", 2_123_456_789),
        ("1960-01-01T00:00:02Z", 1),
        ("2020-13-01T00:00:00Z", 0),
        ("tomorrow", 0),
        ("", 0),
    ],
)
def test_an_expiry_is_read_as_rfc_3339(text: str, expected: int) -> None:
    assert edges.expiry({"containerd.io/gc.expire": text}) == expected
