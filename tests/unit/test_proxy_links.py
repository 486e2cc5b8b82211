"""The way to a proxy plugin: sockets that may be used, the process behind them, and what it says of itself."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.proxies import links
from kernel.proxies.links import Facts, Refused
from kernel.proxies.tables import ProxyPlugin, Spec
from plugin_sdk import errors, handshake, plugin
from plugin_sdk.handshake import Description, Range

Listen = Callable[..., str]


def spec(**keys: object) -> Spec:
    table = ProxyPlugin(**{"type": "snapshot", "address": "/run/stars.sock", **keys})  # type: ignore[arg-type]
    return Spec("stars", plugin.SNAPSHOTTER, "/etc/corten/plugins.toml:7", table)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Through which everybody may pass."""
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == "root" and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o111)
    return tmp_path


@pytest.fixture
def listen(folder: Path) -> Iterator[Listen]:
    sockets: list[socket.socket] = []

    def listen(mode: int = 0o600, gid: int = 0, name: str = "s.sock") -> str:
        path = folder / name
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(str(path))
        sockets[-1].listen()
        path.chmod(mode)
        os.chown(path, 0, gid)
        return str(path)

    yield listen
    for each in sockets:
        each.close()


# --- sockets


def test_a_socket_that_is_not_there_is_waited_for(folder: Path) -> None:
    with pytest.raises(errors.Unavailable, match=r'there is no socket ".*" yet'):
        links.check_socket(f"{folder}/none", False)


def test_an_address_that_is_no_socket_is_refused(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(Refused, match="is no socket"):
        links.check_socket(f"{folder}/file", False)
    with pytest.raises(Refused, match="Not a directory"):
        links.check_socket(f"{folder}/file/s.sock", False)


@pytest.mark.parametrize(("mode", "gid"), [(0o600, 0), (0o660, 0), (0o640, 1000), (0o755, 0)])
def test_a_socket_that_only_its_owner_and_root_may_write_to_is_used(listen: Listen, mode: int, gid: int) -> None:
    links.check_socket(listen(mode, gid), False)


@pytest.mark.parametrize(("mode", "gid"), [(0o666, 0), (0o602, 0), (0o660, 1000)])
def test_a_socket_that_others_may_write_to_is_refused_unless_allowed(listen: Listen, mode: int, gid: int) -> None:
    path = listen(mode, gid)
    with pytest.raises(Refused, match=r"others may write to its socket .* or set allow_others = true"):
        links.check_socket(path, False)
    links.check_socket(path, True)


def test_a_socket_in_a_closed_directory_is_used_whatever_its_mode(listen: Listen, folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o700)
    links.check_socket(listen(0o666, name="closed/s.sock"), False)


@pytest.mark.parametrize(("mode", "owner", "fine"), [(0o777, 0, False), (0o1777, 0, True), (0o1777, 1000, False)])
def test_a_socket_that_a_stranger_may_have_put_there_is_refused_unless_allowed(
    listen: Listen, folder: Path, mode: int, owner: int, fine: bool
) -> None:
    (folder / "everybodys").mkdir()
    (folder / "everybodys").chmod(mode)
    path = listen(name="everybodys/s.sock")
    os.chown(path, owner, 0)
    links.check_socket(path, True)
    with contextlib.nullcontext() if fine else pytest.raises(Refused, match=rf"belongs to user {owner}, .*anybody"):
        links.check_socket(path, False)


# --- processes


LISTENER = """
import socket, sys
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen(); print(flush=True)
sys.stdin.read()
"""


def test_the_process_behind_a_socket_is_known_from_another(folder: Path) -> None:
    path = str(folder / "s.sock")
    line = [sys.executable, "-c", LISTENER, path]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        peer = links.peer_of(path)
        assert peer is not None
        assert peer.pid == process.pid
        assert peer.lives
    assert not peer.lives
    with pytest.raises(errors.Unavailable, match=r"nobody answers at .*: Connection refused"):
        links.peer_of(path)


def test_a_process_of_the_same_number_after_another_boot_is_another(listen: Listen) -> None:
    peer = links.peer_of(listen())
    assert peer is not None
    assert peer.lives
    assert not links.Peer("another boot", peer.pid, peer.begun).lives
    assert not links.Peer(peer.boot, peer.pid, peer.begun + 1).lives


# --- the handshake

SAID = Description(version="1.2", kinds=(plugin.SNAPSHOTTER,), capabilities=("b", "a"), exports={"root": "/var/s"})


def test_ranges_that_do_not_meet_are_told_both() -> None:
    later = Description(api=Range(3, 4), kinds=(plugin.SNAPSHOTTER,))
    with pytest.raises(Refused, match=f"speaks versions 3 to 4 of the plugin API, and this daemon {handshake.API}"):
        links._check_described(spec(), later)


def test_a_type_that_the_plugin_does_not_serve_is_refused() -> None:
    with pytest.raises(Refused, match=r"its table says type 'snapshot', and it serves io\.containerd\.content\.v1"):
        links._check_described(spec(), Description(kinds=(plugin.CONTENT,)))
    links._check_described(spec(), SAID)


def test_without_a_handshake_the_table_is_believed() -> None:
    found = links.facts(spec(capabilities=("x",), platform="linux/arm64", exports={"root": "/r"}), None)
    assert found == Facts("", ["x"], ["linux/arm64"], {"root": "/r"})


def test_the_plugin_goes_before_its_table_and_adds_to_it() -> None:
    found = links.facts(spec(exports={"color": "red"}), SAID)
    assert found == Facts("1.2", ["a", "b"], [], {"root": "/var/s", "color": "red"}, [])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"capabilities": ("c",)}, "its table says capabilities = ['c'], the plugin itself ['a', 'b'], which is used"),
        ({"exports": {"root": "/x"}}, "its table says exports.root = '/x', the plugin itself '/var/s', which is used"),
    ],
)
def test_what_the_table_says_otherwise_is_reported(keys: dict[str, object], said: str) -> None:
    assert list(links.facts(spec(**keys), SAID).doubts) == [said]


def test_a_platform_that_the_plugin_does_not_serve_is_reported() -> None:
    other = Description(kinds=SAID.kinds, platforms=("linux/amd64",))
    assert "platform = 'linux/s390x'" in links.facts(spec(platform="linux/s390x"), other).doubts[0]
    assert not links.facts(spec(platform="linux/amd64"), other).doubts
