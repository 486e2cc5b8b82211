"""Runs the suites against a program at an address, whatever language it is written in: ``corten plugin check``.

::

    found = checking.find(Target("/run/stars.sock"))
    results = checking.run(found, tell=print)

pytest runs in this process, by itself: it reads no configuration, loads no plugin of the user's and prints nothing.
The checks use a namespace, keys and refs of their own, and remove what they have made.
"""

from __future__ import annotations

import contextlib
import enum
import os
import pkgutil
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import conformance, errors
from plugin_sdk.conformance import asking, failures, sentences, shelf
from plugin_sdk.conformance.target import TARGET, Target
from plugin_sdk.wire import content, diff, namespaces, rpc, transport

_MODULE = Path(__file__).parent / "at_address.py"
_CLASSES = {"snapshot": "TestSnapshot", "content": "TestContent", "diff": "TestDiff"}
_OPTIONS = ("-c", os.devnull, "--noconftest", "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:terminal")
_ENVIRONMENT = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
_OF_ENDING = re.compile("reopen|crash|restart|kill")
_ENDING = "the program would have to be ended and started again"
_NEVER = {"restart", "kill", "fileno", "truncate", "store"}  # not the program's doing: it is at the far end of a socket
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
    """The target with the types that it serves, which are asked for unless it says them.

    Raises Unavailable when nobody answers, FailedPrecondition when it cannot be checked, InvalidArgument for a bad
    address or a snapshotter that is not there."""
    with contextlib.closing(target.connect(target.address)) as channel:
        if target.types:
            types = tuple(type for type in target.types if asking.serves(channel, target.scope, type, target.name))
        else:
            types = asking.served(channel, target.scope, target.name)
        if not types:
            what = " or ".join(target.types) or "snapshots, content or diff"
            raise errors.FailedPrecondition(f'"{target.address}" does not serve {what}')
        if {"snapshot", "diff"} & set(types) and os.geteuid() != 0:
            raise errors.FailedPrecondition("the checks of snapshotters and differs mount, which only root may")
        if "diff" in types:
            with _namespace(target):
                _find_content(channel, target)
    return replace(target, types=types)


def _find_content(channel: rpc.Channel, target: Target) -> None:
    """Raises FailedPrecondition unless the differ reads the content that the checks write."""
    where = target.content or target.address
    with contextlib.closing(target.connect(where)) as beside:
        if not asking.serves(beside, target.scope, "content", ""):
            raise errors.FailedPrecondition(
                f'"{where}" does not serve content: the address of what the differ reads is needed'
            )
        store = shelf.Shelf(content.Proxy(beside, target.scope))
        if not asking.reads(diff.Proxy(channel, target.scope), store):
            raise errors.FailedPrecondition(f'the differ at "{target.address}" does not read the content at "{where}"')


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
    with _alone(), _namespace(target), _interruptible(session):
        for name in ("CI", "BUILD_NUMBER"):  # with them pytest explains long differences in full, which takes hours
            os.environ.pop(name, None)
        code = pytest.main([*_OPTIONS, f"--rootdir={_MODULE.parent}", *chosen], plugins=[session])
    if session.interrupted or (code == pytest.ExitCode.INTERRUPTED and not session.ended):
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
def _interruptible(session: _Session) -> Iterator[None]:
    """SIGINT ends the run after the check that is under way: an exception in the middle of anything could leave a lock
    behind that tidying up needs. A second one is heeded at once."""

    def interrupt(number: int, frame: object) -> None:
        if session.interrupted:
            raise KeyboardInterrupt
        session.interrupted = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _namespace(target: Target) -> Iterator[None]:
    """A daemon makes a namespace by the first use; it is removed if it was not there, and is empty."""
    with contextlib.ExitStack() as stack:
        for address in {target.address, target.content or target.address}:
            channel = stack.enter_context(contextlib.closing(target.connect(address)))
            store = namespaces.Proxy(channel, target.scope)
            with contextlib.suppress(errors.Error):
                if target.namespace not in [each.name for each in store.list()]:
                    stack.callback(_remove, store, target.namespace)
        yield


def _remove(store: namespaces.Proxy, namespace: str) -> None:
    with contextlib.suppress(errors.Error):
        store.delete(namespace)


class _Session:
    """A plugin of pytest's that chooses the checks and makes outcomes of its reports."""

    def __init__(
        self, target: Target, only: str, begin: Callable[[int], None], tell: Callable[[Outcome], None]
    ) -> None:
        self._target = target
        self._only = only.lower()
        self._begin = begin
        self._tell = tell
        self._running: dict[str, Outcome] = {}
        self._unanswered = 0
        self.outcomes: list[Outcome] = []
        self.lacks: dict[tuple[str, str], str] = {}
        self.trouble = ""
        self.ended = ""
        self.interrupted = False

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[TARGET] = self._target
        config.addinivalue_line("markers", "root: needs root")
        names = [f"{conformance.__name__}.{each.name}" for each in pkgutil.iter_modules(conformance.__path__)]
        pytest.register_assert_rewrite(*(name for name in names if name not in sys.modules))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.trouble = str(report.longrepr).strip().splitlines()[-1]

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
        self.trouble = excinfo.exconly()
        return True  # it is not printed

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        planned = {item: Outcome(_type(item), item.name, sentences.of(_function(item))) for item in items}
        items[:] = [item for item, outcome in planned.items() if self._is_chosen(outcome)]
        self._running = {item.nodeid: planned[item] for item in items}
        self._begin(len(items))

    def _is_chosen(self, planned: Outcome) -> bool:
        return any(self._only in text.lower() for text in (planned.title, planned.check, *planned.sentences))

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
        name = fixturedef.argname.removeprefix("supports_")
        is_told = name != fixturedef.argname and name not in _NEVER
        if is_told and fixturedef.cached_result and fixturedef.cached_result[0] is False:
            self.lacks[_type(request.node), name] = " ".join((fixturedef.func.__doc__ or "").split())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = self._running[report.nodeid]
        outcome = replace(outcome, seconds=outcome.seconds + report.duration)
        if report.skipped and isinstance(report.longrepr, tuple):
            outcome = replace(outcome, state=State.UNCHECKED, came=_reason(report.longrepr[2]))
        elif report.failed:
            outcome = replace(outcome, state=State.FAILED)
        self._running[report.nodeid] = outcome

    def pytest_exception_interact(self, node: pytest.Item | pytest.Collector, call: pytest.CallInfo[Any]) -> None:
        if isinstance(node, pytest.Item) and call.excinfo is not None and not self._running[node.nodeid].came:
            expected, came = failures.explain(_function(node), call.excinfo)
            self._running[node.nodeid] = replace(self._running[node.nodeid], expected=expected, came=came)
            self._watch(node, call.excinfo.value)

    def _watch(self, item: pytest.Item, error: BaseException) -> None:
        """Nobody waits for hundreds of checks of a program that has gone."""
        self._unanswered = self._unanswered + 1 if isinstance(error, transport.Lost) else 0
        if self._unanswered == _GONE:
            self.ended = f'"{self._target.address}" answers no more'
            item.session.shouldstop = self.ended

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        outcome = self._running.pop(nodeid)
        if outcome.state is not State.FAILED:
            self._unanswered = 0
        self.outcomes.append(outcome)
        self._tell(outcome)
        if self.interrupted:
            self._session.shouldstop = "interrupted"


def _reason(skipped: str) -> str:
    reason = skipped.removeprefix("Skipped: ")
    return _ENDING if _OF_ENDING.search(reason) else re.sub(r"^supports_\w+ is false: ", "", reason)


def _type(item: Any) -> str:
    return next(type for type, name in _CLASSES.items() if f"::{name}::" in item.nodeid)


def _function(item: pytest.Item) -> Callable[..., Any]:
    function: Callable[..., Any] = item.function  # type: ignore[attr-defined]
    return function
