"""A plugin's settings as flags of its program: the dataclass behind its table in plugins.toml is its command line too.

``layer_limit: int = setting(5, "Layers it takes.")`` is ``--layer-limit 5``. A text, a number and a truth value are one
flag (``--relay``, ``--no-relay``), a tuple is a flag that may be repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from typing import Any

_PREFIX = "setting:"  # of their destinations, apart from those of the program's own flags


def add(parser: argparse.ArgumentParser, config: type) -> None:
    """Raises TypeError for a field of another type."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        names, doc = f"--{field.name.replace('_', '-')}", field.metadata.get("doc", "").replace("%", "%%")
        parser.add_argument(
            names, dest=_PREFIX + field.name, default=argparse.SUPPRESS, help=doc, **_kind(field.name, hints)
        )


def _kind(name: str, hints: dict[str, Any]) -> dict[str, Any]:
    hint = hints[name]
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple:
        return {"action": "append", "type": typing.get_args(hint)[0]}
    if hint not in (str, int, float):
        raise TypeError(f"setting {name!r} is a {hint}, for which there is no flag")
    return {"type": hint}


def made(config: type, given: argparse.Namespace) -> Any:
    """An instance, with defaults for what was not given. Raises what the class raises."""
    values = {name.removeprefix(_PREFIX): value for name, value in vars(given).items() if name.startswith(_PREFIX)}
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
