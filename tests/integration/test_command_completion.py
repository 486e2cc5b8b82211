"""Completion of ``corten`` in the real shells."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from corten import cli
from corten.terminal import completion

pytestmark = [pytest.mark.root, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]
FULL = "docker.io/library/busybox:latest"


@pytest.fixture
def installed(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """An environment with ``corten`` on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "corten"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m corten.cli "$@"\n')
    program.chmod(0o755)
    return {**environment, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"}


def in_bash(installed: dict[str, str], line: str) -> list[str]:
    """What bash offers at the end of the line, of its last word or of what stands behind its last colon."""
    words = " ".join(map(shlex.quote, line.split(" ")))
    script = f"""
eval "$(corten completion bash)"
COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_WORDS=({words}) COMP_CWORD={line.count(" ")}
_corten_completion corten
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "--norc", "-c", script], env=installed, capture_output=True, text=True, timeout=100)
    return done.stdout.split()


def in_fish(installed: dict[str, str], line: str) -> list[str]:
    script = f"corten completion fish | source; complete --do-complete {shlex.quote(line)}"
    done = subprocess.run(["fish", "-c", script], env=installed, capture_output=True, text=True, timeout=100)
    return [row.partition("\t")[0] for row in done.stdout.splitlines()]


@pytest.mark.parametrize("ask", [in_bash, in_fish])
def test_a_shell_completes_commands_options_and_names(ask: object, installed: dict[str, str], imported: str) -> None:
    assert callable(ask)
    assert sorted(ask(installed, "corten ima")) == ["image", "images"]
    assert "--snapshotter" in ask(installed, "corten run --sn")
    assert ask(installed, "corten image usage bu") == ["busybox:latest"]
    assert ask(installed, "corten run --snapshotter nat") == ["native"]
    assert installed["CORTEN_NAMESPACE"] in ask(installed, "corten namespaces rm z")


def test_bash_completes_behind_a_colon(installed: dict[str, str], imported: str) -> None:
    assert in_bash(installed, f"corten image rm {FULL[:-3]}") == ["latest"]
    assert in_bash(installed, "corten image rm busybox:") == ["latest"]


@pytest.fixture
def zsh(installed: dict[str, str], tmp_path: Path) -> Iterator[pexpect.spawn[str]]:
    (tmp_path / ".zshrc").write_text(
        'PS1="ready> "\nautoload -U compinit; compinit -uD\neval "$(corten completion zsh)"\n'
    )
    child = pexpect.spawn("zsh", ["-i"], env=installed, dimensions=(30, 200), timeout=90, encoding="utf-8")
    yield child
    child.close(force=True)


def test_zsh_completes_commands_and_names(zsh: pexpect.spawn[str], imported: str) -> None:
    zsh.expect("ready> ")
    zsh.send("corten image us\t")
    zsh.expect("usage ")
    zsh.send("busy\t")
    zsh.expect("busybox:latest ")
    zsh.send("\r")
    zsh.expect("UNPACKED")


def test_a_daemon_that_does_not_answer_completes_nothing(installed: dict[str, str]) -> None:
    assert in_bash({**installed, "CORTEN_ADDRESS": "/no/such.sock"}, "corten image usage b") == []


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    assert completion.COMPLETING in completion.script(shell, cli.main)
