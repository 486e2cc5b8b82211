"""``corten attach``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from corten.terminal import completion
from corten.terminal.command import Command, Failure
from corten.terminal.target import Target

if TYPE_CHECKING:
    from corten.containers import Container
    from plugin_sdk.runtime import Exit, Stdio


@click.command(
    cls=Command,
    examples="""
    corten attach shell  # Ctrl-P Ctrl-Q leaves it running
    corten attach --no-stdin web
    """,
)
@click.argument("name", shell_complete=completion.containers)
@click.option("--no-stdin", is_flag=True, help="Show only; what is typed does not reach it.")
@click.pass_obj
def attach(target: Target, name: str, no_stdin: bool) -> None:
    """Shows what a container in the background prints, and lets you type into it.

    What it takes: a container that was started with `corten run -d`. The exit code is that of its command.
    """
    with target.connect() as client:
        container = client.containers.get(name)
        ended = _attached(container, client.tasks.get(name).stdio, no_stdin)
    sys.exit(0 if ended is None else ended.status)


def _attached(container: Container, stdio: Stdio, no_stdin: bool) -> Exit | None:
    from corten.streams import PIPE
    from corten.terminal import logs, running

    if not stdio.stdout:
        raise Failure(f'container "{container.id}" prints to nobody', "`corten exec` runs another command in it.")
    stdin = None if no_stdin or not stdio.stdin else PIPE
    if stdio.stdout.startswith("file://") and stdin is None:
        raise Failure(
            f'container "{container.id}" prints into its log',
            f"`corten logs -f {container.id}` shows what it prints.",
        )
    if stdio.stdout.startswith("file://"):
        with logs.following(Path(stdio.stdout.removeprefix("file://"))):
            return _in_front(container, stdin, None, False)
    with running.held(Path(stdio.stdout).parent):
        return _in_front(container, stdin, 1, stdio.terminal)


def _in_front(container: Container, stdin: int | None, stdout: int | None, terminal: bool) -> Exit | None:
    from corten.terminal import foreground

    task = container.task(stdin=stdin, stdout=stdout, stderr=None if terminal or stdout is None else 2)
    with foreground.Foreground(task, terminal, stdin is not None, owned=False) as front:
        front.started()
        return front.wait()
