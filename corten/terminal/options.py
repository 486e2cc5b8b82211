"""Options that several commands have, and what their values mean."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from corten.terminal import completion

if TYPE_CHECKING:
    from plugin_sdk.platforms import Platform

F = TypeVar("F", bound=Callable[..., Any])

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b?)", re.IGNORECASE)
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class Size(click.ParamType[int]):
    """Bytes, or with a unit in powers of 1024: ``512m``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value)
        if not found:
            self.fail(f"{value!r} is no size such as 512m or 2g", param, ctx)
        return int(float(found[1]) * (1 << _SHIFT[found[2].lower()]))


class Signal(click.ParamType[int]):
    """A number or a name, with or without SIG."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return signal_number(str(value))
        except ValueError:
            self.fail(f"{value!r} is no signal such as TERM or 15", param, ctx)


class PlatformName(click.ParamType["Platform"]):
    """``os/architecture[/variant]``, or one of both alone."""

    name = "platform"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Platform:
        from plugin_sdk import errors, platforms

        if isinstance(value, platforms.Platform):
            return value
        try:
            return platforms.parse(value)
        except errors.InvalidArgument as err:
            self.fail(err.message, param, ctx)


def signal_number(text: str) -> int:
    """Raises ValueError."""
    if text.isascii() and text.isdigit():
        number = int(text)
        if not 0 < number <= 64:
            raise ValueError(text)
        return number
    name = text.upper()
    try:
        return signal.Signals["SIG" + name.removeprefix("SIG")].value
    except KeyError:
        raise ValueError(text) from None


def snapshotter(help: str = "Where layers are unpacked, if not where the namespace says.") -> Callable[[F], F]:
    return click.option("--snapshotter", default="", metavar="NAME", help=help, shell_complete=completion.snapshotters)


def platform(help: str) -> Callable[[F], F]:
    return click.option("--platform", type=PlatformName(), metavar="OS/ARCH", help=help)


def filters(texts: tuple[str, ...], field: str) -> list[str]:
    """Filters as the daemon reads them; a plain word means those in whose ``field`` it occurs."""
    import json

    return [text if re.search("[=~,]", text) else f"{field}~={json.dumps(re.escape(text))}" for text in texts]


def pairs(texts: tuple[str, ...], of: str) -> dict[str, str]:
    """``KEY=VALUE`` texts; a key alone has an empty value. Raises a usage error for one without key."""
    found = dict(text.partition("=")[::2] for text in texts)
    if "" in found:
        raise click.UsageError(f"{of} must be KEY=VALUE")
    return found
