"""Tables, sizes, ages, and JSON of what commands print."""

from __future__ import annotations

import json

import pytest

from corten.terminal import tables
from plugin_sdk import containers, runtime, snapshots
from plugin_sdk.oci import Descriptor


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_230_000, "4.2 MB"), (99_960_000, "100 MB"), (5e12, "5.0 TB")],
)
def test_sizes_are_short(count: float, text: str) -> None:
    assert tables.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (7200, "2 hours"),
        (200_000, "2 days"),
    ],
)
def test_ages_are_as_people_say_them(seconds: int, text: str) -> None:
    assert tables.age(10**18, 10**9 + seconds) == text


def test_nothing_has_no_age() -> None:
    assert tables.age(0) == "-"


def test_columns_are_as_wide_as_what_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show(("A", "LONG HEAD", "C"), [("wide cell", "b", ""), ("x", "", "y")])
    assert capsys.readouterr().out == "A           LONG HEAD   C\nwide cell   b\nx                       y\n"


def test_json_has_times_names_and_specs() -> None:
    info = snapshots.Info(
        "a", snapshots.Kind.ACTIVE, labels={"created_at": "text"}, created_at=1_700_000_000_123_456_789
    )
    assert tables.plain(info) == {
        "name": "a",
        "kind": "active",
        "parent": "",
        "labels": {"created_at": "text"},
        "created_at": "2023-11-14T22:13:20.123456Z",
        "updated_at": "",
    }
    spec = runtime.Any("x", json.dumps({"process": {}}).encode())
    shown = tables.plain(containers.Container("a", containers.Runtime("r", runtime.Any("y", b"\x00\x01")), spec))
    assert shown["spec"] == {"type_url": "x", "value": {"process": {}}}
    assert shown["runtime"]["options"]["value"] == "AAE="


def test_descriptors_are_plain() -> None:
    assert tables.plain([Descriptor("m", "sha256:0", 3)]) == [
        {"media_type": "m", "digest": "sha256:0", "size": 3, "annotations": {}}
    ]
    assert tables.short("sha256:0123456789abcdef") == "0123456789ab"
