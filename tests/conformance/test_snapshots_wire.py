"""The native snapshotter at the far end of a socket."""

import pytest

from plugin_sdk.conformance import snapshots
from plugin_sdk.scope import Scope
from plugin_sdk.wire import snapshots as wire
from plugins_builtin.snapshots import native


@pytest.mark.root
class TestNativeOverASocket(snapshots.SnapshotSuite):
    @pytest.fixture
    def snapshotter(self, tmp_path, serve):
        behind = native.Snapshotter(tmp_path / "root")
        channel = serve(wire.Servicer(lambda call, name: behind))
        yield wire.Proxy(channel, Scope("default"), "native")
        behind.close()
