"""``corten plugin check``: the suites of ``plugin_sdk.conformance`` against a program, and a report for people."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plugin_sdk import errors

if TYPE_CHECKING:
    from plugin_sdk.conformance.checking import Outcome, Results
    from plugin_sdk.conformance.target import Target
    from plugin_sdk.wire import transport

PASSED, FAILED, IMPOSSIBLE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all checks passed, some failed, nothing could be checked, ^C."""

_WIDEST = 120
_PARAMETER, _SHOWN = 40, 6  # characters of a parameter, parameters of alike failures
_STATES = ("passed", "failed", "unchecked")


def check(address: str, only: str, as_json: bool, **options: Any) -> int:
    """Answers the exit code; ``options`` are the other fields of a ``Target``, and the files of its ``tls``."""
    try:
        target, results = _run(address, only, options)
    except errors.Error as err:
        click.echo(f"Error: {err.message}", err=True)
        return IMPOSSIBLE
    except KeyboardInterrupt:
        click.echo("Error: interrupted; what the checks have made is removed", err=True)
        return INTERRUPTED
    click.echo(json.dumps(summary(target, results), indent=2) if as_json else "\n".join(report(target, results)))
    failed = results.ended or any(outcome.state == "failed" for outcome in results.outcomes)
    return FAILED if failed else PASSED


def _run(address: str, only: str, options: dict[str, Any]) -> tuple[Target, Results]:
    try:
        from plugin_sdk.conformance import checking
        from plugin_sdk.conformance.target import Target
    except ModuleNotFoundError as err:
        if err.name != "pytest":
            raise
        raise errors.FailedPrecondition(
            "the checks need pytest, which is not installed: pip install 'corten[check]'"
        ) from err
    tls = _tls(**{name: options.pop(name) for name in ("tls_ca", "tls_cert", "tls_key", "tls_name")})
    target = checking.find(Target(address, tls=tls, **options))
    progress = Progress()
    try:
        return target, checking.run(target, only, progress.begin, progress.tell)
    finally:
        progress.clear()


def _tls(tls_ca: str, tls_cert: str, tls_key: str, tls_name: str) -> transport.Tls | None:
    """Of the files that are named. Raises InvalidArgument for one that cannot be read."""
    from plugin_sdk.wire import transport

    if not (tls_ca or tls_cert or tls_key):
        return None
    try:
        ca, cert, key = (Path(file).read_bytes() if file else b"" for file in (tls_ca, tls_cert, tls_key))
    except OSError as err:
        raise errors.InvalidArgument(f"{err.filename}: {err.strerror}") from err
    return transport.Tls(ca, cert, key, tls_name)


class Progress:
    """One line on a terminal's standard error, which is gone at the end."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._count = self._done = self._failed = 0

    def begin(self, count: int) -> None:
        self._count = count
        self._show(f"{count} checks")

    def tell(self, outcome: Outcome) -> None:
        self._done += 1
        self._failed += outcome.state == "failed"
        self._show(f"{self._done} of {self._count} checks, {self._failed} failed")

    def clear(self) -> None:
        self._show("")

    def _show(self, text: str) -> None:
        if self._shown:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)


def report(target: Target, results: Results) -> Iterator[str]:
    """The lines of it."""
    width = min(shutil.get_terminal_size((100, 0)).columns, _WIDEST)
    for alike in _alike(results.outcomes):
        yield from _failure(alike, width)
    if results.lacks:
        yield "Not so here, and the contract does not ask for it:"
        for (type, _), says in sorted(results.lacks.items()):
            yield from _item(type, says, width)
        yield ""
    if reasons := list(_reasons(results.outcomes)):
        yield "Not checked:"
        for type, reason in reasons:
            yield from _item(type, reason, width)
        yield ""
    yield from _counts(target.types, results.outcomes)
    yield ""
    yield _verdict(target, results)


def _alike(outcomes: Iterable[Outcome]) -> Iterator[list[Outcome]]:
    """Failures of one check that differ in its parameters only stand together."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for _, group in itertools.groupby(failed, lambda each: (each.type, each.check.partition("[")[0], each.expected)):
        yield list(group)


def _failure(alike: Sequence[Outcome], width: int) -> Iterator[str]:
    first = alike[0]
    yield from (click.style(line, bold=True) for line in textwrap.wrap(f"{first.type}: {_title(alike)}", width))
    yield from _rows("contract", first.sentences, width)
    yield from _rows("expected", first.expected.splitlines(), width)
    yield from _rows("came", first.came.splitlines(), width)
    if any(each.came != first.came for each in alike):
        yield from _rows("", [f"… and the like {len(alike) - 1} times more"], width)
    yield ""


def _title(alike: Sequence[Outcome]) -> str:
    """Of the first, with the parameters of them all if it has any."""
    words, _, own = alike[0].title.partition(" (")
    if not own:
        return words
    parameters = [_shortened(each.title.partition(" (")[2][:-1]) for each in alike]
    more = f" and {len(parameters) - _SHOWN} more" if len(parameters) > _SHOWN else ""
    return f"{words} ({'; '.join(parameters[:_SHOWN])}{more})"


def _shortened(text: str) -> str:
    return text if len(text) <= _PARAMETER else f"{text[: _PARAMETER - 1]}…"


def _rows(name: str, texts: Sequence[str], width: int) -> Iterator[str]:
    for text in texts:
        yield from _item(name, text, width)
        name = ""


def _item(name: str, text: str, width: int) -> Iterator[str]:
    head = f"    {name}".ljust(14)
    yield from textwrap.wrap(text, width, initial_indent=head, subsequent_indent=" " * 14)


def _reasons(outcomes: Iterable[Outcome]) -> Iterator[tuple[str, str]]:
    """(type, what and why) of the unchecked, those of one reason together."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.state == "unchecked":
            found.setdefault((outcome.type, outcome.came), []).append(outcome)
    for (type, reason), those in found.items():
        what = those[0].title if len(those) == 1 else f"{len(those)} checks"
        yield type, f"{what}: {reason}"


def _counts(types: Sequence[str], outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "".join(["".ljust(10), *(name.rjust(12) for name in ("passed", "failed", "not checked"))])
    for type in types:
        states = [outcome.state for outcome in outcomes if outcome.type == type]
        yield "".join([type.ljust(10), *(str(states.count(name)).rjust(12) for name in _STATES)])  # type: ignore[arg-type]


def _verdict(target: Target, results: Results) -> str:
    failed = sum(outcome.state == "failed" for outcome in results.outcomes)
    if results.ended:
        return f"{results.ended}: the checks that follow were not made."
    if failed:
        return f'{failed} of {len(results.outcomes)} checks failed at "{target.address}".'
    return f'"{target.address}" keeps the contract.'


def summary(target: Target, results: Results) -> dict[str, Any]:
    """The same for programs."""
    states = [str(outcome.state) for outcome in results.outcomes]
    return {
        "address": target.address,
        "types": list(target.types),
        "name": target.name,
        "namespace": target.namespace,
        "counts": {state: states.count(state) for state in _STATES},
        "ended": results.ended,
        "lacks": [{"type": type, "name": name, "says": says} for (type, name), says in sorted(results.lacks.items())],
        "checks": [
            {
                "type": outcome.type,
                "check": outcome.check,
                "title": outcome.title,
                "sentences": list(outcome.sentences),
                "state": str(outcome.state),
                "expected": outcome.expected,
                "came": outcome.came,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in results.outcomes
        ],
    }
