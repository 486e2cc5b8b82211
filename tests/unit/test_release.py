"""The version is told in two places."""

from __future__ import annotations

import tomllib
from pathlib import Path

from plugin_sdk import release


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == release.VERSION
