"""``corten snapshots``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from corten.terminal import command, completion, options
from corten.terminal.command import Listing
from corten.terminal.target import Target

if TYPE_CHECKING:
    from plugin_sdk.snapshots import Info

_WHOSE = "Whose they are, if not the namespace's default."


@click.group(cls=Listing)
def snapshots() -> None:
    """Works with the file systems of images and containers.

    `corten snapshots` alone lists them.
    """


@snapshots.command(
    "ls",
    examples="""
    corten snapshots
    corten snapshots ls --snapshotter native kind==active
    """,
)
@click.argument("filters", nargs=-1)
@options.snapshotter(_WHOSE)
@command.quiet_option("Print only the keys and names.")
@command.json_option()
@click.pass_obj
def ls(target: Target, filters: tuple[str, ...], snapshotter: str, quiet: bool, as_json: bool) -> None:
    """Lists snapshots.

    FILTERS choose among them by name, kind, parent and labels; a plain word is looked for in the name.
    """
    from corten.terminal import tables

    with target.connect() as client:
        found = sorted(
            client.snapshotter(snapshotter).walk(options.filters(filters, "name")),
            key=lambda info: (info.created_at, info.name),
        )
    if as_json:
        tables.show_json(found)
    elif quiet:
        tables.show_names([info.name for info in found])
    else:
        rows = [(info.name, info.kind.name.lower(), tables.age(info.created_at), info.parent or "-") for info in found]
        tables.show(("KEY", "KIND", "CREATED", "PARENT"), rows)


@snapshots.command("info", examples="corten snapshots info web")
@click.argument("key", shell_complete=completion.snapshots)
@options.snapshotter(_WHOSE)
@command.json_option("Print one JSON document; so it does anyway.")
@click.pass_obj
def info(target: Target, key: str, snapshotter: str, as_json: bool) -> None:
    """Prints what a snapshot is: kind, parent, labels, times, and where it would be mounted from."""
    from corten.terminal import tables
    from plugin_sdk import errors

    with target.connect() as client:
        storage = client.snapshotter(snapshotter)
        shown = tables.plain(storage.stat(key))
        try:
            shown["mounts"] = tables.plain(storage.mounts(key))
        except errors.FailedPrecondition:
            shown["mounts"] = []  # of a committed one
    tables.show_json(shown)


@snapshots.command(
    "usage",
    examples="""
    corten snapshots usage
    corten snapshots usage --json web
    """,
)
@click.argument("keys", nargs=-1, shell_complete=completion.snapshots)
@options.snapshotter(_WHOSE)
@command.json_option()
@click.pass_obj
def usage(target: Target, keys: tuple[str, ...], snapshotter: str, as_json: bool) -> None:
    """Shows what snapshots take on the disk, each without its parents; all of them if none is named."""
    from corten.terminal import tables

    with target.connect() as client:
        storage = client.snapshotter(snapshotter)
        taken = [(key, storage.usage(key)) for key in keys or sorted(info.name for info in storage.walk())]
    if as_json:
        tables.show_json([{"name": key, **tables.plain(of)} for key, of in taken])
        return
    tables.show(("KEY", "SIZE", "INODES"), [(key, tables.size(of.size), str(of.inodes)) for key, of in taken])


@snapshots.command("tree", examples="corten snapshots tree")
@options.snapshotter(_WHOSE)
@click.pass_obj
def tree(target: Target, snapshotter: str) -> None:
    """Draws which snapshot stands on which."""
    with target.connect() as client:
        found = sorted(client.snapshotter(snapshotter).walk(), key=lambda info: info.name)
    for line in _drawn(found):
        click.echo(line)


def _drawn(found: Sequence[Info]) -> Iterator[str]:
    names = {info.name for info in found}
    children: dict[str, list[Info]] = {}
    for each in found:
        children.setdefault(each.parent if each.parent in names else "", []).append(each)
    for root in children.get("", []):
        yield _line(root)
        yield from _branches(children, root.name, "")


def _branches(children: Mapping[str, Sequence[Info]], parent: str, before: str) -> Iterator[str]:
    below = children.get(parent, ())
    for number, each in enumerate(below, 1):
        last = number == len(below)
        yield f"{before}{'└── ' if last else '├── '}{_line(each)}"
        yield from _branches(children, each.name, before + ("    " if last else "│   "))


def _line(info: Info) -> str:
    from plugin_sdk.snapshots import Kind

    return info.name if info.kind is Kind.COMMITTED else f"{info.name} ({info.kind.name.lower()})"


@snapshots.command("rm", examples="corten snapshots rm old-web")
@click.argument("keys", nargs=-1, required=True, shell_complete=completion.snapshots)
@options.snapshotter(_WHOSE)
@click.pass_obj
def rm(target: Target, keys: tuple[str, ...], snapshotter: str) -> None:
    """Removes snapshots on which nothing stands."""
    with target.connect() as client:
        command.several(keys, client.snapshotter(snapshotter).remove)
