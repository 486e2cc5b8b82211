"""Image archives: an OCI image layout or what ``docker save`` writes, as a tar file or a directory.

``Archive.images`` answers each image of it; blobs are read from the archive one at a time. Sources: OCI image
specification, image-layout.md; Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from plugin_sdk import errors
from plugin_sdk.oci import Descriptor

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_INDEX)

IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"

_CHUNK = 1 << 20
_JSON_LIMIT = 16 << 20  # bytes of a manifest, an index or a config
_MAGICS = ((b"\x1f\x8b", ".gzip"), (b"\x28\xb5\x2f\xfd", ".zstd"))

Open = Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True)
class Blob:
    descriptor: Descriptor
    open: Open


@dataclass(frozen=True, slots=True)
class Image:
    """``name`` is empty where the archive names none. ``children`` are the manifests of an index that are there."""

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
            for each in _list(self._json("index.json"), "manifests", "index.json"):
                yield Image(image_name(each.get("annotations") or {}), descriptor(each))
        elif self._files.has("manifest.json"):
            saved = self._json("manifest.json")
            for each in saved if isinstance(saved, list) else ():
                yield from self._saved(each)
        else:
            raise errors.InvalidArgument(f"{self._path} holds neither an OCI image layout nor a Docker archive")

    def _json(self, name: str) -> Any:
        with self._files.open(name) as file:
            return parse(file.read(_JSON_LIMIT), name)

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

    def read(self, of: Descriptor) -> Any:
        """The JSON of a manifest, an index or a config. Raises InvalidArgument when its digest is another."""
        with self.blob(of).open() as file:
            data = file.read(_JSON_LIMIT)
        if of.digest.startswith("sha256:") and "sha256:" + hashlib.sha256(data).hexdigest() != of.digest:
            raise errors.InvalidArgument(f"the blob {of.digest} in {self._path} has another digest than its name")
        return parse(data, of.digest)

    def _saved(self, entry: Mapping[str, Any]) -> Iterator[Image]:
        """An image of ``docker save``: it has no manifest, so one is made."""
        config = self._add(str(entry.get("Config")), lambda _: DOCKER_CONFIG)
        layers = [self._add(str(layer), _layer_type) for layer in entry.get("Layers") or ()]
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": _as_json(config),
            "layers": [_as_json(layer) for layer in layers],
        }
        data = json.dumps(manifest, separators=(",", ":")).encode()
        root = Descriptor(DOCKER_MANIFEST, "sha256:" + hashlib.sha256(data).hexdigest(), len(data))
        self._made[root.digest] = Blob(root, lambda: io.BytesIO(data))
        for tag in entry.get("RepoTags") or ("",):
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
        except (OSError, EOFError, tarfile.TarError) as err:
            raise errors.InvalidArgument(f"{path} is no tar archive: {err}") from err

    def has(self, name: str) -> bool:
        return str(PurePosixPath(name)) in self._members

    def open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(self._members[str(PurePosixPath(name))])
        if file is None:
            raise errors.InvalidArgument(f"{name!r} is no file in the archive")
        return file

    def close(self) -> None:
        self._tar.close()


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest or an index, as far as an import needs it."""

    config: Descriptor | None = None
    layers: list[Descriptor] = field(default_factory=list)
    manifests: list[Descriptor] = field(default_factory=list)


def manifest(document: Any, name: str) -> Manifest:
    """Raises InvalidArgument for what is neither a manifest nor an index."""
    if not isinstance(document, dict):
        raise errors.InvalidArgument(f"{name} is neither a manifest nor an index")
    if "manifests" in document:
        return Manifest(manifests=[descriptor(each) for each in _list(document, "manifests", name)])
    if "config" not in document:
        raise errors.InvalidArgument(f"{name} is neither a manifest nor an index")
    layers = [descriptor(each) for each in _list(document, "layers", name)]
    return Manifest(descriptor(document["config"]), layers)


def descriptor(value: Any) -> Descriptor:
    try:
        annotations = {str(key): str(text) for key, text in (value.get("annotations") or {}).items()}
        return Descriptor(str(value["mediaType"]), str(value["digest"]), int(value["size"]), annotations)
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise errors.InvalidArgument(f"{json.dumps(value)[:200]} is no descriptor") from err


def image_name(annotations: Mapping[str, str]) -> str:
    """The full name that an index gives to an image; a bare tag is no name."""
    if full := annotations.get(IMAGE_NAME):
        return full
    ref = annotations.get(REF_NAME, "")
    return familiar(ref) if "/" in ref or ":" in ref else ""


def familiar(name: str) -> str:
    """The full reference of a name as people type it: ``busybox`` is ``docker.io/library/busybox:latest``."""
    host, slash, rest = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, rest = "docker.io", name if slash else f"library/{name}"
    last = rest.rpartition("/")[2]
    return f"{host}/{rest}" if ":" in last or "@" in last else f"{host}/{rest}:latest"


def parse(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as err:
        raise errors.InvalidArgument(f"{name} is no JSON: {err}") from err


def _list(document: Any, key: str, name: str) -> list[Any]:
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, list):
        raise errors.InvalidArgument(f"{name} has no list {key!r}")
    return value


def _as_json(of: Descriptor) -> dict[str, Any]:
    return {"mediaType": of.media_type, "digest": of.digest, "size": of.size}


def _layer_type(head: bytes) -> str:
    return DOCKER_LAYER + next((suffix for magic, suffix in _MAGICS if head.startswith(magic)), "")


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/", 1)
