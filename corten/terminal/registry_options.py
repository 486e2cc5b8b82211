"""Options of what talks to registries."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from corten.terminal.target import Target

if TYPE_CHECKING:
    from corten.terminal.moves import Access

F = TypeVar("F", bound=Callable[..., Any])

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\0\r\n]*)")
"""Its name is a token of RFC 9110."""

_ALL = (
    click.option("--plain-http", is_flag=True, help="Speak HTTP without TLS to hosts that no hosts.toml describes."),
    click.option(
        "--hosts-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Use the hosts.toml files there on the daemon's machine, not its own.",
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

    if hosts_dir and _is_daemon_here() and _is_no_folder(hosts_dir):
        raise click.UsageError(f"--hosts-dir: {hosts_dir} is no directory on the daemon's machine, which is this one")
    return Access(plain_http, str(hosts_dir.absolute()) if hosts_dir else "", user, dict(map(_header, headers)))


def _header(text: str) -> tuple[str, str]:
    found = _HEADER.fullmatch(text.strip())
    if not found:
        raise click.UsageError("--header must be NAME:VALUE")
    return found[1], found[2].strip()


def _is_daemon_here() -> bool:
    """It is if its address is a unix socket."""
    from plugin_sdk.wire import address

    target = click.get_current_context().find_object(Target)
    return target is not None and address.split(target.address)[1]


def _is_no_folder(path: Path) -> bool:
    """For sure: one that only the daemon may look at can be one."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
