"""``corten``, the command. What is in ``corten.commands`` is imported when it is used, so that help is quick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

import corten
from corten.terminal.command import Main
from corten.terminal.target import Target

COMMANDS: Mapping[str, tuple[str, str]] = {
    "pull": ("pull:pull", "Fetches images from their registries."),
    "push": ("push:push", "Sends an image to its registry."),
    "run": ("run:run", "Runs a command in a new container."),
    "ps": ("containers:ps", "Lists the containers that run."),
    "exec": ("exec:exec", "Runs one more command in a container."),
    "attach": ("attach:attach", "Shows what a container in the background prints, and lets you type into it."),
    "logs": ("logs:logs", "Prints what a container in the background has printed, its errors too."),
    "stop": ("containers:stop", "Ends containers: asks them to, and after a while makes them."),
    "kill": ("containers:kill", "Sends a signal to containers."),
    "rm": ("containers:rm", "Removes containers."),
    "images": ("images:images", "Lists the images."),
    "image": ("images:image", "Works with images: tag, rm, inspect, import, export, mount, unpack, usage."),
    "tag": ("images:tag", "Gives an image one more name."),
    "inspect": ("inspect:inspect", "Prints all that the daemon knows of containers and images."),
    "events": ("events:events", "Prints what happens, as it happens."),
    "stats": ("stats:stats", "Shows what containers use of the machine."),
    "snapshots": ("snapshots:snapshots", "Works with the file systems of images and containers."),
    "content": ("content:content", "Works with blobs: layers, configs, manifests."),
    "leases": ("leases:leases", "Works with what keeps things from being collected."),
    "namespaces": ("namespaces:namespaces", "Works with namespaces, the partitions of all that the daemon keeps."),
    "plugins": ("daemon:plugins", "Lists the daemon's plugins, and what is wrong with those that failed."),
    "plugin": ("plugin:plugin", "Helps those who write plugins."),
    "ready": ("daemon:ready", "Says whether the daemon, or a service or plugin of it, is ready."),
    "config": ("config:config", "Shows and checks the settings of this command."),
    "version": ("daemon:version", "Prints the versions of this command and of the daemon."),
    "completion": ("completion:completion", "Prints the script by which a shell completes this command's lines."),
}
"""By name: the module and attribute in ``corten.commands``, and the first sentence of the command's help."""


EXAMPLES = """
corten pull busybox
corten run -it --rm busybox sh
corten run -d --name web registry.example.com/web:1
corten ps
corten logs -f web
"""


SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Main, table=COMMANDS, examples=EXAMPLES, context_settings=SETTINGS)
@click.option("-a", "--address", envvar="CORTEN_ADDRESS", default=corten.ADDRESS, show_default=True, help="The socket.")
@click.option(
    "-n",
    "--namespace",
    envvar="CORTEN_NAMESPACE",
    default=corten.NAMESPACE,
    show_default=True,
    help="The partition of the daemon to work in.",
)
@click.pass_context
def main(ctx: click.Context, /, address: str, namespace: str) -> None:
    """Works with the Corten daemon: images, containers and what they are made of.

    `corten COMMAND --help` explains a command and has examples.
    """
    ctx.obj = Target(address, namespace)


if __name__ == "__main__":
    main(prog_name="corten")
