"""``corten config``: of this command; the daemon's own is ``cortend config``."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corten.terminal import command
from corten.terminal.command import Group
from corten.terminal.target import Target

if TYPE_CHECKING:
    from corten.client import Client


@click.group(cls=Group)
def config() -> None:
    """Shows and checks the settings of this command.

    The daemon's own stand in its plugins.toml: `cortend config dump` and `cortend config check`.
    """


@config.command(
    "show",
    examples="""
    corten config show
    corten config show --json
    """,
)
@command.json_option()
@click.pass_context
def show(ctx: click.Context, /, as_json: bool) -> None:
    """Prints the settings, and from where each has its value."""
    from corten.terminal import tables

    settings = _settings(ctx)
    if as_json:
        tables.show_json({name: {"value": value, "source": source} for name, value, source in settings})
    else:
        tables.show(("SETTING", "VALUE", "FROM"), settings)


def _settings(ctx: click.Context) -> list[tuple[str, str, str]]:
    from corten.terminal import places
    from plugin_sdk.distribution.http import credentials

    root, target = ctx.find_root(), ctx.obj
    found = [(name, getattr(target, name), _source(root, name)) for name in ("address", "namespace")]
    logs = "$CORTEN_LOGS" if os.environ.get("CORTEN_LOGS") else "address"
    docker = "$DOCKER_CONFIG" if os.environ.get("DOCKER_CONFIG") else "default"
    return [
        *found,
        ("logs", str(places.logs(target.address)), logs),
        ("credentials", str(credentials.docker_config()), docker),
    ]


def _source(root: click.Context, name: str) -> str:
    from click.core import ParameterSource

    source = root.get_parameter_source(name)
    if source is ParameterSource.COMMANDLINE:
        return f"--{name}"
    return f"$CORTEN_{name.upper()}" if source is ParameterSource.ENVIRONMENT else "default"


@config.command("check", examples="corten config check")
@click.pass_obj
def check(target: Target) -> None:
    """Says what is wrong, and whether this command can work: exit code 0 or 1."""
    from corten.terminal import advice
    from plugin_sdk import errors
    from plugin_sdk.distribution.http import credentials

    try:
        with target.connect() as client:
            wrong = [*_of_daemon(client)]
    except errors.Error as err:
        wrong = [f"{err.message} {advice.next_step(err)}".rstrip()]
    wrong += _of_credentials(credentials.docker_config())
    for line in wrong:
        command.say(f"error: {line}")
    if wrong:
        sys.exit(1)
    click.echo("all is well")


def _of_daemon(client: Client) -> Iterator[str]:
    if not client.health():
        yield "the daemon is not ready: `corten ready` says why"
    found = client.plugins()
    for info in found:
        if info.error and not info.skipped:
            yield f"plugin {info.kind}.{info.id}: {info.error}"
    ids = {info.id for info in found if info.kind == "io.containerd.snapshotter.v1"}
    if (wanted := client.default("snapshotter")) not in ids:
        yield f"the namespace's snapshotter {wanted} is not there; there are {', '.join(sorted(ids)) or 'none'}"


def _of_credentials(path: Path) -> Iterator[str]:
    """Of docker's config.json: whether it can be read, and its helpers are there."""
    try:
        found: Any = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as err:
        yield f"{path} cannot be read: {err}"
        return
    if not isinstance(found, dict):
        yield f"{path} is no JSON object"
        return
    helpers = found.get("credHelpers")
    names = {*(helpers.values() if isinstance(helpers, dict) else ()), found.get("credsStore")}
    for name in sorted(each for each in names if isinstance(each, str) and each):
        if shutil.which(f"docker-credential-{name}") is None:
            yield f"{path} names the helper docker-credential-{name}, which is not installed"
