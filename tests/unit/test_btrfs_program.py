"""``python -m proxy_plugins.btrfs`` as people start it."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin_sdk import errors, plugin, release
from plugin_sdk.conformance import snapshots
from plugin_sdk.scope import Scope
from plugin_sdk.wire import handshake as wire_handshake
from plugin_sdk.wire import snapshots as wire
from plugin_sdk.wire import transport
from tests import loops, programs

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def file_system() -> Iterator[Path]:
    with loops.file_system() as folder:
        yield folder


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "s")


def command(address: str, root: Path, *more: str) -> list[str]:
    return programs.python("-m", "proxy_plugins.btrfs", "--address", address, "--root", str(root), *more)


def refused(address: str, root: Path) -> str:
    """Its one line, without its own name."""
    done = subprocess.run(command(address, root), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1, done
    assert done.stderr.startswith("corten-btrfs: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("corten-btrfs: ").rstrip()


def test_it_serves_a_snapshotter_that_survives_its_process(file_system: Path, address: str, tmp_path: Path) -> None:
    root = file_system / "survives"
    for time in (1, 2):
        with programs.started(command(address, root), tmp_path / "log") as program:
            program.wait_for(address)
            assert stat.S_IMODE(os.stat(address).st_mode) == 0o600
            channel = transport.connect(f"unix://{address}")
            proxy = wire.Proxy(channel, Scope("default"), "whatever the caller calls it")
            if time == 1:
                snapshots.commit(proxy, "layer", a="1")
                proxy.prepare("key", "layer")
            assert snapshots.names(proxy) == {"layer", "key"}
            assert snapshots.texts(proxy.mounts("key")) == {"a": "1"}
            channel.close()
            assert program.terminate() == 0
    assert not os.path.exists(address)


def test_it_describes_itself(file_system: Path, address: str, tmp_path: Path) -> None:
    root = file_system / "described"
    with programs.started(command(address, root), tmp_path / "log") as program:
        program.wait_for(address)
        channel = transport.connect(f"unix://{address}")
        asked = wire_handshake.Proxy(channel, Scope("")).describe("0", "btrfs")
        channel.close()
    assert (asked.version, asked.kinds) == (release.VERSION, (plugin.SNAPSHOTTER,))
    assert asked.exports == {"root": str(root)}


def test_what_it_was_killed_in_is_as_before_or_after(file_system: Path, address: str, tmp_path: Path) -> None:
    root = file_system / "killed"
    done: list[str] = []
    for _ in range(2):
        with programs.started(command(address, root), tmp_path / "log") as program:
            program.wait_for(address)
            channel = transport.connect(f"unix://{address}")
            proxy = wire.Proxy(channel, Scope("default"), "btrfs")
            assert set(done) <= snapshots.names(proxy) <= {*done, f"key-{len(done)}"}
            snapshots.commit(proxy, f"layer-{len(done)}", done[-1] if done else "", **{f"f{len(done)}": "x"})
            done.append(f"layer-{len(done)}")
            program.process.kill()
            program.process.wait()
            with pytest.raises(errors.Unavailable):
                proxy.prepare(f"key-{len(done)}", done[-1])
            channel.close()
    with programs.started(command(address, root), tmp_path / "log") as program:
        program.wait_for(address)
        channel = transport.connect(f"unix://{address}")
        proxy = wire.Proxy(channel, Scope("default"), "btrfs")
        assert snapshots.texts(proxy.view("view", done[-1])) == {"f0": "x", "f1": "x"}
        channel.close()


def test_a_second_one_on_the_same_root_is_refused(file_system: Path, address: str, tmp_path: Path) -> None:
    root = file_system / "shared"
    with programs.started(command(address, root), tmp_path / "log") as program:
        program.wait_for(address)
        assert refused(f"{address}2", root) == f"the snapshots in {root} are in use by another process"
        assert program.process.poll() is None


def test_a_root_that_cannot_be_is_said_in_one_line(file_system: Path, address: str) -> None:
    assert refused(address, Path("/proc/self")) == "the root of the snapshots, /proc/self, is not on btrfs"
    (file_system / "file").touch()
    assert refused(address, file_system / "file").endswith("/file, cannot be used: File exists")
