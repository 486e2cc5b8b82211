"""An image of five layers that umoci made goes through Corten and comes out as it was: skopeo and umoci say so."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts import images
from tests import trees
from tests.sides import Side

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
NAME = "example.test/umoci:five"
# Mounted over in a container.
HIDDEN = ("proc", "dev", "sys", "run")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep


def umoci(*arguments: str | Path) -> None:
    subprocess.run(["umoci", *arguments], check=True, capture_output=True)


def skopeo(*arguments: str | Path) -> bytes:
    policy = ["--insecure-policy"]
    return subprocess.run(["skopeo", *policy, *arguments], check=True, capture_output=True).stdout


def first(root: Path) -> None:
    """busybox, with places to mount on."""
    subprocess.run(["tar", "-x", "-C", root], input=images.busybox_layer(), check=True)
    for name in HIDDEN:
        (root / name).mkdir(exist_ok=True)


def second(root: Path) -> None:
    """Modes, owners, times, links, devices, extended attributes."""
    home = root / "files"
    home.mkdir(mode=0o2775)
    for number, mode in enumerate((0o400, 0o4755, 0o2711, 0o1777, 0o666)):
        path = home / f"mode-{mode:o}"
        path.write_bytes(b"x" * number * 1000)
        os.chown(path, 1000 + number, 2000 + number)
        path.chmod(mode)
        os.utime(path, ns=(0, 1_600_000_000_123_456_789 + number))
    os.link(home / "mode-400", home / "hard")
    os.symlink("mode-400", home / "soft")
    os.symlink("/nowhere/at/all", home / "dangling")
    os.mkfifo(home / "pipe", 0o640)
    os.mknod(home / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(home / "mode-666", "user.color", b"blue")
    os.setxattr(home / "mode-4755", "security.capability", CAPABILITY)


def third(root: Path) -> None:
    """What comes to be removed, and long and strange names."""
    for name in ("gone", "opaque", "replaced"):
        (root / name).mkdir()
        (root / name / "inner").write_text(name)
    (root / ("long" * 50)).mkdir()
    (root / ("long" * 50) / ("name" * 50)).write_text("deep")
    (root / "with space\nand line ü").write_text("strange")


def fourth(root: Path) -> None:
    """Removed, emptied and filled again, replaced by another kind."""
    shutil.rmtree(root / "gone")
    (root / "files/hard").unlink()
    (root / "opaque/inner").unlink()
    (root / "opaque/new").write_text("new")
    shutil.rmtree(root / "replaced")
    (root / "replaced").write_text("a file now")


def fifth(root: Path) -> None:
    """Changed in place: content, mode, owner, a link's target; a sparse file."""
    (root / "files/mode-666").write_text("changed")
    (root / "files/mode-400").chmod(0o444)
    os.chown(root / "opaque", 5, 6)
    (root / "files/soft").unlink()
    os.symlink("mode-666", root / "files/soft")
    with (root / "sparse").open("wb") as sparse:
        sparse.seek(1 << 22)
        sparse.write(b"end")


LAYERS: list[Callable[[Path], None]] = [first, second, third, fourth, fifth]


@pytest.fixture(scope="module")
def layout(scratch: Path) -> Iterator[Path]:
    """A layout with the image ``five``."""
    path = scratch / "umoci"
    image = f"{path}:five"
    umoci("init", "--layout", path)
    umoci("new", "--image", image)
    for number, change in enumerate(LAYERS):
        bundle = scratch / f"bundle-{number}"
        umoci("unpack", "--image", image, bundle)
        change(bundle / "rootfs")
        umoci("repack", "--image", image, bundle)
        shutil.rmtree(bundle)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def expected(scratch: Path, layout: Path) -> Iterator[dict[str, trees.Node]]:
    """The tree that umoci unpacks."""
    yield unpacked(scratch, f"{layout}:five")


def unpacked(scratch: Path, image: str) -> dict[str, trees.Node]:
    bundle = scratch / "unpacked"
    umoci("unpack", "--image", image, bundle)
    try:
        return trees.scan(bundle / "rootfs")
    finally:
        shutil.rmtree(bundle)


@pytest.fixture(scope="module")
def imported(corten: Side, layout: Path) -> Iterator[Side]:
    """Corten with the image under NAME."""
    archive = layout.parent / "umoci.tar"
    with tarfile.open(archive, "w") as files:
        for path in sorted(layout.rglob("*")):
            files.add(path, path.relative_to(layout), recursive=False)
    corten.output("images", "import", "--base-name", "example.test/umoci", str(archive))
    yield corten
    corten.output("images", "rm", NAME)


def visible(tree: dict[str, trees.Node]) -> dict[str, trees.Node]:
    return {path: node for path, node in tree.items() if path.split("/")[0] not in HIDDEN}


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_a_container_sees_the_tree_that_umoci_unpacks(
    imported: Side, expected: dict[str, trees.Node], snapshotter: str
) -> None:
    if snapshotter != "overlayfs":
        imported.output(
            "images",
            "import",
            "--snapshotter",
            snapshotter,
            "--base-name",
            "example.test/umoci",
            str(imported.directory.parent / "umoci.tar"),
        )
    imported.output("run", "-d", "--snapshotter", snapshotter, NAME, "@umoci", "/bin/sleep", "600")
    try:
        listed = imported.output("tasks", "ls")
        pid = re.search(rf"{imported.resolve('@umoci')}\s+(\d+)", listed)
        assert pid is not None
        seen = trees.scan(Path(f"/proc/{pid[1]}/root"), skip=HIDDEN)
    finally:
        imported.ctr("tasks", "rm", "-f", "@umoci")
        imported.ctr("containers", "rm", "@umoci")
    assert trees.differences(visible(expected), visible(seen)) == {}
    assert {"files/mode-4755", "opaque/new", "replaced", "sparse"} <= seen.keys()


def test_an_export_is_read_by_skopeo_and_unpacked_by_umoci(
    imported: Side, expected: dict[str, trees.Node], scratch: Path
) -> None:
    archive, copy = scratch / "exported.tar", scratch / "exported"
    imported.output("images", "export", str(archive), NAME)
    assert skopeo("inspect", "--raw", f"oci-archive:{archive}") == manifest(imported)
    assert b"sha256:" in skopeo("inspect", f"oci-archive:{archive}")
    skopeo("copy", f"oci-archive:{archive}", f"oci:{copy}:five")
    assert trees.differences(expected, unpacked(scratch, f"{copy}:five")) == {}
    shutil.rmtree(copy)


def manifest(side: Side) -> bytes:
    row = next(row for row in side.output("images", "ls").splitlines() if row.startswith(NAME))
    found = re.search(r"sha256:\w+", row)
    assert found is not None
    return side.output("content", "get", found[0]).encode()


def test_the_docker_archive_of_skopeo_is_imported(corten: Side, layout: Path, scratch: Path) -> None:
    archive = scratch / "docker-archive.tar"
    skopeo("copy", f"oci:{layout}:five", f"docker-archive:{archive}:example.test/docker:five")
    corten.output("images", "import", str(archive))
    done = corten.output("run", "--rm", "example.test/docker:five", "@docker", "/bin/cat", "/replaced")
    assert done == "a file now"
    corten.output("images", "rm", "example.test/docker:five")
