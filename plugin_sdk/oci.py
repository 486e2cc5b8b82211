"""OCI: descriptors, media types, indexes, manifests, image configurations, chain IDs.

An image's target is an **index** or a **manifest**. An index lists manifests, mostly one for each platform; a manifest
names one **config** and its **layers**, the lowest first::

    entry = oci.candidates(oci.parse_index(blob), platforms.host())[0]
    manifest = oci.parse_manifest(read(entry.descriptor.digest))
    config = oci.parse_config(read(manifest.config.digest))
    assert len(config.diff_ids) == len(manifest.layers)
    names = oci.chain_ids(config.diff_ids)              # of the snapshots

Everything that parses raises InvalidArgument with the name of the field that is wrong. Docker's formats are read too.
Runtime specs are in ``plugin_sdk.specs``. Source: OCI image specification 1.1, manifest.md, image-index.md, config.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plugin_sdk import errors, identifiers, platforms
from plugin_sdk.platforms import Platform

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"
FOREIGN_LAYER_GZIP = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
FOREIGN_LAYER_ZSTD = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
EMPTY = "application/vnd.oci.empty.v1+json"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_LAYER_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"
"""On a compressed layer's blob: its diff ID."""

REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation in an index: a tag, or a whole name."""

_COMPRESSIONS = {
    LAYER: "",
    LAYER_GZIP: "gzip",
    LAYER_ZSTD: "zstd",
    FOREIGN_LAYER: "",
    FOREIGN_LAYER_GZIP: "gzip",
    FOREIGN_LAYER_ZSTD: "zstd",
    DOCKER_LAYER: "detect",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    DOCKER_FOREIGN_LAYER: "detect",
    DOCKER_FOREIGN_LAYER_GZIP: "gzip",
}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points to a blob: media type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an index. Without a platform it may be for any, which only its config tells."""

    descriptor: Descriptor
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Index:
    media_type: str
    entries: tuple[Entry, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image's config says; ``user`` is ``USER[:GROUP]``, names or numbers."""

    platform: Platform
    diff_ids: tuple[str, ...]
    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_dir: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    created: str = ""


def is_index(media_type: str) -> bool:
    return media_type in (INDEX, DOCKER_INDEX)


def is_manifest(media_type: str) -> bool:
    return media_type in (MANIFEST, DOCKER_MANIFEST)


def is_config(media_type: str) -> bool:
    return media_type in (CONFIG, DOCKER_CONFIG)


def is_layer(media_type: str) -> bool:
    return media_type in _COMPRESSIONS


def compression(media_type: str) -> str:
    """``gzip``, ``zstd``, empty for none, or ``detect``: Docker's plain type may hide one. Raises Unimplemented for
    what is not a layer."""
    if media_type not in _COMPRESSIONS:
        raise errors.Unimplemented(f'media type "{media_type}": not a layer')
    return _COMPRESSIONS[media_type]


def detect_compression(start: bytes) -> str:
    """``gzip``, ``zstd`` or empty, by the first four bytes of a layer."""
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Of every stack of layers from the lowest on: one chain ID for each diff ID (config.md, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        identifiers.validate_digest(diff_id)
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def chain_id(diff_ids: Sequence[str]) -> str:
    """Of the whole stack; empty for no layers."""
    return chain_ids(diff_ids)[-1] if diff_ids else ""


def validate_descriptor(descriptor: Descriptor) -> None:
    identifiers.validate_digest(descriptor.digest)
    if descriptor.size < 0:
        raise errors.InvalidArgument(f"descriptor {descriptor.digest}: size {descriptor.size} is negative")
    if not descriptor.media_type:
        raise errors.InvalidArgument(f"descriptor {descriptor.digest}: media type is missing")


# -- parsing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Object:
    """A JSON object with the path that leads to it, for messages."""

    name: str
    values: Mapping[str, Any]

    def error(self, key: str, reason: str) -> errors.InvalidArgument:
        return errors.InvalidArgument(f"{self.name}.{key}: {reason}")

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(key, "must be a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key)
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list | None) or not all(isinstance(item, str) for item in value or ()):
            raise self.error(key, "must be a list of strings")
        return tuple(value or ())

    def number(self, key: str) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(key, "must be a number, not negative")
        return value

    def object(self, key: str) -> _Object:
        value = self.values.get(key)
        if value is None:
            return _Object(f"{self.name}.{key}", {})
        if not isinstance(value, dict):
            raise self.error(key, "must be an object")
        return _Object(f"{self.name}.{key}", value)

    def objects(self, key: str) -> list[_Object]:
        value = self.values.get(key)
        if not isinstance(value, list | None) or not all(isinstance(item, dict) for item in value or ()):
            raise self.error(key, "must be a list of objects")
        return [_Object(f"{self.name}.{key}[{place}]", item) for place, item in enumerate(value or ())]

    def labels(self, key: str) -> dict[str, str]:
        found = self.object(key)
        return {name: found.text(name) for name in found.values}

    def missing(self, key: str) -> bool:
        return self.values.get(key) is None


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in ``data``; ``name`` says in errors what was read."""
    try:
        value = json.loads(data)
        if b"\\" in data:  # half a character may be written so, and is no text anywhere else
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as err:
        raise errors.InvalidArgument(f"{name}: not valid JSON: it has half of a character") from err
    except (ValueError, RecursionError) as err:
        raise errors.InvalidArgument(f"{name}: not valid JSON: {err}") from err
    if not isinstance(value, dict):
        raise errors.InvalidArgument(f"{name}: must be a JSON object")
    return value


def parse_index(data: bytes) -> Index:
    found = _document(data, "index", is_index, ("config", "layers"))
    if found.missing("manifests"):
        raise found.error("manifests", "is missing")
    entries = tuple(Entry(_descriptor(item), _platform(item)) for item in found.objects("manifests"))
    return Index(found.text("mediaType") or INDEX, entries, found.labels("annotations"))


def parse_manifest(data: bytes) -> Manifest:
    found = _document(data, "manifest", is_manifest, ("manifests",))
    if found.missing("config"):
        raise found.error("config", "is missing")
    layers = tuple(_descriptor(item) for item in found.objects("layers"))
    return Manifest(
        found.text("mediaType") or MANIFEST, _descriptor(found.object("config")), layers, found.labels("annotations")
    )


def parse_config(data: bytes) -> ImageConfig:
    found = _Object("config", parse_json(data, "config"))
    rootfs, settings = found.object("rootfs"), found.object("config")
    if rootfs.text("type") not in ("layers", ""):
        raise rootfs.error("type", f'"{rootfs.text("type")}" is not "layers"')
    diff_ids = rootfs.texts("diff_ids")
    for diff_id in diff_ids:
        identifiers.validate_digest(diff_id)
    return ImageConfig(
        _parsed_platform(found),
        diff_ids,
        settings.text("User"),
        settings.texts("Env"),
        settings.texts("Entrypoint"),
        settings.texts("Cmd"),
        settings.text("WorkingDir"),
        settings.text("StopSignal"),
        tuple(sorted(settings.object("Volumes").values)),
        settings.labels("Labels"),
        found.text("created"),
    )


def _document(data: bytes, name: str, fits: Callable[[str], bool], foreign: Sequence[str]) -> _Object:
    """A document that could be read as two kinds is refused: two readers must not see two images in it."""
    found = _Object(name, parse_json(data, name))
    media_type = found.text("mediaType")
    if media_type and not fits(media_type):
        raise found.error("mediaType", f'"{media_type}" is not that of an {name}')
    if found.values.get("schemaVersion", 2) != 2:
        raise found.error("schemaVersion", "must be 2")
    for key in foreign:
        if not found.missing(key):
            raise found.error(key, f"does not belong into an {name}")
    return found


def _descriptor(found: _Object) -> Descriptor:
    descriptor = Descriptor(
        found.text("mediaType"), found.text("digest"), found.number("size"), found.labels("annotations")
    )
    try:
        validate_descriptor(descriptor)
    except errors.InvalidArgument as err:
        raise errors.InvalidArgument(f"{found.name}: {err.message}") from err
    return descriptor


def _platform(found: _Object) -> Platform | None:
    return None if found.missing("platform") else _parsed_platform(found.object("platform"))


def _parsed_platform(found: _Object) -> Platform:
    return Platform(
        found.text("os"),
        found.text("architecture"),
        found.text("variant"),
        found.text("os.version"),
        found.texts("os.features"),
    )


def candidates(index: Index, wanted: Platform) -> list[Entry]:
    """The entries that a machine of this platform can run, best first; those without platform last, in their order.

    Raises NotFound when there is none.
    """
    ranked: list[tuple[int, Entry]] = []
    for entry in index.entries:
        rank = len(index.entries) + 100 if entry.platform is None else platforms.rank(wanted, entry.platform)
        if rank is not None:
            ranked.append((rank, entry))
    if not ranked:
        raise errors.NotFound(f"no match for platform {wanted} in the index: not found")
    return [entry for _, entry in sorted(ranked, key=lambda pair: pair[0])]


def children(media_type: str, data: bytes) -> list[Descriptor]:
    """What a blob of this media type points to: manifests, or the config and then the layers; nothing for others."""
    if is_index(media_type):
        return [entry.descriptor for entry in parse_index(data).entries]
    if is_manifest(media_type):
        manifest = parse_manifest(data)
        return [manifest.config, *manifest.layers]
    return []
