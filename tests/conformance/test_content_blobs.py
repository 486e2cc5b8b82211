"""The content store that tests of differs use."""

import pytest

from plugin_sdk.conformance import blobs, content


class TestBlobs(content.ContentSuite):
    @pytest.fixture
    def store(self, tmp_path):
        return blobs.Store(tmp_path)
