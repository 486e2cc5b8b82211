"""What refers to what, and how containerd labels it."""

import contextlib
import json

import pytest

from plugin_sdk import errors, oci, platforms
from plugin_sdk.distribution import graph, stored

AMD64, ARM64, I386 = (platforms.Platform("linux", name) for name in ("amd64", "arm64", "386"))
NAME = "registry.example/app:1"
PREFIX = graph.CONTENT_LABEL


class Blobs:
    """Manifests by digest, and how often each was read."""

    def __init__(self):
        self.data = {}
        self.reads = []

    def add(self, media_type, value):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        of = oci.Descriptor(media_type, oci.digest_of(data), len(data))
        self.data[of.digest] = data
        return of

    def read(self, wanted):
        self.reads += [of.digest for of in wanted]
        return [self.data[of.digest] for of in wanted]

    def blob(self, name, media_type=oci.LAYER_GZIP):
        return self.add(media_type, name.encode())

    def manifest(self, name, layers=2, config_type=oci.CONFIG, layer_type=oci.LAYER_GZIP, **more):
        config = self.blob(f"config of {name}", config_type)
        made = [self.blob(f"layer {number} of {name}", layer_type) for number in range(layers)]
        return self.add(
            oci.MANIFEST, {"schemaVersion": 2, "config": told(config), "layers": list(map(told, made)), **more}
        )

    def index(self, *entries):
        return self.add(
            oci.INDEX, {"schemaVersion": 2, "manifests": [told(of, of_platform) for of, of_platform in entries]}
        )


def told(of, platform=None):
    found = {"mediaType": of.media_type, "digest": of.digest, "size": of.size}
    if platform is not None:
        found["platform"] = {"os": platform.os, "architecture": platform.architecture}
    return found


@pytest.fixture
def blobs():
    return Blobs()


def digests(survey):
    return [node.descriptor.digest for node in survey.nodes]


def survey(blobs, root, **choice):
    return graph.survey(root, blobs.read, graph.Choice(**choice), NAME)


def test_a_manifest_labels_its_config_and_its_layers_by_number(blobs):
    root = blobs.manifest("app")
    labels = [label for label, _ in graph.children(root, blobs.data[root.digest])]
    assert labels == [f"{PREFIX}config", f"{PREFIX}l.0", f"{PREFIX}l.1"]


def test_an_index_labels_manifests_indexes_and_others_each_in_their_own_count(blobs):
    inner = blobs.index((blobs.manifest("b"), None))
    root = blobs.index((blobs.manifest("a"), AMD64), (inner, None), (blobs.blob("x", "text/x"), None))
    labels = [label for label, _ in graph.children(root, blobs.data[root.digest])]
    assert labels == [f"{PREFIX}m.0", f"{PREFIX}0", f"{PREFIX}1"]


def test_an_unknown_config_and_unknown_layers_are_counted_together(blobs):
    root = blobs.manifest("artifact", config_type=oci.EMPTY, layer_type="text/plain")
    labels = [label for label, _ in graph.children(root, blobs.data[root.digest])]
    assert labels == [f"{PREFIX}0", f"{PREFIX}1", f"{PREFIX}2"]


def test_a_subject_is_no_child(blobs):
    subject = blobs.manifest("app")
    root = blobs.manifest("signature", 1, oci.EMPTY, "text/plain", subject=told(subject))
    assert subject.digest not in digests(survey(blobs, root))


def test_children_of_other_platforms_are_labelled_but_not_taken(blobs):
    wanted, other = blobs.manifest("amd64"), blobs.manifest("arm64")
    found = survey(blobs, blobs.index((other, ARM64), (wanted, AMD64)), platforms=[AMD64])
    assert found.nodes[-1].labels == {f"{PREFIX}m.0": other.digest, f"{PREFIX}m.1": wanted.digest}
    assert [node.descriptor for node in found.manifests] == [wanted]
    assert other.digest not in blobs.reads


def test_all_metadata_takes_manifest_and_config_of_other_platforms(blobs):
    wanted, other = blobs.manifest("amd64"), blobs.manifest("arm64")
    found = survey(blobs, blobs.index((other, ARM64), (wanted, AMD64)), platforms=[AMD64], all_metadata=True)
    node = next(node for node in found.nodes if node.descriptor == other)
    assert [child.media_type for child in node.children] == [oci.CONFIG]
    assert len(found.nodes) == 1 + 2 + 2 + 2


def test_without_platforms_everything_is_taken(blobs):
    root = blobs.index((blobs.manifest("arm64"), ARM64), (blobs.manifest("amd64"), AMD64), (blobs.manifest("x"), None))
    assert len(survey(blobs, root).manifests) == 3


def test_a_limit_takes_the_best_in_the_order_of_the_platforms(blobs):
    first, second = blobs.manifest("arm64"), blobs.manifest("amd64")
    root = blobs.index((blobs.manifest("any"), None), (first, ARM64), (second, AMD64))
    found = survey(blobs, root, platforms=[AMD64, ARM64], limit=1)
    assert [node.descriptor for node in found.manifests] == [second]


def test_an_index_without_anything_wanted_is_not_found(blobs):
    root = blobs.index((blobs.manifest("arm64"), ARM64))
    with pytest.raises(errors.NotFound, match=f"{NAME}: no match for platform linux/amd64"):
        survey(blobs, root, platforms=[AMD64])


def test_an_empty_index_has_nothing_for_a_platform(blobs):
    with pytest.raises(errors.NotFound, match=f"{NAME}: no match for platform linux/amd64"):
        survey(blobs, blobs.index(), platforms=[AMD64])
    assert survey(blobs, blobs.index()).manifests == []


def test_children_come_before_their_parents_and_each_blob_once(blobs):
    shared = blobs.manifest("shared")
    root = blobs.index((blobs.index((shared, None)), None), (shared, None))
    found = survey(blobs, root)
    order = digests(found)
    assert len(set(order)) == len(order) == 1 + 1 + 1 + 3
    for node in found.nodes:
        assert all(order.index(child.digest) < order.index(node.descriptor.digest) for child in node.children)
    node = next(node for node in found.nodes if node.descriptor == shared)
    assert node.depth == 2
    assert len(node.parents) == 2
    assert blobs.reads.count(shared.digest) == 1


class Lying(Blobs):
    """Serves what cannot be: blobs under digests that are not theirs."""

    def claim(self, number, value):
        of = oci.Descriptor(oci.INDEX, f"sha256:{number:064x}", 100)
        self.data[of.digest] = json.dumps(value).encode()
        return of


def listing(*numbers):
    return {"manifests": [{"mediaType": oci.INDEX, "digest": f"sha256:{n:064x}", "size": 100} for n in numbers]}


def test_an_index_that_refers_to_itself_is_refused():
    blobs = Lying()
    root = blobs.claim(1, listing(1))
    with pytest.raises(errors.InvalidArgument, match=f"{NAME}: .* refers to itself"):
        survey(blobs, root)


def test_a_circle_of_indexes_is_refused():
    blobs = Lying()
    root = blobs.claim(1, listing(2))
    blobs.claim(2, listing(3))
    blobs.claim(3, listing(2))
    with pytest.raises(errors.InvalidArgument, match="refers to itself"):
        survey(blobs, root)


def test_deep_nesting_is_refused():
    blobs = Lying()
    root = blobs.claim(1, listing(2))
    for number in range(2, 100):
        blobs.claim(number, listing(number + 1))
    with pytest.raises(errors.InvalidArgument, match=f"nested deeper than {graph.DEPTH}"):
        survey(blobs, root)
    assert len(blobs.reads) < 20


def test_a_long_way_that_short_ones_hide_is_refused():
    blobs = Lying()
    root = blobs.claim(1, listing(*range(2, 3000)))
    for number in range(2, 3000):
        blobs.claim(number, listing(number + 1) if number < 2999 else listing())
    with pytest.raises(errors.InvalidArgument, match="nested deeper"):
        survey(blobs, root)


def test_too_many_blobs_are_refused():
    blobs = Lying()
    root = blobs.claim(1, listing(*range(2, graph.BLOBS + 10)))
    with pytest.raises(errors.InvalidArgument, match=f"more than {graph.BLOBS} blobs"):
        survey(blobs, root)


def test_a_malformed_manifest_is_refused_with_its_names(blobs):
    root = blobs.add(oci.MANIFEST, {"schemaVersion": 2, "layers": []})
    with pytest.raises(errors.InvalidArgument, match=f"{NAME}: {root.digest}: manifest.config"):
        survey(blobs, root)


def test_a_manifest_of_schema_1_is_refused(blobs):
    root = blobs.add("application/vnd.docker.distribution.manifest.v1+prettyjws", {})
    with pytest.raises(errors.InvalidArgument, match="schema 1"):
        survey(blobs, root)


def test_a_blob_of_an_unknown_type_stands_alone(blobs):
    root = blobs.blob("what", "application/x")
    assert digests(survey(blobs, root)) == [root.digest]


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        (oci.MANIFEST, "manifest"),
        (oci.DOCKER_INDEX, "index"),
        (oci.LAYER_ZSTD, "layer"),
        (oci.LAYER + "+encrypted", "layer"),
        (oci.DOCKER_FOREIGN_LAYER_GZIP, "layer"),
        (oci.DOCKER_CONFIG, "config"),
        ("application/vnd.in-toto+json", "attestation"),
        (oci.EMPTY, "unknown"),
    ],
)
def test_an_ingest_is_named_by_kind_and_digest(media_type, kind):
    of = oci.Descriptor(media_type, oci.digest_of(b""), 1)
    assert graph.ref(of) == f"{kind}-{of.digest}"


def test_an_ingest_of_a_named_blob_has_the_name():
    of = oci.Descriptor(oci.MANIFEST, oci.digest_of(b""), 1, {oci.REF_NAME: "v1"})
    assert graph.ref(of) == f"manifest-v1@{of.digest}"


def test_an_image_whose_documents_are_too_large_together_is_refused_unread(blobs):
    config = blobs.blob("config")
    size = 9 << 20  # each is one that is read
    entries = [(oci.Descriptor(oci.MANIFEST, oci.digest_of(bytes([number])), size), AMD64) for number in range(8)]
    root = blobs.index(*entries)
    with pytest.raises(errors.ResourceExhausted, match=f"{NAME}: .*{graph.DOCUMENTS}"):
        survey(blobs, root)
    assert blobs.reads == [root.digest]
    layers = [oci.Descriptor(oci.LAYER_GZIP, of.digest, size) for of, _ in entries]
    document = {"schemaVersion": 2, "config": told(config), "layers": list(map(told, layers))}
    assert len(digests(survey(blobs, blobs.add(oci.MANIFEST, document)))) == 10


class Stored:
    """A content store with one blob of zeros, which may not be read."""

    def __init__(self, size):
        self.size = size

    def reader(self, digest):
        return contextlib.nullcontext(self)


@pytest.mark.parametrize(
    ("size", "told_size", "kind", "why"),
    [
        (10, 9, errors.InvalidArgument, "has 10 bytes, its descriptor says 9"),
        (stored.JSON + 1, stored.JSON + 1, errors.ResourceExhausted, f"more than {stored.JSON}"),
    ],
)
def test_a_document_of_a_wrong_size_is_not_read(size, told_size, kind, why):
    with pytest.raises(kind, match=f"sha256:1 .*{why}"):
        stored.read(Stored(size), oci.Descriptor(oci.MANIFEST, "sha256:1", told_size))
