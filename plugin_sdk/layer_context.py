"""What the caller of ``prepare`` is about to unpack, read from the labels that containerd's clients send.

A snapshotter that can fetch or share a layer by itself needs to know which one it is::

    def prepare(self, key, parent="", labels=None):
        context = LayerContext.of(labels or {}, parent)
        if context is not None and self._has(context.layer):
            self._commit_remote(context.target, parent, labels)     # a committed snapshot named by itself
            raise errors.AlreadyExists(f"snapshot {context.target} already exists")
        return super().prepare(key, parent, labels)

Nothing of it is sure to be there. What was found in clients:

| who | target | reference, manifest, layer, layers | urls | size |
|---|---|---|---|---|
| containerd 1.6 to 2.x and ctr, unpacking | yes | | | |
| CRI of containerd, unless ``disable_snapshot_annotations``; ``ctr images rpull`` of stargz | yes | yes | | |
| nerdctl, with a remote snapshotter | yes | yes | for stargz | for soci |
| Corten's own pulls and imports | yes | yes | | |

Besides, annotations of a layer's descriptor that begin with ``containerd.io/snapshot/`` arrive as labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plugin_sdk import errors, identifiers, snapshots
from plugin_sdk.oci import Descriptor

TARGET = snapshots.TARGET_LABEL
REFERENCE = "containerd.io/snapshot/cri.image-ref"
MANIFEST = "containerd.io/snapshot/cri.manifest-digest"
LAYER = "containerd.io/snapshot/cri.layer-digest"
LAYERS = "containerd.io/snapshot/cri.image-layers"
URLS = "containerd.io/snapshot/remote/urls"
SIZE = "containerd.io/snapshot/remote/soci.size"

STARGZ_REFERENCE = "containerd.io/snapshot/remote/stargz.reference"
STARGZ_LAYER = "containerd.io/snapshot/remote/stargz.digest"
STARGZ_LAYERS = "containerd.io/snapshot/remote/stargz.layers"
"""What stargz had before the names with ``cri.``, which every client may use."""

_KNOWN = {TARGET, REFERENCE, MANIFEST, LAYER, LAYERS, URLS, SIZE, STARGZ_REFERENCE, STARGZ_LAYER, STARGZ_LAYERS}


@dataclass(frozen=True, slots=True)
class LayerContext:
    """Empty where the caller says nothing.

    ``target`` is the name under which the layer will be committed: its chain ID, from clients of containerd. Where
    namespaces are kept apart by the daemon, this name is the client's and not the one that ``commit`` gets; ``parent``
    is the one that ``prepare`` got. ``reference`` is the image's name. ``layer`` has no media type, size 0 when it is
    not known, and the annotations that arrive as labels. ``layers`` are digests of this layer and those above it, the
    lowest first; the list may end early, since a label has at most 4096 bytes. ``urls`` are other places of the layer.
    """

    target: str = ""
    parent: str = ""
    reference: str = ""
    manifest: str = ""
    layer: Descriptor | None = None
    layers: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()

    @classmethod
    def of(cls, labels: Mapping[str, str], parent: str = "") -> LayerContext | None:
        """None when the labels name no layer, as for the snapshot of a container. Raises InvalidArgument, which names
        the label, for one that cannot be understood."""
        layer = _layer(labels)
        target = labels.get(TARGET, "")
        if layer is None and not target:
            return None
        return cls(
            target,
            parent,
            labels.get(REFERENCE) or labels.get(STARGZ_REFERENCE, ""),
            _digest(MANIFEST, labels.get(MANIFEST, "")),
            layer,
            _digests(LAYERS, labels) or _digests(STARGZ_LAYERS, labels),
            tuple(filter(None, labels.get(URLS, "").split(","))),
        )

    def labels(self) -> dict[str, str]:
        """The labels that say this but for the size, for a client that unpacks; ``layers`` as many as a label holds."""
        found = {TARGET: self.target, REFERENCE: self.reference, MANIFEST: self.manifest}
        if self.layer is not None:
            found |= {**self.layer.annotations, LAYER: self.layer.digest}
        found |= {LAYERS: _joined(LAYERS, self.layers), URLS: _joined(URLS, self.urls)}
        return {key: value for key, value in found.items() if value}


def _layer(labels: Mapping[str, str]) -> Descriptor | None:
    digest = _digest(LAYER, labels.get(LAYER, "")) or _digest(STARGZ_LAYER, labels.get(STARGZ_LAYER, ""))
    if not digest:
        return None
    return Descriptor("", digest, _size(labels.get(SIZE, "")), _annotations(labels))


def _annotations(labels: Mapping[str, str]) -> dict[str, str]:
    own = {key: value for key, value in labels.items() if key.startswith(snapshots.INHERITED_PREFIX)}
    return {key: value for key, value in own.items() if key not in _KNOWN}


def _digest(label: str, text: str) -> str:
    if text:
        try:
            identifiers.validate_digest(text)
        except errors.InvalidArgument as err:
            raise errors.InvalidArgument(f'label "{label}": {err.message}') from err
    return text


def _digests(label: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(_digest(label, each) for each in labels.get(label, "").split(",") if each)


def _size(text: str) -> int:
    if text and not (text.isascii() and text.isdecimal()):
        raise errors.InvalidArgument(f'label "{SIZE}": "{text[:40]}" is no number of bytes')
    return int(text or 0)


def _joined(label: str, items: tuple[str, ...]) -> str:
    """As many as there is room for."""
    text = ""
    for item in items:
        longer = f"{text},{item}" if text else item
        if len(label.encode()) + len(longer.encode()) > identifiers.MAX_LABEL:
            break
        text = longer
    return text
