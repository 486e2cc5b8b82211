"""Image archives: both formats, as tar and directory."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from corten import archives
from plugin_sdk import errors, oci

CONFIG = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
LAYER = b"\0" * 1024


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry(media_type: str, data: bytes, **annotations: str) -> dict[str, object]:
    return {
        "mediaType": media_type,
        "digest": f"sha256:{digest(data)}",
        "size": len(data),
        "annotations": {key.replace("_", "."): text for key, text in annotations.items()},
    }


MANIFEST = json.dumps(
    {"schemaVersion": 2, "config": entry(oci.CONFIG, CONFIG), "layers": [entry(oci.LAYER, LAYER)]}
).encode()


def layout(**annotations: str) -> dict[str, bytes]:
    index = {"schemaVersion": 2, "manifests": [entry(oci.MANIFEST, MANIFEST, **annotations)]}
    blobs = {f"blobs/sha256/{digest(data)}": data for data in (MANIFEST, CONFIG, LAYER)}
    return {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode(), **blobs}


def saved(tags: list[str] | None, layer: bytes = LAYER) -> dict[str, bytes]:
    manifest = [{"Config": "c.json", "RepoTags": tags, "Layers": ["1/layer.tar"]}]
    return {"manifest.json": json.dumps(manifest).encode(), "c.json": CONFIG, "1/layer.tar": layer}


def tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo("./" + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def directory(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("write", [tar, directory])
def test_a_layout_is_read(tmp_path: Path, write: object) -> None:
    path = write(tmp_path / "image", layout(io_containerd_image_name="a.io/b:c"))  # type: ignore[operator]
    with archives.Archive(path) as archive:
        [image] = archive.images
        assert image.name == "a.io/b:c"
        manifest = oci.parse_manifest(archive.read(image.root))
        assert archive.read(manifest.config) == CONFIG
        with archive.blob(manifest.layers[0]).open() as file:
            assert file.read() == LAYER


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({}, ""),
        ({"org_opencontainers_image_ref_name": "latest"}, ""),
        ({"org_opencontainers_image_ref_name": "busybox:1"}, "docker.io/library/busybox:1"),
        ({"org_opencontainers_image_ref_name": "x", "io_containerd_image_name": "a.io/b:c"}, "a.io/b:c"),
    ],
)
def test_names_stand_in_the_index(tmp_path: Path, annotations: dict[str, str], name: str) -> None:
    with archives.Archive(tar(tmp_path / "a.tar", layout(**annotations))) as archive:
        assert [image.name for image in archive.images] == [name]


def test_what_docker_saves_gets_a_manifest(tmp_path: Path) -> None:
    with archives.Archive(tar(tmp_path / "a.tar", saved(["busybox:1", "localhost:5000/x"]))) as archive:
        assert [image.name for image in archive.images] == ["docker.io/library/busybox:1", "localhost:5000/x:latest"]
        manifest = oci.parse_manifest(archive.read(archive.images[0].root))
        assert manifest.media_type == oci.DOCKER_MANIFEST
        assert manifest.config.media_type == oci.DOCKER_CONFIG
        assert [layer.media_type for layer in manifest.layers] == [oci.DOCKER_LAYER]
        assert manifest.layers[0].digest == f"sha256:{digest(LAYER)}"


def test_a_compressed_layer_that_docker_saved_is_recognised(tmp_path: Path) -> None:
    with archives.Archive(tar(tmp_path / "a.tar", saved(None, gzip.compress(LAYER)))) as archive:
        [image] = archive.images
        assert image.name == ""
        assert oci.parse_manifest(archive.read(image.root)).layers[0].media_type == oci.DOCKER_LAYER_GZIP


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"x": b""}, "neither an OCI image layout nor a Docker archive"),
        ({"oci-layout": b"", "index.json": b"{"}, "not valid JSON"),
        ({"oci-layout": b"", "index.json": b'{"manifests": 3}'}, "manifests"),
        ({"manifest.json": b"[{}]"}, "is not what docker save writes"),
        ({"manifest.json": b'[{"Config":"c","Layers":[]}]'}, "names 'c', which is not there"),
    ],
)
def test_what_is_no_archive_is_an_invalid_argument(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=reason):
        archives.Archive(tar(tmp_path / "a.tar", files))


def test_what_is_no_tar_or_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 2000)
    with pytest.raises(errors.InvalidArgument, match=r"/a is no tar archive: file could not be opened successfully$"):
        archives.Archive(tmp_path / "a")
    with pytest.raises(errors.NotFound):
        archives.Archive(tmp_path / "absent")


def test_a_blob_with_other_bytes_is_refused(tmp_path: Path) -> None:
    files = layout()
    files[f"blobs/sha256/{digest(MANIFEST)}"] = MANIFEST + b" "
    with archives.Archive(tar(tmp_path / "a.tar", files)) as archive:
        with pytest.raises(errors.InvalidArgument, match="another digest"):
            archive.read(archive.images[0].root)
        with pytest.raises(errors.NotFound, match="does not hold"):
            archive.blob(oci.Descriptor(oci.LAYER, "sha256:" + "0" * 64, 1))


def test_a_directory_is_not_left(tmp_path: Path) -> None:
    files = saved(["a"])
    files["manifest.json"] = json.dumps([{"Config": "../secret", "RepoTags": ["a"], "Layers": []}]).encode()
    (tmp_path / "secret").write_text("{}")
    with pytest.raises(errors.InvalidArgument, match="leads out of"):
        archives.Archive(directory(tmp_path / "image", files))


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("me/app:1", "docker.io/me/app:1"),
        ("a.io/app", "a.io/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("host:5000/app@sha256:0", "host:5000/app@sha256:0"),
    ],
)
def test_names_become_full_references(name: str, full: str) -> None:
    assert archives.familiar(name) == full
