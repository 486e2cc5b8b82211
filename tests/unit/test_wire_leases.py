import pytest

from plugin_sdk import errors, leases
from plugin_sdk.scope import Scope
from plugin_sdk.wire import leases as wire
from tests.recording import Recorder

LEASE = leases.Lease("any text/at all", 10**18, {"containerd.io/gc.expire": "2030-01-01T00:00:00Z"})
RESOURCE = leases.Resource("sha256:1", "snapshots/overlayfs")


@pytest.fixture
def manager():
    names = ("delete", "add_resource", "delete_resource")
    return Recorder(create=LEASE, list=[LEASE], list_resources=[RESOURCE], **dict.fromkeys(names))


@pytest.fixture
def proxy(serve, manager):
    return wire.Proxy(serve(wire.Servicer(lambda call: manager)), Scope("default"))


def test_create(proxy, manager):
    assert proxy.create(LEASE.id, LEASE.labels) == LEASE
    assert manager.last == ("create", (LEASE.id, LEASE.labels), {})


def test_list(proxy, manager):
    assert proxy.list(["id==a"]) == [LEASE]
    assert manager.last == ("list", (["id==a"],), {})


@pytest.mark.parametrize("sync", [False, True])
def test_delete(proxy, manager, sync):
    proxy.delete("a", sync=sync)
    assert manager.last == ("delete", ("a",), {"sync": sync})


def test_resources(proxy, manager):
    proxy.add_resource("a", RESOURCE)
    assert manager.last == ("add_resource", ("a", RESOURCE), {})
    proxy.delete_resource("a", RESOURCE)
    assert manager.last == ("delete_resource", ("a", RESOURCE), {})
    assert proxy.list_resources("a") == [RESOURCE]
    assert manager.last == ("list_resources", ("a",), {})


def test_an_unknown_type_is_unimplemented(proxy, manager):
    manager.answers["add_resource"] = errors.Unimplemented('resource type "x"')
    with pytest.raises(errors.Unimplemented, match="resource type"):
        proxy.add_resource("a", leases.Resource("b", "x"))
