"""Hostile and broken input: refused or kept inside, by name, and nothing half-made stays."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from scripts import images
from tests import trees
from tests.calls import ask
from tests.sides import Side

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
NAME = "example.test/bad:1"
UP = "../" * 24


@pytest.fixture
def outside(scratch: Path) -> Iterator[Path]:
    """A directory that nothing may touch, with a secret in it."""
    folder = scratch / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    os.utime(folder / "secret", ns=(1, 1))
    before = trees.scan(folder)
    yield folder
    after = trees.scan(folder)
    (folder / "secret").unlink()
    folder.rmdir()
    assert trees.differences(before, after) == {}


CLIMBS: dict[str, Callable[[str], list[images.Entry]]] = {
    "parents": lambda out: [images.Entry(f"{UP}{out}/made", b"x")],
    "parents-inside": lambda out: [images.Entry(f"a/b/{UP}{out}/made", b"x")],
    "absolute": lambda out: [images.Entry(f"/{out}/made", b"x")],
    "over-the-secret": lambda out: [images.Entry(f"{UP}{out}/secret", b"x")],
    "symlink": lambda out: [images.symlink("link", f"/{out}"), images.Entry("link/made", b"x")],
    "symlink-parents": lambda out: [images.symlink("link", UP + out), images.Entry("link/made", b"x")],
    "symlink-twice": lambda out: [
        images.symlink("a", ".."), images.symlink("b", f"a/{UP}{out}"), images.Entry("b/made", b"x")
    ],
    "symlink-file": lambda out: [images.symlink("secret", f"/{out}/secret"), images.Entry("secret", b"x")],
    "hard-link": lambda out: [images.hardlink("stolen", f"{UP}{out}/secret")],
    "hard-link-absolute": lambda out: [images.hardlink("stolen", f"/{out}/secret")],
    "hard-link-through-symlink": lambda out: [
        images.symlink("link", f"/{out}"), images.hardlink("stolen", "link/secret")
    ],
    "whiteout": lambda out: [images.Entry(f"{UP}{out}/.wh.secret")],
    "whiteout-through-symlink": lambda out: [images.symlink("link", f"/{out}"), images.Entry("link/.wh.secret")],
    "opaque-through-symlink": lambda out: [images.symlink("link", f"/{out}"), images.Entry("link/.wh..wh..opq")],
    "directory-mode": lambda out: [images.symlink("link", f"/{out}"), images.directory("link", 0o777, 5, 5)],
}  # fmt: skip


@pytest.mark.parametrize("name", CLIMBS)
@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_an_entry_that_climbs_out_stays_inside(
    corten: Side, fresh: str, scratch: Path, outside: Path, name: str, snapshotter: str
) -> None:
    layers = [images.tar([images.directory("etc")]), images.tar(CLIMBS[name](str(outside).lstrip("/")))]
    archive = images.write_archive(scratch / "climb.tar", images.oci_files(layers, NAME))
    done = corten.ctr("images", "import", "--snapshotter", snapshotter, str(archive), namespace=fresh)
    if done.returncode:
        assert b"failed to extract layer" in done.stderr
        assert any(word in done.stderr.decode() for word in ("secret", "stolen", "made", "link")), done.stderr
    assert active(corten, fresh, snapshotter) == []


def active(side: Side, namespace: str, snapshotter: str = "overlayfs") -> list[str]:
    rows = side.output("snapshots", "--snapshotter", snapshotter, "ls", namespace=namespace).splitlines()[1:]
    return [row for row in rows if row.rstrip().endswith("Active")]


def whole(layer: bytes) -> bytes:
    return gzip.compress(layer, mtime=0)


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "truncated-gzip": lambda layer: whole(layer)[:-2000],
    "truncated-tar": lambda layer: whole(layer[:300_000]),
    "no-gzip": lambda layer: b"this is no gzip at all" * 100,
    "damaged-gzip": lambda layer: whole(layer)[:5000] + b"\0" * 100 + whole(layer)[5100:],
    "damaged-header": lambda layer: whole(layer[:512] + b"x" * 512 + layer[1024:]),
    "empty": lambda layer: b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_layer_is_refused(corten: Side, fresh: str, scratch: Path, name: str) -> None:
    layer = images.busybox_layer()
    files = images.oci_files([layer], NAME)
    archive = images.write_archive(scratch / "broken.tar", with_layer(files, BROKEN[name](layer)))
    done = corten.ctr("images", "import", str(archive), namespace=fresh)
    assert done.returncode == 1, done
    assert len(done.stderr.decode().splitlines()[-1]) > 20
    assert active(corten, fresh) == []
    assert len(corten.output("snapshots", "ls", namespace=fresh).splitlines()) == 1
    assert corten.output("run", "--rm", images.BUSYBOX, "@well", "/bin/echo", "well") == "well\n"


def with_layer(files: dict[str, bytes], blob: bytes) -> dict[str, bytes]:
    """The same image, whose one layer's blob is ``blob``, all digests but the diff ID agreeing."""
    index = json.loads(files["index.json"])
    old = index["manifests"][0]["digest"]
    manifest = json.loads(files[path(old)])
    kept = {
        name: data for name, data in files.items() if name not in (path(old), path(manifest["layers"][0]["digest"]))
    }
    manifest["layers"][0].update(digest=images.digest(blob), size=len(blob))
    changed = json.dumps(manifest).encode()
    index["manifests"][0].update(digest=images.digest(changed), size=len(changed))
    blobs = {path(images.digest(blob)): blob, path(images.digest(changed)): changed}
    return {**kept, **blobs, "index.json": json.dumps(index).encode()}


def path(digest: str) -> str:
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def test_a_blob_whose_digest_is_wrong_is_refused(corten: Side, fresh: str, scratch: Path) -> None:
    files = images.oci_files([images.busybox_layer()], NAME)
    layer = max((name for name in files if name.startswith("blobs/")), key=lambda name: len(files[name]))
    files[layer] = files[layer][:-8] + b"tampered"
    archive = images.write_archive(scratch / "wrong.tar", files)
    done = corten.ctr("images", "import", str(archive), namespace=fresh)
    assert done.returncode == 1
    assert active(corten, fresh) == []
    assert corten.output("images", "ls", "-q", namespace=fresh) in ("", f"{NAME}\n")


def test_a_failed_commit_leaves_an_ingest_that_can_be_aborted(corten: Side, fresh: str) -> None:
    wrong = {"action": 2, "ref": "mine", "data": b"bytes", "expected": images.digest(b"others")}
    answer = ask(corten, "Content/Write", wrong, namespace=fresh, timeout=60)
    assert answer.code == "FAILED_PRECONDITION" and images.digest(b"others") in answer.details
    assert ask(corten, "Content/Status", {"ref": "mine"}, namespace=fresh).messages[0]["status"]["offset"] == 5
    assert ask(corten, "Content/Abort", {"ref": "mine"}, namespace=fresh).code == "OK"
    assert ask(corten, "Content/ListStatuses", namespace=fresh).messages == [{}]


LABELS = {"k": "v" * 4096}
TARGET = {"media_type": "application/x", "digest": images.digest(b""), "size": 3}


def image(**fields: object) -> dict[str, object]:
    return {"image": {"name": "i", **fields}}


def snapshot(**fields: object) -> dict[str, object]:
    return {"snapshotter": "overlayfs", "key": "k", **fields}


REFUSED: dict[str, tuple[str, dict[str, object], str, str]] = {
    "image-name": ("Images/Create", {"image": {"name": "", "target": TARGET}}, "INVALID_ARGUMENT", "name"),
    "image-digest": ("Images/Create", image(target={**TARGET, "digest": "sha256:x"}), "INVALID_ARGUMENT", "digest"),
    "image-size": ("Images/Create", image(target={**TARGET, "size": 0}), "INVALID_ARGUMENT", "size"),
    "image-label": ("Images/Create", image(target=TARGET, labels=LABELS), "INVALID_ARGUMENT", "4096"),
    "lease-label": ("Leases/Create", {"id": "l", "labels": LABELS}, "INVALID_ARGUMENT", "4096"),
    "namespace": ("Namespaces/Create", {"namespace": {"name": "no/slash"}}, "INVALID_ARGUMENT", "no/slash"),
    "filter": ("Content/List", {"filters": ["digest="]}, "INVALID_ARGUMENT", "digest="),
    "filter-field": ("Leases/List", {"filters": ["=="]}, "INVALID_ARGUMENT", "=="),
    "parent": ("Snapshots/Prepare", snapshot(parent="none"), "NOT_FOUND", "none"),
    "snapshotter": ("Snapshots/List", {"snapshotter": "nowhere"}, "INVALID_ARGUMENT", "nowhere"),
    "snapshot-label": ("Snapshots/Prepare", snapshot(labels=LABELS), "INVALID_ARGUMENT", "4096"),
    "blob": ("Content/Read", {"digest": images.digest(b"none")}, "NOT_FOUND", images.digest(b"none")),
    "digest": ("Content/Info", {"digest": "md5:abc"}, "INVALID_ARGUMENT", "md5:abc"),
    "container": ("Containers/Get", {"id": "none"}, "NOT_FOUND", "none"),
    "runtime": ("Containers/Create", {"container": {"id": "c"}}, "INVALID_ARGUMENT", "untime"),
    "container-id": ("Containers/Create", {"container": {"id": "no/slash"}}, "INVALID_ARGUMENT", "no/slash"),
    "task": ("Tasks/Start", {"container_id": "none"}, "NOT_FOUND", "none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input_gets_its_code_and_a_sentence_with_its_name(corten: Side, fresh: str, name: str) -> None:
    call, fields, code, named = REFUSED[name]
    answer = ask(corten, call, fields, namespace=fresh)
    assert (answer.code, named in answer.details) == (code, True), answer
    assert "\n" not in answer.details
    assert corten.output("snapshots", "ls", namespace=fresh).count("\n") == 1


def test_a_refused_run_leaves_nothing(corten: Side) -> None:
    for program in ("/bin/missing", "/etc/passwd"):
        done = corten.ctr("run", "--rm", images.BUSYBOX, "@refused", program)
        assert done.returncode == 1 and program.encode() in done.stderr
    bundles = corten.daemon.state / "io.containerd.runtime.v2.task/default"
    assert not bundles.exists() or os.listdir(bundles) == []
    assert corten.resolve("@refused") not in corten.output("snapshots", "ls") + corten.output("containers", "ls")


def test_a_message_that_is_no_protobuf_is_refused(corten: Side) -> None:
    with grpc.insecure_channel(f"unix://{corten.daemon.address}") as channel:
        method = channel.unary_unary("/containerd.services.images.v1.Images/Get", bytes, bytes)
        with pytest.raises(grpc.RpcError) as refused:
            method(b"\xff\xff\xff", metadata=(("containerd-namespace", "default"),), timeout=60)
    assert refused.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN)
