"""Pushes, by a kernel in this process, to a registry that is an object."""

import json
from dataclasses import replace

import pytest

from plugin_sdk import errors, oci, platforms, transfer
from plugin_sdk.distribution import graph, pushing_images
from tests import fake_registry, kernels
from tests.fake_registry import told
from tests.kernels import NAME

pytestmark = pytest.mark.root
TARGET = "other.example/b:2"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with kernels.running(tmp_path_factory.mktemp("daemon")) as made:
        yield made


@pytest.fixture
def rig(kernel, request):
    return kernels.Rig(kernel, "p" + oci.digest_of(request.node.name.encode())[7:19])


@pytest.fixture
def target():
    return fake_registry.Registry()


def push(rig, target, reference=TARGET, **more):
    rig.steps.clear()
    store = transfer.ImageStore(NAME, **more)
    return pushing_images.push(rig.job(), store, target.connect(reference), rig.settings)


def indexed(rig):
    mine, other = rig.image(seed=1), rig.image(seed=2, architecture="arm64")
    entries = [(mine.root, platforms.Platform("linux", "amd64")), (other.root, platforms.Platform("linux", "arm64"))]
    document = {"schemaVersion": 2, "manifests": [told(of, where) for of, where in entries]}
    rig.registry.tags["1"] = rig.registry.add(oci.INDEX, document)
    return mine, other, rig.registry.tags["1"]


def test_a_push_sends_all_blobs_the_root_last_and_tags_it(rig, target):
    image = rig.image(count=3, tag="1")
    rig.pull()
    assert push(rig, target) == [NAME]
    assert set(target.blobs) == {of.digest for of in image.blobs}
    assert target.uploaded[-1] == image.root.digest
    assert target.tags == {"2": image.root}


def test_a_reference_with_another_digest_is_refused(rig, target):
    image = rig.image(tag="1")
    rig.pull()
    with pytest.raises(errors.InvalidArgument, match=f"the digest of {NAME} is {image.root.digest}"):
        push(rig, target, f"other.example/b@sha256:{'0' * 64}")
    assert not target.uploaded
    push(rig, target, f"other.example/b@{image.root.digest}")


def test_an_index_is_sent_after_its_manifests(rig, target):
    mine, other, index = indexed(rig)
    rig.pull()
    push(rig, target)
    assert target.uploaded[-1] == index.digest
    assert set(target.uploaded[-3:-1]) == {mine.root.digest, other.root.digest}
    assert target.tags == {"2": index}


def test_what_the_registry_has_is_not_sent(rig, target):
    image = rig.image(tag="1")
    rig.pull()
    target.blobs[image.layers[0].digest] = b""
    push(rig, target)
    assert image.layers[0].digest not in target.uploaded
    last = {step.name: step.event for step in rig.steps if step.total}
    assert last[graph.ref(image.layers[0])] == "already exists"
    assert last[graph.ref(image.layers[1])] == "complete"


def test_blobs_are_mounted_from_repositories_of_the_same_host(rig, target):
    image = rig.image(tag="1")
    rig.pull()
    rig.pull(reference="registry.example/team/c:1")
    target.repositories.update(of.digest for of in image.blobs[:-1])
    push(rig, target, "registry.example/team/d:1")
    assert target.asked("mount", image.layers[0].digest) == [("team/c", "app")]
    target.blobs.clear()
    push(rig, target, "elsewhere.example/d:1")
    assert target.asked("mount", image.layers[0].digest)[-1] == ()


def test_foreign_layers_stay(rig, target):
    config = rig.registry.add(oci.CONFIG, {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": []}})
    layer = rig.registry.add(oci.DOCKER_FOREIGN_LAYER_GZIP, b"foreign")
    document = {"schemaVersion": 2, "config": told(config), "layers": [told(layer)]}
    root = rig.registry.tags["1"] = rig.registry.add(oci.MANIFEST, document)
    rig.pull()
    push(rig, target)
    assert set(target.blobs) == {config.digest, root.digest}


def test_platforms_that_are_not_wanted_stay(rig, target):
    mine, other, index = indexed(rig)
    rig.pull()
    target.blobs |= {other.root.digest: b""}
    push(rig, target, platforms=[platforms.Platform("linux", "amd64")])
    assert set(target.uploaded) == {index.digest, *(of.digest for of in mine.blobs)}


def test_what_is_not_here_must_be_there(rig, target):
    mine, other, index = indexed(rig)
    rig.pull(platforms=[platforms.Platform("linux", "amd64")])
    with pytest.raises(errors.NotFound, match=f"{NAME}: .*{other.root.digest}"):
        push(rig, target)
    target.blobs |= {other.root.digest: b""}
    push(rig, target)
    assert target.tags == {"2": index}
    assert set(target.uploaded) == {index.digest, *(of.digest for of in mine.blobs)}


def test_a_blob_of_another_size_than_its_descriptor_says_is_not_sent(rig, target):
    image = rig.image(count=1, tag="1")
    rig.pull()
    layer = image.layers[0]
    wrong = {**told(layer), "size": layer.size + 1}
    data = json.dumps({"schemaVersion": 2, "config": told(image.config), "layers": [wrong]}).encode()
    root = oci.Descriptor(oci.MANIFEST, oci.digest_of(data), len(data))
    with rig.view.content.writer("wrong", root.size, root.digest) as writer:
        writer.write(data)
        writer.commit(root.size, root.digest, {"containerd.io/gc.root": "test"})
    rig.view.images.update(replace(rig.view.images.get(NAME), target=root))
    with pytest.raises(errors.InvalidArgument, match=f"{NAME}: .*{layer.digest} has {layer.size} bytes"):
        push(rig, target)
    assert layer.digest not in target.blobs
    assert root.digest not in target.blobs


def test_an_image_that_is_not_there_is_not_found(rig, target):
    with pytest.raises(errors.NotFound, match=NAME):
        push(rig, target)


def test_progress_of_a_push_never_falls_and_ends_at_the_total(rig, target):
    image = rig.image(size=2_000_000, tag="1")
    rig.pull()
    push(rig, target)
    names = {step.name for step in rig.steps if step.total}
    assert names == {graph.ref(of) for of in image.blobs}
    for name in names:
        own = [step for step in rig.steps if step.name == name]
        assert [step.progress for step in own] == sorted(step.progress for step in own)
        assert own[-1].progress == own[-1].total
        assert own[-1].event == "complete"
    said = [step.event for step in rig.steps if not step.name]
    assert said == [f"Pushing to OCI Registry ({TARGET})", f"Completed push to OCI Registry ({TARGET})"]


def test_a_failure_names_the_image(rig, target):
    image = rig.image(tag="1")
    rig.pull()

    def before(of, offset):
        raise errors.Unavailable(f"{of.digest}: gone")

    target.before_chunk = before
    with pytest.raises(errors.Unavailable, match=NAME):
        push(rig, target)
    assert image.root.digest not in target.blobs
