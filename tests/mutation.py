"""Mutants: implementations with one broken sentence of their contract, and whether a check of that sentence fails.

A module of tests has a class ``Mutated`` over a suite, whose fixtures make the implementation from ``mutant``::

    class Mutated(content.ContentSuite):
        @pytest.fixture
        def store(self, tmp_path, mutant):
            return mutant.make(tmp_path)

    @pytest.fixture(scope="module")
    def results():
        return mutation.run(__file__, MUTANTS)

    @mutation.UNTIMED
    @pytest.mark.parametrize("mutant", MUTANTS, ids=str)
    def test_a_broken_sentence_is_caught(results, mutant):
        results.caught(mutant)

Each mutant meets the checks that hold its sentence, until one fails; ``SOUND`` must pass them all. All runs
are one run of pytest within this process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from plugin_sdk import errors
from plugin_sdk.conformance import sentences

Make = TypeVar("Make", bound=Callable[..., Any])


@dataclass(frozen=True)
class Mutant:
    """``make`` has the arguments that the class ``Mutated`` gives it."""

    name: str
    sentence: str
    make: Callable[..., Any]

    def __str__(self) -> str:
        return self.name


class Mutants(list[Mutant]):
    """Filled by decorators: ``@MUTANTS.breaks("A sentence.")`` above a class or a function that makes a mutant."""

    def breaks(self, sentence: str) -> Callable[[Make], Make]:
        def add(make: Make) -> Make:
            self.append(Mutant(make.__name__, sentence, make))
            return make

        return add


@dataclass(frozen=True)
class Results:
    """``failures`` are by mutant and by check, empty where one passed; ``SOUND`` stands for the sound implementation.
    ``checks`` are those of a sentence."""

    failures: dict[str, dict[str, str]]
    checks: dict[str, set[str]]

    def caught(self, mutant: Mutant) -> None:
        """Asserts that a check of the mutant's sentence fails, and that all of them pass without the mutation."""
        checks, sound = self.checks[mutant.sentence], self.failures[SOUND]
        assert checks, f"no check holds {mutant.sentence!r}"
        unsound = {check: sound[check] for check in checks if sound[check]}
        assert not unsound, f"checks of {mutant.sentence!r} fail without the mutation: {unsound}"
        assert any(self.failures[mutant.name].values()), f"none of {', '.join(checks)} notices the mutant {mutant}"


SOUND = ""

UNTIMED = pytest.mark.timeout(0)
"""For the tests of the results, the first of which waits for the whole run: there each check has a time limit of its
own, of as many seconds as ``LIMIT`` says, and there is one timer in a process."""

LIMIT = 300

NOTICED = AssertionError, pytest.fail.Exception, errors.Error, TimeoutError
"""What a check raises that notices something; any other exception is a fault of the mutant itself."""


def run(file: str, mutants: Sequence[Mutant], make: Callable[..., Any]) -> Results:
    """Runs the class ``Mutated`` of a module; ``make`` makes the sound implementation."""
    plugin = _Plugin([*mutants, Mutant(SOUND, "", make)])
    options = ["-q", "--noconftest", "--capture=no", f"--timeout={LIMIT}", "--tb=line", "-p", "no:cacheprovider"]
    pytest.main([file, "-o", "python_classes=Mutated", "-o", "addopts=--import-mode=importlib", *options], [plugin])
    assert plugin.failures, "no check was run"
    return Results(plugin.failures, plugin.checks)


class _Plugin:
    def __init__(self, mutants: Sequence[Mutant]) -> None:
        self._mutants = mutants
        self._sentences = {mutant.sentence for mutant in mutants}
        self.failures: dict[str, dict[str, str]] = defaultdict(dict)
        self.checks: dict[str, set[str]] = defaultdict(set)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if metafunc.cls is not None and "mutant" in metafunc.fixturenames:
            held = self._sentences.intersection(sentences.of(metafunc.function))
            for sentence in held:
                self.checks[sentence].add(metafunc.function.__name__)
            chosen = [mutant for mutant in self._mutants if held and (mutant.name == SOUND or mutant.sentence in held)]
            metafunc.parametrize("mutant", chosen, ids=[mutant.name for mutant in chosen])

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self._mutant(item) is not None]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        mutant = self._mutant(item)
        if mutant is not None and mutant.name != SOUND and any(self.failures[mutant.name].values()):
            pytest.skip("the mutant is caught already")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report = yield
        mutant = self._mutant(item)
        if mutant is not None and (report.when == "call" or (report.failed and mutant.name == SOUND)):
            failures, check = self.failures[mutant.name], item.originalname  # type: ignore[attr-defined]
            failures.setdefault(check, "")
            if report.failed and (mutant.name == SOUND or call.excinfo.errisinstance(NOTICED)):
                failures[check] = f"{item.name}: {call.excinfo.exconly()}"
        return report

    @staticmethod
    def _mutant(item: pytest.Item) -> Mutant | None:
        if item.cls is None or not hasattr(item, "callspec"):  # type: ignore[attr-defined]
            return None  # a test of the results
        found = item.callspec.params.get("mutant")  # a mark of pytest's, where none was to choose
        return found if isinstance(found, Mutant) else None
