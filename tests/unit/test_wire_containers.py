import pytest

from plugin_sdk import containers, errors
from plugin_sdk.api.services.containers.v1 import containers_pb2
from plugin_sdk.runtime import Any
from plugin_sdk.scope import Scope
from plugin_sdk.wire import containers as wire
from plugin_sdk.wire import rpc
from tests.recording import Recorder

CONTAINER = containers.Container(
    id="c1",
    runtime=containers.Runtime("io.containerd.runc.v2", Any("containerd.runc.v1.Options", b"\x08\x01")),
    spec=Any("types.containerd.io/opencontainers/runtime-spec/1/Spec", b'{"a":  1}'),
    image="busybox",
    snapshotter="overlayfs",
    snapshot_key="key",
    labels={"a/b.c": "d"},
    extensions={"x/y": Any("z", b"\x00\xff"), "empty": Any()},
    sandbox="s",
    created_at=10**18,
    updated_at=10**18 + 1,
)


@pytest.fixture
def store():
    return Recorder(get=CONTAINER, list=[CONTAINER] * 3, create=CONTAINER, update=CONTAINER, delete=None)


@pytest.fixture
def channel(serve, store):
    return serve(wire.Servicer(lambda call: store))


@pytest.fixture
def proxy(channel):
    return wire.Proxy(channel, Scope("default"))


def test_get(proxy, store):
    assert proxy.get("c1") == CONTAINER
    assert store.last == ("get", ("c1",), {})


def test_list_and_its_stream(proxy, store, channel):
    assert proxy.list(["id==c1"]) == [CONTAINER] * 3
    assert store.last == ("list", (["id==c1"],), {})
    stub = rpc.Stub(channel, wire.SERVICE, Scope("default"))
    request = containers_pb2.ListContainersRequest(filters=["x"])
    with stub.stream("ListStream", [request], containers_pb2.ListContainerMessage) as answers:
        assert [each.container.id for each in answers] == ["c1"] * 3


def test_create_and_update_carry_the_whole_record(proxy, store):
    assert proxy.create(CONTAINER) == CONTAINER
    assert store.last == ("create", (CONTAINER,), {})
    assert proxy.update(CONTAINER, ["labels.a/b.c", "extensions.x/y"]) == CONTAINER
    assert store.last == ("update", (CONTAINER, ["labels.a/b.c", "extensions.x/y"]), {})


def test_a_container_without_options_has_none_on_the_wire(store, channel):
    store.answers["get"] = containers.Container("c", containers.Runtime("r"))
    stub = rpc.Stub(channel, wire.SERVICE, Scope("default"))
    request = containers_pb2.GetContainerRequest(id="c")
    answer = stub.unary("Get", request, containers_pb2.GetContainerResponse).container
    assert not answer.HasField("spec")
    assert not answer.runtime.HasField("options")
    assert not answer.HasField("created_at")


def test_delete(proxy, store):
    proxy.delete("c1")
    assert store.last == ("delete", ("c1",), {})
    store.answers["delete"] = errors.NotFound('container "c1": not found')
    with pytest.raises(errors.NotFound, match='container "c1"'):
        proxy.delete("c1")
