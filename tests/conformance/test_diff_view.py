"""The suite for differs at the height of the namespaced view: all differs as one, and the view's content store."""

import pytest

from kernel.differs import Differ
from kernel.metadata.database import Database
from kernel.metadata.store import Metadata
from kernel.spawner import Spawner
from plugin_sdk import plugin
from plugin_sdk.conformance import diff
from plugin_sdk.scope import Scope
from plugins_builtin.content import local
from plugins_builtin.diff import walking
from plugins_builtin.diff.plugin import Config
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
    def store(self, folder, registry):
        metadata = Metadata(Database(folder / "meta.db"), registry)
        metadata.settle()
        yield metadata.view(Scope("ns")).content
        metadata.close()
        metadata.database.close()

    @pytest.fixture
    def differ(self, registry):
        return Differ(registry, Scope("ns"))
