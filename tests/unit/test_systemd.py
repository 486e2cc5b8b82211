"""sd_notify(3) and sd_listen_fds(3); a whole handing over is in test_serve.py."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from plugin_sdk import systemd


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"{tmp_path}/notify"
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_nobody_need_listen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/absent")
    systemd.notify("READY=1")


@pytest.mark.parametrize(("pid", "count"), [("1", "1"), ("", ""), ("self", "none")])
def test_sockets_for_another_process_are_not_taken(monkeypatch: pytest.MonkeyPatch, pid: str, count: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "self" else pid)
    monkeypatch.setenv("LISTEN_FDS", count)
    assert systemd.listeners() == []
    assert "LISTEN_FDS" not in os.environ
