"""A registry for measurements: Debian's docker-registry as a plain process, with its data on tmpfs.

with registries.Registry(directory) as registry:
    registry.upload("bench", "1", blobs, manifest)
    daemon pulls f"{registry.host}/bench:1"
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import unpack
from plugin_sdk import oci
from plugin_sdk.oci import Descriptor

PROGRAM = "docker-registry"
CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: "{directory}/data"}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Registry(contextlib.AbstractContextManager["Registry"]):
    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        port = _free_port()
        self.host = f"localhost:{port}"
        self._address = ("127.0.0.1", port)
        config = directory / "config.yml"
        config.write_text(CONFIG.format(directory=directory, port=port))
        with (directory / "log").open("wb") as log:
            command = [PROGRAM, "serve", str(config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise SystemExit(f"docker-registry does not answer: {(directory / 'log').read_text()[-1000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(self._address) == 0

    def upload(self, name: str, tag: str, blobs: Iterable[bytes], manifest: bytes, media_type: str) -> None:
        for blob in blobs:
            location = urlsplit(self._ask("POST", f"/v2/{name}/blobs/uploads/", b"", 202))
            self._ask("PUT", f"{location.path}?{location.query}&digest={oci.digest_of(blob)}", blob, 201)
        self._ask("PUT", f"/v2/{name}/manifests/{tag}", manifest, 201, media_type)

    def _ask(self, method: str, path: str, data: bytes, wanted: int, kind: str = "application/octet-stream") -> str:
        connection = http.client.HTTPConnection(*self._address, timeout=120)
        try:
            connection.request(method, path, data, {"Content-Type": kind})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != wanted:
                raise SystemExit(f"{method} {path}: {answer.status} {body[:500]!r}")
            return answer.headers.get("Location", "")
        finally:
            connection.close()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    def __exit__(self, *failure: object) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def manifest(layers: Iterable[unpack.Layer], media_type: str) -> tuple[bytes, bytes]:
    """Of an image of these layers, for this machine: its config and its manifest."""
    layers = list(layers)
    diff_ids = [layer.diff_id for layer in layers]
    told = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config = json.dumps(told).encode()
    blobs = [Descriptor(media_type, oci.digest_of(layer.blob), len(layer.blob)) for layer in layers]
    document = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST,
        "config": _told(Descriptor(oci.CONFIG, oci.digest_of(config), len(config))),
        "layers": list(map(_told, blobs)),
    }
    return config, json.dumps(document).encode()


def _told(of: Descriptor) -> dict[str, object]:
    return {"mediaType": of.media_type, "digest": of.digest, "size": of.size}
