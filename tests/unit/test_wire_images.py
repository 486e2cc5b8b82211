import pytest

from plugin_sdk import errors, images, oci
from plugin_sdk.api.services.images.v1 import images_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import images as wire
from plugin_sdk.wire import rpc
from tests.recording import Recorder

TARGET = oci.Descriptor("application/vnd.oci.image.index.v1+json", "sha256:" + "1" * 64, 1234, {"a": "b"})
IMAGE = images.Image("docker.io/library/busybox:latest", TARGET, {"x/y.z": "1"}, 10**18 + 1, 10**18 + 2)


@pytest.fixture
def store():
    return Recorder(get=IMAGE, list=[IMAGE, IMAGE], create=IMAGE, update=IMAGE, delete=None)


@pytest.fixture
def proxy(serve, store):
    return wire.Proxy(serve(wire.Servicer(lambda call: store)), Scope("default"))


def test_get(proxy, store):
    assert proxy.get(IMAGE.name) == IMAGE
    assert store.last == ("get", (IMAGE.name,), {})


def test_list(proxy, store):
    assert proxy.list(["name==a", "labels.b"]) == [IMAGE, IMAGE]
    assert store.last == ("list", (["name==a", "labels.b"],), {})


def test_create_carries_the_whole_record(proxy, store):
    assert proxy.create(IMAGE) == IMAGE
    assert store.last == ("create", (IMAGE, None), {})


@pytest.mark.parametrize("epoch", [0, 1_500_000_000_000_000_007])
def test_create_carries_the_time_that_the_caller_gives(proxy, store, epoch):
    proxy.create(IMAGE, epoch)
    assert store.last == ("create", (IMAGE, epoch), {})


def test_update_keeps_field_paths_as_they_are(proxy, store):
    paths = ["labels.containerd.io/gc.root", "target"]
    assert proxy.update(IMAGE, paths, 7) == IMAGE
    assert store.last == ("update", (IMAGE, paths, 7), {})


def test_delete(proxy, store):
    proxy.delete("a")
    assert store.last == ("delete", ("a",), {"sync": False, "target": None})
    proxy.delete("a", sync=True, target=TARGET)
    assert store.last == ("delete", ("a",), {"sync": True, "target": TARGET})


def test_an_error_comes_through(proxy, store):
    store.answers["get"] = errors.NotFound('image "x": not found')
    with pytest.raises(errors.NotFound, match='image "x": not found'):
        proxy.get("x")


def test_a_request_without_image_reaches_the_store_as_an_empty_one(serve, store):
    stub = rpc.Stub(serve(wire.Servicer(lambda call: store)), wire.SERVICE, Scope("default"))
    stub.unary("Create", images_pb2.CreateImageRequest(), images_pb2.CreateImageResponse)
    assert store.last == ("create", (images.Image("", oci.Descriptor("", "", 0)), None), {})
