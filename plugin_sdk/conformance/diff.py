"""The suite for differs: every sentence of ``plugin_sdk.diff`` has a test. It needs root, since it mounts.

An implementation subclasses it and gives a ``differ`` and the content ``store`` that this differ is handed::

    class TestMine(conformance.DiffSuite):
        @pytest.fixture
        def store(self, tmp_path):
            return Store(tmp_path)

        @pytest.fixture
        def differ(self):
            return Mine()

Each test of ``apply`` runs on a plain directory, on an overlay, and on an overlay that was written to before.
"""

from __future__ import annotations

import pytest

from plugin_sdk.conformance.applying import ApplySuite
from plugin_sdk.conformance.borrowing import BorrowSuite
from plugin_sdk.conformance.comparing import CompareSuite
from plugin_sdk.conformance.refusing import RefusalSuite
from plugin_sdk.conformance.stacking import StackSuite


@pytest.mark.root
class DiffSuite(ApplySuite, StackSuite, RefusalSuite, BorrowSuite, CompareSuite):
    """All of it."""
