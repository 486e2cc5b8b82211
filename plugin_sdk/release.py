"""Which Corten this is; the same as in pyproject.toml, which a test compares."""

from __future__ import annotations

VERSION = "0.1.0"
REVISION = ""
