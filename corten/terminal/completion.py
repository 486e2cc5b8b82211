"""Completion of command lines in bash, zsh and fish: scripts for the shells, and names that the daemon knows.

A shell's script calls ``corten`` with ``_CORTEN_COMPLETE`` set. A daemon that does not answer completes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from click import shell_completion
from click.shell_completion import CompletionItem

import corten
from corten.terminal.target import COMPLETING, Target

if TYPE_CHECKING:
    from corten.client import Client

SHELLS = ("bash", "zsh", "fish")

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' reply
    COMPREPLY=()
    for reply in $(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" %(complete_var)s=bash_complete "$1"); do
        case $reply in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            *) COMPREPLY+=("${reply#plain,}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(shell_completion.BashComplete):
    """Bash ends a word at a colon and at an equals sign, which names of images have: the line is read as it is, and
    what stands before the last of them in the last word is left out of the reply."""

    source_template = _BASH

    def source(self) -> str:
        return self.source_template % self.source_vars()  # of any bash, also on a machine without one

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"].encode()[: int(os.environ["COMP_POINT"])].decode(errors="ignore")
        words = shell_completion.split_arg_string(line)
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        self._cut = max(incomplete.rfind(":"), -1 if incomplete.startswith("-") else incomplete.rfind("=")) + 1
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return item.type if item.type in ("dir", "file") else f"plain,{str(item.value)[self._cut :]}"


def script(shell: str, program: click.Command) -> str:
    """The script by which ``shell`` completes the program's lines."""
    register()
    made = shell_completion.get_completion_class(shell)
    assert made is not None, shell
    return made(program, {}, "corten", COMPLETING).source()


def register() -> None:
    """Bash's completion is ours from now on."""
    shell_completion.add_completion_class(Bash, "bash")


def images(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Full names, and for what begins otherwise those that people type."""
    from corten.terminal import naming

    names = _ask(ctx, lambda client: [image.name for image in client.images.list()])
    return _items([*names, *map(naming.shortened, names)], incomplete)


def containers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items(_ask(ctx, lambda client: [container.id for container in client.containers.list()]), incomplete)


def snapshots(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    name = ctx.params.get("snapshotter") or ""
    return _items(_ask(ctx, lambda client: [info.name for info in client.snapshotter(name).walk()]), incomplete)


def digests(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items(_ask(ctx, lambda client: [info.digest for info in client.content.walk()]), incomplete)


def leases(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items(_ask(ctx, lambda client: [lease.id for lease in client.leases.list()]), incomplete)


def namespaces(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items(_ask(ctx, lambda client: [each.name for each in client.namespaces.list()]), incomplete)


def plugins(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    found = _ask(ctx, lambda client: [f"{info.kind}.{info.id}" for info in client.plugins()])
    return _items(found, incomplete)


def snapshotters(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    wanted = ["type==io.containerd.snapshotter.v1"]
    return _items(_ask(ctx, lambda client: [info.id for info in client.plugins(wanted)]), incomplete)


def _ask(ctx: click.Context, question: Callable[[Client], list[str]]) -> list[str]:
    from plugin_sdk import errors

    given = ctx.find_root().params
    target = Target(
        given.get("address") or os.environ.get("CORTEN_ADDRESS") or corten.ADDRESS,
        given.get("namespace") or os.environ.get("CORTEN_NAMESPACE") or corten.NAMESPACE,
    )
    try:
        with target.connect() as client:
            return question(client)
    except errors.Error:
        return []


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(set(names)) if name.startswith(incomplete)]


def first_only(complete: Complete) -> Complete:
    """For an argument of several words, of which the first one is completed so."""

    def limited(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        return [] if ctx.params.get(param.name or "") else complete(ctx, param, incomplete)

    return limited
