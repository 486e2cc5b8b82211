import pytest

from plugin_sdk.wire.http2.server import Server
from tests.serving import serve

# The suites are no test modules: without this their failed assertions would not show values.
pytest.register_assert_rewrite("plugin_sdk.conformance")

__all__ = ["serve", "server_kind"]


@pytest.fixture
def server_kind():
    """The daemon's; the tests of the wire run over the other one too."""
    return Server
