"""Writes docs/command.md: every command of ``corten`` with its help, as ``--help`` prints it.

.venv/bin/python -m scripts.command_page > docs/command.md
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from corten import cli

WIDTH = 100

HEAD = """\
# The command

`corten` works with the daemon at `--address` (`$CORTEN_ADDRESS`), in the namespace `--namespace` (`$CORTEN_NAMESPACE`).
This page is what `corten COMMAND --help` prints, written by `python -m scripts.command_page`.

- Names of images are as people type them: `busybox` is `docker.io/library/busybox:latest`.
- What is asked for goes to the standard output, everything else to the standard error. `--json` prints one document
  whose keys stay; times in it are RFC 3339 in UTC. `corten events --json` prints a document a line.
- Exit codes: 0, 1 for an error, 2 for a wrong line; `run` and `exec` give that of the command, 128 and the number for a
  signal.
- A container in the background (`run -d`) prints into a file, which `corten logs` shows: in `$CORTEN_LOGS`, else in
  `corten-logs` beside the daemon's socket, or below `/var/lib/corten-logs` when that is in `/run`. With a terminal
  (`run -dit`) it has none, and `corten attach` shows what it prints.
- Credentials for registries are `--user`, else what `docker login` has kept for who types the line, else the daemon's.
  A password that is asked for is not shown and not kept.
- Lists take filters as containerd's clients do (`name==…`, `labels.KEY~=…`); a plain word is looked for in the name.
"""


def commands(of: click.Command, above: click.Context | None, name: str) -> Iterator[tuple[str, click.Context]]:
    """Each with its whole name, groups before what is in them."""
    names = cli.SETTINGS["help_option_names"]
    ctx = click.Context(of, above, name, terminal_width=WIDTH, max_content_width=WIDTH, help_option_names=names)
    yield ctx.command_path, ctx
    if isinstance(of, click.Group):
        for each in of.list_commands(ctx):
            found = of.get_command(ctx, each)
            assert found is not None, each
            yield from commands(found, ctx, each)


def text() -> str:
    parts = [HEAD]
    for path, ctx in commands(cli.main, None, "corten"):
        level = "##" if path.count(" ") < 2 else "###"
        parts.append(f"{level} {path}\n\n```text\n{ctx.get_help()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(text(), end="")
