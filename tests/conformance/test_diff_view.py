"""The suite for differs at the height of the namespaced view: all differs as one, and the view's content store."""

import threading
import time

import pytest
from isal import igzip

from kernel.differs import Differ
from kernel.metadata.database import Database
from kernel.metadata.store import Metadata
from kernel.spawner import Spawner
from plugin_sdk import errors, oci, plugin
from plugin_sdk.conformance import diff, layers
from plugin_sdk.conformance.content import put
from plugin_sdk.oci import Descriptor
from plugin_sdk.scope import Scope
from plugins_builtin.content import local
from plugins_builtin.diff import walking
from plugins_builtin.diff.plugin import Config
from tests import pace
from tests.registries import FixedRegistry


@pytest.fixture(scope="module")
def spawner():
    spawner = Spawner()
    yield spawner
    spawner.close()


class TestView(diff.DiffSuite):
    @pytest.fixture
    def registry(self, folder, spawner):
        registry = FixedRegistry(local.Store(folder / "content"))
        registry.made[plugin.DIFFER, "walking"] = walking.Differ(spawner, folder / "state", Config())
        return registry

    @pytest.fixture
    def scope(self):
        return Scope("ns")

    @pytest.fixture
    def store(self, folder, registry, scope):
        metadata = Metadata(Database(folder / "meta.db"), registry)
        metadata.settle()
        yield metadata.view(scope).content
        metadata.close()
        metadata.database.close()

    @pytest.fixture
    def differ(self, registry):
        return Differ(registry, Scope("ns"))

    def test_an_apply_ends_when_its_caller_goes_away(self, differ, store, scope, overlay):
        data = igzip.compress(layers.tar(*(layers.member(str(n), bytes(60_000_000)) for n in range(10))), 1)
        layer = Descriptor(oci.LAYER_GZIP, put(store, data), len(data))
        threading.Timer(0.2, scope.cancel).start()
        begin = time.monotonic()
        with pytest.raises(errors.Canceled):
            differ.apply(layer, overlay.push(), store)
        assert pace.within(time.monotonic() - begin, 5)
