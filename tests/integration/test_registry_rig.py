"""The registries of the tests themselves: skopeo, which is none of ours, gets on with each kind and with the proxy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from plugin_sdk import oci
from tests import registry, registry_faults, registry_images

KINDS = ("plain", "tls", "mutual", "tls-basic", "token", "mirror")


def skopeo(registries: registry.Registries, folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    """With the certificates of the tests for every host that the line names."""
    trusted = folder / "trusted"
    for kind in registries.made.values():
        (trusted / kind.host).mkdir(parents=True, exist_ok=True)
        files = registries.certificates
        for path, name in ((files.ca, "ca.crt"), (files.client, "client.cert"), (files.client_key, "client.key")):
            (trusted / kind.host / name).write_bytes(path.read_bytes())
    return subprocess.run(["skopeo", "--insecure-policy", *line], capture_output=True, text=True, timeout=60)


def inspect(registries: registry.Registries, folder: Path, reference: str, *more: str) -> str:
    host = reference.partition("/")[0]
    kind = next((one for one in registries.made.values() if one.host == host), None)
    secure = kind is not None and kind.scheme == "https"
    tls = [f"--cert-dir={folder}/trusted/{host}"] if secure else ["--tls-verify=false"]
    done = skopeo(registries, folder, "inspect", "--raw", *tls, *more, f"docker://{reference}")
    return done.stdout if done.returncode == 0 else done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_skopeo_reads_an_image_from(registries: registry.Registries, tmp_path: Path, kind: str) -> None:
    image = registry_images.two_platforms("rig")
    registries.push(image, "rig/two:1")
    users = ["--creds", f"reader:{registry.USERS['reader']}"] if kind in ("tls-basic", "token") else []
    told = inspect(registries, tmp_path, registries[kind].reference("rig/two:1"), *users)
    assert len(json.loads(told)["manifests"]) == 2


def test_nobody_reads_without_a_password(registries: registry.Registries, tmp_path: Path) -> None:
    registries.push(registry_images.simple("rig"), "rig/secret:1")
    for kind in ("tls-basic", "token"):
        told = inspect(registries, tmp_path, registries[kind].reference("rig/secret:1"))
        assert "authentication required" in told or "unauthorized" in told.lower()


def test_the_access_log_counts_requests_and_bytes(registries: registry.Registries) -> None:
    plain = registries["plain"]
    image = registry_images.simple("counted", [registry_images.noise("counted", 1 << 20)])
    registries.push(image, "rig/counted:1")
    mark = plain.mark()
    layer = image.layers[0]["digest"]
    for digest in (layer, layer, image.layers[1]["digest"]):
        plain.ask("GET", f"/v2/rig/counted/blobs/{digest}", headers={"User-Agent": "the rig"})
    plain.ask("GET", f"/v2/rig/counted/blobs/{layer}", headers={"Range": "bytes=100-199"})
    assert plain.asked(mark) == {layer: 3, image.layers[1]["digest"]: 1}
    assert plain.served(mark)[layer] == 2 * image.layers[0]["size"] + 100
    assert [one.status for one in plain.requests(mark)] == [200, 200, 200, 206]
    assert plain.requests(mark)[0].agent == "the rig"


def test_an_artifact_and_a_layer_of_sha512_can_be_pushed(registries: registry.Registries) -> None:
    plain = registries["plain"]
    subject = registry_images.docker_v2("rig", listed=True)
    registries.push(subject, "rig/artifact:1")
    tag, index = registry_images.referrers(registry_images.artifact("rig", subject.root))
    registries.push(registry_images.artifact("rig", subject.root), "rig/artifact")
    registries.push(index, f"rig/artifact:{tag}")
    accepted = {"Accept": oci.INDEX}
    assert plain.ask("GET", f"/v2/rig/artifact/manifests/{tag}", headers=accepted)[0] == 200
    image = registry_images.sha512("rig")
    registries.push(image, "rig/sha512:1")
    layer = image.layers[0]
    assert len(plain.ask("GET", f"/v2/rig/sha512/blobs/{layer['digest']}")[2]) == layer["size"]


@pytest.mark.parametrize("tls", ["", "certificates"])
def test_the_proxy_does_what_it_is_told(registries: registry.Registries, tmp_path: Path, tls: str) -> None:
    image = registry_images.simple(f"faulty{tls}", [registry_images.noise("faulty", 200_000)])
    registries.push(image, "rig/faulty:1")
    layer = image.layers[0]["digest"]
    with registries.proxy(registries["mutual"], tls=tls) as proxy:
        proxy.on("/blobs/", registry_faults.cut(1000), times=1)
        proxy.on("/blobs/", registry_faults.corrupt(70_000), times=1)
        proxy.on("/blobs/", registry_faults.status(429, {"Retry-After": "1"}), times=1)
        kind = registry.Registry("proxy", proxy.host, proxy.scheme, registries.context() if tls else None, None)
        path = f"/v2/rig/faulty/blobs/{layer}"
        with pytest.raises(Exception, match=r"IncompleteRead\(1000 bytes"):
            kind.ask("GET", path)
        changed = kind.ask("GET", path)[2]
        assert [at for at, byte in enumerate(changed) if byte != image.blobs[layer][at]] == [70_000]
        assert kind.ask("GET", path)[1]["Retry-After"] == "1"
        assert kind.ask("GET", path)[2] == image.blobs[layer]
        assert (proxy.count(layer), proxy.sent(layer)) == (4, 1000 + 2 * image.layers[0]["size"])
