"""Pulls, by a kernel in this process, from a registry that is an object."""

import threading

import pytest

from plugin_sdk import errors, identifiers, oci, platforms, transfer
from plugin_sdk.distribution import graph, keeping, pulling
from plugin_sdk.distribution.job import Job
from tests import kernels
from tests.fake_registry import told
from tests.kernels import NAME

pytestmark = pytest.mark.root

SOURCE = "containerd.io/distribution.source.registry.example"
UNPACK = [transfer.Unpack(platforms.Platform("linux", "amd64"))]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with kernels.running(tmp_path_factory.mktemp("daemon")) as made:
        yield made


@pytest.fixture
def rig(kernel, request):
    return kernels.Rig(kernel, "t" + oci.digest_of(request.node.name.encode())[7:19])


# --- what a pull leaves


def test_a_pull_leaves_the_image_its_blobs_and_containerds_labels(rig):
    image = rig.image(tag="1")
    assert rig.pull() == [NAME]
    assert rig.view.images.get(NAME).target == image.root
    blobs = rig.blobs()
    assert blobs[image.root.digest].labels == {
        "containerd.io/gc.ref.content.config": image.config.digest,
        "containerd.io/gc.ref.content.l.0": image.layers[0].digest,
        "containerd.io/gc.ref.content.l.1": image.layers[1].digest,
        SOURCE: "app",
    }
    assert all(blobs[of.digest].labels == {SOURCE: "app"} for of in (image.config, *image.layers))
    assert not rig.snapshots()
    assert not rig.view.leases.list()


def test_a_pull_with_unpacking_leaves_snapshots_and_their_labels(rig):
    image = rig.image(count=3, tag="1")
    rig.pull(unpacks=UNPACK)
    blobs = rig.blobs()
    for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
        assert blobs[layer.digest].labels == {SOURCE: "app", oci.UNCOMPRESSED_LABEL: diff_id}
    kept = {SOURCE: "app", "containerd.io/gc.ref.snapshot.overlayfs": image.chains[-1]}
    assert blobs[image.config.digest].labels == kept
    assert {name: info.parent for name, info in rig.snapshots().items()} == dict(
        zip(image.chains, ["", *image.chains], strict=False)
    )
    assert not rig.ingests()


def test_each_blob_is_asked_for_once(rig):
    image = rig.image(tag="1")
    rig.pull(unpacks=UNPACK)
    assert sorted(digest for _, digest, _ in rig.registry.log) == sorted(of.digest for of in image.blobs)


def test_what_is_there_is_not_asked_for_again(rig):
    rig.image(tag="1")
    rig.pull(unpacks=UNPACK)
    rig.registry.log.clear()
    rig.pull(unpacks=UNPACK)
    assert not rig.registry.log


def test_a_second_repository_is_added_to_the_label(rig):
    image = rig.image(tag="1")
    rig.pull()
    rig.pull(reference="registry.example/a/b:1")
    rig.pull(reference="registry.example:5000/app:1")
    assert all(info.labels[SOURCE] == "a/b,app" for info in rig.blobs().values())
    assert rig.view.images.get("registry.example/a/b:1").target == image.root


def test_a_label_that_would_be_too_long_is_left_as_it_is(rig):
    image = rig.image(tag="1")
    rig.pull()
    text = ",".join(sorted(f"{number:0>250}" for number in range(16)))
    assert len(SOURCE) + len(text) <= identifiers.MAX_LABEL
    keeping.label(rig.view.content, image.root.digest, {SOURCE: text})
    before = rig.view.content.info(image.root.digest).labels
    rig.pull(reference="registry.example/" + "x" * 200 + ":1")
    assert rig.view.content.info(image.root.digest).labels == before


def test_an_index_keeps_labels_for_platforms_that_were_not_taken(rig):
    mine, other = rig.image(seed=1), rig.image(seed=2, architecture="arm64")
    entries = [(other.root, platforms.Platform("linux", "arm64")), (mine.root, platforms.Platform("linux", "amd64"))]
    index = rig.registry.add(oci.INDEX, {"schemaVersion": 2, "manifests": [told(of, where) for of, where in entries]})
    rig.registry.tags["1"] = index
    rig.pull(unpacks=UNPACK, platforms=[platforms.Platform("linux", "amd64")])
    assert rig.has_only(index, *mine.blobs)
    assert rig.blobs()[index.digest].labels["containerd.io/gc.ref.content.m.0"] == other.root.digest


def test_of_several_platforms_those_wanted_are_unpacked(rig):
    mine, other = rig.image(seed=1), rig.image(seed=2, architecture="arm64")
    entries = [(other.root, platforms.Platform("linux", "arm64")), (mine.root, platforms.Platform("linux", "amd64"))]
    index = rig.registry.add(oci.INDEX, {"schemaVersion": 2, "manifests": [told(of, where) for of, where in entries]})
    rig.registry.tags["1"] = index
    arm = transfer.Unpack(platforms.Platform("linux", "arm64"), "native")
    rig.pull(unpacks=[*UNPACK, arm])
    assert set(rig.snapshots()) == set(mine.chains)
    assert {info.name for info in rig.view.snapshotter("native").walk()} == set(other.chains)


def test_an_artifact_is_stored_and_not_unpacked(rig):
    config, layer = rig.registry.add(oci.EMPTY, b"{}"), rig.registry.add("text/plain", b"hello")
    document = {"schemaVersion": 2, "config": told(config), "layers": [told(layer)], "subject": told(layer)}
    root = rig.registry.tags["1"] = rig.registry.add(oci.MANIFEST, document)
    rig.pull(unpacks=UNPACK)
    assert rig.has_only(config, layer, root)
    assert not rig.snapshots()


def test_an_image_without_layers_is_stored(rig):
    image = rig.image(count=0, tag="1")
    rig.pull(unpacks=UNPACK)
    assert rig.has_only(*image.blobs)
    assert rig.blobs()[image.config.digest].labels == {SOURCE: "app"}


def test_extra_names_get_records(rig):
    image = rig.image(tag="1")
    extra = [transfer.Name("registry.example/app", add_digest=True), transfer.Name("other:1")]
    names = rig.pull(extra=extra)
    assert names == [NAME, f"registry.example/app@{image.root.digest}", "other:1"]
    assert all(rig.view.images.get(name).target == image.root for name in names)


def test_a_record_that_exists_points_to_the_new_image(rig):
    rig.image(seed=1, tag="1")
    rig.pull()
    image = rig.image(seed=2, tag="1")
    rig.pull(labels={"a": "b"})
    record = rig.view.images.get(NAME)
    assert (record.target, record.labels) == (image.root, {"a": "b"})


# --- progress


def test_progress_never_falls_and_ends_at_the_total(rig):
    image = rig.image(size=3_000_000, tag="1")
    rig.pull(unpacks=UNPACK)
    names = {step.name for step in rig.steps if step.total}
    assert names == {graph.ref(of) for of in image.blobs}
    for name in names:
        own = [step for step in rig.steps if step.name == name]
        assert [step.progress for step in own] == sorted(step.progress for step in own)
        assert own[-1].progress == own[-1].total == own[-1].descriptor.size
    said = [step.event for step in rig.steps if not step.name]
    assert said[0] == f"Resolving from OCI Registry ({NAME})"
    assert said[-1] == f"Completed pull from OCI Registry ({NAME})"
    last = {step.name: step.event for step in rig.steps}
    assert last[graph.ref(image.layers[0])] == "extracted"
    assert last[graph.ref(image.root)] == "complete"
    parents = {step.name: step.parents for step in rig.steps if step.total}
    assert parents[graph.ref(image.layers[0])] == (graph.ref(image.root),)
    assert parents[graph.ref(image.root)] == (NAME,)


def test_a_second_pull_says_that_all_is_there(rig):
    image = rig.image(tag="1")
    rig.pull()
    rig.steps.clear()
    rig.pull()
    last = {step.name: step.event for step in rig.steps if step.total}
    assert last == {graph.ref(of): "already exists" for of in image.blobs}


def test_what_a_listener_raises_ends_the_pull(rig):
    rig.image(tag="1")

    def listen(step):
        if step.event == "complete":
            raise errors.Aborted("no more of this")

    job = Job(rig.kernel, rig.namespace, progress=listen)
    with pytest.raises(errors.Aborted, match="no more"):
        pulling.pull(job, rig.registry.connect(NAME), transfer.ImageStore(NAME), rig.settings)


# --- resuming


def cut_at(digest, limit):
    def before(of, offset):
        if of.digest == digest and offset >= limit:
            raise errors.Unavailable("the registry has gone")

    return before


@pytest.mark.parametrize("unpacks", [(), UNPACK], ids=["stored", "unpacked"])
def test_an_interrupted_pull_goes_on_where_it_was(rig, unpacks):
    image = rig.image(count=1, size=3_000_000, tag="1")
    layer = image.layers[0]
    rig.registry.before_chunk = cut_at(layer.digest, layer.size * 9 // 10)
    with pytest.raises(errors.Unavailable, match="the registry has gone") as failed:
        rig.pull(unpacks=unpacks)
    assert NAME in failed.value.message
    assert not rig.snapshots()
    assert not rig.view.leases.list()
    rig.sweep()
    [(ref, offset)] = rig.ingests().items()
    assert ref == graph.ref(layer)
    assert offset >= layer.size * 9 // 10

    rig.registry.before_chunk = lambda of, offset: None
    rig.pull(unpacks=unpacks)
    assert rig.registry.asked("fetch", layer.digest) == [0, offset]
    assert rig.registry.served[layer.digest] == layer.size
    assert bool(rig.snapshots()) == bool(unpacks)
    assert not rig.ingests()


def test_an_ingest_that_is_whole_is_committed_without_a_request(rig):
    image = rig.image(count=1, tag="1")
    layer = image.layers[0]
    with rig.view.content.writer(graph.ref(layer), layer.size, layer.digest) as writer:
        writer.write(rig.registry.blobs[layer.digest])
    rig.pull(unpacks=UNPACK)
    assert not rig.registry.asked("fetch", layer.digest)
    assert set(rig.snapshots()) == set(image.chains)


def test_an_ingest_that_was_damaged_is_fetched_anew(rig):
    image = rig.image(count=1, tag="1")
    layer = image.layers[0]
    with rig.view.content.writer(graph.ref(layer), layer.size, layer.digest) as writer:
        writer.write(b"\0" * 1000)
    rig.pull(unpacks=UNPACK)
    assert rig.registry.asked("fetch", layer.digest) == [1000, 0]
    assert set(rig.snapshots()) == set(image.chains)


# --- what is wrong with what comes


@pytest.mark.parametrize("unpacks", [(), UNPACK], ids=["stored", "unpacked"])
@pytest.mark.parametrize("fault", ["other", "longer", "shorter"])
def test_wrong_bytes_are_data_loss_and_leave_nothing(rig, fault, unpacks):
    image = rig.image(count=2, tag="1")
    layer = image.layers[0]
    data = rig.registry.blobs[layer.digest]
    middle = len(data) // 2
    wrong = {
        "other": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "longer": data + b"more",
        "shorter": data[:-4],
    }
    rig.registry.blobs[layer.digest] = wrong[fault]
    with pytest.raises(errors.DataLoss, match=layer.digest) as failed:
        rig.pull(unpacks=unpacks)
    assert NAME in failed.value.message
    assert not rig.snapshots()
    if fault == "other":
        assert "from registry.example has another digest" in failed.value.message
        assert graph.ref(layer) not in rig.ingests()
    rig.registry.blobs[layer.digest] = data
    rig.pull(unpacks=unpacks)
    assert rig.has_only(*image.blobs)


@pytest.mark.parametrize("unpacks", [(), UNPACK], ids=["stored", "unpacked"])
@pytest.mark.parametrize("place", [1000, 40])
def test_wrong_bytes_come_again_from_another_host(rig, unpacks, place):
    image = rig.image(count=2, tag="1")
    layer = image.layers[0]
    data = rig.registry.blobs[layer.digest]
    rig.registry.elsewhere[layer.digest] = data
    rig.registry.blobs[layer.digest] = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    rig.pull(unpacks=unpacks)
    assert rig.has_only(*image.blobs)
    assert rig.registry.asked("fetch", layer.digest) == [0, 0]
    assert set(rig.snapshots()) == (set(image.chains) if unpacks else set())
    assert not rig.ingests()


def test_a_wrong_diff_id_is_data_loss(rig):
    image = rig.image(count=2, tag="1", diff_ids=[oci.digest_of(b"x"), oci.digest_of(b"y")])
    with pytest.raises(errors.DataLoss, match="diff ID") as failed:
        rig.pull(unpacks=UNPACK)
    assert NAME in failed.value.message
    assert image.layers[0].digest in failed.value.message
    assert not rig.snapshots()


def test_another_number_of_layers_than_the_config_says_is_refused(rig):
    rig.image(count=2, tag="1", diff_ids=[oci.digest_of(b"x")])
    with pytest.raises(errors.InvalidArgument, match=f"{NAME}: .*lists 1 layers and the manifest .* 2"):
        rig.pull(unpacks=UNPACK)
    assert not rig.blobs()


def test_a_layer_that_is_none_is_refused_with_its_name(rig):
    image = rig.image(count=1)
    layer = rig.registry.add(oci.LAYER_GZIP, b"this is no gzip " * 1000)
    document = {"schemaVersion": 2, "config": told(image.config), "layers": [told(layer)]}
    rig.registry.tags["1"] = rig.registry.add(oci.MANIFEST, document)
    with pytest.raises(errors.InvalidArgument, match=layer.digest) as failed:
        rig.pull(unpacks=UNPACK)
    assert NAME in failed.value.message
    assert not rig.snapshots()


def test_a_manifest_that_is_not_there_is_not_found(rig):
    with pytest.raises(errors.NotFound, match=NAME):
        rig.pull()


def test_a_layer_that_is_not_there_is_not_found(rig):
    image = rig.image(tag="1")
    del rig.registry.blobs[image.layers[1].digest]
    with pytest.raises(errors.NotFound, match=image.layers[1].digest):
        rig.pull(unpacks=UNPACK)
    assert all(info.kind.name == "COMMITTED" for info in rig.snapshots().values())


def test_a_foreign_layer_is_looked_for_in_the_registry_only(rig):
    config = rig.registry.add(oci.CONFIG, {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}})
    layer = rig.registry.add(oci.FOREIGN_LAYER_GZIP, rig.namespace.encode())
    foreign = {**told(layer), "urls": ["https://elsewhere.example/layer"]}
    document = {"schemaVersion": 2, "config": told(config), "layers": [foreign]}
    root = rig.registry.tags["1"] = rig.registry.add(oci.MANIFEST, document)
    data = rig.registry.blobs.pop(layer.digest)
    with pytest.raises(errors.NotFound, match=f"a foreign layer.*{layer.digest}"):
        rig.pull()
    rig.registry.blobs[layer.digest] = data
    rig.pull()
    assert rig.has_only(config, layer, root)


def test_an_empty_blob_is_refused(rig):
    layer = rig.registry.add(oci.LAYER, b"")
    config = rig.registry.add(oci.EMPTY, b"{}")
    document = {"schemaVersion": 2, "config": told(config), "layers": [told(layer)]}
    rig.registry.tags["1"] = rig.registry.add(oci.MANIFEST, document)
    with pytest.raises(errors.InvalidArgument, match="size 0"):
        rig.pull()


# --- others


def test_an_ingest_that_another_program_writes_is_waited_for(rig):
    image = rig.image(count=1, tag="1")
    layer, data = image.layers[0], rig.registry.blobs[image.layers[0].digest]
    writer = rig.view.content.writer(graph.ref(layer), layer.size, layer.digest)
    writer.write(data[:1000])
    failures = []
    thread = threading.Thread(target=lambda: failures.append(caught(lambda: rig.pull(unpacks=UNPACK))))
    thread.start()
    rig.registry.wait_for(lambda: rig.registry.asked("read", image.config.digest))
    thread.join(0.3)
    assert thread.is_alive()
    writer.write(data[1000:])
    writer.commit(layer.size, layer.digest, {"containerd.io/gc.root": "test"})
    writer.close()
    thread.join(60)
    assert failures == [None]
    assert not rig.registry.asked("fetch", layer.digest)
    assert set(rig.snapshots()) == set(image.chains)


def caught(work):
    try:
        work()
    except errors.Error as err:
        return err
    return None


def test_a_blob_of_another_namespace_is_not_fetched_again(rig):
    image = rig.image(tag="1")
    rig.pull(namespace=rig.namespace + "b")
    rig.pull(unpacks=UNPACK)
    assert all(rig.registry.asked("fetch", layer.digest) == [0] for layer in image.layers)
    assert rig.has_only(*image.blobs)
    assert set(rig.snapshots()) == set(image.chains)


def test_layers_below_the_first_that_is_needed_are_not_fetched(rig):
    image = rig.image(count=3, tag="1")
    rig.pull(unpacks=UNPACK)
    storage = rig.view.snapshotter("overlayfs")
    rig.view.images.delete(NAME)
    storage.update(storage.stat(image.chains[1]).__class__(image.chains[1], 3, labels={"containerd.io/gc.root": "x"}))
    for of in image.blobs:
        rig.view.content.delete(of.digest)
    storage.remove(image.chains[2])
    rig.registry.log.clear()
    rig.steps.clear()
    rig.pull(unpacks=UNPACK)
    last = {step.name: (step.event, step.progress, step.total) for step in rig.steps if step.descriptor in image.layers}
    assert {event for event, *_ in last.values()} == {"already exists", "extracted"}
    assert all(progress == total for _, progress, total in last.values())
    assert [digest for what, digest, _ in rig.registry.log if what == "fetch"] == [image.layers[2].digest]
    assert set(rig.snapshots()) == set(image.chains)


def test_a_caller_that_goes_ends_the_pull(rig):
    image = rig.image(count=1, size=3_000_000, tag="1")
    gone = threading.Event()

    def check():
        if gone.is_set():
            raise errors.Canceled("the caller has gone")

    def before(of, offset):
        if of.digest == image.layers[0].digest and offset > 1_000_000:
            gone.set()

    rig.registry.before_chunk = before
    with pytest.raises(errors.Canceled):
        rig.pull(unpacks=UNPACK, check=check)
    assert not [info for info in rig.snapshots().values() if info.kind.name == "ACTIVE"]
    assert not rig.view.images.list()
