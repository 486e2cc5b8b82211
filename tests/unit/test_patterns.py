import random
import re

import pytest

from plugin_sdk import errors, patterns


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("", "", True),
        ("b", "abc", True),
        ("^b", "abc", False),
        ("^a.c$", "abc", True),
        ("c$", "abc\n", False),
        ("(?m)c$", "abc\nd", True),
        ("(?m)^d", "abc\nd", True),
        ("^d", "abc\nd", False),
        (r"\Aabc\z", "abc", True),
        ("a.b", "a\nb", False),
        ("(?s)a.b", "a\nb", True),
        ("(?i)BUSYBOX", "docker.io/library/busybox", True),
        ("(?i:B)usy", "busy", True),
        ("(?i:B)Usy", "busy", False),
        ("a(?i)b", "aB", True),
        ("a(?i)b|c", "C", True),
        ("(a(?i)b)c", "abC", False),
        ("(?i)a(?-i)b", "AB", False),
        ("(?U)a+", "aa", True),
        ("^/tasks/(create|start)$", "/tasks/start", True),
        ("^/tasks/(?:create|start)$", "/tasks/exit", False),
        ("(?P<name>x)", "x", True),
        ("(?<name>x)", "x", True),
        ("^a{2}$", "aa", True),
        ("^a{2,}$", "aaaa", True),
        ("^a{2,3}$", "aaaa", False),
        ("^a{0}$", "", True),
        ("a{,3}", "a{,3}", True),
        ("a{x}", "a{x}", True),
        ("^a+?$", "aa", True),
        (r"^\d+\.\w*$", "10.x_9", True),
        (r"\d", "٣", False),
        (r"\w", "é", False),
        (r"\S\s\D\W", "a b-", True),
        (r"\bfoo\b", "a foo b", True),
        (r"\bfoo\b", "afoob", False),
        (r"\Bfoo", "afoo", True),
        (r"\Q.*\E$", "a.*", True),
        (r"\Qab\E+$", "abb", True),
        (r"\x41\x{42}\103\n", "ABC\n", True),
        (r"a\|b\.c", "a|b.c", True),
        ("[a-c]+$", "xcab", True),
        ("^[^a-c]+$", "xyz", True),
        ("[]a]", "]", True),
        ("[^]a]", "]", False),
        ("[a-]", "-", True),
        ("[-a]", "-", True),
        (r"[\]\d]", "7", True),
        ("[[:alpha:][:digit:]]", "_", False),
        ("[[:^alpha:]]", "_", True),
        (r"\pL\p{Nd}\PL\p{^L}", "é٣--", True),
        (r"[\p{Lu}]", "É", True),
        ("é", "cafés", True),
        ("|", "x", True),
        ("()", "", True),
        ("(a*)*$", "aab", True),
    ],
)
def test_a_pattern_is_found_or_not(pattern: str, text: str, expected: bool) -> None:
    assert patterns.compile(pattern).search(text) is expected


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "a)", "(a", "[", "[a", "[b-a]", "*", "+a", "?", "a**", "a{2}{3}", "a+*", "a{1001}", "a{3,2}",
        "a{99999}",
        "\\", r"\8", r"(a)\1", r"\q", r"\_", r"\C", r"\Z", "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(?P<a", "(?P<>a)",
        "(?i",
        "(?z)a", r"\p{Greek}", r"\p", r"\x{110000}", r"\xg0", "[[:nope:]]", "a++", "(?>a)", "(?i)*",
    ],
)  # fmt: skip
def test_what_re2_does_not_know_is_refused(pattern: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="error parsing regexp"):
        patterns.compile(pattern)


def test_a_pattern_that_would_grow_too_large_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="too large"):
        patterns.compile("((a{1000}){1000}){1000}")


def test_a_pattern_that_nests_too_deeply_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="deep"):
        patterns.compile("(" * 5000 + ")" * 5000)


@pytest.mark.timeout(20)
def test_a_search_that_would_backtrack_for_ever_ends() -> None:
    assert not patterns.compile(r"^(\w+)+$").search("a" * 4000 + "!")
    assert not patterns.compile(r"(a*)*(b*)*(a*)*c").search("ab" * 2000)


def test_random_patterns_agree_with_the_standard_library() -> None:
    chance = random.Random(7)

    def pattern(depth: int) -> str:
        kind = chance.randrange(8 if depth else 3)
        if kind < 3:
            return chance.choice(["a", "b", ".", "[ab]", "[^a]", r"\b", "^", "$", r"\w", "-"])
        inner = pattern(depth - 1)
        if kind < 5:
            return inner + pattern(depth - 1)
        if kind == 5:
            return f"(?:{inner}|{pattern(depth - 1)})"
        return f"(?:{inner}){chance.choice(['*', '+', '?', '{2}', '{1,2}', '*?'])}"

    for _ in range(3000):
        text = "".join(chance.choice("ab-") for _ in range(chance.randrange(7)))
        source = pattern(4)
        assert patterns.compile(source).search(text) is (re.search(source, text, re.ASCII) is not None), (source, text)
