"""``corten logs``."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from corten.terminal import completion
from corten.terminal.command import Command, Failure
from corten.terminal.target import Target
from plugin_sdk import errors

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
        if not follow:
            files.show(path, tail, None)
            return
        over, lost = _end_of(client, name)
        files.show(path, tail, over.is_set)
    for failure in lost:
        raise failure


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


def _end_of(client: Client, name: str) -> tuple[threading.Event, list[errors.Error]]:
    """Set when its task has ended, for which a thread waits, or when that can be known no more, and why."""
    over = threading.Event()
    lost: list[errors.Error] = []

    def await_end() -> None:
        try:
            client.tasks.wait(name)
        except errors.NotFound:
            pass
        except errors.Error as err:
            lost.append(err)
        over.set()

    threading.Thread(target=await_end, name="end", daemon=True).start()
    return over, lost
