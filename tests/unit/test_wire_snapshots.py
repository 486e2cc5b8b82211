import pytest

from plugin_sdk import errors, snapshots
from plugin_sdk.api.services.snapshots.v1 import snapshots_pb2
from plugin_sdk.mounts import Mount
from plugin_sdk.scope import Scope
from plugin_sdk.snapshots import Kind
from plugin_sdk.wire import rpc
from plugin_sdk.wire import snapshots as wire
from tests.recording import Recorder

MOUNTS = [Mount("overlay", "overlay", "", ("index=off", "lowerdir=/a:/b")), Mount("bind", "/x")]
INFO = snapshots.Info("name", Kind.COMMITTED, "parent", {"a/b.c": "d"}, 10**18, 10**18 + 5)


@pytest.fixture
def snapshotter():
    return Recorder(
        stat=INFO,
        update=INFO,
        usage=snapshots.Usage(1 << 40, 7),
        walk=[INFO] * 150,
        cleanup=errors.Unimplemented("cleanup is not needed"),
        **dict.fromkeys(("mounts", "prepare", "view"), MOUNTS),
        **dict.fromkeys(("commit", "remove")),
    )


@pytest.fixture
def channel(serve, snapshotter):
    def resolve(call, name):
        if name != "stars":
            raise errors.InvalidArgument(f"snapshotter not loaded: {name}")
        return snapshotter

    return serve(wire.Servicer(resolve))


@pytest.fixture
def proxy(channel):
    return wire.Proxy(channel, Scope("default"), "stars")


def test_an_unknown_snapshotter_is_an_invalid_argument(channel):
    with pytest.raises(errors.InvalidArgument, match="snapshotter not loaded: moon"):
        wire.Proxy(channel, Scope("default"), "moon").stat("x")
    with pytest.raises(errors.InvalidArgument, match="snapshotter not loaded: moon"):
        list(wire.Proxy(channel, Scope("default"), "moon").walk())


@pytest.mark.parametrize("method", ["prepare", "view"])
def test_prepare_and_view(proxy, snapshotter, method):
    assert getattr(proxy, method)("key", "parent", {"a": "b"}) == MOUNTS
    assert snapshotter.last == (method, ("key", "parent", {"a": "b"}), {})
    getattr(proxy, method)("key")
    assert snapshotter.last == (method, ("key", "", {}), {})


def test_mounts(proxy, snapshotter):
    assert proxy.mounts("key") == MOUNTS
    assert snapshotter.last == ("mounts", ("key",), {})


def test_commit_and_remove(proxy, snapshotter):
    proxy.commit("name", "key", {"a": "b"})
    assert snapshotter.last == ("commit", ("name", "key", {"a": "b"}), {})
    proxy.remove("name")
    assert snapshotter.last == ("remove", ("name",), {})


def test_commit_onto_another_parent_is_unimplemented(channel, snapshotter):
    stub = rpc.Stub(channel, wire.SERVICE, Scope("default"))
    request = snapshots_pb2.CommitSnapshotRequest(snapshotter="stars", name="n", key="k", parent="p")
    with pytest.raises(errors.Unimplemented, match="stars"):
        stub.unary("Commit", request, snapshots_pb2.StatSnapshotResponse)
    assert snapshotter.calls == []


@pytest.mark.parametrize("kind", list(Kind))
def test_stat_of_every_kind(proxy, snapshotter, kind):
    snapshotter.answers["stat"] = snapshots.Info("n", kind)
    assert proxy.stat("n") == snapshots.Info("n", kind)


def test_update_keeps_field_paths_as_they_are(proxy, snapshotter):
    assert proxy.update(INFO, ["labels.a/b.c"]) == INFO
    assert snapshotter.last == ("update", (INFO, ["labels.a/b.c"]), {})


def test_usage(proxy):
    assert proxy.usage("key") == snapshots.Usage(1 << 40, 7)


def test_walk_comes_in_batches(proxy, channel, snapshotter):
    assert list(proxy.walk(["kind==committed"])) == [INFO] * 150
    assert snapshotter.last == ("walk", (["kind==committed"],), {})
    stub = rpc.Stub(channel, wire.SERVICE, Scope("default"))
    request = snapshots_pb2.ListSnapshotsRequest(snapshotter="stars")
    with stub.stream("List", [request], snapshots_pb2.ListSnapshotsResponse) as answers:
        assert [len(answer.info) for answer in answers] == [100, 50]


def test_cleanup_may_be_unimplemented(proxy):
    with pytest.raises(errors.Unimplemented, match="not needed"):
        proxy.cleanup()


def test_a_call_into_a_plugin_runs_in_its_lane(snapshotter):
    import asyncio

    lanes = []

    class Call:
        async def run(self, work, *args, lane=""):
            lanes.append(lane)
            return work(*args)

    servicer = wire.Servicer(lambda call, name: snapshotter)
    for name in ("Prepare", "Mounts", "Stat", "Usage", "Remove"):
        method = servicer.methods[name]
        asyncio.run(method.handler(method.request(snapshotter="stars"), Call()))
    plugin = "io.containerd.snapshotter.v1.stars"
    assert lanes == [plugin, plugin, "", plugin, plugin]  # remove waits for whoever changes the snapshot
