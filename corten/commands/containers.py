"""``corten ps``, ``stop``, ``kill`` and ``rm``."""

from __future__ import annotations

import contextlib
import shlex
import signal as signals
from typing import TYPE_CHECKING, Any

import click

from corten.terminal import command, completion, options
from corten.terminal.command import Command
from corten.terminal.target import Target

if TYPE_CHECKING:
    from corten.client import Client
    from corten.containers import Container
    from plugin_sdk.runtime import Process

_SHOWN = 30  # characters of a command


@click.command(
    cls=Command,
    examples="""
    corten ps
    corten ps -a  # with those that have ended
    corten ps -aq 'labels.owner==me'
    corten ps --json
    """,
)
@click.argument("filters", nargs=-1)
@click.option("-a", "--all", "everything", is_flag=True, help="List those that do not run, too.")
@command.quiet_option("Print only the names.")
@command.json_option()
@click.pass_obj
def ps(target: Target, filters: tuple[str, ...], everything: bool, quiet: bool, as_json: bool) -> None:
    """Lists the containers that run.

    FILTERS choose among them by id, image, runtime.name and labels; a plain word is looked for in the name.
    """
    from corten.terminal import tables

    with target.connect() as client:
        tasks = {task.id: task for task in client.tasks.list() if not task.exec_id}
        found = sorted(
            client.containers.list(options.filters(filters, "id")), key=lambda each: (each.created_at, each.id)
        )
    rows = [(each, tasks.get(each.id)) for each in found if everything or _runs(tasks.get(each.id))]
    if as_json:
        tables.show_json([_described(container, task) for container, task in rows])
    elif quiet:
        tables.show_names([container.id for container, _ in rows])
    else:
        tables.show(("NAME", "IMAGE", "COMMAND", "CREATED", "STATUS", "PID"), [_row(*each) for each in rows])


def _runs(task: Process | None) -> bool:
    from plugin_sdk.runtime import Status

    return task is not None and task.status not in (Status.STOPPED, Status.UNKNOWN)


def _described(container: Container, task: Process | None) -> dict[str, Any]:
    from corten.terminal import tables

    return {
        "id": container.id,
        "image": container.image,
        "command": _command(container),
        "created_at": tables.moment(container.created_at),
        "runtime": container.runtime.name,
        "labels": dict(container.labels),
        "status": task.status.name.lower() if task else "",
        "pid": task.pid if task and _runs(task) else 0,
        "exit_status": task.exit_status if task and not _runs(task) else None,
    }


def _row(container: Container, task: Process | None) -> tuple[str, ...]:
    from corten.terminal import naming, tables

    line = shlex.join(_command(container))
    return (
        container.id,
        naming.shortened(container.image) or "-",
        (line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…") or "-",
        tables.age(container.created_at),
        _status(task),
        str(task.pid) if task and _runs(task) else "-",
    )


def _status(task: Process | None) -> str:
    if task is None:
        return "-"
    return task.status.name.lower() if _runs(task) else f"ended ({task.exit_status})"


def _command(container: Container) -> list[str]:
    from plugin_sdk import errors

    try:
        return list(container.load_spec().get("process", {}).get("args") or [])
    except errors.Unimplemented:
        return []


@click.command(
    cls=Command,
    examples="""
    corten stop web
    corten stop --time 60 web database
    """,
)
@click.argument("names", nargs=-1, required=True, shell_complete=completion.containers)
@click.option("-t", "--time", "patience", type=float, default=10.0, show_default=True, help="Seconds until SIGKILL.")
@click.pass_obj
def stop(target: Target, names: tuple[str, ...], patience: float) -> None:
    """Ends containers: asks them to, and after a while makes them.

    They are asked by the signal that their image names, else by SIGTERM.
    """
    with target.connect() as client:
        command.several(names, lambda name: _stop(client, name, patience))


def _stop(client: Client, name: str, patience: float) -> None:
    from corten.terminal import places
    from plugin_sdk import errors

    asked = client.containers.get(name).labels.get(places.STOP_LABEL, "")
    try:
        number = options.signal_number(asked)
    except ValueError:
        number = signals.SIGTERM
    with contextlib.suppress(errors.NotFound):  # it has ended
        client.tasks.kill(name, number)
        try:
            client.tasks.wait(name, timeout=patience)
        except errors.DeadlineExceeded:
            client.tasks.kill(name, signals.SIGKILL)
            client.tasks.wait(name)


@click.command(
    cls=Command,
    examples="""
    corten kill web
    corten kill -s HUP web
    """,
)
@click.argument("names", nargs=-1, required=True, shell_complete=completion.containers)
@click.option("-s", "--signal", type=options.Signal(), default="KILL", show_default=True, help="Name or number.")
@click.option("--all", "everything", is_flag=True, help="Send it to all their processes.")
@click.pass_obj
def kill(target: Target, names: tuple[str, ...], signal: int, everything: bool) -> None:
    """Sends a signal to containers."""
    with target.connect() as client:
        command.several(names, lambda name: client.tasks.kill(name, signal, all=everything))


@click.command(
    cls=Command,
    examples="""
    corten rm web
    corten rm -f web database  # ends them first
    """,
)
@click.argument("names", nargs=-1, required=True, shell_complete=completion.containers)
@click.option("-f", "--force", is_flag=True, help="End those that run.")
@click.pass_obj
def rm(target: Target, names: tuple[str, ...], force: bool) -> None:
    """Removes containers.

    With each go its file system, and what it has printed.
    """
    with target.connect() as client:
        command.several(names, lambda name: _remove(client, name, force))


def _remove(client: Client, name: str, force: bool) -> None:
    from corten.terminal import running
    from plugin_sdk import errors

    container = client.containers.get(name)
    if not force:
        with contextlib.suppress(errors.NotFound):
            if _runs(client.tasks.get(name)):
                raise errors.FailedPrecondition(f'container "{name}" is running')
    running.remove(container)
