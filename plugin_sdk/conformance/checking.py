"""Runs the suites against a program at an address, whatever language it is written in: ``corten plugin check``.

::

    found = checking.find("/run/stars.sock")
    outcomes = checking.run(found, tell=print)

pytest runs in this process, by itself: it reads no configuration, loads no plugin of the user's and prints nothing.
The checks use a namespace, keys and refs of their own, and remove what they have made.
"""

from __future__ import annotations

import contextlib
import enum
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import conformance, errors
from plugin_sdk.conformance import failures, sentences
from plugin_sdk.conformance.target import TARGET, Target
from plugin_sdk.wire import transport

_MODULE = Path(__file__).parent / "at_address.py"
_CLASSES = {"snapshot": "TestSnapshot", "content": "TestContent", "diff": "TestDiff"}
_OPTIONS = ("-c", os.devnull, "--noconftest", "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:terminal")
_ENVIRONMENT = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
_OF_ENDING = re.compile(r"\b(reopen|crash|restart|kill)")
_ENDING = "the program would have to be ended and started again"
_GONE = 3  # calls in a row that nobody answers


class State(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one check. ``type`` is as in ``Target.types``; ``check`` is its function, with parameters in brackets.

    ``expected`` and ``came`` are of a failed one, ``came`` also says why one was not checked; ``seconds`` is how long
    it took."""

    type: str
    check: str
    sentences: tuple[str, ...]
    state: State = State.PASSED
    expected: str = ""
    came: str = ""
    seconds: float = 0.0

    @property
    def title(self) -> str:
        """The check in words."""
        name, _, parameters = self.check.removeprefix("test_").partition("[")
        words = name.replace("_", " ")
        return f"{words} ({parameters.removesuffix(']')})" if parameters else words


@dataclass(frozen=True, slots=True)
class Results:
    """``lacks`` are the fixtures ``supports_…`` that are false, by type, with what they say; ``ended`` says why the run
    ended before its end, if it did."""

    outcomes: tuple[Outcome, ...]
    lacks: dict[tuple[str, str], str]
    ended: str = ""


def find(target: Target) -> Target:
    """The target with what it serves, if it does not say so, and with the content that its differ reads.

    Raises Unavailable when nobody answers, FailedPrecondition when it cannot be checked, InvalidArgument for a bad
    address or a snapshotter that is not there."""
    from plugin_sdk.conformance import asking

    with contextlib.closing(target.connect(target.address)) as channel:
        if target.types:
            types = tuple(type for type in target.types if asking.serves(channel, target.scope, type, target.name))
        else:
            types = asking.served(channel, target.scope, target.name)
        if not types:
            what = " or ".join(target.types) or "snapshots, content or diff"
            raise errors.FailedPrecondition(f'"{target.address}" does not serve {what}')
        if "diff" in types and not target.content and not asking.serves(channel, target.scope, "content", ""):
            raise errors.FailedPrecondition(
                f'"{target.address}" serves a differ: the address of the content that it reads is needed too'
            )
    if {"snapshot", "diff"} & set(types) and os.geteuid() != 0:
        raise errors.FailedPrecondition(f"the checks of {' and '.join(types)} mount file systems, which only root may")
    return replace(target, types=types)


def run(
    target: Target,
    only: str = "",
    begin: Callable[[int], None] = lambda count: None,
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> Results:
    """Checks what ``find`` has found: all, or the checks whose name or sentences have the text ``only``.

    ``begin`` is told the number of checks, ``tell`` each outcome. Raises FailedPrecondition when there is no such
    check, KeyboardInterrupt after removing what was made."""
    session = _Session(target, only, begin, tell)
    chosen = [f"{_MODULE}::{_CLASSES[type]}" for type in target.types]
    with _alone(), _namespace(target):
        code = pytest.main([*_OPTIONS, f"--rootdir={_MODULE.parent}", *chosen], plugins=[session])
    if code == pytest.ExitCode.INTERRUPTED and not session.ended:
        raise KeyboardInterrupt
    if session.trouble:
        raise errors.Internal(f"the suites do not run here: {session.trouble}")
    if not session.outcomes:
        raise errors.FailedPrecondition(f'no check has "{only}" in its name or its sentences')
    return Results(tuple(session.outcomes), session.lacks, session.ended)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Without what the environment tells pytest."""
    before = {name: os.environ.pop(name) for name in _ENVIRONMENT if name in os.environ}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"]
        os.environ.update(before)


@contextlib.contextmanager
def _namespace(target: Target) -> Iterator[None]:
    """A daemon makes a namespace by the first use; it is removed if it was not there, and is empty."""
    from plugin_sdk.wire import namespaces

    with contextlib.closing(target.connect(target.address)) as channel:
        store = namespaces.Proxy(channel, target.scope)
        missing = False
        try:
            store.get(target.namespace)
        except errors.NotFound:
            missing = True
        except errors.Error:
            pass
        yield
        if missing:
            with contextlib.suppress(errors.Error):
                store.delete(target.namespace)


class _Session:
    """A plugin of pytest's that chooses the checks and makes outcomes of its reports."""

    def __init__(
        self, target: Target, only: str, begin: Callable[[int], None], tell: Callable[[Outcome], None]
    ) -> None:
        self._target = target
        self._only = only.lower()
        self._begin = begin
        self._tell = tell
        self._current: Outcome | None = None
        self._unanswered = 0
        self.outcomes: list[Outcome] = []
        self.lacks: dict[tuple[str, str], str] = {}
        self.trouble = ""
        self.ended = ""

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[TARGET] = self._target
        config.addinivalue_line("markers", "root: needs root")
        names = [f"{conformance.__name__}.{each.name}" for each in pkgutil.iter_modules(conformance.__path__)]
        pytest.register_assert_rewrite(*(name for name in names if name not in sys.modules))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.trouble = str(report.longrepr).strip().splitlines()[-1]

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.trouble = excinfo.exconly()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self._is_chosen(_planned(item))]
        self._begin(len(items))

    def _is_chosen(self, planned: Outcome) -> bool:
        return any(self._only in text.lower() for text in (planned.title, planned.check, *planned.sentences))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Any:
        value = yield
        if fixturedef.argname.startswith("supports_") and value is False:
            says = " ".join((fixturedef.func.__doc__ or "").split())
            self.lacks[_type(request.node), fixturedef.argname.removeprefix("supports_")] = says
        return value

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report: pytest.TestReport = yield
        outcome = self._current or _planned(item)
        outcome = replace(outcome, seconds=outcome.seconds + report.duration)
        if report.skipped and call.excinfo is not None:
            outcome = replace(outcome, state=State.UNCHECKED, came=_reason(str(call.excinfo.value)))
        elif report.failed and call.excinfo is not None and outcome.state is not State.FAILED:
            expected, came = failures.explain(_function(item), call.excinfo)
            outcome = replace(outcome, state=State.FAILED, expected=expected, came=came)
            self._watch(item, call.excinfo.value)
        self._current = outcome
        if report.when == "teardown":
            self._end(outcome)
        return report

    def _end(self, outcome: Outcome) -> None:
        self._current = None
        if outcome.state is not State.FAILED:
            self._unanswered = 0
        self.outcomes.append(outcome)
        self._tell(outcome)

    def _watch(self, item: pytest.Item, error: BaseException) -> None:
        """Nobody waits for hundreds of checks of a program that has gone."""
        self._unanswered = self._unanswered + 1 if isinstance(error, transport.Lost) else 0
        if self._unanswered == _GONE:
            self.ended = f'"{self._target.address}" answers no more'
            item.session.shouldstop = self.ended


def _planned(item: pytest.Item) -> Outcome:
    return Outcome(_type(item), item.name, sentences.of(_function(item)))


def _type(item: pytest.Item) -> str:
    return next(type for type, name in _CLASSES.items() if f"::{name}::" in item.nodeid)


def _reason(skipped: str) -> str:
    return _ENDING if _OF_ENDING.search(skipped) else skipped


def _function(item: pytest.Item) -> Callable[..., Any]:
    function: Callable[..., Any] = item.function  # type: ignore[attr-defined]
    return function
