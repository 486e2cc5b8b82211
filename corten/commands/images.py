"""``corten images``, ``corten image`` and ``corten tag``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from corten.commands import archives, trees
from corten.terminal import command, completion, options
from corten.terminal.command import Command, Group, Listing
from corten.terminal.target import Target

if TYPE_CHECKING:
    from corten.client import Client
    from plugin_sdk.images import Image


@click.group(cls=Listing)
def images() -> None:
    """Lists the images.

    `corten images` alone is `corten images ls`; `corten image` has what can be done with one of them.
    """


@click.group(cls=Group)
def image() -> None:
    """Works with images: tag, rm, inspect, import, export, mount, unpack, usage."""


@image.command(
    "ls",
    examples="""
    corten images
    corten images -q  # their names only
    corten images --json busybox
    """,
)
@command.quiet_option("Print only the names.")
@command.json_option()
@click.argument("filters", nargs=-1)
@click.pass_obj
def ls(target: Target, filters: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Lists the images.

    FILTERS choose among them by name, target.digest, target.mediatype, labels; a plain word is looked for in the name.
    """
    from corten.terminal import naming, tables

    with target.connect() as client:
        found = sorted(client.images.list(options.filters(filters, "name")), key=lambda each: each.name)
        if as_json:
            tables.show_json([_described(client, each) for each in found])
        elif quiet:
            tables.show_names([each.name for each in found])
        else:
            rows = [
                (
                    naming.shortened(each.name),
                    tables.short(each.target.digest),
                    _platforms(client, each),
                    tables.size(_size(client, each)),
                    tables.age(each.created_at),
                )
                for each in found
            ]
            tables.show(("IMAGE", "DIGEST", "PLATFORMS", "SIZE", "CREATED"), rows)


def _described(client: Client, of: Image) -> dict[str, Any]:
    from corten.terminal import tables

    return {**tables.plain(of), "platforms": _platforms(client, of, ()), "size": _size(client, of)}


def _platforms(client: Client, of: Image, none: Any = "-") -> Any:
    """As a text, or as a list if ``none`` is no text. Of an image that cannot be read, ``none``."""
    from plugin_sdk import errors

    try:
        found = [str(platform) for platform in client.images.platforms(of)]
    except errors.Error:
        return none
    return (",".join(found) or none) if isinstance(none, str) else found


def _size(client: Client, of: Image) -> int:
    """Of the blobs that are there."""
    from corten import manifests
    from plugin_sdk import errors

    try:
        return sum(blob.size for blob in manifests.walk(client.content, of.target))
    except errors.Error:
        return 0


@image.command(
    "tag",
    examples="""
    corten image tag busybox registry.example.com/team/busybox:1
    corten image tag --force busybox:1.37 busybox:stable
    """,
)
@click.argument("name", shell_complete=completion.images)
@click.argument("new")
@click.option("-f", "--force", is_flag=True, help="Replace another image of the new name.")
@click.pass_obj
def image_tag(target: Target, name: str, new: str, force: bool) -> None:
    """Gives an image one more name."""
    from corten.terminal import naming
    from plugin_sdk.distribution import references

    with target.connect() as client:
        found = naming.image(client, name)
        click.echo(client.images.tag(found, references.familiar(new), force=force).name)


tag = Command(
    "tag",
    callback=image_tag.callback,
    params=image_tag.params,
    help=image_tag.help,
    examples="corten tag busybox registry.example.com/team/busybox:1",
)


@image.command(
    "rm",
    examples="""
    corten image rm busybox:1.36 alpine
    corten image rm --sync busybox  # returns when the space is free
    """,
)
@click.argument("names", nargs=-1, required=True, shell_complete=completion.images)
@click.option("--sync", is_flag=True, help="Wait until what only these images held is collected.")
@click.pass_obj
def rm(target: Target, names: tuple[str, ...], sync: bool) -> None:
    """Removes images: their names, and with the last name of each what it is made of."""
    from corten.terminal import naming

    with target.connect() as client:
        command.several(names, lambda name: client.images.delete(naming.image(client, name).name, sync=sync))


@image.command(
    "inspect",
    examples="""
    corten image inspect busybox
    corten image inspect --platform linux/arm64 busybox
    """,
)
@click.argument("names", nargs=-1, required=True, shell_complete=completion.images)
@options.platform("The one of its platforms to show, if not this machine's.")
@command.json_option("Print one JSON document; so it does anyway.")
@click.pass_obj
def inspect(target: Target, names: tuple[str, ...], platform: Any, as_json: bool) -> None:
    """Prints what images are: record, manifest, config."""
    from corten.terminal import inspecting, naming, tables

    with target.connect() as client:
        tables.show_json([inspecting.image(client, naming.image(client, name), platform) for name in names])


@image.command(
    "usage",
    examples="""
    corten image usage busybox
    corten image usage --snapshotter native --json busybox
    """,
)
@click.argument("names", nargs=-1, required=True, shell_complete=completion.images)
@options.snapshotter("Whose snapshots are counted, if not those of the namespace's default.")
@command.json_option()
@click.pass_obj
def usage(target: Target, names: tuple[str, ...], snapshotter: str, as_json: bool) -> None:
    """Shows what images take on the disk: their blobs, and their unpacked layers."""
    from corten.terminal import naming, tables

    with target.connect() as client:
        found = [naming.image(client, name) for name in names]
        taken = [(each.name, client.images.usage(each, snapshotter)) for each in found]
    if as_json:
        tables.show_json([{"name": name, **tables.plain(of), "size": of.size} for name, of in taken])
        return
    rows = [
        (naming.shortened(name), tables.size(of.content), tables.size(of.snapshots), tables.size(of.size))
        for name, of in taken
    ]
    tables.show(("IMAGE", "BLOBS", "UNPACKED", "TOGETHER"), rows)


for one in (archives.import_, archives.export, trees.mount, trees.umount, trees.unpack):
    image.add_command(one)
for each in (ls, archives.import_):
    images.add_command(each)
