"""``corten``, the command. What a command needs is imported when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import corten

if TYPE_CHECKING:
    from corten.client import Connection, View
    from plugin_sdk.daemon import PluginInfo


@dataclass(frozen=True, slots=True)
class Target:
    """Which daemon, which namespace."""

    address: str
    namespace: str

    def connect(self) -> Connection:
        return corten.connect(self.address)

    def view(self, connection: Connection) -> View:
        return connection.view(self.namespace)


class Group(click.Group):
    """Errors of the daemon are one sentence on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        from plugin_sdk import errors

        try:
            return super().invoke(ctx)
        except errors.Error as err:
            raise click.ClickException(err.message) from err


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-a", "--address", envvar="CORTEN_ADDRESS", default=corten.ADDRESS, show_default=True, help="The socket.")
@click.option("-n", "--namespace", envvar="CORTEN_NAMESPACE", default=corten.NAMESPACE, show_default=True)
@click.pass_context
def main(ctx: click.Context, /, address: str, namespace: str) -> None:
    """Works with the Corten daemon."""
    ctx.obj = Target(address, namespace)


@main.command()
@click.pass_obj
def version(target: Target) -> None:
    """Prints the versions of this command and of the daemon."""
    from plugin_sdk.release import REVISION, VERSION

    click.echo(f"Client:\n  Version:  {VERSION}\n  Revision: {REVISION}\n")
    with target.connect() as connection:
        number, revision = connection.version()
    click.echo(f"Server:\n  Version:  {number}\n  Revision: {revision}")


@main.command()
@click.pass_obj
def plugins(target: Target) -> None:
    """Lists the daemon's plugins, and what is wrong with those that failed."""
    with target.connect() as connection:
        infos = connection.plugins()
    rows = [(info.kind, info.id, ",".join(info.platforms) or "-", _state(info)) for info in infos]
    _table(("TYPE", "ID", "PLATFORMS", "STATUS"), rows)


def _state(info: PluginInfo) -> str:
    """As ``ok``, or of one in a process of its own ``backoff since 2024-05-06 07:08:09: …``."""
    state = info.state or ("skipped" if info.skipped else "error" if info.error else "ok")
    since = f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(info.since // 10**9))}" if info.since else ""
    return f"{state}{since}" + (f": {info.error}" if info.error else "")


@main.command()
@click.argument("name", default="")
@click.pass_obj
def ready(target: Target, name: str) -> None:
    """Says whether the daemon, or the service or plugin NAME, is ready: exit code 0 or 1.

    A plugin's NAME is its kind and id, such as io.containerd.snapshotter.v1.overlayfs.
    """
    with target.connect() as connection:
        is_ready = connection.health(name)
        ailing = [] if is_ready else [info for info in connection.plugins() if info.error and not info.skipped]
    click.echo("ready" if is_ready else "not ready")
    for info in ailing:
        if name in ("", f"{info.kind}.{info.id}"):
            click.echo(f"{info.kind}.{info.id} is {_state(info)}", err=True)
    sys.exit(not is_ready)


@main.command()
@click.option("-q", "--quiet", is_flag=True, help="Print only the ids.")
@click.pass_obj
def ps(target: Target, quiet: bool) -> None:
    """Lists the containers and their tasks."""
    with target.connect() as connection:
        view = target.view(connection)
        running = {task.id: task for task in view.tasks.list() if not task.exec_id}
        found = sorted(view.containers.list(), key=lambda container: container.created_at)
    if quiet:
        click.echo("".join(f"{container.id}\n" for container in found), nl=False)
        return
    rows = []
    for container in found:
        task = running.get(container.id)
        state = task.status.name.lower() if task else "-"
        pid = str(task.pid) if task and state not in ("stopped", "unknown") else "-"
        rows.append((container.id, container.image or "-", container.runtime.name, pid, state))
    _table(("CONTAINER", "IMAGE", "RUNTIME", "PID", "STATUS"), rows)


@main.group()
def images() -> None:
    """Works with images."""


@images.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", default="", help="The name of an image to which the archive gives none.")
@click.option("--snapshotter", default="overlayfs", show_default=True, help="Where layers are unpacked.")
@click.option("--no-unpack", is_flag=True, help="Leave the layers packed.")
@click.option("--all-platforms", is_flag=True, help="Fail when an image of an index is missing.")
@click.pass_obj
def images_import(
    target: Target, path: Path, name: str, snapshotter: str, no_unpack: bool, all_platforms: bool
) -> None:
    """Imports the images of an OCI image layout or a Docker archive: a tar file or a directory."""
    from corten import importing

    options = importing.Options(name, snapshotter, not no_unpack, all_platforms)
    with target.connect() as connection:
        for image in importing.import_images(connection, target.namespace, path, options, _say):
            click.echo(image.name)


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("image")
@click.argument("id")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("--rm", is_flag=True, help="Remove the container when it has ended.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for its end.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="Set a variable of its environment.")
@click.option("--mount", "mounts", multiple=True, metavar="type=…,src=…,dst=…,options=a:b", help="Mount something.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Run as this user.")
@click.option("-w", "--cwd", default="", help="Run in this directory.")
@click.option("--read-only", is_flag=True, help="Do not let it write into its file system.")
@click.option("--net-host", is_flag=True, help="Let it use the network of this machine.")
@click.option("--memory-limit", type=int, default=0, metavar="BYTES", help="Bound its memory.")
@click.option("--snapshotter", default="overlayfs", show_default=True)
@click.option("--runtime", default="io.containerd.runc.v2", show_default=True)
@click.pass_obj
def run(target: Target, /, **options: Any) -> None:
    """Runs ARGS, or the image's own command, in a new container ID of an imported IMAGE."""
    from corten import running

    if options["detach"] and (options["rm"] or options["tty"]):
        raise click.UsageError("--detach goes neither with --rm nor with --tty")
    settings = running.Options(**options)
    with target.connect() as connection:
        sys.exit(running.run(connection, target.namespace, settings))


@main.group()
def plugin() -> None:
    """Helps those who write plugins."""


@plugin.command("new")
@click.argument("kind", type=click.Choice(["snapshotter", "content", "differ"]))
@click.argument("name")
@click.option("--directory", type=click.Path(path_type=Path), default=Path(), help="Where to put it; here.")
def plugin_new(kind: str, name: str, directory: Path) -> None:
    """Writes a package NAME with a small plugin that works, and its tests."""
    from corten import scaffold

    made = scaffold.write(kind, name, directory)
    click.echo(f"{made}: a package that works; next: cd {made} && python -m pytest")


@plugin.command("check")
@click.argument("address")
@click.option("--type", "types", multiple=True, type=click.Choice(["snapshot", "content", "diff"]), help="Only this.")
@click.option("--name", default="corten-check", show_default=True, help="The snapshotter that the calls name.")
@click.option("--namespace", default="corten-check", show_default=True, help="The namespace that the calls name.")
@click.option("--content", default="", metavar="ADDRESS", help="Where a differ finds content, if not at ADDRESS.")
@click.option("--only", default="", metavar="TEXT", help="Only checks with this text in their name or sentences.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds that a call may take.")
@click.option("--tls-ca", default="", metavar="FILE", help="What the certificate of a TCP address is signed by; PEM.")
@click.option("--tls-cert", default="", metavar="FILE", help="Our own certificate.")
@click.option("--tls-key", default="", metavar="FILE", help="Its key.")
@click.option("--tls-name", default="", metavar="NAME", help="The name in its certificate, if not that in ADDRESS.")
@click.option("--json", "as_json", is_flag=True, help="Print every check, for programs.")
def plugin_check(address: str, types: tuple[str, ...], only: str, as_json: bool, **options: Any) -> None:
    """Checks that the program at ADDRESS keeps the contract of its plugins.

    It may be written in any language. The checks use names of their own and remove what they have made. Exit codes:
    0 all passed, 1 some failed, 2 nothing could be checked.
    """
    from corten import checking

    sys.exit(checking.check(address, only, as_json, types=types, **options))


def _say(text: str) -> None:
    click.echo(text, err=True)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("    ".join(cells).rstrip())


if __name__ == "__main__":
    main(prog_name="corten")
