"""Names as people type them, and names for what they do not name."""

from __future__ import annotations

import re
import secrets

from plugin_sdk import daemon, errors, images
from plugin_sdk.distribution import references

_HOST = "docker.io/"
_LIBRARY = "docker.io/library/"


def image(view: daemon.View, typed: str) -> images.Image:
    """The image of that name, else of the full reference of it: ``busybox``. Raises NotFound by the name as typed."""
    for name in _meant(typed):
        try:
            return view.images.get(name)
        except errors.NotFound:
            pass
    raise errors.NotFound(f'image "{typed}": not found')


def _meant(typed: str) -> list[str]:
    try:
        full = references.familiar(typed)
    except errors.InvalidArgument:
        return [typed]
    return [typed, full] if full != typed else [typed]


def full(typed: str) -> str:
    """The full reference of a name as people type it. Raises InvalidArgument."""
    return references.familiar(typed)


def shortened(name: str) -> str:
    """As short as people may type it: without Docker Hub's host."""
    return name.removeprefix(_LIBRARY).removeprefix(_HOST)


def for_container(image: str) -> str:
    """A name that says of what it is, as ``busybox-3fa2c1``."""
    last = re.split(r"[:@]", image.rpartition("/")[2])[0]
    plain = re.sub(r"[^A-Za-z0-9]+", "-", last).strip("-")[:40] or "container"
    return f"{plain}-{secrets.token_hex(3)}"
