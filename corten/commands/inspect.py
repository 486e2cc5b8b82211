"""``corten inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from corten.terminal import command, completion
from corten.terminal.command import Command
from corten.terminal.target import Target

if TYPE_CHECKING:
    from corten.client import Client


def _both(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    return [*completion.containers(ctx, param, incomplete), *completion.images(ctx, param, incomplete)]


@click.command(
    cls=Command,
    examples="""
    corten inspect web
    corten inspect --type image busybox
    corten inspect web | jq -r .[0].task.pid
    """,
)
@click.argument("names", nargs=-1, required=True, shell_complete=_both)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["container", "task", "image"]),
    help="What NAMES are; else the first that fits.",
)
@command.json_option("Print one JSON document; so it does anyway.")
@click.pass_obj
def inspect(target: Target, names: tuple[str, ...], kind: str | None, as_json: bool) -> None:
    """Prints all that the daemon knows of containers and images.

    It is one JSON document, a list with an object for each of NAMES. A container's has its task.
    """
    from corten.terminal import tables

    with target.connect() as client:
        tables.show_json([_found(client, name, kind) for name in names])


def _found(client: Client, name: str, kind: str | None) -> Any:
    from corten.terminal import inspecting, naming, tables
    from plugin_sdk import errors

    if kind == "task":
        return {"kind": "task", **tables.plain(client.tasks.get(name))}
    if kind != "image":
        try:
            return inspecting.container(client, client.containers.get(name))
        except errors.NotFound:
            if kind == "container":
                raise
    try:
        return inspecting.image(client, naming.image(client, name))
    except errors.NotFound as err:
        if kind == "image":
            raise
        raise command.Failure(
            f'nothing is named "{name}"', "`corten ps -a` lists containers, `corten images` lists images."
        ) from err
