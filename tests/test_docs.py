"""The documentation is well-formed: its examples can be read, its links lead somewhere, its paths exist."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)\)")
FILE = re.compile(r"`((?:benchmarks|corten|docs|kernel|plugin_sdk|plugins_builtin|scripts|tests)/[\w./-]+)(?:::\w+)?`")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_can_be_read(page: Path) -> None:
    for code in blocks(page.read_text(), "python"):
        ast.parse(code)
    for code in blocks(page.read_text(), "toml"):
        tomllib.loads(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    missing = [link for link in LINK.findall(text) if ":" not in link and not (page.parent / link).exists()]
    assert missing + [name for name in FILE.findall(text) if not (ROOT / name).exists()] == []
