"""``corten exec``."""

from __future__ import annotations

import sys

import click

from corten.terminal import completion
from corten.terminal.command import Command, Failure
from corten.terminal.target import Target


@click.command(
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    examples="""
    corten exec web ps
    corten exec -it web sh
    corten exec -u 1000 -e COLOR=blue web env
    """,
)
@click.argument("name", shell_complete=completion.containers)
@click.argument("args", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@click.option("-d", "--detach", is_flag=True, help="Leave it in the background.")
@click.option("-i", "--interactive", is_flag=True, help="Pass on the standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="Set a variable.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Run as this user, if not as the container's.")
@click.option("-w", "--workdir", "cwd", default="", metavar="FOLDER", help="Run in this folder.")
@click.pass_obj
def exec(
    target: Target,
    name: str,
    args: tuple[str, ...],
    detach: bool,
    interactive: bool,
    tty: bool,
    env: tuple[str, ...],
    user: str,
    cwd: str,
) -> None:
    """Runs one more command in a container.

    The exit code is the command's own, 128 and the number for a signal.
    """
    from corten.streams import PIPE
    from corten.terminal import foreground

    if tty and interactive and not detach and not foreground.at_terminal():
        raise Failure("-it needs a terminal, and the standard input is none", "Leave out -t.")
    with target.connect() as client:
        task = client.containers.get(name).task()
        made = task.exec(
            args,
            env=env,
            user=user,
            cwd=cwd,
            terminal=tty,
            stdin=PIPE if interactive and not detach else None,
            stdout=None if detach else 1,
            stderr=None if detach or tty else 2,
        )
        try:
            if detach:
                made.start()
                return
            with foreground.Foreground(made, tty, interactive) as front:
                made.start()
                front.started()
                ended = front.wait()
        except BaseException:
            made.delete(kill=True)
            raise
        if ended is None:
            made.close()
            return
        made.delete()
        sys.exit(ended.status)
