"""``corten image mount``, ``umount`` and ``unpack``: an image's layers as files."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corten.terminal import completion, options
from corten.terminal.command import Command, Failure
from corten.terminal.target import Target

if TYPE_CHECKING:
    from corten.client import Client

ROOT_LABEL = "containerd.io/gc.root"


@click.command(
    "unpack",
    cls=Command,
    examples="""
    corten image unpack busybox
    corten image unpack --snapshotter native busybox
    """,
)
@click.argument("name", shell_complete=completion.images)
@options.snapshotter()
@options.platform("Of which of its platforms, if not this machine's.")
@click.pass_obj
def unpack(target: Target, name: str, snapshotter: str, platform: Any) -> None:
    """Makes snapshots of an image's layers, and prints the name of the topmost one."""
    from corten.terminal import naming

    with target.connect() as client:
        click.echo(client.images.unpack(naming.image(client, name), snapshotter, platform))


@click.command(
    "mount",
    cls=Command,
    examples="""
    corten image mount busybox /mnt
    corten image mount --rw busybox /mnt  # what is written there is gone after umount
    """,
)
@click.argument("name", shell_complete=completion.images)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--rw", is_flag=True, help="Let files be changed there; the image stays as it is.")
@options.snapshotter()
@options.platform("Which of its platforms, if not this machine's.")
@click.pass_obj
def mount(target: Target, name: str, directory: Path, rw: bool, snapshotter: str, platform: Any) -> None:
    """Shows an image's files in a directory of this machine, which must exist.

    It unpacks the image if that is not done, and needs root on the daemon's machine. `corten image umount` undoes it.
    """
    from corten.terminal import naming

    if not directory.is_dir():
        raise Failure(f"{directory}: no such directory", f"Make it first: mkdir -p {directory}")
    place = os.path.realpath(directory)
    with target.connect() as client:
        chain = client.images.unpack(naming.image(client, name), snapshotter, platform)
        _mount(client, snapshotter, chain, place, rw)
    click.echo(place)


def _mount(client: Client, snapshotter: str, chain: str, place: str, rw: bool) -> None:
    from plugin_sdk import errors, mounts

    storage = client.snapshotter(snapshotter)
    labels = {ROOT_LABEL: datetime.now(UTC).isoformat(timespec="seconds")}  # else nothing would keep it
    try:
        made = (storage.prepare if rw else storage.view)(place, chain, labels)
    except errors.AlreadyExists as err:
        raise Failure(f"an image is mounted at {place}", f"Take it off first: corten image umount {place}") from err
    try:
        mounts.mount_all(made, place)
    except BaseException:
        storage.remove(place)
        raise


@click.command("umount", cls=Command, examples="corten image umount /mnt")
@click.argument("directory", type=click.Path(path_type=Path))
@options.snapshotter("Which it was mounted of, if not the namespace's default.")
@click.pass_obj
def umount(target: Target, directory: Path, snapshotter: str) -> None:
    """Takes off what `corten image mount` has mounted."""
    from plugin_sdk import mounts

    place = os.path.realpath(directory)
    with target.connect() as client:
        storage = client.snapshotter(snapshotter)
        storage.stat(place)
        mounts.unmount_all(place, patience=5)
        storage.remove(place)
