"""Labels as the tables keep them, and the field paths that change them.

A label whose value is empty is not kept, in any noun: that is how clients delete one. In a path, KEY is all that
follows the first dot, dots and slashes included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import orjson

from plugin_sdk import errors, identifiers

V = TypeVar("V")

MADE = "corten.io/made"
"""A label by which a blob is known that a plugin has made by our order; not kept with the others."""


def dump(labels: Mapping[str, str]) -> str:
    return orjson.dumps(dict(labels)).decode() if labels else "{}"


def load(text: str) -> dict[str, str]:
    return dict(orjson.loads(text)) if text != "{}" else {}


def checked(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Those that are kept. Raises InvalidArgument for one that is too long."""
    if not labels:
        return {}
    identifiers.validate_labels(labels)
    return {key: value for key, value in labels.items() if value}


def changed(
    what: str, current: Mapping[str, str], given: Mapping[str, str], fieldpaths: Sequence[str]
) -> dict[str, str]:
    """All of ``given`` without paths, else ``current`` with those named as ``labels`` or ``labels.KEY``.

    ``what`` names the object in the error for another path: ``snapshot "x"``.
    """
    result = dict(current)
    for path in fieldpaths or ("labels",):
        if not merge(path, "labels", result, given):
            raise invalid_path(path, what)
    return checked(result)


def merge(path: str, name: str, current: dict[str, V], given: Mapping[str, V]) -> bool:
    """Changes ``current`` where the path is NAME or NAME.KEY; False for another path."""
    if path == name:
        current.clear()
        current.update(given)
        return True
    if not path.startswith(f"{name}."):
        return False
    key = path[len(name) + 1 :]
    if key in given:
        current[key] = given[key]
    else:
        current.pop(key, None)
    return True


def invalid_path(path: str, what: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f'cannot update "{path}" field on {what}')
