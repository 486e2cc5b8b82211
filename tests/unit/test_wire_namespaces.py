import pytest

from plugin_sdk import namespaces
from plugin_sdk.scope import Scope
from plugin_sdk.wire import namespaces as wire
from tests.recording import Recorder

NAMESPACE = namespaces.Namespace("moby", {"containerd.io/defaults/snapshotter": "overlayfs"})


@pytest.fixture
def store():
    answers = dict.fromkeys(("get", "create", "update"), NAMESPACE)
    return Recorder(list=[NAMESPACE], delete=None, **answers)


@pytest.fixture
def proxy(serve, store):
    return wire.Proxy(serve(wire.Servicer(lambda call: store)), Scope(""))


def test_no_namespace_is_needed(proxy, store):
    assert proxy.get("moby") == NAMESPACE
    assert store.last == ("get", ("moby",), {})


def test_list_asks_each_filter(proxy, store):
    assert proxy.list() == [NAMESPACE]
    assert store.last == ("list", ([],), {})
    assert proxy.list(["name==moby", "labels.x"]) == [NAMESPACE]
    assert [call[1] for call in store.calls[-2:]] == [(["name==moby"],), (["labels.x"],)]


def test_create_update_delete(proxy, store):
    assert proxy.create(NAMESPACE) == NAMESPACE
    assert store.last == ("create", (NAMESPACE,), {})
    assert proxy.update(NAMESPACE, ["labels.a/b"]) == NAMESPACE
    assert store.last == ("update", (NAMESPACE, ["labels.a/b"]), {})
    proxy.delete("moby")
    assert store.last == ("delete", ("moby",), {})
