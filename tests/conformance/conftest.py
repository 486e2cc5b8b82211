import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin_sdk.wire.http2 import client
from plugin_sdk.wire.http2.server import Server
from tests.serving import serve

# The suites are no test modules: without this their failed assertions would not show values.
pytest.register_assert_rewrite("plugin_sdk.conformance")

__all__ = ["connect", "serve", "server_kind"]


@pytest.fixture
def server_kind():
    """The daemon's; the tests of the wire run over the other one too."""
    return Server


@pytest.fixture
def connect():
    """Likewise the client that the daemon has for plugins."""
    return client.connect


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on tmpfs, where a check takes a fraction of the time, and which an overlay takes as upper one."""
    folder = Path(tempfile.mkdtemp(prefix="corten-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)
