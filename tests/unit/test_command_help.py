"""What ``corten --help`` and the page of the commands say, and that it is true."""

from __future__ import annotations

import inspect
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from corten import cli
from corten.terminal import command
from scripts import command_page

ROOT = Path(__file__).resolve().parents[2]
ALL = dict(command_page.commands(cli.main, None, "corten"))
HEAVY = ("grpc", "google.protobuf", "asyncio", "rich", "json", "urllib3", "plugin_sdk.wire", "importlib.metadata")


def examples() -> list[tuple[str, str]]:
    return [(path, line) for path, ctx in ALL.items() for line in getattr(ctx.command, "examples", [])]


@pytest.mark.parametrize("path", ALL)
def test_every_command_has_a_sentence_options_that_are_explained_and_examples(path: str) -> None:
    of = ALL[path].command
    sentence = command.first_sentence(of)
    assert sentence.endswith("."), sentence
    assert [option.name for option in of.params if isinstance(option, click.Option) and not option.help] == []
    assert getattr(of, "examples", [])


def test_the_list_of_commands_says_what_their_own_help_says() -> None:
    for name, (_, sentence) in cli.COMMANDS.items():
        assert command.first_sentence(ALL[f"corten {name}"].command) == sentence


@pytest.mark.parametrize(("path", "line"), examples())
def test_every_example_can_be_typed(path: str, line: str) -> None:
    words = parsed(line)
    ctx: click.Context = cli.main.make_context("corten", words)
    while isinstance(ctx.command, click.Group):
        name, of, rest = ctx.command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
        assert of is not None
        ctx = of.make_context(name, rest, parent=ctx)
    described = ALL[path].command
    assert isinstance(described, click.Group) or ctx.command.callback is described.callback


def parsed(line: str) -> list[str]:
    """The words of the command within a line of a shell: without what is piped, sent to files, or said behind a #."""
    words = shlex.split(line.partition("  #")[0].removeprefix('eval "$(').removesuffix(')"'))
    start = words.index("corten") + 1
    end = next((n for n, word in enumerate(words) if n > start and word in ("|", ">")), len(words))
    return words[start:end]


def test_the_page_is_up_to_date() -> None:
    """Else: python -m scripts.command_page > docs/command.md"""
    assert (ROOT / "docs/command.md").read_text() == command_page.text()


@pytest.mark.parametrize("line", [["--help"], ["run", "--help"], ["image", "--help"]])
def test_help_needs_no_daemon_and_little(line: list[str]) -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "corten.cli", *line], capture_output=True, text=True, check=True
    )
    assert "Examples:" in shown.stdout
    loaded = {row.rpartition("|")[2].strip() for row in shown.stderr.splitlines()}
    assert not {name for name in loaded if name.startswith(HEAVY)}


def test_a_command_is_in_the_module_that_the_table_names() -> None:
    for name, (where, _) in cli.COMMANDS.items():
        callback = inspect.unwrap(ALL[f"corten {name}"].command.callback or (lambda: None))
        assert callback.__module__ == f"corten.commands.{where.partition(':')[0]}"
