import pytest

from plugin_sdk import errors
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.scope import Scope
from plugin_sdk.wire import diff as wire
from tests.recording import Recorder

LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "sha256:" + "1" * 64, 100, {"a": "b"})
TAR = Descriptor("application/vnd.oci.image.layer.v1.tar", "sha256:" + "2" * 64, 1000)
MOUNTS = [Mount("bind", "/x", "", ("rw", "rbind"))]
OTHERS = [Mount("bind", "/y", "", ("ro",))]
STORE = object()


@pytest.fixture
def differ():
    return Recorder(apply=TAR, compare=LAYER)


@pytest.fixture
def proxy(serve, differ):
    return wire.Proxy(serve(wire.Servicer(lambda call: (differ, STORE))), Scope("default"))


def test_apply_uses_the_store_of_the_far_end(proxy, differ):
    assert proxy.apply(LAYER, MOUNTS, None) == TAR
    assert differ.last == ("apply", (LAYER, MOUNTS, STORE), {"payloads": {}, "sync": False})


def test_apply_carries_payloads_and_sync(proxy, differ):
    payloads = {"id": ("some.Type", b"\x00\xff")}
    proxy.apply(LAYER, MOUNTS, None, payloads=payloads, sync=True)
    assert differ.last[2] == {"payloads": payloads, "sync": True}


def test_compare_carries_everything(proxy, differ):
    options = {"media_type": "m", "ref": "r", "labels": {"a/b": "c"}, "source_date_epoch": 0}
    assert proxy.compare(MOUNTS, OTHERS, None, **options) == LAYER
    assert differ.last == ("compare", (MOUNTS, OTHERS, STORE), options)


def test_compare_without_options(proxy, differ):
    proxy.compare([], MOUNTS, None)
    defaults = {"media_type": "", "ref": "", "labels": {}, "source_date_epoch": None}
    assert differ.last == ("compare", ([], MOUNTS, STORE), defaults)


def test_an_unknown_media_type_is_unimplemented(proxy, differ):
    differ.answers["apply"] = errors.Unimplemented('media type "x"')
    with pytest.raises(errors.Unimplemented, match="media type"):
        proxy.apply(LAYER, MOUNTS, None)
