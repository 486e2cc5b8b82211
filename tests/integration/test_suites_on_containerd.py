"""The conformance suites against the services of Debian's containerd: what fails is what docs/design/peers.md lists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks import daemons

pytestmark = [pytest.mark.root, pytest.mark.peer]
PAGE = Path(__file__).parents[2] / "docs/design/peers.md"
RUNS = {
    "native": ("--type=snapshot", "--name=native"),
    "overlayfs": ("--type=snapshot", "--name=overlayfs"),
    "content": ("--type=content",),
    "diff": ("--type=diff",),
}
SOMETIMES = "sometimes"

Run = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One difference: the checks that fail of it, ``*`` standing for anything, in the runs of these names, always or
    ``sometimes``. Without parameters, a check stands for all that it is run with."""

    checks: tuple[str, ...]
    runs: frozenset[str]
    sometimes: bool
    what: str


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and cells[0].startswith("`"):
            runs = frozenset(cells[1].split(", "))
            checks = tuple(re.findall(r"`([^`]+)`", cells[0]))
            found.append(Row(checks, runs - {SOMETIMES}, SOMETIMES in runs, cells[2]))
    return found


ROWS = rows()


def matches(pattern: str, check: str) -> bool:
    wanted = re.escape(pattern).replace(r"\*", ".*")
    return re.fullmatch(wanted if "[" in pattern else rf"{wanted}(\[.*\])?", check, re.DOTALL) is not None


@pytest.fixture(scope="module")
def peer(scratch: Path) -> Iterator[daemons.Daemon]:
    """One of its own: the suites leave work to its collector."""
    daemon = daemons.start_containerd(scratch / "s")
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def found(peer: daemons.Daemon) -> dict[str, Run]:
    def run(name: str) -> Run:
        line = [sys.executable, "-m", "corten.cli", "plugin", "check", peer.address, "--json"]
        done = subprocess.run(
            [*line, f"--namespace=suite-{name}", *RUNS[name]], capture_output=True, text=True, timeout=1400
        )
        assert (done.returncode, done.stderr) == (1, ""), done.stderr
        made: Run = json.loads(done.stdout)
        return made

    with ThreadPoolExecutor(len(RUNS)) as pool:
        return dict(zip(RUNS, pool.map(run, RUNS), strict=True))


def checks(run: Run, state: str = "") -> set[str]:
    return {each["check"] for each in run["checks"] if not state or each["state"] == state}


def listings(name: str, *sometimes: bool) -> list[str]:
    rows = [row for row in ROWS if name in row.runs and row.sometimes in (sometimes or (False, True))]
    return [pattern for row in rows for pattern in row.checks]


def listed(run: Run, name: str, sometimes: bool) -> set[str]:
    return {check for check in checks(run) if any(matches(each, check) for each in listings(name, sometimes))}


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", RUNS)
def test_the_checks_that_fail_are_those_of_the_page(found: dict[str, Run], name: str) -> None:
    always, sometimes = (listed(found[name], name, each) for each in (False, True))
    failed = checks(found[name], "failed")
    reasons = {each["check"]: each["came"] for each in found[name]["checks"]}
    assert {check: reasons[check] for check in failed - always - sometimes} == {}
    assert always - failed == set()
    assert len(checks(found[name], "passed")) > len(failed)


@pytest.mark.parametrize("name", RUNS)
def test_the_page_names_no_check_that_is_not_run(found: dict[str, Run], name: str) -> None:
    patterns = listings(name)
    assert [each for each in patterns if not any(matches(each, check) for check in checks(found[name]))] == []
    assert len(patterns) == len(set(patterns))


def test_every_difference_has_a_reason() -> None:
    assert ROWS
    assert all(row.what.endswith(".") and row.runs and row.runs <= RUNS.keys() for row in ROWS)


def test_nothing_of_the_checks_is_left(found: dict[str, Run], peer: daemons.Daemon) -> None:
    assert peer.ctr("namespaces", "ls", "-q", check=True).stdout.split() == []
