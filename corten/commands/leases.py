"""``corten leases``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from corten.terminal import command, completion, options
from corten.terminal.command import Listing
from corten.terminal.target import Target


@click.group(cls=Listing)
def leases() -> None:
    """Works with what keeps things from being collected.

    `corten leases` alone lists them.
    """


@leases.command(
    "ls",
    examples="""
    corten leases
    corten leases ls --json
    """,
)
@click.argument("filters", nargs=-1)
@command.quiet_option("Print only the ids.")
@command.json_option("Print one JSON document, with what each lease holds.")
@click.pass_obj
def ls(target: Target, filters: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Lists the leases.

    FILTERS choose among them by id and labels; a plain word is looked for in the id.
    """
    from corten.terminal import tables

    with target.connect() as client:
        found = sorted(
            client.leases.list(options.filters(filters, "id")), key=lambda lease: (lease.created_at, lease.id)
        )
        held = {lease.id: client.leases.list_resources(lease.id) for lease in found} if not quiet else {}
    if as_json:
        tables.show_json([{**tables.plain(lease), "resources": tables.plain(held[lease.id])} for lease in found])
    elif quiet:
        tables.show_names([lease.id for lease in found])
    else:
        rows = [
            (lease.id, tables.age(lease.created_at), str(len(held[lease.id])), tables.labels(lease.labels))
            for lease in found
        ]
        tables.show(("LEASE", "CREATED", "HOLDS", "LABELS"), rows)


@leases.command(
    "create",
    examples="""
    corten leases create --expires 24
    corten leases create --label owner=me my-lease
    """,
)
@click.argument("id", default="")
@click.option("--expires", type=float, metavar="HOURS", help="End it after so many hours; else it stays until rm.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Give it a label.")
@click.pass_obj
def create(target: Target, id: str, expires: float | None, labels: tuple[str, ...]) -> None:
    """Makes a lease and prints its id; one of the daemon's choice if none is given."""
    from plugin_sdk.leases import EXPIRE_LABEL

    given = options.pairs(labels, "--label")
    if expires is not None:
        given[EXPIRE_LABEL] = (datetime.now(UTC) + timedelta(hours=expires)).isoformat(timespec="seconds")
    with target.connect() as client:
        click.echo(client.leases.create(id, given).id)


@leases.command(
    "rm",
    examples="""
    corten leases rm my-lease
    corten leases rm --sync my-lease  # returns when what only it held is gone
    """,
)
@click.argument("ids", nargs=-1, required=True, shell_complete=completion.leases)
@click.option("--sync", is_flag=True, help="Wait until what only these leases held is collected.")
@click.pass_obj
def rm(target: Target, ids: tuple[str, ...], sync: bool) -> None:
    """Removes leases; what nothing else holds is collected."""
    with target.connect() as client:
        command.several(ids, lambda id: client.leases.delete(id, sync=sync))
