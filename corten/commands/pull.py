"""``corten pull``."""

from __future__ import annotations

from typing import Any

import click

from corten.terminal import command, completion, options, registry_options
from corten.terminal.command import Command
from corten.terminal.target import Target


@click.command(
    cls=Command,
    examples="""
    corten pull busybox
    corten pull registry.example.com/team/web:1 --user me  # asks for the password
    corten pull --platform linux/arm64 --no-unpack busybox
    corten pull --plain-http localhost:5000/busybox --json
    """,
)
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...", shell_complete=completion.images)
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    type=options.PlatformName(),
    metavar="OS/ARCH",
    help="Fetch this one, if not this machine's; can be given again.",
)
@click.option("--all-platforms", is_flag=True, help="Fetch what the image has for every platform.")
@options.snapshotter()
@click.option("--no-unpack", is_flag=True, help="Leave the layers packed.")
@registry_options.registry
@command.quiet_option("Show no progress; print only the names of the images.")
@command.json_option("Print one JSON document: the images.")
@click.pass_obj
def pull(
    target: Target,
    /,
    names: tuple[str, ...],
    platforms: tuple[Any, ...],
    all_platforms: bool,
    snapshotter: str,
    no_unpack: bool,
    quiet: bool,
    as_json: bool,
    **access: Any,
) -> None:
    """Fetches images from their registries.

    IMAGE is a name as busybox, team/web:1 or registry.example.com/web@sha256:…; its layers are unpacked.
    """
    from corten.terminal import moves, naming, tables

    if platforms and all_platforms:
        raise click.UsageError("--platform goes not with --all-platforms")
    wanted = moves.Wanted(platforms, all_platforms, snapshotter, not no_unpack)
    how = registry_options.access(**access)
    made = []
    with target.connect() as client:
        for name in [naming.full(name) for name in names]:
            image = moves.pull(client, name, wanted, how, quiet or as_json)
            made.append(image)
            if not as_json:
                click.echo(image.name)
    if as_json:
        tables.show_json(made)
