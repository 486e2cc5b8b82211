"""The local store at the far end of a socket."""

import contextlib

import pytest

from plugin_sdk import errors
from plugin_sdk.conformance import content
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content as wire
from plugins_builtin.content import local


class TestLocalOverASocket(content.ContentSuite):
    @pytest.fixture
    def served(self, memory, serve):
        behind = local.Store(memory)
        return serve(wire.Servicer(lambda call: behind))

    @pytest.fixture
    def store(self, served):
        return wire.Proxy(served, Scope("default"))

    @pytest.fixture
    def reopen(self, served, connect):
        return lambda: wire.Proxy(connect(served.address), Scope("default"))

    @pytest.fixture
    def crash(self, served, store, connect):
        """What ends is the client: its connection breaks."""

        def crash(work):
            channel = connect(served.address)
            with contextlib.suppress(errors.Canceled, errors.Unavailable):
                work(wire.Proxy(channel, Scope("default")), channel.close)
            channel.close()
            return store

        return crash

    @pytest.fixture
    def supports_labels(self):
        return False

    @pytest.fixture
    def supports_truncate(self):
        return False
