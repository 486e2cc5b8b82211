"""Differs with one broken sentence are caught by the checks of that sentence."""

import pytest

from kernel.spawner import Spawner
from plugin_sdk import mounts
from plugin_sdk.conformance import borrowing, diff
from tests import labelled, mutation
from tests.conformance.diff_mutants import MUTANTS, SOUND


@pytest.fixture(scope="module")
def spawner():
    spawner = Spawner()
    yield spawner
    spawner.close()


class Mutated(diff.DiffSuite):
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch):
        monkeypatch.setattr(borrowing, "PATIENCE", 4)

    @pytest.fixture
    def store(self, folder):
        return labelled.Store(folder / "content")

    @pytest.fixture
    def differ(self, folder, spawner, mutant):
        differ = mutant.make(spawner, folder / "state")
        yield differ
        differ.left.close()
        mounts.unmount_below(folder)


@pytest.fixture(scope="module")
def results():
    return mutation.run(__file__, MUTANTS, SOUND)


@pytest.mark.root
@mutation.UNTIMED
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_sentence_is_caught(results, mutant):
    results.caught(mutant)
