r"""Regular expressions in the syntax that containerd's clients send (RE2), in linear time.

``re`` backtracks: a pattern such as ``(a+)+$`` in a filter would stop the daemon. Here a pattern becomes states that
are followed together, character by character, so a search costs at most length times pattern, whatever the pattern::

    patterns.compile(r"^/tasks/(start|exit)$").search("/tasks/exit")    # True

Only whether there is a match is answered, so greedy and lazy are the same and groups capture nothing. InvalidArgument
is what RE2 does not have (back references, look around, possessive repeats), repeats above 1000, names of scripts in
``\p{…}`` (general categories work), groups nested deeper than 50 and patterns that would take more than 20,000 states.
Syntax: https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from plugin_sdk import errors

MAX_REPEAT = 1000
MAX_STATES = 20_000
_MAX_DEPTH = 50
_MAX_CACHE = 10_000

Test = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Char:
    test: Test


@dataclass(frozen=True, slots=True)
class Edge:
    """A place between two characters: one of ``^ $ A z b B``, the first two by line."""

    kind: str


@dataclass(frozen=True, slots=True)
class Chain:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    branches: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    node: Node
    least: int
    most: int | None


Node = Char | Edge | Chain | Choice | Repeat


@functools.lru_cache(maxsize=256)
def compile(pattern: str) -> Pattern:
    """Raises InvalidArgument that names the pattern and what is wrong in it."""
    node = _Parser(pattern).parse()
    program = _Program(pattern)
    return Pattern(program, program.add(node, program.new(_MATCH)))


# -- parsing ----------------------------------------------------------------------------------------------------------

_PERL: dict[str, Test] = {
    "d": lambda c: "0" <= c <= "9",
    "s": lambda c: c in "\t\n\f\r ",
    "w": lambda c: _is_word(c),
}
_POSIX: dict[str, Test] = {
    "alnum": lambda c: c.isascii() and c.isalnum(),
    "alpha": lambda c: c.isascii() and c.isalpha(),
    "ascii": lambda c: c.isascii(),
    "blank": lambda c: c in "\t ",
    "cntrl": lambda c: c < " " or c == "\x7f",
    "digit": _PERL["d"],
    "graph": lambda c: "!" <= c <= "~",
    "lower": lambda c: "a" <= c <= "z",
    "print": lambda c: " " <= c <= "~",
    "punct": lambda c: "!" <= c <= "~" and not c.isalnum(),
    "space": lambda c: c in "\t\n\v\f\r ",
    "upper": lambda c: "A" <= c <= "Z",
    "word": _PERL["w"],
    "xdigit": lambda c: c.isascii() and c in "0123456789abcdefABCDEF",
}
_CONTROL = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_CATEGORY_LETTERS = {"C": "cfos", "L": "lmotu", "M": "cen", "N": "dlo", "P": "cdefios", "S": "ckmo", "Z": "lps"}
_CATEGORIES = frozenset(major + minor for major, minors in _CATEGORY_LETTERS.items() for minor in ["", *minors])


def _is_word(c: str) -> bool:
    return c.isascii() and (c.isalnum() or c == "_")


def _not(test: Test) -> Test:
    return lambda c: not test(c)


def _any_of(tests: Iterable[Test]) -> Test:
    found = tuple(tests)
    return lambda c: any(test(c) for test in found)


def _between(low: str, high: str) -> Test:
    return lambda c: low <= c <= high


def _folded(test: Test) -> Test:
    return lambda c: test(c) or test(c.lower()) or test(c.upper())


def _category(name: str) -> Test:
    return lambda c: unicodedata.category(c).startswith(name)


def _is_anything(c: str) -> bool:
    return True


def _is_not_newline(c: str) -> bool:
    return c != "\n"


@dataclass(slots=True)
class _Parser:
    pattern: str
    at: int = 0
    flags: frozenset[str] = frozenset()
    depth: int = 0

    def error(self, reason: str) -> errors.InvalidArgument:
        return errors.InvalidArgument(f"error parsing regexp {self.pattern!r}: {reason}")

    def peek(self, size: int = 1) -> str:
        return self.pattern[self.at : self.at + size]

    def accept(self, text: str) -> bool:
        if not self.pattern.startswith(text, self.at):
            return False
        self.at += len(text)
        return True

    def next(self, missing: str) -> str:
        c = self.peek()
        if not c:
            raise self.error(missing)
        self.at += 1
        return c

    def parse(self) -> Node:
        node = self.choice()
        if self.peek():
            raise self.error("unexpected )")
        return node

    def choice(self) -> Node:
        flags = self.flags
        branches = [self.sequence()]
        while self.accept("|"):
            branches.append(self.sequence())
        self.flags = flags
        return branches[0] if len(branches) == 1 else Choice(tuple(branches))

    def sequence(self) -> Node:
        parts: list[Node] = []
        while (c := self.peek()) and c not in "|)":
            found = self.item(c)
            if found:
                found[-1] = self.repeats(found[-1])
            parts.extend(found)
        return Chain(tuple(parts))

    def item(self, c: str) -> list[Node]:
        if self.accept("\\Q"):
            return self.literal()
        return self.group() if c == "(" else [self.atom()]

    def literal(self) -> list[Node]:
        end = self.pattern.find("\\E", self.at)
        text = self.pattern[self.at :] if end < 0 else self.pattern[self.at : end]
        self.at = len(self.pattern) if end < 0 else end + 2
        return [self.char(c) for c in text]

    def group(self) -> list[Node]:
        self.at += 1
        if not self.accept("?"):
            return [self.enclosed()]
        if self.accept("P<") or (self.peek(2) not in ("<=", "<!") and self.accept("<")):
            self.group_name()
            return [self.enclosed()]
        outer = self.flags
        self.flags = self.new_flags()
        if self.accept(")"):
            return []
        self.at += 1
        node = self.enclosed()
        self.flags = outer
        return [node]

    def enclosed(self) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.error("expression nests too deeply")
        node = self.choice()
        if not self.accept(")"):
            raise self.error("missing closing )")
        self.depth -= 1
        return node

    def group_name(self) -> None:
        end = self.pattern.find(">", self.at)
        name = self.pattern[self.at : end] if end >= 0 else ""
        if not name or not all(_is_word(c) for c in name):
            raise self.error("invalid named capture")
        self.at = end + 1

    def new_flags(self) -> frozenset[str]:
        start, flags, on = self.at, set(self.flags), True
        while (c := self.peek()) and c in "imsU-":
            self.at += 1
            if c == "-":
                on = False
            elif on:
                flags.add(c)
            else:
                flags.discard(c)
        if self.peek() not in (")", ":") or not self.peek():
            raise self.error(f"invalid or unsupported Perl syntax: (?{self.pattern[start : self.at + 1]}")
        return frozenset(flags)

    def repeats(self, node: Node) -> Node:
        count = 0
        while (found := self.repeat(node)) is not None:
            count += 1
            if count > 1:
                raise self.error("invalid nested repetition operator")
            node = found
            self.accept("?")
        return node

    def repeat(self, node: Node) -> Node | None:
        if self.accept("*"):
            return Repeat(node, 0, None)
        if self.accept("+"):
            return Repeat(node, 1, None)
        if self.accept("?"):
            return Repeat(node, 0, 1)
        bounds = self.bounds() if self.peek() == "{" else None
        return None if bounds is None else Repeat(node, *bounds)

    def bounds(self) -> tuple[int, int | None] | None:
        """``{n}``, ``{n,}``, ``{n,m}``; None when the brace is an ordinary character."""
        end = self.pattern.find("}", self.at)
        text = self.pattern[self.at + 1 : end] if end >= 0 else ""
        low, comma, high = text.partition(",")
        if not (low.isascii() and low.isdigit()) or (high and not (high.isascii() and high.isdigit())):
            return None
        self.at = end + 1
        if len(low) > 4 or len(high) > 4:
            raise self.error(f"invalid repeat count: {{{text}}}")
        least = int(low)
        most = int(high) if high else (None if comma else least)
        if least > MAX_REPEAT or (most is not None and (most > MAX_REPEAT or most < least)):
            raise self.error(f"invalid repeat count: {{{text}}}")
        return least, most

    def atom(self) -> Node:
        c = self.next("unexpected end")
        if c in "*+?":
            raise self.error(f"missing argument to repetition operator: {c}")
        if c == ".":
            return Char(_is_anything if "s" in self.flags else _is_not_newline)
        if c == "^":
            return Edge("^" if "m" in self.flags else "A")
        if c == "$":
            return Edge("$" if "m" in self.flags else "z")
        if c == "[":
            return Char(self.bracket())
        return self.escape() if c == "\\" else self.char(c)

    def char(self, c: str) -> Char:
        return Char(self.fold(c.__eq__))

    def fold(self, test: Test) -> Test:
        return _folded(test) if "i" in self.flags else test

    def escape(self) -> Node:
        c = self.next("trailing backslash at end of expression")
        if c in "AzbB":
            return Edge(c)
        test = self.named_class(c)
        if test is not None:
            return Char(test)
        self.at -= 1
        return self.char(self.escaped_char())

    def named_class(self, c: str) -> Test | None:
        if c.lower() in _PERL:
            test = _PERL[c.lower()]
            return _not(test) if c.isupper() else self.fold(test)
        if c in "pP":
            return self.unicode_class(negated=c == "P")
        return None

    def unicode_class(self, negated: bool) -> Test:
        name = self.next("invalid character class range")
        if name == "{":
            end = self.pattern.find("}", self.at)
            name = self.pattern[self.at : end] if end >= 0 else ""
            self.at = end + 1
        if name.startswith("^"):
            name, negated = name[1:], not negated
        if name == "Any":
            return _not(_is_anything) if negated else _is_anything
        if name not in _CATEGORIES:
            raise self.error(f"invalid or unsupported character class: \\p{{{name}}}")
        test = self.fold(_category(name))
        return _not(test) if negated else test

    def escaped_char(self) -> str:
        c = self.next("trailing backslash at end of expression")
        if c in _CONTROL:
            return _CONTROL[c]
        if c == "x":
            return self.hex_char()
        if c == "0" or (c in "1234567" and self.peek() and self.peek() in "01234567"):
            return self.octal_char(c)
        if c.isascii() and not c.isalnum() and c != "_":
            return c
        raise self.error(f"invalid escape sequence: \\{c}")

    def octal_char(self, text: str) -> str:
        while len(text) < 3 and self.peek() and self.peek() in "01234567":
            text += self.next("")
        return chr(int(text, 8))

    def hex_char(self) -> str:
        if self.accept("{"):
            end = self.pattern.find("}", self.at)
            text = self.pattern[self.at : end] if end >= 0 else ""
            self.at = end + 1
        else:
            text = self.peek(2) if len(self.peek(2)) == 2 else ""
            self.at += 2
        if not text or len(text) > 8 or not all(_POSIX["xdigit"](c) for c in text) or int(text, 16) > 0x10FFFF:
            raise self.error("invalid escape sequence: \\x")
        return chr(int(text, 16))

    def bracket(self) -> Test:
        negated = self.accept("^")
        tests = [self.bracket_item()]
        while not self.accept("]"):
            tests.append(self.bracket_item())
        test = self.fold(_any_of(tests))
        return _not(test) if negated else test

    def bracket_item(self) -> Test:
        if self.peek(2) == "[:":
            return self.posix_class()
        c = self.peek(2)
        if c[:1] == "\\" and len(c) == 2 and c[1] in "dswDSWpP":
            self.at += 2
            return self.named_class(c[1]) or _is_anything
        low = self.bracket_char()
        if self.peek() != "-" or self.peek(2) == "-]":
            return low.__eq__
        self.at += 1
        high = self.bracket_char()
        if high < low:
            raise self.error(f"invalid character class range: {low}-{high}")
        return _between(low, high)

    def bracket_char(self) -> str:
        return self.escaped_char() if self.accept("\\") else self.next("missing closing ]")

    def posix_class(self) -> Test:
        end = self.pattern.find(":]", self.at)
        name = self.pattern[self.at + 2 : end] if end >= 0 else ""
        self.at = end + 2
        test = _POSIX.get(name.removeprefix("^"))
        if test is None:
            raise self.error(f"invalid character class range: [:{name}:]")
        return _not(test) if name.startswith("^") else test


# -- matching ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Match:
    pass


_MATCH = _Match()


@dataclass(slots=True)
class _Program:
    """States by number: what a state asks for, and the states after it."""

    pattern: str
    asks: list[Char | Edge | _Match | None] = field(default_factory=list)
    after: list[tuple[int, ...]] = field(default_factory=list)

    def new(self, ask: Char | Edge | _Match | None, *after: int) -> int:
        if len(self.asks) >= MAX_STATES:
            raise errors.InvalidArgument(f"error parsing regexp {self.pattern[:100]!r}: expression too large")
        self.asks.append(ask)
        self.after.append(after)
        return len(self.asks) - 1

    def add(self, node: Node, then: int) -> int:
        """The state at which ``node`` begins, when ``then`` comes after it."""
        if isinstance(node, Char | Edge):
            return self.new(node, then)
        if isinstance(node, Choice):
            return self.new(None, *(self.add(branch, then) for branch in node.branches))
        if isinstance(node, Repeat):
            return self.repeat(node, then)
        for part in reversed(node.parts):
            then = self.add(part, then)
        return then

    def repeat(self, node: Repeat, then: int) -> int:
        if node.most is None:
            loop = self.new(None)
            self.after[loop] = (self.add(node.node, loop), then)
            then = loop
        else:
            end = then
            for _ in range(node.most - node.least):
                then = self.new(None, self.add(node.node, then), end)
        for _ in range(node.least):
            then = self.add(node.node, then)
        return then


_START, _END = "start", "end"


class Pattern:
    """A compiled pattern; may be used by several threads."""

    __slots__ = ("_after", "_asks", "_begin", "_steps")

    def __init__(self, program: _Program, begin: int) -> None:
        self._asks = program.asks
        self._after = program.after
        self._begin = begin
        self._steps: dict[tuple[frozenset[int], str, str], frozenset[int] | None] = {}

    def search(self, text: str) -> bool:
        """Whether the pattern matches somewhere in ``text``."""
        states: frozenset[int] = frozenset()
        before = _START
        for c in text:
            following = self._step(states, before, c)
            if following is None:
                return True
            states, before = following, c
        return self._step(states, before, _END) is None

    def _step(self, states: frozenset[int], before: str, c: str) -> frozenset[int] | None:
        """The states after ``c``; None when the pattern has matched before it."""
        key = (states, before, c)
        if key not in self._steps:
            if len(self._steps) >= _MAX_CACHE:
                self._steps = {}
            self._steps[key] = following = self._follow(states, before, c)
            return following
        return self._steps[key]

    def _follow(self, states: frozenset[int], before: str, c: str) -> frozenset[int] | None:
        following: set[int] = set()
        todo = [*states, self._begin]
        seen = set(todo)
        while todo:
            state = todo.pop()
            ask = self._asks[state]
            if ask is _MATCH:
                return None
            if isinstance(ask, Char):
                if c != _END and ask.test(c):
                    following.update(self._after[state])
            elif ask is None or (isinstance(ask, Edge) and _holds(ask.kind, before, c)):
                new = [other for other in self._after[state] if other not in seen]
                seen.update(new)
                todo.extend(new)
        return frozenset(following)


def _holds(kind: str, before: str, c: str) -> bool:
    if kind in "A^":
        return before == _START or (kind == "^" and before == "\n")
    if kind in "z$":
        return c == _END or (kind == "$" and c == "\n")
    inside = (len(before) == 1 and _is_word(before)) != (len(c) == 1 and _is_word(c))
    return inside == (kind == "b")
