"""The suite for snapshotters: every sentence of ``plugin_sdk.snapshots`` has a check.

An implementation subclasses it and gives a ``snapshotter``; what it cannot do is a ``supports_…`` fixture::

    @pytest.mark.root
    class TestMine(snapshots.SnapshotSuite):
        @pytest.fixture
        def snapshotter(self, tmp_path):
            mine = Mine(tmp_path / "root")
            yield mine
            mine.close()

The fixtures are in ``snapshot_rig.py``: ``reopen`` and ``crash`` are for snapshotters that survive their process. The
mounts are mounted here, which takes root.
"""

from __future__ import annotations

from plugin_sdk.conformance.snapshot_files import Files
from plugin_sdk.conformance.snapshot_keys import Keys
from plugin_sdk.conformance.snapshot_labels import Labels
from plugin_sdk.conformance.snapshot_records import Records
from plugin_sdk.conformance.snapshot_restarts import Restarts
from plugin_sdk.conformance.snapshot_targets import Targets
from plugin_sdk.conformance.snapshot_threads import Threads
from plugin_sdk.conformance.snapshot_trees import appearance, commit, fill, names, shown, texts

__all__ = ["SnapshotSuite", "appearance", "commit", "fill", "names", "shown", "texts"]


class SnapshotSuite(Files, Keys, Records, Labels, Threads, Restarts, Targets):
    """All parts."""
