"""What the client library loads, and when: a program that starts often pays for each module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import corten
from corten import exports
from plugin_sdk import errors

HEAVY = ("asyncio", "google.protobuf", "grpc", "plugin_sdk.distribution", "plugin_sdk.wire", "urllib3")


def loaded(code: str) -> set[str]:
    """Of the heavy modules, those that are loaded after the code."""
    line = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True, timeout=60)
    return {name for name in HEAVY if name in done.stdout.split()}


def test_the_package_alone_loads_nothing_heavy() -> None:
    assert loaded("import corten; corten.errors.NotFound; corten.PIPE") == set()


def test_a_call_over_a_socket_needs_neither_grpc_nor_asyncio() -> None:
    code = """
import corten
with corten.connect("/nowhere.sock") as client:
    for work in (client.version, client.images.list, client.containers.list, client.tasks.list, client.plugins):
        try:
            work()
        except corten.errors.Unavailable:
            continue
"""
    assert loaded(code) == {"google.protobuf", "plugin_sdk.wire"}


def test_names_are_exported_once() -> None:
    assert set(exports.__all__) < set(corten.__all__)
    with pytest.raises(AttributeError, match="absent"):
        corten.absent  # noqa: B018


def test_an_address_and_a_namespace_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CORTEN_ADDRESS", f"{tmp_path}/own.sock")
    monkeypatch.setenv("CORTEN_NAMESPACE", "own")
    with corten.connect() as client, pytest.raises(errors.Unavailable, match=r"own\.sock"):
        assert client.scope.namespace == "own"
        client.version()
    with corten.connect(namespace="other") as client:
        assert client.scope.namespace == "other"
        assert client.namespace("third").scope.namespace == "third"


def test_an_address_of_tcp_is_spoken_to_by_grpc() -> None:
    code = """
import corten
for tls in (None, corten.Tls(b"")):
    with corten.connect("tcp://127.0.0.1:1", tls=tls) as client:
        try:
            client.version()
        except corten.errors.Unavailable:
            continue
        raise AssertionError
"""
    assert "grpc" in loaded(code)


def test_a_socket_has_no_tls() -> None:
    with pytest.raises(errors.InvalidArgument, match="no TLS"):
        corten.connect("/nowhere.sock", tls=corten.Tls(b""))


def test_a_client_that_is_bound_otherwise_does_not_close_the_connection(tmp_path: Path) -> None:
    with corten.connect(f"{tmp_path}/none.sock") as client:
        with client.namespace("other") as other:
            pass
        with pytest.raises(errors.Unavailable, match="No such file"):
            other.version()
    with pytest.raises(errors.Unavailable, match="has been closed"):
        other.version()
