"""The differ ``walking`` at the far end of a socket, where the content store is too."""

import threading
import time

import pytest

from kernel.spawner import Spawner
from plugin_sdk import errors, oci
from plugin_sdk.conformance import diff, layers
from plugin_sdk.conformance.content import put
from plugin_sdk.oci import Descriptor
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


class Slow:
    """A store whose readers see when the caller has gone, as those of the daemon do, and wait for that."""

    def __init__(self, store, scope, ended):
        self._store = store
        self._scope = scope
        self._ended = ended

    def __getattr__(self, name):
        return getattr(self._store, name)

    def reader(self, digest):
        return SlowReader(self._store.reader(digest), self._scope, self._ended)


class SlowReader:
    def __init__(self, reader, scope, ended):
        self._reader = reader
        self._scope = scope
        self._ended = ended

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self._reader.close()
        self._ended.set()

    def fileno(self):
        raise errors.Unimplemented("no descriptor")

    def read_at(self, offset, size):
        while size:
            self._scope.check()
            time.sleep(0.01)
        self._scope.check()
        return b""


class TestWalkingOverASocket(diff.DiffSuite):
    @pytest.fixture
    def store(self, folder):
        return labelled.Store(folder / "content")

    @pytest.fixture
    def supports_store(self):
        return False

    @pytest.fixture
    def differ(self, folder, spawner, store, serve):
        behind = Differ(spawner, folder / "state", Config())
        return wire.Proxy(serve(wire.Servicer(lambda call: (behind, store))), Scope("default"))


@pytest.mark.root
def test_an_apply_ends_when_its_caller_goes_away(tmp_path, spawner, serve):
    store, scope, ended = labelled.Store(tmp_path / "content"), Scope("default"), threading.Event()
    behind = Differ(spawner, tmp_path / "state", Config())
    differ = wire.Proxy(serve(wire.Servicer(lambda call: (behind, Slow(store, call.scope, ended)))), scope)
    layer = Descriptor(oci.LAYER, put(store, layers.tar(layers.member("a"))), 0)
    (tmp_path / "stack").mkdir()
    threading.Timer(0.2, scope.cancel).start()
    with pytest.raises(errors.Canceled):
        differ.apply(layer, layers.Stack(tmp_path / "stack", "plain").push(), store)
    assert ended.wait(120), "the far end goes on"
