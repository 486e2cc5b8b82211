"""``corten events``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from corten.terminal import command
from corten.terminal.command import Command
from corten.terminal.target import Target

if TYPE_CHECKING:
    from plugin_sdk.events import Envelope


@click.command(
    cls=Command,
    examples="""
    corten events
    corten events 'topic~="/tasks/"'
    corten events --all-namespaces --json | jq .topic
    """,
)
@click.argument("filters", nargs=-1)
@click.option("--all-namespaces", is_flag=True, help="Print those of other namespaces, too.")
@command.json_option("Print one JSON document a line, for programs.")
@click.pass_obj
def events(target: Target, filters: tuple[str, ...], all_namespaces: bool, as_json: bool) -> None:
    """Prints what happens, as it happens.

    FILTERS choose among events by topic and event.FIELD. It ends with Ctrl-C.
    """
    own = f"namespace=={json.dumps(target.namespace)}"
    wanted = list(filters) if all_namespaces else [f"{own},{each}" for each in filters] or [own]
    with target.connect() as client, client.events.subscribe(wanted) as subscription:
        for envelope in subscription:
            _show(envelope, as_json, all_namespaces)


def _show(envelope: Envelope, as_json: bool, with_namespace: bool) -> None:
    from corten.events import decoded
    from corten.terminal import tables

    fields = decoded(envelope.event)
    if as_json:
        about = {"timestamp": tables.moment(envelope.timestamp), "namespace": envelope.namespace}
        tables.show_json_line({**about, "topic": envelope.topic, "type": envelope.event.type_url, "event": fields})
        return
    where = f"{envelope.namespace}  " if with_namespace else ""
    said = " ".join(f"{key}={_text(value)}" for key, value in fields.items())
    click.echo(f"{tables.moment(envelope.timestamp)}  {where}{envelope.topic}  {said}".rstrip())


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
