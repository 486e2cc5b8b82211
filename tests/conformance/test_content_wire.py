"""The local store at the far end of a socket."""

import pytest

from plugin_sdk import errors
from plugin_sdk.conformance import content
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content as wire
from plugins_builtin.content import local


class TestLocalOverASocket(content.ContentSuite):
    @pytest.fixture
    def store(self, tmp_path, serve):
        behind = local.Store(tmp_path / "content")
        return wire.Proxy(serve(wire.Servicer(lambda call: behind)), Scope("default"))

    @pytest.fixture
    def supports_labels(self):
        return False

    def test_truncate_cuts_the_end(self, store):
        with store.writer("ref") as writer:
            writer.write(b"right wrong")
            with pytest.raises(errors.Unimplemented, match="cut to 0 only"):
                writer.truncate(5)
