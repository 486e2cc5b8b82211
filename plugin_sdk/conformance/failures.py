"""What a failed check expected and what came instead, short enough to be read in a list."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import errors

_LONGEST = 400  # characters of what came
_HERE = Path(__file__).parent
_RAISES = "pytest.raises("
_ACTUAL = ("Actual message: ", "Input: ")  # pytest's words when a message does not match
_REMARKS = ("Omitting ", "+ ", "Use -v ")


def explain(check: Callable[..., Any], failure: pytest.ExceptionInfo[BaseException]) -> tuple[str, str]:
    """(expected, came). What was expected is told in the words of the check's source."""
    place = _place(check, failure)
    return _expected(*place) if place else "", _came(failure.value)


def _place(check: Callable[..., Any], failure: pytest.ExceptionInfo[BaseException]) -> tuple[Path, int] | None:
    """File and line: of the assertion that failed, else of the step in the check itself."""
    code = inspect.unwrap(check).__code__
    places = [(Path(entry.path), entry.lineno + 1) for entry in failure.traceback]
    if isinstance(failure.value, AssertionError):
        ours = [place for place in places if place[0].parent == _HERE or str(place[0]) == code.co_filename]
        return ours[-1] if ours else None
    own = [place for entry, place in zip(failure.traceback, places, strict=True) if entry.frame.code.raw is code]
    return own[-1] if own else None


def _expected(file: Path, line: int) -> str:
    source, tree = _parsed(file)
    around = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno <= line <= _end(node)]
    for node in around:
        if isinstance(node, ast.With) and (raised := _raised(source, node)):
            return f"{'; '.join(_text(source, each) for each in node.body)} raises {raised}"
    if not around:
        return ""  # the file has changed since it was loaded
    innermost = max(around, key=lambda node: node.lineno)
    if isinstance(innermost, ast.Assert):
        return _text(source, innermost.test)
    return f"{_head(source, innermost)} succeeds"


@functools.lru_cache
def _parsed(file: Path) -> tuple[str, ast.Module]:
    source = file.read_text()
    return source, ast.parse(source)


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _raised(source: str, node: ast.With) -> str:
    """``NotFound with "nobody" in its message``, of ``with pytest.raises(errors.NotFound, match="nobody"):``."""
    for item in node.items:
        text = _text(source, item.context_expr)
        if text.startswith(_RAISES) and isinstance(item.context_expr, ast.Call):
            call = item.context_expr
            kinds = call.args[0].elts if isinstance(call.args[0], ast.Tuple) else call.args[:1]
            names = " or ".join(_text(source, kind).removeprefix("errors.") for kind in kinds)
            match = [_text(source, keyword.value) for keyword in call.keywords if keyword.arg == "match"]
            return f"{names} with {match[0]} in its message" if match else names
    return ""


def _head(source: str, node: ast.stmt) -> str:
    """Of a statement with a body, what stands before it."""
    if isinstance(node, ast.With):
        return ", ".join(_text(source, item.context_expr) for item in node.items)
    return _text(source, node).partition(":\n")[0]


def _text(source: str, node: ast.AST) -> str:
    return " ".join((ast.get_source_segment(source, node) or "").split())


def _came(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, pytest.fail.Exception) and text.startswith("DID NOT RAISE"):
        return "nothing was raised"
    if isinstance(error, AssertionError | pytest.fail.Exception):
        return shortened("\n".join(_of_assertion(text)))
    if isinstance(error, errors.Error):
        return shortened(f"{type(error).__name__}: {error.message}")
    return shortened(f"{type(error).__name__}: {text}")


def _of_assertion(text: str) -> Iterator[str]:
    """The values that pytest shows, without its remarks."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        for words in _ACTUAL:
            if line.startswith(words):
                yield f"the message {line.removeprefix(words)}"
                return
    for line in lines or ["it does not hold"]:
        if line.startswith("Full diff:"):
            return
        if not line.startswith(_REMARKS):
            yield line.removeprefix("assert ")


def shortened(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
