"""``corten logs``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from corten.terminal import completion
from corten.terminal.command import Command, Failure
from corten.terminal.target import Target

if TYPE_CHECKING:
    from corten.client import Client


@click.command(
    cls=Command,
    examples="""
    corten logs web
    corten logs -f --tail 20 web
    """,
)
@click.argument("name", shell_complete=completion.containers)
@click.option("-f", "--follow", is_flag=True, help="Go on with what it prints, until it ends.")
@click.option("--tail", type=click.IntRange(min=0), metavar="LINES", help="Begin with so many of the last lines; all.")
@click.pass_obj
def logs(target: Target, name: str, follow: bool, tail: int | None) -> None:
    """Prints what a container in the background has printed, its errors too."""
    from corten.terminal import logs as files

    with target.connect() as client:
        path = _log(client, name)
        files.show(path, tail, _end_of(client, name) if follow else None)


def _log(client: Client, name: str) -> Path:
    from corten.terminal import places

    container = client.containers.get(name)
    if path := container.labels.get(places.LOG_LABEL):
        return Path(path)
    if places.FIFO_LABEL in container.labels:
        raise Failure(
            f'container "{name}" has no log: it was not started with -d, or has a terminal',
            f"`corten attach {name}` shows what it prints from now on.",
        )
    raise Failure(f'container "{name}" has no log: another program has started it')


def _end_of(client: Client, name: str) -> Callable[[], bool]:
    """Whether its task has ended; a thread waits for that."""
    import threading

    from plugin_sdk import errors

    over = threading.Event()

    def await_end() -> None:
        with contextlib.suppress(errors.Error):  # it is gone, or the daemon is
            client.tasks.wait(name)
        over.set()

    threading.Thread(target=await_end, name="end", daemon=True).start()
    return over.is_set
