"""What an image consists of: which blob refers to which, in which order, and by which labels that is kept.

One use from start to end::

    found = graph.survey(target, read, graph.Choice(platforms=[platforms.host()]), name)
    for node in found.nodes:                     # children before their parents, each digest once
        store(node.descriptor, labels=node.labels)

The labels keep a blob's children from being collected, and are those of containerd: ``m.N`` for manifests, ``l.N`` for
layers, ``config``, and ``N`` alone for everything else, numbered over all children, wanted or not. A blob of a media
type that is not known has no children. Sources: OCI image specification, image-index.md and manifest.md; containerd's
documentation of garbage collection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from plugin_sdk import errors, oci, platforms
from plugin_sdk.distribution import stored
from plugin_sdk.oci import Descriptor
from plugin_sdk.platforms import Platform

CONTENT_LABEL = "containerd.io/gc.ref.content."
DEPTH = 8  # indexes within indexes
BLOBS = 10_000  # of one image
DOCUMENTS = 64 << 20  # bytes of its indexes, manifests and configs together

_CHECKPOINTS = (
    "application/vnd.containerd.container.criu.checkpoint.criu.tar",
    "application/vnd.containerd.container.checkpoint.config.v1+proto",
)
_LAYERS = "application/vnd.oci.image.layer."
_DOCKER_LAYERS = (oci.DOCKER_LAYER, oci.DOCKER_FOREIGN_LAYER)
_EROFS = "application/vnd.erofs.layer.v1"
_FOREIGN = ("application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign.")
_IN_TOTO = "application/vnd.in-toto+json"
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"

Read = Callable[[Sequence[Descriptor]], Sequence[bytes | None]]
"""Answers the bytes of several manifests or indexes, verified; None for one that is not there, and then its children
are not looked for."""


def is_layer(media_type: str) -> bool:
    """Also one that no differ here unpacks."""
    plain = media_type.partition("+")[0]
    return media_type.startswith((_LAYERS, *_DOCKER_LAYERS)) or plain == _EROFS


def is_foreign(media_type: str) -> bool:
    """A layer that is not to be distributed, and mostly in no registry."""
    return media_type.startswith(_FOREIGN)


def is_config(media_type: str) -> bool:
    return oci.is_config(media_type) or media_type in _CHECKPOINTS


def has_children(media_type: str) -> bool:
    return oci.is_index(media_type) or oci.is_manifest(media_type)


def is_document(media_type: str) -> bool:
    """One that is read whole."""
    return has_children(media_type) or oci.is_config(media_type)


def ref(of: Descriptor) -> str:
    """The name of the ingest in which every client of containerd writes this blob."""
    kinds = {
        "manifest": oci.is_manifest,
        "index": oci.is_index,
        "layer": is_layer,
        "config": is_config,
        "attestation": _IN_TOTO.__eq__,
    }
    kind = next((name for name, fits in kinds.items() if fits(of.media_type)), "unknown")
    name = of.annotations.get(oci.REF_NAME)
    return f"{kind}-{name}@{of.digest}" if name is not None else f"{kind}-{of.digest}"


def children(of: Descriptor, data: bytes) -> list[tuple[str, Descriptor]]:
    """What the manifest or index ``data`` refers to, each with the key of its label. Raises InvalidArgument."""
    return [(label, entry.descriptor) for label, entry in _labelled(_entries(of, data))]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which children of an index are wanted, as ``transfer.ImageStore`` says it.

    Without ``platforms`` all are. A child without a platform always is. With ``all_metadata`` manifests and configs of
    other platforms are, too. ``limit`` bounds the children of each index, the best first; 0 means no bound.
    """

    platforms: Sequence[Platform] = ()
    all_metadata: bool = False
    limit: int = 0

    def takes(self, platform: Platform | None) -> bool:
        if platform is None or not self.platforms:
            return True
        return any(platforms.matches(wanted, platform) for wanted in self.platforms)

    def place(self, platform: Platform | None) -> int:
        """By which children are sorted, the best first."""
        if platform is None:
            return len(self.platforms) + 1
        found = (place for place, wanted in enumerate(self.platforms) if platforms.matches(wanted, platform))
        return next(found, len(self.platforms))


@dataclass(frozen=True, slots=True)
class Node:
    """A blob of an image. ``labels`` keep its children; ``data`` are the bytes of a manifest or index that was
    read, else empty.

    ``platform`` is what the first index that names it says, ``parents`` are all that refer to it, and ``children``
    those of its children that are wanted. ``depth`` counts the steps of the longest way from the root.
    """

    descriptor: Descriptor
    platform: Platform | None = None
    data: bytes = b""
    labels: Mapping[str, str] = field(default_factory=dict)
    children: tuple[Descriptor, ...] = ()
    parents: tuple[Descriptor, ...] = ()
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """``nodes`` has each blob once, children before what refers to them, the root last."""

    root: Descriptor
    nodes: tuple[Node, ...]

    @property
    def manifests(self) -> list[Node]:
        """Of images, in the order in which the indexes name them."""
        return [node for node in self.nodes if oci.is_manifest(node.descriptor.media_type)]


def survey(root: Descriptor, read: Read, choice: Choice, name: str) -> Survey:
    """Reads manifests and indexes, a level at a time, and chooses.

    ``name`` is the image's, for messages. Raises InvalidArgument for a malformed or endless graph, ResourceExhausted
    for one with too large documents, NotFound when an index has nothing for the platforms that are wanted.
    """
    if root.media_type == _SCHEMA_1:
        raise errors.InvalidArgument(f"{name}: manifests of schema 1 are not supported")
    found = _visit(root, read, choice, name)
    top = found[root.digest]
    if oci.is_index(root.media_type) and not top.children and (top.labels or choice.platforms):
        wanted = ", ".join(map(str, choice.platforms))
        raise errors.NotFound(f"{name}: no match for platform {wanted} in the index {root.digest}")
    return Survey(root, tuple(_ordered(root, found, name)))


def _visit(root: Descriptor, read: Read, choice: Choice, name: str) -> dict[str, Node]:
    """Each blob once, by digest, without its place in the whole."""
    found: dict[str, Node] = {}
    level = {root.digest: oci.Entry(root)}
    spent = 0
    for _ in range(DEPTH + 2):  # the innermost index has manifests, and these have blobs
        documents = [entry.descriptor for entry in level.values() if is_document(entry.descriptor.media_type)]
        spent += sum(min(of.size, stored.JSON) for of in documents)  # a larger one is refused by who reads it
        if spent > DOCUMENTS:
            raise errors.ResourceExhausted(f"{name}: its manifests and configs have more than {DOCUMENTS} bytes")
        inner = [entry.descriptor for entry in level.values() if has_children(entry.descriptor.media_type)]
        data = dict(zip((of.digest for of in inner), read(inner), strict=True)) if inner else {}
        following: dict[str, oci.Entry] = {}
        for digest, entry in level.items():
            chosen = _enter(found, entry, data.get(digest), choice, name)
            for child in chosen:
                following.setdefault(child.descriptor.digest, child)
        level = {digest: entry for digest, entry in following.items() if digest not in found}
        if not level:
            return found
        if len(found) + len(level) > BLOBS:
            raise errors.InvalidArgument(f"{name}: it refers to more than {BLOBS} blobs")
    raise _too_deep(name)


def _enter(found: dict[str, Node], entry: oci.Entry, data: bytes | None, choice: Choice, name: str) -> list[oci.Entry]:
    """Makes the node and answers the children that are wanted."""
    of = entry.descriptor
    try:
        below = _entries(of, data) if data is not None else []
    except errors.InvalidArgument as err:
        raise errors.InvalidArgument(f"{name}: {of.digest}: {err.message}") from err
    chosen = _chosen(entry, below, choice)
    labels = {label: child.descriptor.digest for label, child in _labelled(below)}
    found[of.digest] = Node(of, entry.platform, data or b"", labels, tuple(child.descriptor for child in chosen))
    return chosen


def _entries(of: Descriptor, data: bytes) -> list[oci.Entry]:
    if oci.is_index(of.media_type):
        return list(oci.parse_index(data).entries)
    if oci.is_manifest(of.media_type):
        manifest = oci.parse_manifest(data)
        return [oci.Entry(child) for child in (manifest.config, *manifest.layers)]
    return []


def _labelled(entries: Sequence[oci.Entry]) -> list[tuple[str, oci.Entry]]:
    """The second config, which only a mistake can bring, is numbered too."""
    counts: dict[str, int] = {}
    found = []
    for entry in entries:
        key = _label(entry.descriptor.media_type)
        number = counts.get(key, 0)
        counts[key] = number + 1
        found.append((f"{key}{number}" if number or key.endswith(".") else key, entry))
    return found


def _label(media_type: str) -> str:
    if is_config(media_type):
        return f"{CONTENT_LABEL}config"
    if oci.is_manifest(media_type):
        return f"{CONTENT_LABEL}m."
    return f"{CONTENT_LABEL}l." if is_layer(media_type) else CONTENT_LABEL


def _chosen(entry: oci.Entry, below: Sequence[oci.Entry], choice: Choice) -> list[oci.Entry]:
    if oci.is_manifest(entry.descriptor.media_type):
        if choice.takes(entry.platform):
            return list(below)
        return [child for child in below if oci.is_config(child.descriptor.media_type)]
    wanted = [child for child in below if choice.all_metadata or choice.takes(child.platform)]
    if choice.limit:
        wanted = sorted(wanted, key=lambda child: choice.place(child.platform))[: choice.limit]
    return wanted


def _ordered(root: Descriptor, found: Mapping[str, Node], name: str) -> list[Node]:
    """Children before their parents; each with its parents and its depth."""
    order: dict[str, None] = {}
    _descend(root.digest, found, [], order, name)
    parents: dict[str, list[Descriptor]] = {digest: [] for digest in order}
    depths = dict.fromkeys(order, 0)
    for digest in reversed(order):
        node = found[digest]
        for child in dict.fromkeys(each.digest for each in node.children):
            parents[child].append(node.descriptor)
            depths[child] = max(depths[child], depths[digest] + 1)
    return [replace(found[digest], parents=tuple(parents[digest]), depth=depths[digest]) for digest in order]


def _descend(digest: str, found: Mapping[str, Node], way: list[str], order: dict[str, None], name: str) -> None:
    """``way`` leads from the root to here, ``order`` has what is done."""
    way.append(digest)
    if len(way) > DEPTH + 2:
        raise _too_deep(name)
    for child in found[digest].children:
        if child.digest in way:
            raise errors.InvalidArgument(f"{name}: {child.digest} refers to itself")
        if child.digest not in order:
            _descend(child.digest, found, way, order, name)
    way.pop()
    order[digest] = None


def _too_deep(name: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"{name}: its indexes are nested deeper than {DEPTH}")
