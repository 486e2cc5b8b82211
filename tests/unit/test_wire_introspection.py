import pytest

from plugin_sdk import errors
from plugin_sdk.api.services.introspection.v1 import introspection_pb2
from plugin_sdk.daemon import PluginInfo, ServerInfo
from plugin_sdk.scope import Scope
from plugin_sdk.wire import introspection as wire
from plugin_sdk.wire import rpc
from tests.recording import Recorder

KIND = "io.containerd.snapshotter.v1"
OVERLAY = PluginInfo(KIND, "overlayfs", ("a.b",), ("linux/arm64/v8", "linux/amd64"), {"root": "/x"}, ("remap-ids",))
SKIPPED = PluginInfo(KIND, "btrfs", error="/x must be a btrfs filesystem", skipped=True)
BROKEN = PluginInfo(KIND, "stars", error="no stars")
SERVER = ServerInfo("1-2-3", 42, 4026531836, [("old", "do not", 10**18)])


@pytest.fixture
def source():
    return Recorder(plugins=[OVERLAY, SKIPPED, BROKEN], server=SERVER)


@pytest.fixture
def channel(serve, source):
    return serve(wire.Servicer(lambda call: source))


@pytest.fixture
def proxy(channel):
    return wire.Proxy(channel, Scope(""))


def test_plugins_need_no_namespace(proxy, source):
    assert proxy.plugins(["type==x, id==y"])[0] == OVERLAY
    assert source.last == ("plugins", (["type==x, id==y"],), {})


def test_a_skipped_plugin_says_so_in_the_words_clients_look_for(proxy):
    _, skipped, broken = proxy.plugins()
    assert skipped.error == "/x must be a btrfs filesystem: skip plugin"
    assert skipped.skipped
    assert (broken.error, broken.skipped) == ("no stars", False)


def test_server(proxy):
    assert proxy.server() == SERVER


def test_plugin_info(channel):
    stub = rpc.Stub(channel, wire.SERVICE, Scope(""))
    request = introspection_pb2.PluginInfoRequest(type=KIND, id="overlayfs")
    answer = stub.unary("PluginInfo", request, introspection_pb2.PluginInfoResponse)
    assert answer.plugin.exports["root"] == "/x"
    request.id = "moon"
    with pytest.raises(errors.NotFound, match="moon"):
        stub.unary("PluginInfo", request, introspection_pb2.PluginInfoResponse)
