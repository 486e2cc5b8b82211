"""``corten plugins``, ``ready`` and ``version``: of the daemon itself."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from corten.terminal import command, completion
from corten.terminal.command import Command
from corten.terminal.target import Target

if TYPE_CHECKING:
    from plugin_sdk.daemon import PluginInfo


@click.command(
    cls=Command,
    examples="""
    corten plugins
    corten plugins --json  # for programs
    """,
)
@command.json_option()
@click.pass_obj
def plugins(target: Target, as_json: bool) -> None:
    """Lists the daemon's plugins, and what is wrong with those that failed."""
    from corten.terminal import tables

    with target.connect() as client:
        infos = client.plugins()
    if as_json:
        tables.show_json(infos)
        return
    rows = [(info.kind, info.id, ",".join(info.platforms) or "-", _state(info)) for info in infos]
    tables.show(("TYPE", "ID", "PLATFORMS", "STATUS"), rows)


def _state(info: PluginInfo) -> str:
    """As ``ok``, or of one in a process of its own ``backoff since 2024-05-06 07:08:09: …``."""
    state = info.state or ("skipped" if info.skipped else "error" if info.error else "ok")
    since = f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(info.since // 10**9))}" if info.since else ""
    return f"{state}{since}" + (f": {info.error}" if info.error else "")


@click.command(
    cls=Command,
    examples="""
    corten ready
    corten ready io.containerd.snapshotter.v1.overlayfs
    """,
)
@click.argument("name", default="", shell_complete=completion.plugins)
@click.pass_obj
def ready(target: Target, name: str) -> None:
    """Says whether the daemon, or a service or plugin of it, is ready.

    Exit code 0 means that it is, 1 that it is not. A plugin's NAME is its kind and id, such as
    io.containerd.snapshotter.v1.overlayfs.
    """
    from plugin_sdk import plugin

    with target.connect() as client:
        is_ready = client.health(name)
        found = [] if is_ready else client.plugins()
    click.echo("ready" if is_ready else "not ready")
    if found and not name and not any(info.kind == plugin.CONTENT for info in found):
        command.say("there is no content store: plugins.toml enables none")
    for info in found:
        if not info.error or info.skipped:
            continue
        if name in ("", f"{info.kind}.{info.id}"):
            command.say(f"{info.kind}.{info.id} is {_state(info)}")
    sys.exit(not is_ready)


@click.command(
    cls=Command,
    examples="""
    corten version
    corten version --json
    """,
)
@command.json_option()
@click.pass_obj
def version(target: Target, as_json: bool) -> None:
    """Prints the versions of this command and of the daemon."""
    from plugin_sdk.release import REVISION, VERSION

    if not as_json:
        click.echo(f"Client:\n  Version:  {VERSION}\n  Revision: {REVISION}\n")
    with target.connect() as client:
        number, revision = client.version()
    if not as_json:
        click.echo(f"Server:\n  Version:  {number}\n  Revision: {revision}")
        return
    from corten.terminal import tables

    versions = {"client": (VERSION, REVISION), "server": (number, revision)}
    tables.show_json({side: {"version": of, "revision": at} for side, (of, at) in versions.items()})
