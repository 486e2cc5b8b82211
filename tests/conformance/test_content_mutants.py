"""Stores of content with one broken sentence are caught by the checks of that sentence."""

import pytest

from plugin_sdk.conformance import content, resuming
from tests import mutation
from tests.conformance import commit_mutants, content_mutants

MUTANTS = [*content_mutants.MUTANTS, *commit_mutants.MUTANTS]


class Mutated(content.ContentSuite):
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch):
        monkeypatch.setattr(resuming, "NOTICE", 0.2)

    @pytest.fixture
    def store(self, tmp_path, mutant):
        return mutant.make(tmp_path)

    @pytest.fixture
    def supports_fileno(self):
        return True

    @pytest.fixture
    def reopen(self, tmp_path, mutant):
        return lambda: mutant.make(tmp_path)

    @pytest.fixture
    def crash(self, tmp_path, mutant):
        def crash(work):
            resuming.in_child(lambda end: work(mutant.make(tmp_path), end))
            return mutant.make(tmp_path)

        return crash


@pytest.fixture(scope="module")
def results():
    return mutation.run(__file__, MUTANTS, content_mutants.SOUND)


@mutation.UNTIMED
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_sentence_is_caught(results, mutant):
    results.caught(mutant)
