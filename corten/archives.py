"""Image archives: an OCI image layout or what ``docker save`` writes, as a tar file or a directory.

``Archive.images`` answers each image of it; blobs are read from the archive one at a time. Sources: OCI image
specification, image-layout.md; Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from plugin_sdk import errors, oci
from plugin_sdk.oci import Descriptor

IMAGE_NAME = "io.containerd.image.name"

_CHUNK = 1 << 20
_JSON_LIMIT = 16 << 20  # bytes of a manifest, an index or a config
_DOCKER_LAYERS = {"": oci.DOCKER_LAYER, "gzip": oci.DOCKER_LAYER_GZIP, "zstd": oci.DOCKER_LAYER_ZSTD}

Open = Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True)
class Blob:
    descriptor: Descriptor
    open: Open


@dataclass(frozen=True, slots=True)
class Image:
    """``name`` is empty where the archive names none."""

    name: str
    root: Descriptor


class Archive(AbstractContextManager["Archive"]):
    """Raises InvalidArgument for what is no image archive."""

    def __init__(self, path: Path) -> None:
        self._files = _Directory(path) if path.is_dir() else _Tar(path)
        self._path = path
        self._made: dict[str, Blob] = {}
        try:
            self.images = list(self._find())
        except BaseException:
            self.close()
            raise

    def _find(self) -> Iterator[Image]:
        if self._files.has("oci-layout") and self._files.has("index.json"):
            for entry in oci.parse_index(self._file("index.json")).entries:
                yield Image(image_name(entry.descriptor.annotations), entry.descriptor)
        elif self._files.has("manifest.json"):
            yield from self._saved_images()
        else:
            raise errors.InvalidArgument(f"{self._path} holds neither an OCI image layout nor a Docker archive")

    def _file(self, name: str) -> bytes:
        with self._files.open(name) as file:
            return file.read(_JSON_LIMIT)

    def _saved_images(self) -> Iterator[Image]:
        try:
            saved = json.loads(self._file("manifest.json"))
            for entry in saved:
                names = [str(name) for name in entry["Layers"]]
                yield from self._saved(str(entry["Config"]), names, entry.get("RepoTags") or [""])
        except (ValueError, TypeError, KeyError, AttributeError) as err:
            raise errors.InvalidArgument(f"manifest.json in {self._path} is not what docker save writes") from err

    def has(self, digest: str) -> bool:
        return digest in self._made or self._files.has(_blob_path(digest))

    def blob(self, of: Descriptor) -> Blob:
        """Raises NotFound, by digest."""
        if made := self._made.get(of.digest):
            return made
        name = _blob_path(of.digest)
        if not self._files.has(name):
            raise errors.NotFound(f"{self._path} does not hold the blob {of.digest}: not found")
        return Blob(of, lambda: self._files.open(name))

    def read(self, of: Descriptor) -> bytes:
        """A manifest, an index or a config. Raises InvalidArgument when its bytes are not those of its digest."""
        with self.blob(of).open() as file:
            data = file.read(_JSON_LIMIT)
        algorithm, _, wanted = of.digest.partition(":")
        if hashlib.new(algorithm, data).hexdigest() != wanted:
            raise errors.InvalidArgument(f"the blob {of.digest} in {self._path} has another digest than its name")
        return data

    def _saved(self, config: str, layers: list[str], tags: list[str]) -> Iterator[Image]:
        """An image of ``docker save``: it has no manifest, so one is made."""
        document = {
            "schemaVersion": 2,
            "mediaType": oci.DOCKER_MANIFEST,
            "config": _as_json(self._add(config, lambda _: oci.DOCKER_CONFIG)),
            "layers": [_as_json(self._add(layer, _layer_type)) for layer in layers],
        }
        data = json.dumps(document, separators=(",", ":")).encode()
        root = Descriptor(oci.DOCKER_MANIFEST, oci.digest_of(data), len(data))
        self._made[root.digest] = Blob(root, lambda: io.BytesIO(data))
        for tag in tags:
            yield Image(familiar(tag) if tag else "", root)

    def _add(self, name: str, media_type: Callable[[bytes], str]) -> Descriptor:
        if not self._files.has(name):
            raise errors.InvalidArgument(f"manifest.json in {self._path} names {name!r}, which is not there")
        digest, size, head = hashlib.sha256(), 0, b""
        with self._files.open(name) as file:
            while chunk := file.read(_CHUNK):
                head = head or chunk[:4]
                digest.update(chunk)
                size += len(chunk)
        found = Descriptor(media_type(head), "sha256:" + digest.hexdigest(), size)
        self._made[found.digest] = Blob(found, lambda: self._files.open(name))
        return found

    def close(self) -> None:
        self._files.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path.resolve()

    def has(self, name: str) -> bool:
        return self._inside(name).is_file()

    def open(self, name: str) -> IO[bytes]:
        return self._inside(name).open("rb")

    def _inside(self, name: str) -> Path:
        path = (self._path / name).resolve()
        if not path.is_relative_to(self._path):
            raise errors.InvalidArgument(f"{name!r} leads out of {self._path}")
        return path

    def close(self) -> None:
        pass


class _Tar:
    def __init__(self, path: Path) -> None:
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115 - closed by close()
            self._members = {str(PurePosixPath(member.name)): member for member in self._tar}
        except FileNotFoundError:
            raise errors.NotFound(f"{path}: not found") from None
        except (OSError, EOFError, tarfile.TarError, zlib.error) as err:
            reason = str(err).splitlines()[0].rstrip(":")  # of all the formats that tarfile has tried
            raise errors.InvalidArgument(f"{path} is no tar archive: {reason}") from err

    def has(self, name: str) -> bool:
        return str(PurePosixPath(name)) in self._members

    def open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(self._members[str(PurePosixPath(name))])
        if file is None:
            raise errors.InvalidArgument(f"{name!r} is no file in the archive")
        return file

    def close(self) -> None:
        self._tar.close()


def image_name(annotations: Mapping[str, str]) -> str:
    """The full name that an index gives to an image; a bare tag is no name."""
    if full := annotations.get(IMAGE_NAME):
        return full
    ref = annotations.get(oci.REF_NAME, "")
    return familiar(ref) if "/" in ref or ":" in ref else ""


def familiar(name: str) -> str:
    """The full reference of a name as people type it: ``busybox`` is ``docker.io/library/busybox:latest``."""
    host, slash, rest = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, rest = "docker.io", name if slash else f"library/{name}"
    last = rest.rpartition("/")[2]
    return f"{host}/{rest}" if ":" in last or "@" in last else f"{host}/{rest}:latest"


def _as_json(of: Descriptor) -> dict[str, Any]:
    return {"mediaType": of.media_type, "digest": of.digest, "size": of.size}


def _layer_type(head: bytes) -> str:
    return _DOCKER_LAYERS[oci.detect_compression(head)]


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)
