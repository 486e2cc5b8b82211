"""The suite for daemons, at the far end of a socket: what the client library gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import corten
from benchmarks import daemons
from corten.client import Client
from plugin_sdk.conformance import daemon

pytestmark = pytest.mark.root


class TestClient(daemon.DaemonSuite):
    @pytest.fixture
    def daemon(self, corten_daemon: daemons.Daemon) -> Iterator[Client]:
        with corten.connect(corten_daemon.address) as connection:
            yield connection
