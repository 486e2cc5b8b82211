"""The hooks are signatures with one sentence each, and the documentation has all of them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from kernel import hookspecs

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("register_"))
PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_one_sentence(hook: str) -> None:
    text = inspect.getdoc(getattr(hookspecs, hook)) or ""
    assert text.endswith(".")
    assert ". " not in text


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_heading_with_its_exact_arguments(hook: str) -> None:
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"\n## {hook}({arguments})\n" in PAGE


def test_every_hook_registers_a_kind() -> None:
    assert sorted(hookspecs.KINDS) == HOOKS


@pytest.mark.parametrize("kind", sorted(hookspecs.KINDS.values()))
def test_the_page_names_every_kind(kind: str) -> None:
    assert f"`{kind}`" in PAGE
