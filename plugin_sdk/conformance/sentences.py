"""Which sentence of a contract a check holds.

::

    @sentences.holds("The children have to go first.")
    def test_a_parent_is_not_removed_before_its_children(self, snapshotter): ...

A contract's sentences are those of its docstrings, of the module, its classes and methods, and of the texts that stand
below a constant; code after ``::`` is none. White space counts as one space, marks such as backquotes are kept.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

Check = TypeVar("Check", bound=Callable[..., Any])

_ATTRIBUTE = "__sentences_held__"
_END = re.compile(r"(?<=[.!?])\s+|(?<=[.!?]\))\s+")
_CODE = "::"


def holds(*sentences: str) -> Callable[[Check], Check]:
    """Marks a check with the whole sentences, word by word, that fail to be true when it fails."""

    def mark(check: Check) -> Check:
        setattr(check, _ATTRIBUTE, (*of(check), *map(_normal, sentences)))
        return check

    return mark


def of(check: Callable[..., Any]) -> tuple[str, ...]:
    """The sentences that a check holds; none of what is not marked."""
    held: tuple[str, ...] = getattr(check, _ATTRIBUTE, ())
    return held


def contract(module: ModuleType) -> tuple[str, ...]:
    """All sentences of a module, in their order, also those that only define words."""
    return tuple(sentence for text in _texts(module) for sentence in split(text))


def checks(suite: type) -> dict[str, Callable[..., Any]]:
    """The checks of a suite by name, inherited ones too."""
    found = inspect.getmembers(suite, lambda member: inspect.isfunction(member))
    return {name: function for name, function in found if name.startswith("test_")}


def split(text: str) -> list[str]:
    """The sentences of one docstring."""
    return [sentence for paragraph in _paragraphs(text) for sentence in _END.split(paragraph)]


def _texts(module: ModuleType) -> Iterator[str]:
    """Every string that is a statement, but in what is private."""
    nodes: list[ast.AST] = [ast.parse(inspect.getsource(module))]
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
        if not getattr(node, "name", "").startswith("_"):
            nodes[:0] = getattr(node, "body", ())


def _paragraphs(text: str) -> Iterator[str]:
    lines: list[str] = []
    skipping = False
    for line in [*inspect.cleandoc(text).splitlines(), ""]:
        if skipping and (not line or line.startswith(" ")):
            continue
        skipping = False
        if lines and (not line or line.startswith("- ")):
            paragraph = _normal(" ".join(lines))
            skipping = paragraph.endswith(_CODE)
            if paragraph != _CODE:
                yield paragraph.replace(_CODE, ":") if skipping else paragraph
            lines = []
        if line:
            lines.append(line.removeprefix("- "))


def _normal(text: str) -> str:
    return " ".join(text.split())
