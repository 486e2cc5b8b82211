"""Durations, places and rendering."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernel import toml


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("1h2m3s", 3723), ("500ms", 0.5), ("1.5m", 90), ("0", 0), ("10us", 1e-5)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert toml.Duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5d", "five"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        toml.Duration.parse(text)


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (("a",), 2),
        (("b", "c"), 3),
        (("t", "x y"), 5),
        (("t", "x y", "k"), 6),
        (("t", "x y", "absent"), 5),
        (("t", "x y", "list", "k"), 9),
    ],
)
def test_places_are_found(tmp_path: Path, where: tuple[str, ...], line: int) -> None:
    path = tmp_path / "x.toml"
    path.write_text('# a = 1\na = 1\nb . c = 2\n\n  [t."x y"] # why\n"k" = [\n  1,\n]\nlist = { k = 1 }\n')
    document = toml.Document()
    document.add(path)
    assert document.place(where) == f"{path}:{line}: "


def test_what_no_file_says_has_no_place() -> None:
    assert toml.Document().place(("a",)) == ""


@dataclass(frozen=True, slots=True)
class Inner:
    text: str = toml.key('a "b" \\ ü', "A text.")


@dataclass(frozen=True, slots=True)
class Outer:
    number: int = toml.key(1, "A number.")
    several: tuple[str, ...] = toml.key(("x", "y"), "Texts.")
    inner: Inner = toml.key(Inner(), "A table.")  # noqa: RUF009
    more: dict[str, Inner] = toml.key({}, "Tables.")  # noqa: RUF009


def test_what_is_rendered_is_read_as_the_same() -> None:
    value = Outer(2, (), Inner("z\n"), {"a.b": Inner(), "c": Inner("d")})
    for annotate in (False, True):
        text = "\n".join(toml.render(value, annotate=annotate))
        assert toml.Document().decode(Outer, tomllib.loads(text)) == value


def test_annotations_are_the_fields_docs() -> None:
    lines = list(toml.render(Outer(), annotate=True))
    assert lines[:4] == ["# A number.", "number = 1", "# Texts.", 'several = ["x", "y"]']
