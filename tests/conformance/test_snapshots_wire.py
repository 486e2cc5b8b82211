"""Snapshotters at the far end of a socket: programs, of which every restart is kill -9 and another process.

A program serves many checks, until one of them kills it.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest

from plugin_sdk.conformance import snapshots
from plugin_sdk.scope import Scope
from plugin_sdk.wire import snapshots as wire
from plugin_sdk.wire import transport
from tests import forked

pytestmark = pytest.mark.root


class Lives:
    """The lives of one program over one root, on tmpfs."""

    def __init__(self, nursery, module):
        self._nursery = nursery
        self._module = module
        self._folder = Path(tempfile.mkdtemp(prefix="corten-", dir="/dev/shm"))
        self._program = None
        self._channel = None

    def begin(self):
        self.end()
        self._program = self._nursery.start(self._module, self._folder / "socket", self._folder / "root")
        self._channel = transport.connect(f"unix://{self._folder}/socket")
        return self.proxy()

    def proxy(self):
        if self._channel is None:
            self.begin()
        return wire.Proxy(self._channel, Scope("default"), "killed")

    def end(self):
        if self._program is not None:
            self._program.kill()
            self._channel.close()
        self._program = self._channel = None

    def close(self):
        self.end()
        shutil.rmtree(self._folder)


@pytest.fixture(scope="module")
def lives():
    with forked.nursery() as nursery, contextlib.ExitStack() as stack:
        found = {}

        def lives_of(module):
            if module not in found:
                found[module] = Lives(nursery, module)
                stack.callback(found[module].close)
            return found[module]

        yield lives_of


class Killed(snapshots.SnapshotSuite):
    module = ""

    @pytest.fixture
    def snapshotter(self, lives):
        return lives(self.module).proxy()

    @pytest.fixture
    def crash(self, lives):
        return lives(self.module).begin

    @pytest.fixture
    def supports_kill(self):
        return True


class TestNativeProgram(Killed):
    module = "plugins_builtin.snapshots.native"

    @pytest.fixture
    def supports_sharing(self):
        return False


class TestOverlayfsProgram(Killed):
    module = "plugins_builtin.snapshots.overlayfs"
