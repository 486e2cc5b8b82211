"""Images as a registry holds them: blobs, and manifests in the order in which they can be pushed.

``marker`` makes the digests of an image its own, so that what one test has pulled is new to the next one.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plugin_sdk import oci
from scripts import images


@dataclass(slots=True)
class Image:
    """``root`` is the descriptor of the last manifest; ``layers`` are descriptors of all its platforms."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    root: dict[str, Any] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return str(self.root["digest"])

    @property
    def digests(self) -> set[str]:
        return {*self.blobs, *self.manifests}

    def blob(self, media_type: str, data: bytes, algorithm: str = "sha256") -> dict[str, Any]:
        digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def layer(self, media_type: str, data: bytes, algorithm: str = "sha256", **more: object) -> dict[str, Any]:
        layer = {**self.blob(media_type, data, algorithm), **more}
        self.layers.append(layer)
        return layer

    def manifest(self, media_type: str, value: Mapping[str, object]) -> dict[str, Any]:
        """Makes it the root."""
        data = json.dumps({"schemaVersion": 2, "mediaType": media_type, **value}).encode()
        digest = images.digest(data)
        self.manifests[digest] = (media_type, data)
        self.root = {"mediaType": media_type, "digest": digest, "size": len(data)}
        return self.root


def simple(marker: str, layers: Sequence[bytes] = (), compression: str = "gzip") -> Image:
    """An OCI image of amd64; its layers are ``layers``, uncompressed, and a small one."""
    image = Image()
    _platform(image, marker, layers, compression)
    return image


def two_platforms(marker: str, layers: Sequence[bytes] = ()) -> Image:
    """An index of amd64 and arm64."""
    image = Image()
    platforms = [{"os": "linux", "architecture": name} for name in ("amd64", "arm64")]
    entries = [{**_platform(image, marker, layers, platform=each), "platform": each} for each in platforms]
    image.manifest(oci.INDEX, {"manifests": entries})
    return image


def docker_v2(marker: str, layers: Sequence[bytes] = (), *, listed: bool = False) -> Image:
    """An image of Docker's schema 2; ``listed`` puts it in a manifest list."""
    image = Image()
    made = _platform(image, marker, layers, types=(oci.DOCKER_MANIFEST, oci.DOCKER_CONFIG, oci.DOCKER_LAYER_GZIP))
    if listed:
        image.manifest(oci.DOCKER_INDEX, {"manifests": [{**made, "platform": images.PLATFORM}]})
    return image


def artifact(marker: str, subject: Mapping[str, Any], artifact_type: str = "application/vnd.test.note") -> Image:
    """What refers to ``subject``, a root."""
    image = Image()
    note = image.layer("text/plain", f"a note: {marker}".encode())
    config = image.blob(oci.EMPTY, b"{}")
    image.manifest(
        oci.MANIFEST, {"artifactType": artifact_type, "config": config, "layers": [note], "subject": subject}
    )
    return image


def referrers(*those: Image) -> tuple[str, Image]:
    """The tag and the index by which a registry without the referrers API names those who refer to one subject."""
    image = Image()
    rows = []
    for one in those:
        told = json.loads(one.manifests[one.digest][1])
        rows.append({**one.root, "artifactType": told["artifactType"]})
    image.manifest(oci.INDEX, {"manifests": rows})
    return told["subject"]["digest"].replace(":", "-"), image


def sha512(marker: str) -> Image:
    """An image whose layer is addressed by sha512."""
    image = Image()
    tar = small_layer(marker)
    layer = image.layer(images.LAYER_TYPES["gzip"], images.compress(tar, "gzip"), "sha512")
    config = image.blob(oci.CONFIG, images.image_config([tar]))
    image.manifest(oci.MANIFEST, {"config": config, "layers": [layer]})
    return image


def noise(marker: str, size: int) -> bytes:
    """A layer of one file of ``size`` bytes that no compression makes smaller."""
    return images.tar([images.Entry(f"noise-{marker}", random.Random(marker).randbytes(size))])


def small_layer(marker: str) -> bytes:
    return images.tar([images.directory("etc"), images.Entry("etc/marker", marker.encode())])


def _platform(
    image: Image,
    marker: str,
    layers: Sequence[bytes],
    compression: str = "gzip",
    platform: Mapping[str, str] = images.PLATFORM,
    types: tuple[str, str, str] | None = None,
) -> dict[str, Any]:
    tars = [*layers, small_layer(f"{marker} on {platform['architecture']}")]
    manifest_type, config_type, layer_type = types or (oci.MANIFEST, oci.CONFIG, images.LAYER_TYPES[compression])
    placed = [image.layer(layer_type, images.compress(tar, compression)) for tar in tars]
    told = {**json.loads(images.image_config(tars)), **platform}
    config = image.blob(config_type, json.dumps(told).encode())
    return image.manifest(manifest_type, {"config": config, "layers": placed})
