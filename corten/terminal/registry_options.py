"""Options of what talks to registries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from corten.terminal.moves import Access

F = TypeVar("F", bound=Callable[..., Any])

_ALL = (
    click.option("--plain-http", is_flag=True, help="Speak HTTP without TLS to hosts that no hosts.toml describes."),
    click.option(
        "--hosts-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Use the hosts.toml files there, instead of the daemon's own.",
    ),
    click.option(
        "-u",
        "--user",
        default="",
        metavar="NAME[:SECRET]",
        help="Log in so; without SECRET it is asked for. Else credentials are those of `docker login`.",
    ),
    click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Send a header with each request."),
)


def registry(command: F) -> F:
    for option in reversed(_ALL):
        command = option(command)
    return command


def access(plain_http: bool, hosts_dir: Path | None, user: str, headers: tuple[str, ...]) -> Access:
    """Of the values of these options."""
    from corten.terminal.moves import Access

    found = {name.strip(): value.strip() for name, _, value in (text.partition(":") for text in headers)}
    if "" in found:
        raise click.UsageError("--header must be NAME:VALUE")
    return Access(plain_http, str(hosts_dir.absolute()) if hosts_dir else "", user, found)
