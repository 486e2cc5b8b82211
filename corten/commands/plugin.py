"""``corten plugin``: for those who write plugins."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from corten.terminal.command import Group


@click.group(cls=Group)
def plugin() -> None:
    """Helps those who write plugins."""


@plugin.command(
    "new",
    examples="""
    corten plugin new snapshotter my-snapshots
    corten plugin new differ my-differ --directory /srv/plugins
    """,
)
@click.argument("kind", type=click.Choice(["snapshotter", "content", "differ"]))
@click.argument("name")
@click.option("--directory", type=click.Path(path_type=Path), default=Path(), help="Where to put it; here.")
def plugin_new(kind: str, name: str, directory: Path) -> None:
    """Writes a package NAME with a small plugin that works, and its tests."""
    from corten.terminal import scaffold

    made = scaffold.write(kind, name, directory)
    click.echo(f"{made}: a package that works; next: cd {made} && python -m pytest")


@plugin.command(
    "check",
    examples="""
    corten plugin check /run/my-snapshots.sock
    corten plugin check /run/my-plugin.sock --type snapshot --only view
    corten plugin check /run/my-plugin.sock --json  # every check, for programs
    """,
)
@click.argument("address")
@click.option("--type", "types", multiple=True, type=click.Choice(["snapshot", "content", "diff"]), help="Only this.")
@click.option("--name", default="corten-check", show_default=True, help="The snapshotter that the calls name.")
@click.option("--namespace", default="corten-check", show_default=True, help="The namespace that the calls name.")
@click.option("--content", default="", metavar="ADDRESS", help="Where a differ finds content, if not at ADDRESS.")
@click.option("--only", default="", metavar="TEXT", help="Only checks with this text in their name or sentences.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds that a call may take.")
@click.option("--tls-ca", default="", metavar="FILE", help="What the certificate of a TCP address is signed by; PEM.")
@click.option("--tls-cert", default="", metavar="FILE", help="Our own certificate.")
@click.option("--tls-key", default="", metavar="FILE", help="Its key.")
@click.option("--tls-name", default="", metavar="NAME", help="The name in its certificate, if not that in ADDRESS.")
@click.option("--json", "as_json", is_flag=True, help="Print every check, for programs.")
def plugin_check(address: str, types: tuple[str, ...], only: str, as_json: bool, **options: Any) -> None:
    """Checks that the program at ADDRESS keeps the contract of its plugins.

    It may be written in any language. The checks use names of their own and remove what they have made. Exit codes:
    0 all passed, 1 some failed, 2 nothing could be checked.
    """
    from corten.terminal import checking

    sys.exit(checking.check(address, only, as_json, types=types, **options))
