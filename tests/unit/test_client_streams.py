"""The client's ends of a process's streams."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from corten import streams
from corten.streams import PIPE
from plugin_sdk import errors
from plugin_sdk.runtime import Stdio


class Peer:
    """What a shim does with the FIFOs."""

    def __init__(self, stdio: Stdio) -> None:
        self.stdin = os.open(stdio.stdin, os.O_RDONLY | os.O_NONBLOCK) if stdio.stdin else -1
        self.stdout = os.open(stdio.stdout, os.O_WRONLY) if stdio.stdout else -1
        self.closed = threading.Event()


def test_pipes_are_files_here_and_fifos_there() -> None:
    made = streams.make(PIPE, PIPE, PIPE, False)
    assert made.stdin is made.stdout is made.stderr is None
    peer = Peer(made.stdio)
    made.begin(peer.closed.set)
    assert made.stdin is not None
    assert made.stdout is not None
    assert made.stdin.write(b"to you") == 6
    assert os.read(peer.stdin, 100) == b"to you"
    os.write(peer.stdout, b"to me")
    os.close(peer.stdout)
    assert made.stdout.read() == b"to me"
    made.stdin.close()
    assert peer.closed.is_set()
    made.close()
    os.close(peer.stdin)
    assert not Path(made.stdio.stdout).parent.exists()


def test_a_descriptor_gets_a_copy(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        made = streams.make(None, file, None, False)
        peer = Peer(made.stdio)
        made.begin(peer.closed.set)
        os.write(peer.stdout, b"x" * 1000)
        os.close(peer.stdout)
        made.drain()
        made.close()
    assert (tmp_path / "out").read_bytes() == b"x" * 1000


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"abc")
    with (tmp_path / "in").open("rb") as file:
        made = streams.make(file, None, None, False)
        peer = Peer(made.stdio)
        made.begin(peer.closed.set)
        assert peer.closed.wait(60)
        assert os.read(peer.stdin, 100) == b"abc"
        os.close(peer.stdin)
        made.close()


def test_with_one_of_the_two_the_other_is_dropped() -> None:
    assert streams.make(None, "file:///log", None, False).stdio == Stdio("", "file:///log", "/dev/null")
    assert streams.make(None, None, "file:///log", False).stdio == Stdio("", "/dev/null", "file:///log")
    assert streams.make(None, None, None, False).stdio == Stdio()


def test_a_terminal_has_no_stderr() -> None:
    made = streams.make(None, PIPE, PIPE, True)
    assert made.stdio.terminal
    assert made.stdio.stderr == ""
    made.close()


def test_fifos_in_a_given_folder_stay(tmp_path: Path) -> None:
    made = streams.make(PIPE, PIPE, None, False, tmp_path / "fifos")
    made.close()
    attached = streams.attach(made.stdio, PIPE, PIPE, None)
    assert sorted(path.name for path in (tmp_path / "fifos").iterdir()) == ["stdin", "stdout"]
    attached.close()


def test_nobody_attaches_to_what_is_no_fifo(tmp_path: Path) -> None:
    with pytest.raises(errors.FailedPrecondition, match="stdout of the process is file:///log"):
        streams.attach(Stdio("", "file:///log", ""), None, PIPE, None)
    with pytest.raises(errors.FailedPrecondition, match="stdin of the process is nothing"):
        streams.attach(Stdio(), PIPE, None, None)


def test_writing_to_a_process_that_has_gone_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_PATIENCE", 0.0)
    os.mkfifo(tmp_path / "stdin")
    with streams.Input(str(tmp_path / "stdin"), lambda: None) as file, pytest.raises(BrokenPipeError):
        file.write(b"x")
