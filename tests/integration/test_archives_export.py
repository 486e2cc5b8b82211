"""Archives that Corten writes: byte for byte those of containerd, and read by ctr, skopeo and umoci."""

from __future__ import annotations

import itertools
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import corten
from benchmarks import daemons
from plugin_sdk import platforms, transfer
from plugin_sdk.distribution import engine
from plugin_sdk.distribution.archive import layout
from scripts import images
from tests import archived

pytestmark = [pytest.mark.root, pytest.mark.peer]
NUMBERS = itertools.count(1)
ONE, OTHER, SMALL = "docker.io/library/one:1", "example.test/other:2", "example.test/small:3"


@pytest.fixture
def namespace() -> str:
    return f"exported-{next(NUMBERS)}"


@pytest.fixture
def client(corten_daemon: daemons.Daemon, namespace: str) -> Iterator[corten.Client]:
    with corten.connect(corten_daemon.address, namespace) as made:
        yield made


@pytest.fixture
def ctr(containerd_daemon: daemons.Daemon, namespace: str) -> Callable[..., str]:
    def run(*line: str | Path) -> str:
        done = containerd_daemon.ctr("images", *map(str, line), namespace=namespace, check=True)
        return done.stdout.decode()

    return run


@pytest.fixture(scope="module")
def source(scratch: Path, layers: list[bytes]) -> Path:
    """An archive of two images: one of busybox and its changes, one of two platforms."""
    one = images.oci_files(layers, ONE)
    parts = [archived.image({"a": name.encode()}, architecture=name) for name in ("amd64", "arm64")]
    other = archived.layout(archived.index(*parts, name=OTHER))
    entries = [entry for files in (one, other) for entry in json.loads(files["index.json"])["manifests"]]
    return images.write_archive(scratch / "source.tar", {**one, **other, "index.json": layout.index(entries)})


def import_(client: corten.Client, namespace: str, path: Path) -> None:
    name = transfer.Name("import", is_prefix=True, allow_overwrite=True)
    with path.open("rb") as file:
        engine.Engine(client, namespace).transfer(transfer.ImportStream(file), transfer.ImageStore("", extra=[name]))


def export(client: corten.Client, namespace: str, path: Path, *names: str, **options: bool) -> Path:
    store = transfer.ImageStore(names[0], extra=[transfer.Name(name) for name in names[1:]])
    with path.open("wb") as file:
        stream = transfer.ExportStream(file, **options)  # type: ignore[arg-type]
        engine.Engine(client, namespace).transfer(store, stream)
    return path


def members(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time and bytes; ``index.json`` without its own media type, which older ones do not say."""
    with tarfile.open(path) as archive:
        found = {}
        for member in archive:
            file = archive.extractfile(member)
            data = file.read() if file else b""
            found[member.name] = member.mode, member.mtime, data
    mode, mtime, data = found["index.json"]
    index = json.loads(data)
    index.pop("mediaType", None)
    return {**found, "index.json": (mode, mtime, layout.encode(index))}


@pytest.mark.parametrize("names", [[ONE], [OTHER], [ONE, OTHER]], ids=["one", "other", "both"])
@pytest.mark.parametrize("every", [False, True], ids=["host", "all-platforms"])
def test_an_archive_is_that_of_containerd(
    client: corten.Client,
    ctr: Callable[..., str],
    namespace: str,
    source: Path,
    tmp_path: Path,
    names: list[str],
    every: bool,
) -> None:
    ctr("import", "--no-unpack", "--all-platforms", source)
    ctr("export", *(["--all-platforms"] if every else []), tmp_path / "theirs.tar", *names)
    import_(client, namespace, source)
    ours = export(client, namespace, tmp_path / "ours.tar", *names, all_platforms=every)
    found, expected = members(ours), members(tmp_path / "theirs.tar")
    assert list(found) == list(expected)
    lines = [sorted(json.loads(side.pop("manifest.json")[2]), key=str) for side in (found, expected)]
    assert lines[0] == lines[1]  # in no order there
    assert found == expected


def test_it_is_byte_for_byte_that_of_a_later_containerd(
    client: corten.Client, namespace: str, source: Path, tmp_path: Path, later: object
) -> None:
    side = later.peer  # type: ignore[attr-defined]
    side.output("images", "import", "--no-unpack", "--all-platforms", str(source), namespace=namespace)
    theirs = tmp_path / "theirs.tar"
    side.output("images", "export", "--all-platforms", str(theirs), ONE, namespace=namespace)
    import_(client, namespace, source)
    ours = export(client, namespace, tmp_path / "ours.tar", ONE, all_platforms=True)
    assert ours.read_bytes() == theirs.read_bytes()


def skopeo(*arguments: str | Path) -> bytes:
    line = ["skopeo", "--insecure-policy", *arguments]
    return subprocess.run(line, check=True, capture_output=True).stdout


def manifest(client: corten.Client, name: str) -> bytes:
    with client.content.reader(client.images.get(name).target.digest) as reader:
        return reader.read_at(0, reader.size)


def test_ctr_and_skopeo_read_what_is_exported(
    client: corten.Client, ctr: Callable[..., str], namespace: str, source: Path, tmp_path: Path
) -> None:
    import_(client, namespace, source)
    path = export(client, namespace, tmp_path / "both.tar", ONE, OTHER)
    ctr("import", path)
    assert {line.split()[0] for line in ctr("ls").splitlines()[1:]} == {ONE, OTHER}
    alone = export(client, namespace, tmp_path / "one.tar", ONE)
    assert skopeo("inspect", "--raw", f"oci-archive:{alone}") == manifest(client, ONE)
    config = json.loads(skopeo("inspect", "--config", f"docker-archive:{alone}:{ONE}"))
    assert config == json.loads(skopeo("inspect", "--config", f"oci-archive:{alone}"))


def test_umoci_unpacks_what_is_exported(client: corten.Client, namespace: str, source: Path, scratch: Path) -> None:
    folder = scratch / namespace
    folder.mkdir()
    small = archived.layout(archived.image({"a": b"first"}, {"b": b"second"}, name=SMALL))
    import_(client, namespace, images.write_archive(folder / "small.tar", small))
    try:
        path = export(client, namespace, folder / "exported.tar", SMALL)
        with tarfile.open(path) as archive:
            archive.extractall(folder / "layout", filter="data")
        line = ["umoci", "unpack", "--image", f"{folder}/layout:3", folder / "bundle"]
        subprocess.run(line, check=True, capture_output=True)
        assert [(folder / "bundle/rootfs" / name).read_bytes() for name in ("a", "b")] == [b"first", b"second"]
    finally:
        subprocess.run(["rm", "-r", folder], check=True)


def test_an_export_can_go_through_a_pipe(client: corten.Client, namespace: str, source: Path, tmp_path: Path) -> None:
    """Into tar, which reads it while it is written."""
    import_(client, namespace, source)
    with subprocess.Popen(["tar", "-t"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listing:
        assert listing.stdin is not None
        assert listing.stdout is not None
        raw = listing.stdin.raw  # type: ignore[attr-defined]
        engine.Engine(client, namespace).transfer(transfer.ImageStore(ONE), transfer.ExportStream(raw))
        listing.stdin.close()
        names = listing.stdout.read().decode().splitlines()
    assert listing.returncode == 0
    assert names[:2] == ["blobs/", "blobs/sha256/"]
    assert names[-3:] == ["index.json", "manifest.json", "oci-layout"]


def test_what_is_exported_is_imported_again_by_both(
    client: corten.Client, corten_daemon: daemons.Daemon, namespace: str, source: Path, tmp_path: Path
) -> None:
    import_(client, namespace, source)
    path = export(client, namespace, tmp_path / "all.tar", ONE, OTHER, all_platforms=True)
    with corten.connect(corten_daemon.address, f"{namespace}-b") as other:
        import_(other, f"{namespace}-b", path)
        digests = [{image.name: image.target.digest for image in side.images.list()} for side in (client, other)]
        assert digests[0] == digests[1]
        chosen = other.images.manifest(OTHER, platforms.parse("linux/arm64"))
    assert len(chosen.layers) == 1
