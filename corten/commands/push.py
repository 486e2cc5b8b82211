"""``corten push``."""

from __future__ import annotations

from typing import Any

import click

from corten.terminal import command, completion, options, registry_options
from corten.terminal.command import Command
from corten.terminal.target import Target


@click.command(
    cls=Command,
    examples="""
    corten push registry.example.com/team/web:1
    corten push web:1 registry.example.com/team/web:1 --user me  # asks for the password
    """,
)
@click.argument("name", metavar="IMAGE", shell_complete=completion.images)
@click.argument("reference", default="")
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    type=options.PlatformName(),
    metavar="OS/ARCH",
    help="Send this one only, if not all that are there; can be given again.",
)
@registry_options.registry
@command.quiet_option("Show no progress; print only the reference and its digest.")
@command.json_option("Print one JSON document: the reference and what it names now.")
@click.pass_obj
def push(
    target: Target, /, name: str, reference: str, platforms: tuple[Any, ...], quiet: bool, as_json: bool, **access: Any
) -> None:
    """Sends an image to its registry.

    It goes to where its name says, or to REFERENCE.
    """
    from corten.terminal import moves, naming, tables

    with target.connect() as client:
        image = naming.image(client, name)
        to = naming.full(reference or image.name)
        moves.push(client, image, to, platforms, registry_options.access(**access), quiet or as_json)
    if as_json:
        tables.show_json({"reference": to, "target": image.target})
    else:
        click.echo(to if "@" in to else f"{to}@{image.target.digest}")
