"""The hooks are signatures with one sentence each, and the documentation has all of them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from kernel import hookspecs, plugins

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


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_called_and_takes_its_kind_only(
    hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = hookspecs.KINDS[hook]
    other = next(each for each in hookspecs.KINDS.values() if each != kind)
    for name, registered in ((f"corten_right_{hook}", kind), (f"corten_wrong_{hook}", other)):
        (tmp_path / f"{name}.py").write_text(
            "from plugin_sdk import plugin\n@plugin.hookimpl\n"
            f"def {hook}():\n    yield plugin.Registration({registered!r}, 'x', print)\n"
        )
    found = plugins.discover([f"corten_right_{hook}", f"corten_wrong_{hook}"], group="none")
    assert [(source, each.kind) for source, each in found.registrations] == [(f"corten_right_{hook}", kind)]
    [failure] = found.failures
    assert f"{hook} must return Registrations of kind {kind}" in failure.error
