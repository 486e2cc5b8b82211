"""The suite for daemons, inside of the daemon: what plugins are given as ``context.daemon``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import config, directories
from kernel.daemon import Daemon
from kernel.spawner import Spawner
from plugin_sdk.conformance import daemon

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("daemon")
    path = directory / "plugins.toml"
    path.write_text(f'root = "{directory}/root"\nstate = "{directory}/state"\n')
    directories.make(directory / "root", directory / "state")
    workers = Spawner(Path(__file__).parents[2])
    made = Daemon(config.load(path), workers)
    yield made
    made.close()
    workers.close()


class TestKernel(daemon.DaemonSuite):
    @pytest.fixture
    def daemon(self, running: Daemon) -> Daemon:
        return running
