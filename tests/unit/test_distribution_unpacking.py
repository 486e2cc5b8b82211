"""Layers become snapshots: while they come or from the store, in any snapshotter, by any differ."""

import threading

import pytest

from plugin_sdk import errors, mounts, oci, platforms, snapshots, transfer
from plugin_sdk.conformance import layers
from plugin_sdk.distribution import downloading, graph, pulling, sharing, unpacking
from plugin_sdk.distribution.job import Job
from plugin_sdk.distribution.progress import Tracker
from plugin_sdk.distribution.tee import Tee
from plugin_sdk.layer_context import LayerContext
from tests import kernels
from tests.fake_registry import CHUNK, told
from tests.kernels import NAME

pytestmark = pytest.mark.root
AMD64 = platforms.Platform("linux", "amd64")
UNPACK = [transfer.Unpack(AMD64)]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with kernels.running(tmp_path_factory.mktemp("daemon")) as made:
        yield made


@pytest.fixture
def rig(kernel, request):
    return kernels.Rig(kernel, "u" + oci.digest_of(request.node.name.encode())[7:19])


class Instead:
    """Another object with some of its attributes replaced."""

    def __init__(self, other, **own):
        self.__dict__ |= own
        self._other = other

    def __getattr__(self, name):
        return getattr(self._other, name)


def with_view(kernel, change):
    """The daemon, but its views are what ``change`` makes of them."""
    return Instead(kernel, view=lambda namespace, lease=None: change(kernel.view(namespace, lease)))


def with_differ(kernel, make):
    return with_view(kernel, lambda view: Instead(view, differ=lambda name="": make(view)))


def with_snapshotter(kernel, make):
    return with_view(kernel, lambda view: Instead(view, snapshotter=lambda name: make(view.snapshotter(name))))


def unpack(rig, unpacks=UNPACK, daemon=None, name=NAME, settings=None):
    job = Job(daemon or rig.kernel, rig.namespace)
    with job.leased() as view:
        return unpacking.unpack(job, view, rig.view.images.get(name).target, unpacks, name, settings)


def pull(rig, daemon, unpacks=UNPACK):
    job = Job(daemon, rig.namespace, progress=rig.steps.append)
    store = transfer.ImageStore(NAME, unpacks=unpacks)
    return pulling.pull(job, rig.registry.connect(NAME), store, rig.settings)


# --- single pass


def test_a_layer_is_unpacked_while_it_comes(rig):
    image = rig.image(count=1, size=3_000_000, tag="1")
    layer = image.layers[0]
    applying = threading.Event()

    def before(of, offset):
        if of.digest == layer.digest and offset:
            assert applying.wait(60)
            with pytest.raises(errors.NotFound):
                rig.view.content.info(layer.digest)

    def make(view):
        def apply(of, mounts, content, **more):
            applying.set()
            return view.differ().apply(of, mounts, content, **more)

        return Instead(view.differ(), apply=apply)

    rig.registry.before_chunk = before
    pull(rig, with_differ(rig.kernel, make))
    assert set(rig.snapshots()) == set(image.chains)
    last = [step.event for step in rig.steps if step.name == graph.ref(layer)]
    assert "extracting" not in last
    assert last[-1] == "extracted"


def test_a_snapshot_is_committed_only_when_the_blob_is(rig):
    """The differ is done with the layer, the blob's commit is still to come, and has another digest."""
    image = rig.image(count=1, tag="1")
    layer = image.layers[0]
    rig.registry.blobs[layer.digest] = rig.registry.blobs[layer.digest][:-1] + b"x"
    done = []

    def make(view):
        def apply(of, mounts, content, **more):
            with content.reader(of.digest) as reader:
                size = 0
                while chunk := reader.read_at(size, 1 << 20):
                    size += len(chunk)
            done.append(size)
            return oci.Descriptor(oci.LAYER, image.diff_ids[0], 1)

        return Instead(view.differ(), apply=apply)

    with pytest.raises(errors.DataLoss, match=layer.digest):
        pull(rig, with_differ(rig.kernel, make))
    assert done == [layer.size]
    assert not rig.snapshots()
    assert not rig.ingests()


def test_a_differ_that_reads_elsewhere_unpacks_after_the_download(rig):
    """As one in a process of its own does, which asks the daemon for the blob."""
    image = rig.image(tag="1")
    stores = []

    def make(view):
        def apply(of, mounts, content, **more):
            stores.append(type(content).__name__)
            return view.differ().apply(of, mounts, view.content, **more)

        return Instead(view.differ(), apply=apply)

    pull(rig, with_differ(rig.kernel, make))
    assert set(rig.snapshots()) == set(image.chains)
    assert "TeeStore" in stores
    assert stores[-1] != "TeeStore"
    assert all(rig.registry.asked("fetch", layer.digest) == [0] for layer in image.layers)


def test_without_single_pass_layers_are_unpacked_from_the_store(rig):
    image = rig.image(tag="1")
    rig.settings = unpacking.Settings(single_pass=False)
    rig.pull(unpacks=UNPACK)
    assert set(rig.snapshots()) == set(image.chains)
    events = [step.event for step in rig.steps if step.name == graph.ref(image.layers[0])]
    assert events[-1] == "extracted"


class Download:
    """As another's download that fails after its first bytes were read, and then one's own, which is too late."""

    def __init__(self, data):
        self._data = data
        self.read = threading.Event()

    def obtain(self, view, of, check, tee):
        if tee is not None:
            tee.take(True)
            tee.put(self._data[:1000])
            assert self.read.wait(60)
            tee.end(errors.Unavailable("gone"))
        with view.content.writer(graph.ref(of), of.size, of.digest) as writer:
            writer.write(self._data)
            writer.commit(of.size, of.digest, {})

    def is_fresh(self, of):
        return True


def test_a_layer_whose_download_failed_midway_is_unpacked_anew(rig):
    image = rig.image(count=1)
    layer, where = image.layers[0], []
    download = Download(rig.registry.blobs[layer.digest])

    def make(view):
        def apply(of, mounts, content, **more):
            where.append(mounts[0].source)
            if len(where) > 1:
                return view.differ().apply(of, mounts, content, **more)
            with content.reader(of.digest) as reader:
                assert len(reader.read_at(0, 1 << 20)) == 1000
                download.read.set()
                reader.read_at(1000, 1 << 20)
            raise AssertionError("the reader has not heard of the failure")

        return Instead(view.differ(), apply=apply)

    job = Job(with_differ(rig.kernel, make), rig.namespace)
    manifest = oci.parse_manifest(rig.registry.blobs[image.root.digest])
    source = unpacking.Source(NAME, image.root.digest, manifest, image.diff_ids)
    unpacker = unpacking.Unpacker(job, rig.settings, download, Tracker(job, NAME, ""))
    with job.leased() as view:
        assert unpacker.unpack(view, source, "overlayfs", lambda: None) == image.chains[-1]
    assert len(set(where)) == 2


@pytest.mark.parametrize("ends", ["it fails", "another was faster"])
def test_what_went_through_a_tee_counts_only_when_its_download_was_verified(rig, ends):
    of = rig.image(count=1).layers[0]
    data = rig.registry.blobs[of.digest]
    tee = Tee(of, lambda: None)

    def before(of, offset):
        if offset != CHUNK:
            return
        if ends == "it fails":
            raise errors.Unavailable("gone")
        with rig.view.content.writer("another", of.size, of.digest) as writer:
            writer.write(data)
            writer.commit(of.size, of.digest, {"containerd.io/gc.root": "test"})

    rig.registry.before_chunk = before
    download = downloading.Download(rig.job(), of, {}, rig.registry.connect(NAME))
    download.attach(tee)
    flight = sharing.Flight(download, "me")
    flight.run()
    flight.end()
    assert isinstance(flight.failure, errors.Unavailable) == (ends == "it fails")
    assert tee.voided


def test_what_the_differ_says_names_image_and_layer(rig):
    image = rig.image(count=1, tag="1")

    def make(view):
        def apply(of, mounts, content, **more):
            content.reader(of.digest)
            raise errors.ResourceExhausted("no space left on device")

        return Instead(view.differ(), apply=apply)

    with pytest.raises(errors.ResourceExhausted, match="no space left") as failed:
        pull(rig, with_differ(rig.kernel, make))
    assert NAME in failed.value.message
    assert image.layers[0].digest in failed.value.message
    assert not rig.snapshots()


def test_only_what_the_pull_has_verified_is_not_verified_again(rig):
    image = rig.image(count=2, tag="1")
    stored = image.layers[0]
    with rig.view.content.writer("other", stored.size, stored.digest) as writer:
        writer.write(rig.registry.blobs[stored.digest])
        writer.commit(labels={"containerd.io/gc.root": "test"})
    verified = {}

    def make(view):
        def apply(of, mounts, content, **more):
            with content.reader(of.digest) as reader:
                verified[of.digest] = getattr(reader, "verified", False)
            return view.differ().apply(of, mounts, view.content, **more)

        return Instead(view.differ(), apply=apply)

    rig.settings = unpacking.Settings(single_pass=False)
    pull(rig, with_differ(rig.kernel, make))
    assert verified == {stored.digest: False, image.layers[1].digest: True}


# --- snapshotters


def test_an_image_is_unpacked_into_several_snapshotters_from_one_download(rig):
    image = rig.image(tag="1")
    rig.pull(unpacks=[*UNPACK, transfer.Unpack(AMD64, "native")])
    assert set(rig.snapshots()) == set(rig.snapshots(snapshotter="native")) == set(image.chains)
    assert all(rig.registry.asked("fetch", layer.digest) == [0] for layer in image.layers)
    labels = rig.blobs()[image.config.digest].labels
    assert labels["containerd.io/gc.ref.snapshot.overlayfs"] == image.chains[-1]
    assert labels["containerd.io/gc.ref.snapshot.native"] == image.chains[-1]


def test_layers_that_a_snapshotter_has_are_not_downloaded(rig):
    image = rig.image(count=3, tag="1")
    have = set(image.chains[:2])
    contexts = []

    def make(storage):
        def prepare(key, parent="", labels=None):
            target = (labels or {}).get(snapshots.TARGET_LABEL, "")
            if target not in have:
                return storage.prepare(key, parent, labels)
            contexts.append(LayerContext.of(labels, parent))
            try:
                storage.stat(target)
            except errors.NotFound:
                storage.prepare(f"from afar {target}", parent)
                storage.commit(target, f"from afar {target}")
            return storage.prepare(key, parent, labels)

        return Instead(storage, prepare=prepare)

    pull(rig, with_snapshotter(rig.kernel, make))
    assert [digest for what, digest, _ in rig.registry.log if what == "fetch"] == [image.layers[2].digest]
    assert set(rig.snapshots()) == set(image.chains)
    first = contexts[0]
    assert (first.target, first.parent, first.reference) == (image.chains[0], "", NAME)
    assert (first.manifest, first.layer.digest) == (image.root.digest, image.layers[0].digest)
    assert first.layers == tuple(layer.digest for layer in image.layers)


def test_an_unknown_snapshotter_is_refused_and_nothing_is_kept(rig):
    rig.image(tag="1")
    with pytest.raises(errors.InvalidArgument, match="snapshotter not loaded: nothing"):
        rig.pull(unpacks=[transfer.Unpack(AMD64, "nothing")])
    rig.sweep()
    assert not rig.blobs()


# --- images that are there


def test_an_image_that_is_there_is_unpacked_later(rig):
    image = rig.image(tag="1")
    rig.pull()
    assert not rig.snapshots()
    assert unpack(rig) == [image.chains[-1]]
    assert set(rig.snapshots()) == set(image.chains)
    labels = rig.blobs()[image.config.digest].labels
    assert labels["containerd.io/gc.ref.snapshot.overlayfs"] == image.chains[-1]
    rig.sweep()
    assert set(rig.snapshots()) == set(image.chains)


def test_snapshots_that_are_there_are_used(rig):
    image = rig.image(tag="1")
    rig.pull(unpacks=UNPACK)
    created = {name: info.created_at for name, info in rig.snapshots().items()}
    unpack(rig)
    assert {name: info.created_at for name, info in rig.snapshots().items()} == created
    assert set(created) == set(image.chains)


def test_a_layer_that_is_not_there_is_not_found(rig):
    image = rig.image(tag="1")
    rig.pull()
    rig.view.content.delete(image.layers[1].digest)
    with pytest.raises(errors.NotFound, match=image.layers[1].digest) as failed:
        unpack(rig)
    assert NAME in failed.value.message
    assert all(info.kind is snapshots.Kind.COMMITTED for info in rig.snapshots().values())


def test_an_index_that_is_not_there_is_not_found(rig):
    image = rig.image(tag="1")
    rig.pull()
    rig.view.content.delete(image.root.digest)
    with pytest.raises(errors.NotFound, match=image.root.digest):
        unpack(rig)


def test_of_an_index_the_best_platform_is_unpacked(rig):
    best, other = rig.image(seed=1), rig.image(seed=2, architecture="386")
    entries = [(other.root, platforms.Platform("linux", "386")), (best.root, AMD64)]
    document = {"schemaVersion": 2, "manifests": [told(of, where) for of, where in entries]}
    rig.registry.tags["1"] = rig.registry.add(oci.INDEX, document)
    rig.pull()
    assert unpack(rig) == [best.chains[-1]]


def test_a_platform_that_the_image_has_not_makes_nothing(rig):
    rig.image(tag="1", architecture="s390x")
    rig.pull(unpacks=UNPACK)
    assert unpack(rig) == []
    assert not rig.snapshots()


def test_the_tree_is_that_of_the_layers(rig, tmp_path):
    image = rig.image(count=2, size=1000, tag="1")
    rig.pull(unpacks=UNPACK)
    storage = rig.view.snapshotter("overlayfs")
    with mounts.temporary(storage.view("look", image.chains[-1]), tmp_path) as root:
        assert set(layers.scan(root)) >= {"layer-0", "layer-1", "d"}
    storage.remove("look")
