"""Archives that others wrote are imported as Debian's containerd imports them: content, labels, records, snapshots.

The engine works here, over each daemon's socket, so that it is compared with ctr on both of them.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import corten
from benchmarks import daemons
from plugin_sdk import oci, platforms, transfer
from plugin_sdk.distribution import engine
from plugin_sdk.distribution.archive import directories
from scripts import images
from tests import archived

pytestmark = [pytest.mark.root, pytest.mark.peer]
ANY = transfer.Name("import", is_prefix=True, allow_overwrite=True)
NUMBERS = itertools.count(1)
KINDS = ("oci", "oci-gzip", "oci-zstd", "oci-none", "docker", "docker-gzip")


@pytest.fixture
def namespace() -> str:
    return f"archives-{next(NUMBERS)}"


@pytest.fixture
def client(corten_daemon: daemons.Daemon, namespace: str) -> Iterator[corten.Client]:
    with corten.connect(corten_daemon.address, namespace) as made:
        yield made


@pytest.fixture
def peer(containerd_daemon: daemons.Daemon, namespace: str) -> Iterator[corten.Client]:
    with corten.connect(containerd_daemon.address, namespace) as made:
        yield made


@pytest.fixture
def ctr(containerd_daemon: daemons.Daemon, namespace: str) -> Callable[..., None]:
    def run(*line: str | Path) -> None:
        containerd_daemon.ctr("images", *map(str, line), namespace=namespace, check=True)

    return run


def import_(client: corten.Client, namespace: str, path: Path, *, unpack: bool = True, **more: object) -> list[str]:
    """As ctr does."""
    store = transfer.ImageStore(
        "",
        extra=[ANY],
        platforms=[platforms.host()],
        unpacks=[transfer.Unpack()] if unpack else [],
    )
    with directories.opened(path) as file:
        stream = transfer.ImportStream(file, **more)  # type: ignore[arg-type]
        return list(engine.Engine(client, namespace).transfer(stream, store))


def found(client: corten.Client) -> tuple[dict[str, Mapping[str, str]], list[tuple[str, oci.Descriptor]], set[str]]:
    """Labels by digest, records, and names of snapshots."""
    content = {info.digest: info.labels for info in client.content.walk()}
    records = sorted((image.name, image.target) for image in client.images.list())
    return content, records, {info.name for info in client.snapshotter("overlayfs").walk()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unpack", [True, False], ids=["unpacked", "packed"])
def test_content_labels_records_and_snapshots_are_those_of_containerd(
    client: corten.Client,
    peer: corten.Client,
    ctr: Callable[..., None],
    namespace: str,
    archives: dict[str, Path],
    kind: str,
    unpack: bool,
) -> None:
    ctr("import", *([] if unpack else ["--no-unpack"]), archives[kind])
    assert import_(client, namespace, archives[kind], unpack=unpack) == [image.name for image in peer.images.list()]
    assert found(client) == found(peer)


@pytest.mark.parametrize("kind", ["oci-gzip", "docker"])
def test_the_engine_does_the_same_on_containerd_itself(
    peer: corten.Client,
    containerd_daemon: daemons.Daemon,
    ctr: Callable[..., None],
    namespace: str,
    archives: dict[str, Path],
    kind: str,
) -> None:
    ctr("import", archives[kind])
    with corten.connect(containerd_daemon.address, f"{namespace}-b") as other:
        import_(other, f"{namespace}-b", archives[kind])
        assert found(other) == found(peer)
        assert not other.leases.list()


def test_docker_archives_with_several_names_are_alike(
    client: corten.Client, peer: corten.Client, ctr: Callable[..., None], namespace: str, tmp_path: Path
) -> None:
    files = images.docker_files([images.tar([images.Entry("several", b"names & <more>")])])
    [line] = json.loads(files["manifest.json"])
    lines = [{**line, "RepoTags": ["busybox", "a.io/b:c", "localhost:5000/d"]}, {**line, "RepoTags": None}]
    path = images.write_archive(tmp_path / "several.tar", {**files, "manifest.json": json.dumps(lines).encode()})
    ctr("import", "--no-unpack", path)
    assert len(import_(client, namespace, path, unpack=False)) == 3
    assert found(client) == found(peer)


def skopeo(*arguments: str | Path) -> None:
    subprocess.run(["skopeo", "--insecure-policy", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def whole(scratch: Path, layers: list[bytes]) -> Path:
    """The archive of an image of two platforms."""
    parts = [archived.image({"a": name.encode()}, architecture=name) for name in ("amd64", "arm64")]
    files = archived.layout(archived.index(*parts, name="example.test/two:1"))
    return images.write_archive(scratch / "two.tar", files)


def test_all_platforms_of_an_index_are_alike(
    client: corten.Client, peer: corten.Client, ctr: Callable[..., None], namespace: str, whole: Path
) -> None:
    ctr("import", "--no-unpack", "--all-platforms", whole)
    store = transfer.ImageStore("", extra=[ANY])
    with whole.open("rb") as file:
        engine.Engine(client, namespace).transfer(transfer.ImportStream(file), store)
    assert found(client) == found(peer)


@pytest.fixture(scope="module")
def copied(scratch: Path, archives: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """What skopeo makes of an image: an archive of each kind, and a directory."""
    source = f"oci-archive:{archives['oci-gzip']}:example.test/oci-gzip:1"
    folder = scratch / "copied"
    folder.mkdir()
    made = {name: folder / f"{name}.tar" for name in ("docker-archive", "oci-archive")} | {"oci": folder / "oci"}
    with tarfile.open(archives["oci-gzip"]) as archive:
        archive.extractall(folder / "layout", filter="data")
    index = json.loads((folder / "layout/index.json").read_text())
    index["manifests"][0]["annotations"] = {oci.REF_NAME: "1"}
    (folder / "layout/index.json").write_text(json.dumps(index))
    source = f"oci:{folder / 'layout'}:1"
    for kind, path in made.items():
        skopeo("copy", source, f"{kind}:{path}:{'' if kind == 'oci' else 'example.test/copied:'}1")
    yield made
    subprocess.run(["rm", "-r", folder], check=True)


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_what_skopeo_writes_is_imported_alike(
    client: corten.Client,
    peer: corten.Client,
    ctr: Callable[..., None],
    namespace: str,
    copied: dict[str, Path],
    kind: str,
) -> None:
    ctr("import", copied[kind])
    assert import_(client, namespace, copied[kind]) == ["example.test/copied:1"]
    assert found(client) == found(peer)


def test_a_directory_that_skopeo_writes_is_imported(
    client: corten.Client, namespace: str, copied: dict[str, Path]
) -> None:
    [name] = import_(client, namespace, copied["oci"])
    assert name == "import:1"
    index = json.loads((copied["oci"] / "index.json").read_text())
    assert client.images.get(name).target.digest == index["manifests"][0]["digest"]


def test_layers_are_compressed_if_asked_as_containerd_does_it(
    client: corten.Client,
    peer: corten.Client,
    ctr: Callable[..., None],
    namespace: str,
    archives: dict[str, Path],
) -> None:
    """But for the bytes of gzip, which are those of another library."""
    ctr("import", "--compress-blobs", "--no-unpack", archives["docker"])
    import_(client, namespace, archives["docker"], unpack=False, force_compress=True)
    ours, theirs = (kept(side) for side in (client, peer))
    assert ours == theirs
    assert len(ours) == 4


def kept(client: corten.Client) -> list[tuple[str, str]]:
    """Media type and diff ID of each layer of the one image."""
    [image] = client.images.list()
    with client.content.reader(image.target.digest) as reader:
        layers = oci.parse_manifest(reader.read_at(0, reader.size)).layers
    labels = [client.content.info(layer.digest).labels[oci.UNCOMPRESSED_LABEL] for layer in layers]
    return [(layer.media_type, label) for layer, label in zip(layers, labels, strict=True)]


def test_a_client_that_goes_in_the_middle_leaves_nothing(
    client: corten.Client, corten_daemon: daemons.Daemon, namespace: str
) -> None:
    data = archived.tar(archived.layout(archived.image({"new": os.urandom(4 << 20)}, name="example.test/new:1")))
    line = [sys.executable, "-m", "corten.cli", "--address", corten_daemon.address, "--namespace", namespace]
    with subprocess.Popen([*line, "image", "import", "-"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as command:
        assert command.stdin is not None
        command.stdin.write(data[: len(data) // 2])
        command.stdin.flush()
        wait_until(lambda: client.content.list_statuses())
        assert client.leases.list()
        command.kill()
    wait_until(lambda: not client.leases.list())
    assert not client.content.list_statuses()
    assert not client.images.list()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
