r"""Filters: which objects of a list are meant.

A filter is selectors joined by commas, all of which must hold; of a list of filters one must. A selector is a field
path alone (the field is there), or a field path, an operator and a value::

    name==docker.io/library/busybox:latest
    kind==committed,labels."containerd.io/snapshot.ref"!="sha256:12 34"
    namespace==moby, topic~=|^/tasks/|

- A field path is fields joined by dots. A field is letters, digits and ``_``, or anything in double quotes.
- ``==`` and ``!=`` compare text; ``!=`` holds for an absent field too. ``~=`` searches for a regular expression
  in the syntax of RE2 (https://github.com/google/re2/wiki/Syntax), in an absent field as in an empty one.
- A value ends before a comma or a space, unless it is quoted by ``"``, or after ``~=`` also by ``|`` or ``/``. Within
  quotes ``\`` begins an escape: ``\\``, the quote itself, ``\a \b \f \n \r \t \v``, ``\x41``, ``\101``, ``\u0041``,
  ``\U00000041``. So ``\w`` is written ``\\w`` in quotes and ``\w`` without.
- Spaces may stand before a field, an operator or a value. An empty filter, and an empty list, match everything.

An object offers its fields as an adaptor::

    match = filters.compile(['name==a', 'labels.color'])
    match(lambda path: image.name if path == ("name",) else filters.join(path, "labels", image.labels))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from plugin_sdk import errors

Path = Sequence[str]
Adaptor = Callable[[Path], str | None]
"""A field path to the field's text; None when it is absent. An empty text counts as there."""

Matcher = Callable[[Adaptor], bool]

_FIELD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_OPERATOR = frozenset("=!~")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
_NUMBERED = {"x": 2, "u": 4, "U": 8}


def compile(filters: Sequence[str]) -> Matcher:
    """Raises InvalidArgument that names the filter and the position, counted in characters from 0."""
    if not filters:
        return _everything
    matchers = [_compile(text) for text in filters]
    return matchers[0] if len(matchers) == 1 else lambda adaptor: any(match(adaptor) for match in matchers)


def _pattern(pattern: str) -> Callable[[str], bool]:
    """RE2 and not ``re``, which differs in syntax and backtracks: ``(a+)+$`` from a client would stop the daemon."""
    import re2  # takes longer to import than a list takes to filter, and few filters have patterns

    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as err:
        raise errors.InvalidArgument(f"error parsing regexp: {err.args[0].decode()}") from err
    return lambda text: compiled.search(text) is not None


def field(value: str) -> str | None:
    """The text of a field that is absent when it is empty."""
    return value or None


def join(path: Path, name: str, values: Mapping[str, str]) -> str | None:
    """The value that ``NAME.KEY`` means: dots in a key need no quotes."""
    return values.get(".".join(path[1:])) if path[0] == name and len(path) > 1 else None


def fields(path: Path) -> str:
    """A path as one text, for adaptors that compare whole paths."""
    return ".".join(path)


def _everything(adaptor: Adaptor) -> bool:
    return True


def _compile(text: str) -> Matcher:
    if not text:
        return _everything
    selectors = _Parser(text).selectors()
    return selectors[0] if len(selectors) == 1 else lambda adaptor: all(match(adaptor) for match in selectors)


@dataclass(slots=True)
class _Parser:
    text: str
    at: int = 0

    def error(self, position: int, reason: str) -> errors.InvalidArgument:
        return errors.InvalidArgument(f"filter {self.text!r}: position {position}: {reason}")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def skip_spaces(self) -> None:
        while self.peek().isspace():
            self.at += 1

    def take(self, wanted: Callable[[str], bool]) -> str:
        start = self.at
        while self.at < len(self.text) and wanted(self.text[self.at]):
            self.at += 1
        return self.text[start : self.at]

    def selectors(self) -> list[Matcher]:
        found = [self.selector()]
        while self.at < len(self.text):
            if self.peek() != ",":
                raise self.error(self.at, f"unexpected input {self.peek()!r}")
            self.at += 1
            found.append(self.selector())
        return found

    def selector(self) -> Matcher:
        path = self.path()
        if self.peek() in ("", ","):
            return lambda adaptor: adaptor(path) is not None
        operator = self.operator()
        position, value = self.value(alternatives=operator == "~=")
        if operator == "==":
            return lambda adaptor: adaptor(path) == value
        if operator == "!=":
            return lambda adaptor: adaptor(path) != value
        try:
            search = _pattern(value)
        except errors.InvalidArgument as err:
            raise self.error(position, err.message) from err
        return lambda adaptor: search(adaptor(path) or "")

    def path(self) -> tuple[str, ...]:
        found = [self.field()]
        while self.peek() == ".":
            self.at += 1
            found.append(self.field())
        return tuple(found)

    def field(self) -> str:
        self.skip_spaces()
        if self.peek() == '"':
            return self.quoted()
        name = self.take(_FIELD.__contains__)
        if not name:
            raise self.error(self.at, "expected a field or a quoted field")
        return name

    def operator(self) -> str:
        self.skip_spaces()
        start = self.at
        operator = self.take(_OPERATOR.__contains__)
        if not operator:
            raise self.error(start, "expected an operator (==, != or ~=)")
        if operator not in ("==", "!=", "~="):
            raise self.error(start, f'unsupported operator "{operator}"')
        return operator

    def value(self, alternatives: bool) -> tuple[int, str]:
        self.skip_spaces()
        start = self.at
        if self.peek() in ('"', "|", "/") and self.peek():
            if self.peek() != '"' and not alternatives:
                raise self.error(start, f"the quote {self.peek()} is for ~= only")
            return start, self.quoted()
        if self.peek() in (".", ",", ""):
            raise self.error(start, "expected a value or a quoted value")
        return start, self.take(lambda c: c != "," and not c.isspace() and c.isprintable())

    def quoted(self) -> str:
        start = self.at
        quote = self.peek()
        self.at += 1
        found: list[str] = []
        while (c := self.peek()) != quote:
            if c in ("", "\n"):
                raise self.error(start, "the quoted text does not end")
            self.at += 1
            found.append(self.escape(quote) if c == "\\" else c)
        self.at += 1
        return "".join(found)

    def escape(self, quote: str) -> str:
        start = self.at - 1
        c = self.peek()
        self.at += 1
        if c == quote and c:
            return c
        if c in _ESCAPES:
            return _ESCAPES[c]
        if c in _NUMBERED:
            return self.number(start, _NUMBERED[c], 16)
        if c and c in "01234567":
            self.at -= 1
            return self.number(start, 3, 8)
        raise self.error(start, "illegal escape sequence")

    def number(self, start: int, digits: int, base: int) -> str:
        text = self.text[self.at : self.at + digits]
        self.at += digits
        allowed = "01234567" if base == 8 else "0123456789abcdefABCDEF"
        if len(text) != digits or any(c not in allowed for c in text):
            raise self.error(start, "illegal escape sequence")
        code = int(text, base)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF or (base == 8 and code > 0xFF):
            raise self.error(start, "illegal escape sequence")
        return chr(code)
