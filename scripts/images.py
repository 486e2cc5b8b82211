"""Builds small images from nothing but Python, for the demo, the tests and the benchmarks.

``python scripts/images.py TARGET.tar [NAME]`` writes an OCI archive of the machine's busybox, as ``ctr images import``
and ``corten images import`` read it. Only the standard library is needed, unless a layer is to be compressed by zstd.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BUSYBOX = "docker.io/library/busybox:latest"
CREATED = "2024-05-06T07:08:09Z"
MTIME = 1714979289
LAYER_TYPES = {
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
SOURCES = ("/bin/busybox", "/usr/bin/busybox")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a layer. ``kind`` is a type of tarfile, ``target`` of links, ``mtime`` in seconds and fractions."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    target: str = ""
    mtime: float = MTIME
    device: tuple[int, int] = (0, 0)
    pax: Mapping[str, str] = field(default_factory=dict)


def directory(name: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    return Entry(name, kind=tarfile.DIRTYPE, mode=mode, uid=uid, gid=gid)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.SYMTYPE, target=target, mode=0o777)


def hardlink(name: str, target: str, mode: int = 0o755) -> Entry:
    """``mode`` should be that of the target: unpackers apply it once more."""
    return Entry(name, kind=tarfile.LNKTYPE, target=target, mode=mode)


def tar(entries: Sequence[Entry]) -> bytes:
    """An uncompressed layer of these entries, in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            archive.addfile(_header(entry), io.BytesIO(entry.data))
    return out.getvalue()


def _header(entry: Entry) -> tarfile.TarInfo:
    header = tarfile.TarInfo(entry.name)
    header.type, header.mode, header.uid, header.gid = entry.kind, entry.mode, entry.uid, entry.gid
    header.linkname, header.mtime, header.size = entry.target, entry.mtime, len(entry.data)
    header.devmajor, header.devminor = entry.device
    header.pax_headers = dict(entry.pax)
    return header


def busybox_entries() -> list[Entry]:
    """A root filesystem around the machine's static busybox: its applets as hard links, users root and nobody."""
    path = next((source for source in SOURCES if Path(source).exists()), None)
    if path is None:
        raise FileNotFoundError("busybox is missing: install the package busybox-static")
    applets = subprocess.run([path, "--list"], check=True, capture_output=True, text=True).stdout.split()
    entries = [directory(name) for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "var")]
    entries += [directory("tmp", 0o1777), Entry("bin/busybox", Path(path).read_bytes(), mode=0o755)]
    entries += [hardlink(f"bin/{applet}", "bin/busybox") for applet in sorted(set(applets) - {"busybox"})]
    passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
    return [*entries, Entry("etc/passwd", passwd), Entry("etc/group", b"root:x:0:\nnogroup:x:65534:\n")]


def busybox_layer() -> bytes:
    return tar(busybox_entries())


def compress(layer: bytes, compression: str) -> bytes:
    """``compression`` is none, gzip or zstd."""
    if compression == "gzip":
        return gzip.compress(layer, 6, mtime=0)
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor().compress(layer)
    return layer


def digest(blob: bytes) -> str:
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def image_config(layers: Sequence[bytes], config: Mapping[str, object] | None = None) -> bytes:
    """An image config; ``config`` is merged over PATH, Cmd and Labels of the inner one."""
    inner = {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], **(config or {})}
    history = [{"created": CREATED, "created_by": f"layer {number}"} for number in range(len(layers))]
    rootfs = {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}
    return _json({**PLATFORM, "created": CREATED, "config": inner, "rootfs": rootfs, "history": history})


PLATFORM = {"architecture": "amd64", "os": "linux"}


def oci_files(
    layers: Sequence[bytes],
    name: str = BUSYBOX,
    compression: str = "gzip",
    config: Mapping[str, object] | None = None,
) -> dict[str, bytes]:
    """The files of an OCI layout by path, for an image of uncompressed ``layers``."""
    blobs: dict[str, bytes] = {}

    def put(blob: bytes, media_type: str, **more: object) -> dict[str, object]:
        key = digest(blob)
        blobs["blobs/sha256/" + key.removeprefix("sha256:")] = blob
        return {"mediaType": media_type, "digest": key, "size": len(blob), **more}

    config_blob = put(image_config(layers, config), "application/vnd.oci.image.config.v1+json")
    compressed = [put(compress(layer, compression), LAYER_TYPES[compression]) for layer in layers]
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = _json({"schemaVersion": 2, "mediaType": manifest_type, "config": config_blob, "layers": compressed})
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    entry = put(manifest, manifest_type, platform=PLATFORM, annotations=annotations)
    index = _json({"schemaVersion": 2, "manifests": [entry]})
    return {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index, **blobs}


def docker_files(
    layers: Sequence[bytes],
    name: str = BUSYBOX,
    compression: str = "none",
    config: Mapping[str, object] | None = None,
) -> dict[str, bytes]:
    """The files of an archive as ``docker save`` writes it."""
    config_blob = image_config(layers, config)
    config_name = digest(config_blob).removeprefix("sha256:") + ".json"
    files = {f"{number}/layer.tar": compress(layer, compression) for number, layer in enumerate(layers)}
    manifest = _json([{"Config": config_name, "RepoTags": [name], "Layers": list(files)}])
    return {config_name: config_blob, **files, "manifest.json": manifest}


def write_archive(target: Path, files: Mapping[str, bytes]) -> Path:
    target.write_bytes(tar([Entry(name, data) for name, data in files.items()]))
    return target


def write_layout(target: Path, files: Mapping[str, bytes]) -> Path:
    """A layout as a directory, as umoci and skopeo read it. What was at ``target`` is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    for name, data in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    return target


def write_busybox(target: Path, name: str = BUSYBOX) -> Path:
    """One gzip layer of busybox as an OCI archive."""
    return write_archive(target, oci_files([busybox_layer()], name))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


if __name__ == "__main__":
    write_busybox(Path(sys.argv[1]), *sys.argv[2:3])
