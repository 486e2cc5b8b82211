"""``corten namespaces``."""

from __future__ import annotations

import click

from corten.terminal import command, completion, options
from corten.terminal.command import Listing
from corten.terminal.target import Target


@click.group(cls=Listing)
def namespaces() -> None:
    """Works with namespaces, the partitions of all that the daemon keeps.

    `corten namespaces` alone lists them; `corten -n NAME …` works in one.
    """


@namespaces.command(
    "ls",
    examples="""
    corten namespaces
    corten namespaces ls -q
    """,
)
@command.quiet_option("Print only the names.")
@command.json_option()
@click.pass_obj
def ls(target: Target, quiet: bool, as_json: bool) -> None:
    """Lists the namespaces."""
    from corten.terminal import tables

    with target.connect() as client:
        found = sorted(client.namespaces.list(), key=lambda each: each.name)
    if as_json:
        tables.show_json(found)
    elif quiet:
        tables.show_names([each.name for each in found])
    else:
        tables.show(("NAMESPACE", "LABELS"), [(each.name, tables.labels(each.labels)) for each in found])


@namespaces.command(
    "create",
    examples="""
    corten namespaces create team
    corten namespaces create --label owner=me team
    """,
)
@click.argument("name")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Give it a label.")
@click.pass_obj
def create(target: Target, name: str, labels: tuple[str, ...]) -> None:
    """Makes a namespace. Whatever is made in one makes it, too."""
    from plugin_sdk.namespaces import Namespace

    with target.connect() as client:
        click.echo(client.namespaces.create(Namespace(name, options.pairs(labels, "--label"))).name)


@namespaces.command("rm", examples="corten namespaces rm team")
@click.argument("names", nargs=-1, required=True, shell_complete=completion.namespaces)
@click.pass_obj
def rm(target: Target, names: tuple[str, ...]) -> None:
    """Removes namespaces that hold nothing any more."""
    with target.connect() as client:
        command.several(names, client.namespaces.delete)


@namespaces.command(
    "label",
    examples="""
    corten namespaces label team owner=me
    corten namespaces label team owner=  # takes it away
    corten namespaces label default containerd.io/defaults/snapshotter=native
    """,
)
@click.argument("name", shell_complete=completion.namespaces)
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.pass_obj
def label(target: Target, name: str, labels: tuple[str, ...]) -> None:
    """Sets labels of a namespace; an empty VALUE takes one away."""
    from corten.terminal import tables
    from plugin_sdk.namespaces import Namespace

    given = options.pairs(labels, "a label")
    with target.connect() as client:
        made = client.namespaces.update(Namespace(name, given), [f"labels.{key}" for key in given])
    tables.show(("NAMESPACE", "LABELS"), [(made.name, tables.labels(made.labels))])
