"""``ctr images``: import, ls, label, tag, rm, export, mount, unmount."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from scripts import images
from tests import trees
from tests.sides import Both, Side

pytestmark = [pytest.mark.root, pytest.mark.peer]
ARCHIVES = ("oci", "oci-gzip", "oci-zstd", "oci-none", "docker", "docker-gzip")


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_imported_and_unpacked(both: Both, fresh: str, archives: dict[str, Path], name: str) -> None:
    mark = both.mark()
    both.ctr("images", "import", str(archives[name]), namespace=fresh)
    both.same_events(mark)
    both.ctr("images", "ls", namespace=fresh)
    both.ctr("images", "check", namespace=fresh)
    both.ctr("content", "ls", namespace=fresh)
    both.ctr("snapshots", "ls", namespace=fresh)


@pytest.mark.parametrize("name", ("oci-gzip", "oci-zstd", "docker"))
def test_the_unpacked_trees_are_equal(both: Both, fresh: str, archives: dict[str, Path], name: str) -> None:
    both.ctr("images", "import", str(archives[name]), namespace=fresh)
    peer, corten = both.each(lambda side: mounted_tree(side, fresh, f"example.test/{name}:1"))
    assert not trees.differences(peer, corten)
    assert {"data/second", "old/c", "etc/motd"} <= corten.keys()
    assert not {"data/third", "old/a", "pipe"} & corten.keys()


def mounted_tree(side: Side, namespace: str, image: str) -> dict[str, trees.Node]:
    target = side.directory / namespace.strip("@")
    target.mkdir()
    side.output("images", "mount", image, str(target), namespace=namespace)
    try:
        return trees.scan(target, folder_times=False)
    finally:
        side.output("images", "unmount", "--rm", str(target), namespace=namespace)


@pytest.mark.parametrize(
    "options",
    [
        ("--no-unpack",),
        ("--base-name", "example.test/other"),
        ("--digests", "--base-name", "example.test/other"),
        ("--index-name", "example.test/index:1"),
        ("--all-platforms",),
        ("--platform", "linux/amd64"),
        ("--compress-blobs",),
        ("--snapshotter", "native"),
    ],
    ids=lambda options: options[0].strip("-"),
)
def test_import_takes_its_options(both: Both, fresh: str, archives: dict[str, Path], options: tuple[str, ...]) -> None:
    archive = archives["docker" if options == ("--compress-blobs",) else "oci-gzip"]
    both.ctr("images", "import", *options, str(archive), namespace=fresh)
    both.ctr("images", "ls", namespace=fresh)
    both.ctr("content", "ls", namespace=fresh)


def test_a_second_import_changes_nothing(both: Both, fresh: str, busybox: Path) -> None:
    for _ in range(2):
        both.ctr("images", "import", str(busybox), namespace=fresh)
        both.ctr("images", "ls", namespace=fresh)


def test_images_are_tagged_labelled_listed_and_removed(both: Both, fresh: str, busybox: Path) -> None:
    both.ctr("images", "import", "--no-unpack", str(busybox), namespace=fresh)
    mark = both.mark()
    both.ctr("images", "tag", images.BUSYBOX, "example.test/tag:1", "example.test/tag:2", namespace=fresh)
    assert (
        "already exists"
        in both.ctr("images", "tag", images.BUSYBOX, "example.test/tag:1", namespace=fresh, code=1).stderr
    )
    both.ctr("images", "tag", "--force", images.BUSYBOX, "example.test/tag:1", namespace=fresh)
    both.ctr("images", "label", "example.test/tag:1", "color=blue", "size=big", namespace=fresh)
    both.ctr("images", "label", "example.test/tag:1", "size=", namespace=fresh)
    both.ctr("images", "label", "--replace-all", "example.test/tag:2", "only=this", namespace=fresh)
    both.ctr("images", "ls", namespace=fresh)
    assert both.ctr("images", "ls", "-q", "labels.color==blue", namespace=fresh).lines == ["example.test/tag:1"]
    assert len(both.ctr("images", "ls", "-q", "name~=tag", namespace=fresh).lines) == 2
    both.ctr("images", "rm", "example.test/tag:1", "example.test/tag:2", namespace=fresh)
    assert both.ctr("images", "ls", "-q", namespace=fresh).lines == [images.BUSYBOX]
    both.same_events(mark)


def test_a_removed_image_leaves_its_content(both: Both, fresh: str, busybox: Path) -> None:
    both.ctr("images", "import", str(busybox), namespace=fresh)
    both.ctr("images", "rm", images.BUSYBOX, namespace=fresh)
    assert len(both.ctr("content", "ls", "-q", namespace=fresh).lines) == 4


@pytest.mark.parametrize("line", [("tag", "missing:1", "b:1"), ("rm", "missing:1"), ("label", "missing:1", "a=b")])
def test_a_missing_image_is_not_found(both: Both, fresh: str, line: tuple[str, ...]) -> None:
    assert "not found" in both.ctr("images", *line, namespace=fresh, code=None).stderr


FILTERS = [
    "colour==blue",
    "name",
    "name!=x",
    "name~=busybox",
    "name~=/busybox$/",
    "name~=|^docker.io/.*|,target.mediatype==x",
    'labels."a.b/c"==1',
    "target.digest~=sha256",
]


@pytest.mark.parametrize("filter", FILTERS)
def test_a_filter_is_understood_alike(both: Both, fresh: str, busybox: Path, filter: str) -> None:
    both.ctr("images", "import", "--no-unpack", str(busybox), namespace=fresh)
    both.ctr("images", "ls", filter, namespace=fresh)


@pytest.mark.parametrize("filter", ["name==", "name=~x", 'name=="a', "=="])
def test_a_malformed_filter_is_refused_alike(both: Both, fresh: str, filter: str) -> None:
    both.ctr("images", "ls", filter, namespace=fresh, code=1, scrubs=[(r"filter.*(?=: invalid argument)", "REASON")])


def test_a_malformed_pattern_is_refused(corten: Side, fresh: str) -> None:
    done = corten.ctr("images", "ls", "name~=(", namespace=fresh)
    assert done.returncode == 1 and b"invalid argument" in done.stderr


@pytest.mark.parametrize("name", ("oci-gzip", "oci-zstd", "docker"))
def test_an_export_holds_the_same_files(both: Both, fresh: str, archives: dict[str, Path], name: str) -> None:
    both.ctr("images", "import", "--no-unpack", str(archives[name]), namespace=fresh)
    both.ctr("images", "export", "{dir}/" + f"{fresh}.tar", f"example.test/{name}:1", namespace=fresh)
    files = both.same(lambda side: exported(Path(side.resolve("{dir}/" + f"{fresh}.tar"))))
    assert {"oci-layout", "index.json", "manifest.json"} <= files.keys()


def exported(archive: Path) -> dict[str, object]:
    with tarfile.open(archive) as files:
        found: dict[str, object] = {}
        for entry in files:
            stream = files.extractfile(entry)
            data = stream.read() if stream else b""
            found[entry.name] = json.loads(data) if entry.name.endswith(".json") else images.digest(data)
    return found


def test_an_export_of_a_missing_image_fails(both: Both, fresh: str) -> None:
    both.ctr("images", "export", "{dir}/missing.tar", "example.test/missing:1", namespace=fresh, code=1)


def test_an_image_is_mounted_and_unmounted(both: Both, fresh: str, busybox: Path) -> None:
    both.ctr("images", "import", str(busybox), namespace=fresh)
    both.same(lambda side: Path(side.resolve("{dir}/m")).mkdir())
    mark = both.mark()
    both.ctr("images", "mount", images.BUSYBOX, "{dir}/m", namespace=fresh)
    assert both.same(lambda side: Path(side.resolve("{dir}/m/bin/busybox")).exists())
    both.ctr("snapshots", "ls", namespace=fresh)
    both.ctr("leases", "ls", namespace=fresh)
    both.ctr("images", "unmount", "{dir}/m", namespace=fresh)
    both.ctr("snapshots", "rm", "{dir}/m", namespace=fresh)
    both.ctr("images", "mount", "--rw", images.BUSYBOX, "{dir}/m", namespace=fresh, code=None)
    both.ctr("images", "unmount", "--rm", "{dir}/m", namespace=fresh)
    both.same_events(mark)
    both.ctr("snapshots", "ls", namespace=fresh)
