"""``corten stats``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from corten.terminal import command, completion
from corten.terminal.command import Command
from corten.terminal.target import Target

if TYPE_CHECKING:
    from corten.client import Client
    from corten.metrics import Metrics

_HEAD = ("NAME", "CPU %", "MEMORY", "LIMIT", "READ", "WRITTEN", "PIDS")

Samples = Mapping[str, "Metrics"]


@click.command(
    cls=Command,
    examples="""
    corten stats
    corten stats --no-stream --json web
    """,
)
@click.argument("names", nargs=-1, shell_complete=completion.containers)
@click.option("--no-stream", is_flag=True, help="Print once, and end.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between looks."
)
@command.json_option("Print one JSON document, once.")
@click.pass_obj
def stats(target: Target, names: tuple[str, ...], no_stream: bool, interval: float, as_json: bool) -> None:
    """Shows what containers use of the machine.

    On a terminal the table changes until Ctrl-C; elsewhere, and with --no-stream, it is printed once.
    """
    from corten.terminal import tables

    with target.connect() as client:
        for name in names:
            client.tasks.get(name)  # who asks for one by name is told when there is none
        if not as_json and not no_stream and sys.stdout.isatty():
            _follow(client, names, interval)
        before = _sample(client, names)
        time.sleep(min(interval, 1.0))
        used = _used(before, _sample(client, names))
    if as_json:
        tables.show_json(used)
    else:
        tables.show(_HEAD, [_row(each) for each in used])


def _follow(client: Client, names: Sequence[str], interval: float) -> None:
    """Until Ctrl-C."""
    from rich.live import Live

    before = _sample(client, names)
    with Live(auto_refresh=False) as live:
        while True:
            now = _sample(client, names)
            live.update(_table(_used(before, now)), refresh=True)
            before = now
            time.sleep(interval)


def _table(used: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(*_HEAD, box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for each in used:
        table.add_row(*_row(each))
    return table


def _sample(client: Client, names: Sequence[str]) -> Samples:
    found = {each.id: each for each in client.tasks.figures()}
    return {id: each for id, each in found.items() if not names or id in names}


def _used(before: Samples, now: Samples) -> list[dict[str, Any]]:
    """By container, in the order of their names; ``cpu`` is in processors."""
    rows = []
    for id, found in sorted(now.items()):
        earlier = before.get(id)
        passed = found.time - earlier.time if earlier else 0
        rows.append(
            {
                "id": id,
                "cpu": round((found.cpu - earlier.cpu) / passed, 4) if earlier and passed > 0 else 0.0,
                "cpu_nanoseconds": found.cpu,
                "memory": max(0, found.memory - found.cached),
                "memory_limit": found.memory_limit,
                "read": found.read,
                "written": found.written,
                "pids": found.pids,
                "pids_limit": found.pids_limit,
            }
        )
    return rows


def _row(used: Mapping[str, Any]) -> tuple[str, ...]:
    from corten.terminal import tables

    return (
        used["id"],
        f"{100 * used['cpu']:.1f}",
        tables.size(used["memory"]),
        tables.size(used["memory_limit"]) if used["memory_limit"] else "-",
        tables.size(used["read"]),
        tables.size(used["written"]),
        str(used["pids"]),
    )
