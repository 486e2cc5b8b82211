"""What every command has: a daemon to work with, one sentence for an error and what to do next, examples in its help.

A command's module is imported when the command is used. What it needs beyond click is imported when it runs.
"""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, TypeVar

import click

from corten.terminal.target import COMPLETING

SIGNALED = 128
"""An exit code above it says by which signal a process ended."""

_NAME = re.compile("[A-Za-z][A-Za-z-]*")
"""What a command can be called, mistyped or not."""

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """One sentence, and below it what to do next."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"Error: {self.message}", err=True)
        if self.advice:
            click.echo(self.advice, err=True)


class Command(click.Command):
    """``examples`` are lines of a shell; a text behind two blanks and a # says what one does."""

    def __init__(self, *args: Any, examples: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.examples = [line.strip() for line in examples.strip().splitlines()]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        write_examples(formatter, self.examples)


def write_examples(formatter: click.HelpFormatter, lines: Sequence[str]) -> None:
    with formatter.section("Examples"):
        for line in lines:
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Group(click.Group):
    """Of commands that work with one noun; its examples are the first ones of theirs."""

    command_class = Command
    group_class = type

    @property
    def examples(self) -> list[str]:
        return [each.examples[0] for each in self.commands.values() if isinstance(each, Command)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_sentence(each)) for name, each in sorted(self.commands.items())])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        write_examples(formatter, self.examples)


def first_sentence(of: click.Command) -> str:
    return " ".join((of.help or "").partition("\n\n")[0].split())


class Listing(Group):
    """Does its command ``ls`` when it is given none, but options or a filter that cannot be the name of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing and (not args or not (args[0] in ("-h", "--help") or _NAME.fullmatch(args[0]))):
            args = ["ls", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as err:
            if not any(param.name == "filters" for param in self.commands["ls"].params):
                raise
            line = f"{ctx.command_path} ls {args[0]}"
            raise click.UsageError(f"{err.format_message()} Filters are given to ls: `{line}`.", ctx) from err


class Main(click.Group):
    """``table`` says of each command where it is, as ``module:attribute``, and its sentence for the list of them."""

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], examples: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.table = table
        self.examples = [line.strip() for line in examples.strip().splitlines()]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        write_examples(formatter, self.examples)

    def main(self, *args: Any, **more: Any) -> Any:
        if COMPLETING in os.environ:
            from corten.terminal import completion

            completion.register()
        return super().main(*args, **more)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        found: click.Command = pkgutil.resolve_name(f"corten.commands.{self.table[cmd_name][0]}")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in self.table.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as err:
            import difflib

            if args and (near := difflib.get_close_matches(args[0], self.table, 1)):
                raise click.UsageError(f"{err.message} Did you mean {near[0]!r}?", ctx) from err
            raise

    def invoke(self, ctx: click.Context) -> Any:
        from plugin_sdk import errors

        try:
            return super().invoke(ctx)
        except errors.Error as err:
            from corten.terminal import advice

            raise Failure(err.message, advice.next_step(err)) from err
        except KeyboardInterrupt:
            sys.exit(SIGNALED + 2)


def json_option(help: str = "Print one JSON document, for programs.") -> Callable[[F], F]:
    return click.option("--json", "as_json", is_flag=True, help=help)


def quiet_option(help: str) -> Callable[[F], F]:
    return click.option("-q", "--quiet", is_flag=True, help=help)


def say(text: str) -> None:
    """For people, beside a command's output."""
    click.echo(text, err=True)


def several(names: tuple[str, ...], work: Callable[[str], object]) -> None:
    """Does the work for each name, and echoes those for which it is done. One that fails does not stop the others."""
    from corten.terminal import advice
    from plugin_sdk import errors

    failed = False
    for name in names:
        try:
            work(name)
        except errors.Error as err:
            failed = True
            Failure(err.message, advice.next_step(err)).show()
        else:
            click.echo(name)
    if failed:
        sys.exit(1)
