"""What spec options become."""

from __future__ import annotations

import pytest

from corten import specs
from plugin_sdk import errors


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        (
            "type=bind,src=/a,dst=/b,options=rbind:ro",
            {"type": "bind", "source": "/a", "destination": "/b", "options": ["rbind", "ro"]},
        ),
        ("src=/a,dst=/b", {"type": "bind", "source": "/a", "destination": "/b", "options": ["rbind"]}),
        (
            "type=tmpfs,source=tmpfs,destination=/b,options=size=1m:mode=700",
            {"type": "tmpfs", "source": "tmpfs", "destination": "/b", "options": ["size=1m", "mode=700"]},
        ),
    ],
)
def test_mounts_are_read(text: str, mount: dict[str, object]) -> None:
    assert specs.parse_mount(text) == mount


@pytest.mark.parametrize(
    ("text", "reason"), [("size=1", 'unknown key "size"'), ("src=/a", "no destination"), ("", 'unknown key ""')]
)
def test_a_wrong_mount_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=reason):
        specs.parse_mount(text)
