"""``corten content``."""

from __future__ import annotations

import sys

import click

from corten.terminal import command, completion, options
from corten.terminal.command import Failure, Listing
from corten.terminal.target import Target

_CHUNK = 1 << 20


@click.group(cls=Listing)
def content() -> None:
    """Works with blobs: layers, configs, manifests.

    `corten content` alone lists them.
    """


@content.command(
    "ls",
    examples="""
    corten content
    corten content ls 'labels."containerd.io/distribution.source.docker.io"'
    """,
)
@click.argument("filters", nargs=-1)
@command.quiet_option("Print only the digests.")
@command.json_option()
@click.pass_obj
def ls(target: Target, filters: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Lists the blobs.

    FILTERS choose among them by digest and labels; a plain word is looked for in the digest.
    """
    from corten.terminal import tables

    with target.connect() as client:
        found = sorted(
            client.content.walk(options.filters(filters, "digest")), key=lambda info: (info.created_at, info.digest)
        )
    if as_json:
        tables.show_json(found)
    elif quiet:
        tables.show_names([info.digest for info in found])
    else:
        rows = [
            (info.digest, tables.size(info.size), tables.age(info.created_at), tables.labels(info.labels))
            for info in found
        ]
        tables.show(("DIGEST", "SIZE", "CREATED", "LABELS"), rows)


@content.command(
    "get",
    examples="""
    corten content get sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef > layer.tar.gz
    """,
)
@click.argument("digest", shell_complete=completion.digests)
@click.option("-f", "--force", is_flag=True, help="Write to a terminal, too.")
@click.pass_obj
def get(target: Target, digest: str, force: bool) -> None:
    """Writes a blob's bytes to the standard output."""
    with target.connect() as client, client.content.reader(digest) as reader:
        offset, out = 0, sys.stdout.buffer
        while chunk := reader.read_at(offset, _CHUNK):
            if not offset and not force and sys.stdout.isatty() and b"\0" in chunk:
                raise Failure(f"{digest} is no text", "Send it to a file with >, or give --force.")
            out.write(chunk)
            offset += len(chunk)
        out.flush()


@content.command(
    "rm",
    examples="""
    corten content rm sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    """,
)
@click.argument("digests", nargs=-1, required=True, shell_complete=completion.digests)
@click.pass_obj
def rm(target: Target, digests: tuple[str, ...]) -> None:
    """Removes blobs. Images that have them cannot be unpacked or sent then."""
    with target.connect() as client:
        command.several(digests, client.content.delete)


@content.command(
    "ingests",
    examples="""
    corten content ingests
    corten content ingests --abort layer-1  # gives up what is half written
    """,
)
@click.argument("refs", nargs=-1)
@click.option("--abort", is_flag=True, help="Remove the ingests REFS.")
@command.json_option()
@click.pass_obj
def ingests(target: Target, refs: tuple[str, ...], abort: bool, as_json: bool) -> None:
    """Lists what is being written, or was and can be gone on with."""
    from corten.terminal import tables

    with target.connect() as client:
        if abort:
            command.several(refs, client.content.abort)
            return
        found = [status for status in client.content.list_statuses() if not refs or status.ref in refs]
    if as_json:
        tables.show_json(found)
        return
    rows = [
        (
            each.ref,
            tables.size(each.offset),
            tables.size(each.total) if each.total else "-",
            tables.age(each.updated_at),
        )
        for each in found
    ]
    tables.show(("REF", "WRITTEN", "OF", "LAST WRITE"), rows)
