"""``corten run``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from corten.terminal import command, completion, options
from corten.terminal.command import Command, Failure
from corten.terminal.target import Target

PULLS = ("missing", "always", "never")


@click.command(
    cls=Command,
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    examples="""
    corten run --rm busybox echo hello
    corten run -it --rm busybox sh  # Ctrl-P Ctrl-Q leaves it running
    corten run -d --name web --net-host registry.example.com/web:1
    echo hello | corten run -i --rm busybox wc -c
    corten run --rm --memory 256m --cpus 1.5 -e COLOR=blue -v /srv:/data:ro busybox ls /data
    """,
)
@click.argument("image", shell_complete=completion.images)
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]...")
@click.option("--name", default="", help="The container's name; one is made of the image's if not given.")
@click.option("--rm", is_flag=True, help="Remove the container when it has ended.")
@click.option("-d", "--detach", is_flag=True, help="Leave it in the background and print its name.")
@click.option("-i", "--interactive", is_flag=True, help="Pass on the standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="Set a variable; KEY alone takes ours.")
@click.option("--env-file", "env_files", multiple=True, type=click.Path(path_type=Path), help="Lines of KEY=VALUE.")
@click.option("-v", "--volume", "volumes", multiple=True, metavar="FROM:TO[:ro]", help="Show a folder or file in it.")
@click.option("--mount", "mounts", multiple=True, metavar="type=…,src=…,dst=…,options=a:b", help="Mount something.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Run as this user.")
@click.option("-w", "--workdir", "--cwd", "cwd", default="", metavar="FOLDER", help="Run in this folder.")
@click.option("--entrypoint", metavar="PROGRAM", help="Run this instead of the image's entrypoint.")
@click.option("--hostname", default="", metavar="NAME", help="Its host name, if not its own name.")
@click.option("--read-only", is_flag=True, help="Do not let it write into its file system.")
@click.option("--net-host", is_flag=True, help="Let it use the network of this machine.")
@click.option("-m", "--memory", type=options.Size(), default=0, metavar="SIZE", help="Bound its memory, as 512m.")
@click.option("--cpus", type=float, default=0.0, metavar="NUMBER", help="Bound its share of the processors, as 1.5.")
@click.option("--pids", type=int, default=0, metavar="NUMBER", help="Bound the number of its processes.")
@click.option("--privileged", is_flag=True, help="Give it all rights and devices of the daemon's machine.")
@click.option("--cap-add", "added", multiple=True, metavar="NAME", help="Give it a capability, as NET_ADMIN.")
@click.option("--cap-drop", "dropped", multiple=True, metavar="NAME", help="Take one away; ALL takes all.")
@click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Give the container a label.")
@click.option("--pull", type=click.Choice(PULLS), default="missing", show_default=True, help="When to fetch the image.")
@options.platform("Run the image of this platform, if not this machine's.")
@options.snapshotter("Where its file system is, if not where the namespace says.")
@click.option("--runtime", default="", metavar="NAME", help="What runs it, if not what the namespace says.")
@command.json_option("With -d, print one JSON document: the container.")
@click.pass_obj
def run(target: Target, /, image: str, as_json: bool, **given: Any) -> None:
    """Runs a command in a new container.

    COMMAND is run instead of the image's own; the image is fetched if it is not there. The exit code is the command's
    own, 128 and the number for a signal, 1 when it could not be run, 2 for a wrong line.
    """
    from corten.terminal import running

    _check(given, as_json)
    settings = running.Options(
        target.address,
        image,
        name=given["name"],
        args=given["args"],
        rm=given["rm"],
        detach=given["detach"],
        interactive=given["interactive"],
        terminal=given["tty"],
        pull=given["pull"],
        platform=given["platform"],
        entrypoint=given["entrypoint"],
        labels=options.pairs(given["labels"], "--label"),
        snapshotter=given["snapshotter"],
        runtime=given["runtime"],
        spec=_spec(given),
    )
    with target.connect() as client:
        code = running.run(
            client, settings, lambda name: _pull(target, name, settings), _shown(given["detach"], as_json)
        )
    sys.exit(code)


def _check(given: dict[str, Any], as_json: bool) -> None:
    from corten.terminal import foreground

    if given["detach"] and given["rm"]:
        raise click.UsageError("--detach goes not with --rm: remove the container with `corten rm`")
    if as_json and not given["detach"]:
        raise click.UsageError("--json goes with --detach only: else the output is the command's own")
    if given["tty"] and given["interactive"] and not given["detach"] and not foreground.at_terminal():
        raise Failure("-it needs a terminal, and the standard input is none", "Leave out -t.")


def _spec(given: dict[str, Any]) -> Any:
    every = {name.upper() for name in given["dropped"]} & {"ALL"}
    made: dict[str, Any] = {
        "env": _environment(given["env_files"], given["env"]),
        "mounts": [*map(_volume, given["volumes"]), *given["mounts"]],
        "add_capabilities": [_capability(name) for name in given["added"]],
        "drop_capabilities": [_capability(name) for name in given["dropped"] if not every],
        "host_network": given["net_host"],
    }
    if every:
        made["capabilities"] = []
    for name in ("user", "cwd", "hostname", "read_only", "memory", "cpus", "pids", "privileged"):
        made[name] = given[name]
    return made


def _environment(files: tuple[Path, ...], texts: tuple[str, ...]) -> list[str]:
    import os

    found: list[str] = []
    for path in files:
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as err:
            raise Failure(f"{path} cannot be read: {getattr(err, 'strerror', None) or err}") from err
        found += [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    return [
        text if "=" in text else f"{text}={os.environ[text]}"
        for text in (*found, *texts)
        if "=" in text or text in os.environ
    ]


def _volume(text: str) -> dict[str, Any]:
    """A mount of the spec, of ``FROM:TO[:ro]``."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1].startswith("/"):
        raise click.UsageError(f"--volume {text!r}: must be FROM:TO or FROM:TO:ro, and TO a path from / on")
    flags = parts[2].split(",") if len(parts) == 3 else []
    source = Path(parts[0]).absolute()
    return {"type": "bind", "source": str(source), "destination": parts[1], "options": ["rbind", *flags]}


def _capability(name: str) -> str:
    from plugin_sdk import specs

    full = "CAP_" + name.upper().removeprefix("CAP_")
    if full not in specs.CAPABILITIES:
        raise click.UsageError(f"{name!r} is no capability such as NET_ADMIN")
    return full


def _pull(target: Target, name: str, settings: Any) -> None:
    from corten.terminal import moves

    wanted = moves.Wanted([settings.platform] if settings.platform else [], snapshotter=settings.snapshotter)
    with target.connect() as client:
        moves.pull(client, name, wanted, moves.Access(), quiet=False)


def _shown(detach: bool, as_json: bool) -> Any:
    def show(container: Any) -> None:
        from corten.terminal import inspecting, tables

        if not detach:
            command.say(f"\nleft in the background: `corten attach {container.id}` comes back")
        elif as_json:
            tables.show_json(inspecting.container(container.client, container))
        else:
            click.echo(container.id)

    return show
