"""``corten image import`` and ``corten image export``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from corten.terminal import command, completion, options
from corten.terminal.command import Command, Failure
from corten.terminal.target import Target


@click.command(
    "import",
    cls=Command,
    examples="""
    corten image import busybox.tar
    corten image import --name web:1 layout-folder
    docker save web:1 | corten image import -
    """,
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", default="", help="One more name, for all that the archive holds.")
@options.snapshotter()
@click.option("--no-unpack", is_flag=True, help="Leave the layers packed.")
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    type=options.PlatformName(),
    metavar="OS/ARCH",
    help="Take this one, if not this machine's; can be given again.",
)
@click.option("--all-platforms", is_flag=True, help="Take every platform; fail when one is missing.")
@command.quiet_option("Show no progress; print only the names of the images.")
@command.json_option("Print one JSON document: the images.")
@click.pass_obj
def import_(
    target: Target,
    path: Path,
    name: str,
    snapshotter: str,
    no_unpack: bool,
    platforms: tuple[Any, ...],
    all_platforms: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Imports the images of an OCI image layout or a Docker archive.

    PATH is a tar file, a directory with an image layout, or - for the standard input.
    """
    from corten.terminal import moves, naming, tables

    wanted = moves.Wanted(platforms, all_platforms, snapshotter, not no_unpack)
    with target.connect() as client:
        made = moves.import_(client, path, naming.full(name) if name else "", wanted, quiet or as_json)
    if as_json:
        tables.show_json(made)
    else:
        tables.show_names([image.name for image in made])


@click.command(
    "export",
    cls=Command,
    examples="""
    corten image export -o busybox.tar busybox
    corten image export busybox web:1 | zstd > images.tar.zst
    """,
)
@click.argument("names", nargs=-1, required=True, shell_complete=completion.images)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; else standard output.")
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    type=options.PlatformName(),
    metavar="OS/ARCH",
    help="Of this one, if not this machine's; can be given again.",
)
@click.option("--all-platforms", is_flag=True, help="Of every platform.")
@click.option("--oci-only", is_flag=True, help="Leave out what only `docker load` needs.")
@command.quiet_option("Show no progress.")
@click.pass_obj
def export(
    target: Target,
    names: tuple[str, ...],
    output: Path | None,
    platforms: tuple[Any, ...],
    all_platforms: bool,
    oci_only: bool,
    quiet: bool,
) -> None:
    """Writes images as one archive, which `corten image import`, docker and others read."""
    from corten.terminal import moves, naming

    if output is None and sys.stdout.isatty():
        raise Failure("an archive is nothing for a terminal", "Name a file with -o, or send it on with > or |.")
    with target.connect() as client:
        images = [naming.image(client, name) for name in names]
        wanted = moves.Wanted(platforms, all_platforms)
        with _output(output) as file:
            moves.export(client, images, file, wanted, not oci_only, quiet)


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """A file appears when it is whole; what is there and is no file, as a FIFO or a device, is written to."""
    if path is None:
        with _standard_output() as file:
            yield file
        return
    try:
        whole = not path.exists() or path.is_file()
        with _replacing(Path(os.path.realpath(path))) if whole else path.open("wb") as file:
            yield file
    except OSError as err:
        raise Failure(f"{path} cannot be written: {err.strerror}") from err


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    """Who does not read on ends the command in silence."""
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as err:
        _forget_output()
        raise Failure(f"the archive cannot be written: {err.strerror}") from err


def _forget_output() -> None:
    """What is left in the buffer goes nowhere: Python would try to write it once more at its end, and complain."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
