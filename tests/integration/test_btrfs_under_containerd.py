"""Debian's containerd loads the program of btrfs snapshots as a proxy plugin of its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import daemons
from proxy_plugins.btrfs import ioctl
from scripts import images
from tests import loops, programs

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
BUSYBOX = images.BUSYBOX
NAME = "corten-btrfs"


@dataclass(frozen=True, slots=True)
class Peer:
    daemon: daemons.Daemon
    root: Path

    def ctr(self, *line: str, stdin: bytes | None = None) -> str:
        done = self.daemon.ctr(*line, stdin=stdin)
        assert done.returncode == 0, f"ctr {' '.join(line)}: {done.stderr.decode()}"
        return done.stdout.decode()

    def snapshots(self) -> dict[str, str]:
        """Kinds by key."""
        rows = [row.split() for row in self.ctr("snapshots", "--snapshotter", NAME, "ls").splitlines()[1:]]
        return {row[0]: row[-1] for row in rows}

    def subvolumes(self) -> set[str]:
        fd = os.open(self.root.parent, os.O_RDONLY)
        try:
            return {os.fsdecode(nested.name) for nested in ioctl.nested(fd, ioctl.subvolume(fd).id)}
        finally:
            os.close(fd)


@pytest.fixture(scope="module")
def peer(scratch: Path, busybox: Path) -> Iterator[Peer]:
    """containerd with the program, and busybox imported into it."""
    directory = scratch / "b"
    directory.mkdir()
    address = directory / "b.sock"
    table = f'[proxy_plugins.{NAME}]\n  type = "snapshot"\n  address = "{address}"\n'
    with loops.file_system() as folder:
        root = folder / "root"
        command = programs.python("-m", "proxy_plugins.btrfs", "--address", str(address), "--root", str(root))
        with programs.started(command, scratch / "b.log") as program:
            program.wait_for(str(address))
            daemon = daemons.start_containerd(directory, more=table)
            try:
                found = Peer(daemon, root)
                found.ctr("images", "import", "--snapshotter", NAME, str(busybox))
                yield found
            finally:
                daemon.stop()
        assert program.process.returncode == -9, program.said()  # ended here, not by itself before


def test_containerd_lists_it(peer: Peer) -> None:
    rows = [row.split() for row in peer.ctr("plugins", "ls").splitlines()]
    assert ["io.containerd.snapshotter.v1", NAME, "-", "ok"] in rows


def test_layers_are_unpacked_into_it(peer: Peer) -> None:
    assert set(peer.snapshots().values()) == {"Committed"}
    assert len(peer.subvolumes()) == len(peer.snapshots()) >= 1


def test_a_container_runs_on_it(peer: Peer) -> None:
    before = peer.snapshots()
    script = "echo hello > /file; cat /file; touch /etc/x && echo written"
    assert peer.ctr("run", "--rm", "--snapshotter", NAME, BUSYBOX, "runs", "/bin/sh", "-c", script).split() == [
        "hello",
        "written",
    ]
    assert peer.snapshots() == before


def test_a_read_only_container_cannot_write(peer: Peer) -> None:
    line = ("run", "--rm", "--snapshotter", NAME, "--read-only", BUSYBOX, "readonly", "/bin/touch", "/file")
    done = peer.daemon.ctr(*line)
    assert done.returncode != 0
    assert b"Read-only file system" in done.stdout + done.stderr


def test_a_container_is_seen_measured_committed_and_mounted(peer: Peer, tmp_path: Path) -> None:
    script = "dd if=/dev/urandom of=/big bs=65536 count=32 2>/dev/null; sleep 100"
    peer.ctr("run", "-d", "--snapshotter", NAME, BUSYBOX, "seen", "/bin/sh", "-c", script)
    try:
        assert peer.snapshots()["seen"] == "Active"
        _until_large(peer, "seen", 2 << 20)
    finally:
        peer.ctr("tasks", "rm", "-f", "seen")
        peer.ctr("containers", "rm", "--keep-snapshot", "seen")
    peer.ctr("snapshots", "--snapshotter", NAME, "commit", "kept", "seen")
    assert "seen" not in peer.snapshots()
    mounts = peer.ctr("snapshots", "--snapshotter", NAME, "view", "look", "kept")
    assert mounts == ""
    line = peer.ctr("snapshots", "--snapshotter", NAME, "mounts", str(tmp_path), "look").strip()
    assert re.fullmatch(rf"mount -t bind {re.escape(str(peer.root))}/snapshots/\d+ {tmp_path} -o rbind,ro", line)
    for key in ("look", "kept"):
        peer.ctr("snapshots", "--snapshotter", NAME, "rm", key)
    assert set(peer.snapshots().values()) == {"Committed"}


def _until_large(peer: Peer, key: str, size: int) -> None:
    for _ in range(100):
        row = peer.ctr("snapshots", "--snapshotter", NAME, "usage", "-b", key).splitlines()[1].split()
        if int(row[1]) >= size:
            return
    raise AssertionError(f"usage stays at {row}")


def test_what_its_collection_removes_is_gone(peer: Peer) -> None:
    """It calls without saying which namespace it means, and only then: a removal by ctr marks."""
    assert len(peer.subvolumes()) > len(peer.snapshots()) > 0
    peer.ctr("images", "rm", "--sync", BUSYBOX)
    assert peer.snapshots() == {}
    assert peer.subvolumes() == set()
