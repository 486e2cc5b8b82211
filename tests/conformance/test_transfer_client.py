"""The suite for transferrers, at the far end of a socket: what the client library gives."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

import corten
from benchmarks import daemons
from plugin_sdk.conformance.transferring import TransferSuite
from plugin_sdk.daemon import View

pytestmark = pytest.mark.root


class TestClient(TransferSuite):
    @pytest.fixture
    def view(self, corten_daemon: daemons.Daemon) -> Iterator[View]:
        with corten.connect(corten_daemon.address) as client:
            yield client.view(f"suite-{uuid.uuid4().hex[:12]}")
