"""The daemon's directories."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from kernel import directories
from plugin_sdk import errors


def test_directories_are_made_so_that_others_only_pass_through(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    directories.make(path)
    directories.make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o711


def test_what_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.FailedPrecondition, match="file/a cannot be made"):
        directories.make(tmp_path / "file" / "a")


def test_two_daemons_cannot_share_a_root(tmp_path: Path) -> None:
    with (
        directories.taken(tmp_path),
        pytest.raises(errors.FailedPrecondition, match=f"another cortend uses the directory {tmp_path}"),
        directories.taken(tmp_path),
    ):
        pass
    with directories.taken(tmp_path):
        pass
