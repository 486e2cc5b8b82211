import hashlib

import pytest

from plugin_sdk import errors, identifiers, layer_context
from plugin_sdk.layer_context import LayerContext
from plugin_sdk.oci import Descriptor


def digest(number):
    return "sha256:" + hashlib.sha256(str(number).encode()).hexdigest()


# What `ctr images rpull` of stargz and containerd's CRI send, as their source says.
CRI = {
    "containerd.io/snapshot.ref": digest("chain"),
    "containerd.io/snapshot/cri.image-ref": "docker.io/library/busybox:latest",
    "containerd.io/snapshot/cri.manifest-digest": digest("manifest"),
    "containerd.io/snapshot/cri.layer-digest": digest(1),
    "containerd.io/snapshot/cri.image-layers": f"{digest(1)},{digest(2)}",
}
NERDCTL = {
    **CRI,
    "containerd.io/snapshot/remote/urls": "https://a.test/1,https://b.test/1",
    "containerd.io/snapshot/remote/soci.size": "1234",
    "containerd.io/snapshot/stargz/toc.digest": digest("toc"),
}
OLD_STARGZ = {
    "containerd.io/snapshot.ref": digest("chain"),
    "containerd.io/snapshot/remote/stargz.reference": "ghcr.io/x:1",
    "containerd.io/snapshot/remote/stargz.digest": digest(1),
    "containerd.io/snapshot/remote/stargz.layers": f"{digest(1)},{digest(2)},",
}


def test_what_cri_sends_is_understood():
    assert LayerContext.of(CRI, "parent") == LayerContext(
        digest("chain"),
        "parent",
        "docker.io/library/busybox:latest",
        digest("manifest"),
        Descriptor("", digest(1), 0),
        (digest(1), digest(2)),
    )


def test_what_nerdctl_adds_is_understood():
    context = LayerContext.of(NERDCTL)
    assert context.urls == ("https://a.test/1", "https://b.test/1")
    annotations = {"containerd.io/snapshot/stargz/toc.digest": digest("toc")}
    assert context.layer == Descriptor("", digest(1), 1234, annotations)


def test_the_older_names_of_stargz_are_understood():
    context = LayerContext.of(OLD_STARGZ)
    assert (context.reference, context.layer.digest, context.layers) == (
        "ghcr.io/x:1",
        digest(1),
        (digest(1), digest(2)),
    )


def test_what_ctr_sends_is_the_target_alone():
    assert LayerContext.of({layer_context.TARGET: digest("chain")}, "p") == LayerContext(digest("chain"), "p")


@pytest.mark.parametrize("labels", [{}, {"color": "blue"}, {"containerd.io/snapshot/cri.image-ref": "x"}])
def test_without_a_layer_there_is_no_context(labels):
    assert LayerContext.of(labels) is None


@pytest.mark.parametrize("missing", sorted(set(CRI) - {layer_context.TARGET, layer_context.LAYER}))
def test_each_label_may_be_missing(missing):
    context = LayerContext.of({key: value for key, value in CRI.items() if key != missing})
    assert context.target == digest("chain")
    assert context.layer.digest == digest(1)


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (layer_context.MANIFEST, "sha256:short"),
        (layer_context.LAYER, "no digest"),
        (layer_context.LAYERS, f"{digest(1)},{digest(2)[:-1]}"),
        (layer_context.STARGZ_LAYER, "md5:abc"),
        (layer_context.SIZE, "-1"),
        (layer_context.SIZE, "12 bytes"),
        (layer_context.SIZE, "²"),
    ],
)
def test_a_label_that_cannot_be_understood_is_named(label, value):
    labels = {**NERDCTL, label: value}
    if label == layer_context.STARGZ_LAYER:
        del labels[layer_context.LAYER]
    with pytest.raises(errors.InvalidArgument, match=f'^label "{label}": '):
        LayerContext.of(labels)


def test_the_labels_of_a_context_say_it():
    context = LayerContext.of(NERDCTL)
    expected = {key: value for key, value in NERDCTL.items() if key != layer_context.SIZE}
    assert context.labels() == expected
    assert LayerContext.of(CRI).labels() == CRI
    assert LayerContext().labels() == {}


def test_a_long_list_is_cut_where_the_label_is_full():
    layers = tuple(digest(number) for number in range(127))
    labels = LayerContext(layer=Descriptor("", layers[0], 0), layers=layers).labels()
    identifiers.validate_labels(labels)
    kept = LayerContext.of(labels).layers
    assert kept == layers[: len(kept)]
    assert len(kept) == (4096 - len(layer_context.LAYERS) + 1) // 72
