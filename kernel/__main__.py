"""``cortend``, the daemon's command: ``python -m kernel``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plugin_sdk import errors

if TYPE_CHECKING:
    from kernel.config import Loaded


class Group(click.Group):
    """Errors of ours are one sentence on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.Error as err:
            raise click.ClickException(err.message) from err


@click.group(cls=Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The file to read; /etc/corten/plugins.toml.")
@click.option("-a", "--address", help="Path of the socket for clients.")
@click.option("--root", help="Directory of what is kept.")
@click.option("--state", help="Directory of what is gone after a reboot.")
@click.option("-l", "--log-level", help="trace, debug, info, warn, error, fatal or panic.")
@click.option("-v", "--version", is_flag=True, help="Print the version.")
@click.pass_context
def main(ctx: click.Context, /, config: Path | None, version: bool, **flags: str | None) -> None:
    """Runs the container daemon."""
    ctx.obj = (config, {name: value for name, value in flags.items() if value})
    if version:
        from plugin_sdk.release import VERSION

        click.echo(f"cortend {VERSION}")
    elif ctx.invoked_subcommand is None:
        _serve(*ctx.obj)


def _serve(path: Path | None, flags: dict[str, str]) -> None:
    from kernel.spawner import Spawner

    spawner = Spawner(Path(__file__).resolve().parent.parent)  # first of all: nothing has threads yet
    try:
        from kernel import daemon
        from plugin_sdk import logs

        loaded = _load(path, flags)
        if os.geteuid() != 0:
            raise errors.FailedPrecondition("cortend needs the rights of root: it mounts and makes containers")
        logs.configure(loaded.config.debug.level)
        for warning in loaded.warnings:
            logging.getLogger("config").warning("%s", warning)
        daemon.run(lambda: _load(path, flags), loaded, spawner)
    finally:
        spawner.close()


def _load(path: Path | None, flags: dict[str, str]) -> Loaded:
    from kernel import config

    return config.load(path, flags)


@main.group("config")
def config_group() -> None:
    """Shows or checks the configuration."""


@config_group.command("default")
def config_default() -> None:
    """Prints the defaults as an annotated plugins.toml."""
    from kernel import config, plugins

    click.echo(config.default_text(of for _, of in plugins.discover().registrations), nl=False)


@config_group.command("dump")
@click.pass_obj
def config_dump(given: tuple[Path | None, dict[str, str]]) -> None:
    """Prints what is in effect."""
    from kernel import config, plugins

    click.echo(config.dump_text(_load(*given), [of for _, of in plugins.discover().registrations]), nl=False)


@config_group.command("check")
@click.pass_obj
def config_check(given: tuple[Path | None, dict[str, str]]) -> None:
    """Says what is wrong with the configuration, and whether it can be used."""
    from kernel import plugins

    loaded = _load(*given)
    found = plugins.discover()
    loaded.check_plugins(of for _, of in found.registrations)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    wrong = [f"plugin {failure.source}: {failure.error}" for failure in found.failures]
    wrong += loaded.proxy_faults(found.registrations)
    for line in wrong:
        click.echo(f"error: {line}", err=True)
    if wrong:
        sys.exit(1)
    click.echo("the configuration can be used")


if __name__ == "__main__":
    main(prog_name="cortend")
