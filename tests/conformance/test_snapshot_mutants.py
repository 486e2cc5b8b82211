"""Snapshotters with one broken sentence are caught by the checks of that sentence."""

import shutil
import tempfile
from pathlib import Path

import pytest

from plugin_sdk.conformance import snapshot_keys, snapshots
from tests import loops, mutation
from tests.conformance import snapshot_change_mutants, snapshot_mutants

MUTANTS = [*snapshot_mutants.MUTANTS, *snapshot_change_mutants.MUTANTS]

pytestmark = pytest.mark.root


class Mutated(snapshots.SnapshotSuite):
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch):
        monkeypatch.setattr(snapshot_keys, "_PATIENCE", 3)

    @pytest.fixture
    def folder(self, mutant):
        """With blocks below it only where something must get there: memory has nothing to write."""
        if getattr(mutant.make, "on_disk", False):
            with loops.file_system("ext4", 64 << 20) as folder:
                yield folder
            return
        folder = Path(tempfile.mkdtemp(prefix="corten-", dir="/dev/shm"))
        yield folder
        shutil.rmtree(folder)

    @pytest.fixture
    def opened(self, folder):
        opened = []
        yield opened
        for snapshotter in opened:
            snapshotter.close()

    @pytest.fixture
    def reopen(self, mutant, folder, opened):
        def reopen():
            opened.append(mutant.make(folder / "root"))
            return opened[-1]

        return reopen

    @pytest.fixture
    def snapshotter(self, reopen):
        return reopen()


@pytest.fixture(scope="module")
def results():
    return mutation.run(__file__, MUTANTS, snapshot_mutants.SOUND)


@mutation.UNTIMED
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_broken_sentence_is_caught(results, mutant):
    results.caught(mutant)
