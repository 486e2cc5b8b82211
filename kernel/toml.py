"""TOML with places: documents whose mistakes are told with file, line and the nearest valid name.

A table is described by a frozen dataclass whose fields are its keys (``key``). ``decode`` makes an instance of a table,
``render`` writes one. ``tomllib`` tells no line numbers; ``_scan`` finds them again by reading the lines that look like
a header or a key. It is fooled by such lines inside of a multi-line string, which costs a wrong number, nothing else.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from plugin_sdk import errors

T = TypeVar("T")
Where = tuple[str, ...]

_HEADER = re.compile(r"\s*\[{1,2}([^\[\]]+|.*[^\]])\]{1,2}\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(float):
    """Seconds; in TOML a text such as ``"1m30s"`` or ``"500ms"``."""

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Raises ValueError."""
        if text == "0":
            return cls(0)
        if not _DURATION.fullmatch(text):
            raise ValueError(f"{text!r} is not a duration such as 1m30s")
        return cls(sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)([a-zµ]+)", text)))


def key(default: Any, doc: str, *, unneeded: bool = False) -> Any:
    """A field of a table. ``unneeded``: containerd knows it, Corten does not need it, so setting it is a warning."""
    metadata = {"doc": doc, "unneeded": unneeded}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    if dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=type(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Document:
    """What files say, merged, and where they say it."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._places: dict[Where, str] = {}

    def add(self, path: Path) -> dict[str, Any]:
        """Reads ``path`` over what is there: its tables are merged, its values replace those before.

        Raises InvalidArgument for what is no TOML, NotFound for a missing file.
        """
        try:
            text = path.read_text("utf-8")
            data = tomllib.loads(text)
        except FileNotFoundError:
            raise errors.NotFound(f"configuration file {path}: not found") from None
        except OSError as err:
            raise errors.InvalidArgument(f"configuration file {path}: {err.strerror}") from err
        except UnicodeDecodeError as err:
            raise errors.InvalidArgument(f"configuration file {path}: is not UTF-8 at byte {err.start}") from err
        except tomllib.TOMLDecodeError as err:
            said = str(err).replace("(at end of document)", f"(at line {len(text.splitlines())}, column 1)")
            raise errors.InvalidArgument(_placed(path, said)) from err
        self._places |= {where: f"{path}:{line}" for where, line in _scan(text)}
        _merge(self.data, data)
        return data

    def put(self, where: Where, value: object, place: str) -> None:
        """Sets one value over what files say; ``place`` stands for the file in errors."""
        table = self.data
        for name in where[:-1]:
            table = self._of(dict, table.setdefault(name, {}), where[:-1])
        table[where[-1]] = value
        self._places[where] = place

    def place(self, where: Where) -> str:
        """``file:line: `` of a key, or of the nearest table around it; empty when it came from no file."""
        for length in range(len(where), 0, -1):
            if place := self._places.get(where[:length]):
                return place + ": "
        return ""

    def error(self, where: Where, text: str) -> errors.InvalidArgument:
        return errors.InvalidArgument(self.place(where) + text)

    def warn(self, where: Where, text: str) -> None:
        self.warnings.append(self.place(where) + text)

    def decode(self, cls: type[T], table: Mapping[str, Any], where: Where = ()) -> T:
        """An instance of the dataclass. Raises InvalidArgument for an unknown key or a wrong type."""
        hints = typing.get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        values = {}
        for name, value in table.items():
            if name not in fields:
                raise self.error((*where, name), f"unknown key {_named(where, name)}" + nearest(name, fields))
            if fields[name].metadata.get("secret") and type(value) is not str:
                raise self.error((*where, name), f"{_named(where, name)} must be a text")
            values[name] = self._value(hints[name], value, (*where, name))
            if fields[name].metadata.get("unneeded") and values[name] != _default(fields[name]):
                self.warn((*where, name), f"{_named(where, name)} is known and has no effect here")
        return cls(**values)

    def _value(self, hint: Any, value: Any, where: Where) -> Any:
        if hint is Any:
            return value
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.decode(hint, self._of(dict, value, where), where)
        if hint is Duration:
            return self._duration(value, where)
        origin = typing.get_origin(hint)
        if origin is tuple:
            return tuple(self._value(typing.get_args(hint)[0], item, where) for item in self._of(list, value, where))
        if origin in (dict, Mapping):
            inner = typing.get_args(hint)[1]
            table = self._of(dict, value, where)
            return {name: self._value(inner, item, (*where, name)) for name, item in table.items()}
        if origin in (typing.Union, types.UnionType):
            return self._value(typing.get_args(hint)[0], value, where)
        if hint is float and type(value) is int:
            return float(value)
        return self._of(hint, value, where)

    def _duration(self, value: Any, where: Where) -> Duration:
        try:
            return Duration.parse(self._of(str, value, where))
        except ValueError as err:
            raise self.error(where, f"{_named(where[:-1], where[-1])}: {err}") from err

    def _of(self, wanted: type, value: Any, where: Where) -> Any:
        if type(value) is not wanted:
            names = {dict: "a table", list: "a list", str: "a text", int: "a whole number", bool: "true or false"}
            said = names.get(wanted, wanted.__name__)
            raise self.error(
                where, f"{_named(where[:-1], where[-1])} must be {said}, not {json.dumps(value, default=str)}"
            )
        return value


def _placed(path: Path, text: str) -> str:
    """What tomllib says, with the place in front and a table named as it is written."""
    if twice := re.match(r"Cannot (?:declare|overwrite) \((.*?),?\) ", text):
        table = _dotted([part.strip()[1:-1] for part in twice[1].split(", ")])
        text = text.replace(twice[0], f"[{table}] is there ")
    place = re.search(r" \(at line (\d+), column \d+\)$", text)
    return f"{path}:{place[1]}: {text[: place.start()]}" if place else f"{path}: {text}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """``; did you mean …?`` for messages, or the valid names when none is near."""
    names = sorted(valid)
    if near := difflib.get_close_matches(name, names, 1):
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(names)}" if names else "; it has no keys"


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _named(table: Where, name: str) -> str:
    return f"{name!r} in [{_dotted(table)}]" if table else repr(name)


def _dotted(path: Sequence[str]) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part) for part in path)


def _merge(into: dict[str, Any], data: Mapping[str, Any]) -> None:
    for name, value in data.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _scan(text: str) -> Iterator[tuple[Where, int]]:
    table: Where = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            if found := _path(header[1]):
                table = found
                yield table, number
        elif (assignment := _KEY.match(line)) and (found := _path(assignment[1])):
            yield (*table, *found), number


def _path(dotted: str) -> Where:
    try:
        data: Any = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    path = []
    while isinstance(data, dict):
        [(name, data)] = data.items()
        path.append(name)
    return tuple(path)


def render(value: Any, *, annotate: bool, table: Where = ()) -> Iterator[str]:
    """The lines of a dataclass instance: its plain keys, then its tables; with ``annotate`` the fields' docs."""
    fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
    for field, item in fields:
        if field.metadata.get("secret") and item:
            yield f"# {field.name} is set and not shown"
        elif not _is_table(item):
            yield from _comment(field, annotate)
            yield f"{field.name} = {literal(item)}"
    for field, item in fields:
        if _is_table(item):
            yield ""
            yield from _comment(field, annotate)
            yield from _render_table(item, annotate, (*table, field.name))


def _render_table(item: Any, annotate: bool, table: Where) -> Iterator[str]:
    if dataclasses.is_dataclass(item):
        yield f"[{_dotted(table)}]"
        yield from render(item, annotate=annotate, table=table)
        return
    plain = {name: value for name, value in item.items() if not _is_table(value)}
    if plain or not item:
        yield f"[{_dotted(table)}]"
        yield from (f"{_dotted([name])} = {literal(value)}" for name, value in plain.items())
    for name, value in item.items():
        if _is_table(value):
            yield ""
            yield from _render_table(value, annotate, (*table, name))


def _comment(field: dataclasses.Field[Any], annotate: bool) -> Iterator[str]:
    if annotate and (doc := field.metadata.get("doc")):
        yield f"# {doc}" + (" (No effect in Corten.)" if field.metadata.get("unneeded") else "")


def _is_table(item: object) -> bool:
    return isinstance(item, Mapping) or dataclasses.is_dataclass(item)


def literal(value: Any) -> str:
    """A plain value as TOML, or a table within a list."""
    if dataclasses.is_dataclass(value):
        inner = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return "{ " + ", ".join(f"{name} = {literal(item)}" for name, item in inner) + " }"
    if isinstance(value, Duration):
        return json.dumps(f"{float(value):g}s")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
