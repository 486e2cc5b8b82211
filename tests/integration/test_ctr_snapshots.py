"""``ctr snapshots``: ls, tree, prepare, view, mounts, commit, info, label, usage, diff, rm."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.sides import Both, Side

pytestmark = [pytest.mark.root, pytest.mark.peer]
SNAPSHOTTERS = pytest.mark.parametrize("snapshotter", ("overlayfs", "native"))
SIZES = [
    (r"@\d+/\d+/(\w+)", r"\1"),  # containerd shows the key that its snapshotter sees
    (r"failed to get (active|snapshot) mount: ", ""),
    (r"(?m)(^@?\S+\s+)[\d.]+ ?(?:[KMG]i)?B?(\s+\d+)$", r"\1SIZE\2"),
]


class Snapshots:
    """Lines of ``ctr snapshots`` on one snapshotter in one namespace."""

    def __init__(self, both: Both, namespace: str, snapshotter: str = "overlayfs") -> None:
        self.both, self.namespace, self.snapshotter = both, namespace, snapshotter

    def __call__(self, *line: str, code: int | None = 0) -> str:
        whole = ("snapshots", "--snapshotter", self.snapshotter, *line)
        outcome = self.both.ctr(*whole, namespace=self.namespace, scrubs=SIZES, code=code)
        return outcome.stdout + outcome.stderr

    def change(self, key: str, script: str) -> None:
        """Runs a shell script in the mounted active snapshot of both sides."""

        def run(side: Side) -> None:
            target = side.directory / "change"
            target.mkdir(exist_ok=True)
            mount = side.output(
                "snapshots", "--snapshotter", self.snapshotter, "mounts", str(target), key, namespace=self.namespace
            )
            subprocess.run(["sh", "-ec", mount], check=True)
            try:
                subprocess.run(["sh", "-ec", script], check=True, cwd=target)
            finally:
                subprocess.run(["umount", target], check=True)

        self.both.each(run)

    def layer(self, name: str, script: str, *parent: str) -> None:
        self("prepare", f"making-{name}", *parent)
        self.change(f"making-{name}", script)
        self("commit", name, f"making-{name}")


@SNAPSHOTTERS
def test_the_life_of_a_snapshot(both: Both, fresh: str, snapshotter: str) -> None:
    snapshots = Snapshots(both, fresh, snapshotter)
    mark = both.mark()
    snapshots.layer("base", "echo one > one; mkdir dir; echo two > dir/two")
    snapshots.layer("top", "echo changed > one; rm -r dir; echo three > three", "base")
    snapshots("prepare", "active", "top")
    snapshots("view", "seen", "top")
    for line in (("ls",), ("tree",), ("info", "base"), ("info", "active"), ("info", "seen"), ("usage",)):
        snapshots(*line)
    snapshots("mounts", "/target", "active")
    snapshots("mounts", "/target", "seen")
    snapshots("label", "top", "color=blue")
    assert "color" in snapshots("info", "top")
    snapshots("rm", "active")
    snapshots("rm", "seen", "top", "base")
    assert len(snapshots("ls").splitlines()) == 1
    both.same_events(mark)


@SNAPSHOTTERS
def test_prepare_and_view_print_their_mounts(both: Both, fresh: str, snapshotter: str) -> None:
    snapshots = Snapshots(both, fresh, snapshotter)
    snapshots.layer("base", "touch file")
    snapshots.layer("top", "touch other", "base")
    for number, parents in enumerate(((), ("base",), ("top",))):
        assert "mount" in snapshots("prepare", "--target", "/target", f"p{number}", *parents)
        assert json.loads(snapshots("prepare", "--mounts", f"j{number}", *parents))
    for number, parent in enumerate(("base", "top")):
        assert "mount" in snapshots("view", "--target", "/target", f"v{number}", parent)
        assert json.loads(snapshots("view", "--mounts", f"w{number}", parent))


@SNAPSHOTTERS
def test_wrong_use_is_refused_alike(both: Both, fresh: str, snapshotter: str) -> None:
    snapshots = Snapshots(both, fresh, snapshotter)
    snapshots.layer("base", "touch file")
    snapshots("prepare", "active", "base")
    wrong = [
        ("prepare", "active", "base"),
        ("view", "active", "base"),
        ("prepare", "orphan", "missing"),
        ("view", "orphan", "missing"),
        ("prepare", "on-active", "active"),
        ("mounts", "/target", "missing"),
        ("mounts", "/target", "base"),
        ("commit", "base", "active"),
        ("commit", "new", "missing"),
        ("info", "missing"),
        ("usage", "missing"),
        ("label", "missing", "a=b"),
        ("rm", "missing"),
        ("rm", "base"),
        ("diff", "missing"),
    ]
    for line in wrong:
        snapshots(*line, code=None)
    assert "base" in snapshots("ls")


def test_an_unknown_snapshotter_is_named(both: Both, fresh: str) -> None:
    assert "snapshotter not loaded: nowhere" in Snapshots(both, fresh, "nowhere")("ls", code=1)


@SNAPSHOTTERS
@pytest.mark.parametrize(
    "media", ["application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip"]
)
def test_a_diff_holds_the_changes(both: Both, fresh: str, snapshotter: str, media: str) -> None:
    snapshots = Snapshots(both, fresh, snapshotter)
    snapshots.layer("base", "mkdir dir gone; echo one > one; echo two > dir/two; echo old > gone/old; ln one link")
    snapshots("prepare", "active", "base")
    snapshots.change(
        "active", "rm -r gone; echo changed > one; ln -s one soft; mkfifo pipe; chmod 700 dir; chown 1:2 dir/two"
    )
    listed = both.same(lambda side: diff_listing(side, fresh, snapshotter, media, "active"))
    assert ".wh.gone" in " ".join(listed)


def diff_listing(side: Side, namespace: str, snapshotter: str, media: str, *keys: str) -> list[str]:
    """The diff as GNU tar lists it, without times."""
    line = ("snapshots", "--snapshotter", snapshotter, "diff", "--media-type", media, *keys)
    done = side.ctr(*line, namespace=namespace)
    assert done.returncode == 0, done.stderr
    tar = subprocess.run(
        ["tar", "-tvf", "-", *(["-z"] if media.endswith("gzip") else [])],
        input=done.stdout,
        capture_output=True,
        check=True,
    )
    rows = [row.split() for row in tar.stdout.decode().splitlines()]
    return sorted(" ".join([*row[:3], *row[5:]]) for row in rows)


def test_a_kept_diff_is_content(both: Both, fresh: str) -> None:
    snapshots = Snapshots(both, fresh)
    snapshots.layer("base", "touch -d @1700000000 file .")
    line = (
        "snapshots",
        "diff",
        "--keep",
        "--label",
        "color=blue",
        "--media-type",
        "application/vnd.oci.image.layer.v1.tar",
        "base",
    )
    peer, corten = both.each(lambda side: side.ctr(*line, namespace=fresh))
    assert (peer.returncode, corten.returncode) == (0, 0), (peer, corten)
    both.ctr("content", "ls", namespace=fresh)


def test_an_image_is_unpacked_by_its_manifest(both: Both, fresh: str, archives: dict[str, Path]) -> None:
    both.ctr("images", "import", "--no-unpack", str(archives["oci-gzip"]), namespace=fresh)
    name = both.corten.output("images", "ls", namespace=fresh).split("sha256:")[1].split()[0]
    both.ctr("snapshots", "unpack", f"sha256:{name}", namespace=fresh)
    both.ctr("snapshots", "tree", namespace=fresh)
