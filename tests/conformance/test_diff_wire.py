"""The differ ``walking`` at the far end of a socket, where the content store is too."""

import pytest

from kernel.spawner import Spawner
from plugin_sdk.conformance import diff
from plugin_sdk.scope import Scope
from plugin_sdk.wire import diff as wire
from plugins_builtin.diff.plugin import Config
from plugins_builtin.diff.walking import Differ
from tests import labelled


@pytest.fixture(scope="module")
def spawner():
    spawner = Spawner()
    yield spawner
    spawner.close()


class TestWalkingOverASocket(diff.DiffSuite):
    @pytest.fixture
    def store(self, folder):
        return labelled.Store(folder / "content")

    @pytest.fixture
    def differ(self, folder, spawner, store, serve):
        behind = Differ(spawner, folder / "state", Config())
        return wire.Proxy(serve(wire.Servicer(lambda call: (behind, store))), Scope("default"))
