"""The suite for content stores: every sentence of ``plugin_sdk.content`` that promises something has a check.

An implementation subclasses it, gives a ``store`` and says what it cannot do::

    class TestMine(content.ContentSuite):
        @pytest.fixture
        def store(self, tmp_path):
            return Mine(tmp_path)

        @pytest.fixture
        def supports_labels(self):
            return False

The store need not be empty, and is left as it was found. ``reopen`` and ``crash`` are for stores that survive their
process: see ``plugin_sdk.conformance.resuming``.
"""

from __future__ import annotations

from plugin_sdk.conformance.committing import CommitSuite, LabelSuite
from plugin_sdk.conformance.contending import ContendSuite
from plugin_sdk.conformance.ingesting import IngestSuite
from plugin_sdk.conformance.reading import ReadSuite
from plugin_sdk.conformance.resuming import ResumeSuite
from plugin_sdk.conformance.shelf import digest_of, get, put, refs

__all__ = ["ContentSuite", "digest_of", "get", "put", "refs"]


class ContentSuite(ReadSuite, IngestSuite, CommitSuite, LabelSuite, ContendSuite, ResumeSuite):
    """All of it."""
