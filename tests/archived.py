"""Image archives for tests: their files as bytes by name, and a stream of them that is only read forward.

files = archived.layout(archived.image({"a": b"1"}), archived.image({"b": b"2"}))
stream = transfer.ImportStream(archived.Forward(archived.tar(files)))
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plugin_sdk import oci
from plugin_sdk.distribution.archive import layout as layouts
from plugin_sdk.oci import Descriptor
from scripts import images

VERSION = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass
class Image:
    """Its blobs by digest; ``entry`` is its line in an index."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)

    def put(self, data: bytes, media_type: str) -> dict[str, Any]:
        of = Descriptor(media_type, oci.digest_of(data), len(data))
        self.blobs[of.digest] = data
        return layouts.entry(of)

    @property
    def digest(self) -> str:
        return str(self.entry["digest"])


def image(*contents: Mapping[str, bytes], name: str = "", architecture: str = "amd64", gzip: bool = True) -> Image:
    """Of one platform: a layer of files for each of ``contents``."""
    made = Image()
    tars = [images.tar([images.Entry(path, data) for path, data in content.items()]) for content in contents]
    config = layouts.encode(
        {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [oci.digest_of(data) for data in tars]},
        }
    )
    packed = [images.compress(data, "gzip") if gzip else data for data in tars]
    document = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": made.put(config, oci.CONFIG),
        "layers": [made.put(data, oci.LAYER_GZIP if gzip else oci.LAYER) for data in packed],
    }
    made.entry = made.put(layouts.encode(document), oci.MANIFEST)
    made.entry["platform"] = {"architecture": architecture, "os": "linux"}
    return called(made, name)


def index(*several: Image, name: str = "") -> Image:
    """An image of several platforms."""
    made = Image({digest: data for each in several for digest, data in each.blobs.items()})
    made.entry = made.put(layouts.index([each.entry for each in several], oci.INDEX), oci.INDEX)
    return called(made, name)


def called(made: Image, name: str) -> Image:
    if name:
        made.entry["annotations"] = layouts.named(name)
    return made


def layout(*several: Image) -> dict[str, bytes]:
    files = {"oci-layout": VERSION, "index.json": layouts.index([each.entry for each in several])}
    return files | {layouts.blob(digest): data for each in several for digest, data in each.blobs.items()}


def saved(made: Image, *names: str) -> dict[str, bytes]:
    """The same image as ``docker save`` has written it for long."""
    manifest = oci.parse_manifest(made.blobs[made.digest])
    layers = [f"{number}/layer.tar" for number in range(len(manifest.layers))]
    line = {"Config": "config.json", "RepoTags": list(names) or None, "Layers": layers}
    blobs = {path: made.blobs[layer.digest] for path, layer in zip(layers, manifest.layers, strict=True)}
    return {**blobs, "config.json": made.blobs[manifest.config.digest], "manifest.json": layouts.encode([line])}


def tar(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """In the order of ``files``; a TarInfo stands for a member without data."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name) if isinstance(data, bytes) else data
            member.size = len(data) if isinstance(data, bytes) else 0
            archive.addfile(member, io.BytesIO(data) if isinstance(data, bytes) else None)
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


class Forward(io.RawIOBase):
    """Bytes that can only be read forward, and come in small pieces; ``asked`` is the most that was asked for."""

    def __init__(self, parts: bytes | Iterable[bytes], piece: int = 700) -> None:
        self._parts = iter([parts] if isinstance(parts, bytes) else parts)
        self._part = b""
        self._piece = piece
        self.asked = 0

    def read(self, size: int = -1, /) -> bytes:
        assert size > 0
        self.asked = max(self.asked, size)
        while not self._part:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._part = part
        taken, self._part = self._part[: min(size, self._piece)], self._part[min(size, self._piece) :]
        return taken
