"""``corten completion``."""

from __future__ import annotations

import click

from corten.terminal import completion as shells
from corten.terminal.command import Command


@click.command(
    cls=Command,
    examples="""
    corten completion bash > /etc/bash_completion.d/corten
    eval "$(corten completion zsh)"  # in ~/.zshrc, after compinit
    corten completion fish > ~/.config/fish/completions/corten.fish
    """,
)
@click.argument("shell", type=click.Choice(shells.SHELLS))
@click.pass_context
def completion(ctx: click.Context, /, shell: str) -> None:
    """Prints the script by which a shell completes this command's lines.

    It completes commands and options, and from the daemon the names of images, containers, snapshots, namespaces and
    plugins.
    """
    click.echo(shells.script(shell, ctx.find_root().command))
