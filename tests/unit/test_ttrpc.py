import asyncio
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import errors, events, runtime
from plugin_sdk.api.services.content.v1 import content_pb2
from plugin_sdk.api.services.ttrpc.events.v1 import events_pb2
from plugin_sdk.api.ttrpc import request_pb2
from plugin_sdk.api.types import event_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import events as wire
from plugin_sdk.wire import rpc, ttrpc
from tests.serving import running

SERVICE = content_pb2.DESCRIPTOR.services_by_name["Content"]


class Exchange:
    def __init__(self) -> None:
        self.forwarded: list[events.Envelope] = []

    def forward(self, envelope: events.Envelope) -> None:
        if envelope.topic == "/bad":
            raise errors.InvalidArgument("bad topic")
        self.forwarded.append(envelope)


class Content:
    service = SERVICE.full_name

    def __init__(self) -> None:
        self.methods = rpc.served(SERVICE, {"Info": self._info, "Read": self._info})

    async def _info(self, request: Any, call: rpc.Call) -> content_pb2.InfoResponse:
        if request.digest == "slow":
            await asyncio.sleep(30)
        return content_pb2.InfoResponse(info=content_pb2.Info(digest=call.scope.namespace))


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


@pytest.fixture
def address(tmp_path: Path, exchange: Exchange) -> Iterator[str]:
    with ThreadPoolExecutor(2) as threads:

        async def start() -> ttrpc.Server:
            server = ttrpc.Server(lambda name: threads)
            server.mount(wire.TtrpcServicer(lambda call: exchange))  # type: ignore[arg-type,return-value]
            server.mount(Content())
            server.listen(f"{tmp_path}/t.sock")
            await server.start()
            return server

        with running(start, lambda server: server.stop()):  # type: ignore[attr-defined]
            yield f"{tmp_path}/t.sock"
    assert not os.path.exists(f"{tmp_path}/t.sock")


@pytest.fixture
def channel(address: str) -> Iterator[ttrpc.Channel]:
    channel = ttrpc.Channel(address)
    yield channel
    channel.close()


def info(channel: rpc.Channel, digest: str = "", scope: Scope | None = None) -> str:
    stub = rpc.Stub(channel, SERVICE, scope or Scope("moby"))
    return stub.unary("Info", content_pb2.InfoRequest(digest=digest), content_pb2.InfoResponse).info.digest


def forward(channel: rpc.Channel, topic: str) -> None:
    envelope = event_pb2.Envelope(namespace="moby", topic=topic)
    envelope.event.type_url, envelope.event.value = "containerd.events.TaskExit", b"x"
    stub = rpc.Stub(channel, wire.TTRPC_SERVICE, Scope(""))
    stub.unary("Forward", events_pb2.ForwardRequest(envelope=envelope), events_pb2.ForwardRequest)


def test_a_shim_forwards_its_events(channel: ttrpc.Channel, exchange: Exchange) -> None:
    forward(channel, "/tasks/exit")
    event = runtime.Any("containerd.events.TaskExit", b"x")
    assert exchange.forwarded == [events.Envelope(0, "moby", "/tasks/exit", event)]


def test_an_error_keeps_its_class_and_the_connection_its_use(channel: ttrpc.Channel) -> None:
    with pytest.raises(errors.InvalidArgument, match="bad topic"):
        forward(channel, "/bad")
    forward(channel, "/good")


def test_the_namespace_comes_in_the_metadata(channel: ttrpc.Channel) -> None:
    assert info(channel) == "moby"
    with pytest.raises(errors.FailedPrecondition, match="namespace is required"):
        info(channel, scope=Scope(""))


def test_the_deadline_is_kept_by_the_server(channel: ttrpc.Channel) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        info(channel, "slow", Scope("moby", None, time.monotonic() + 0.2))
    assert info(channel) == "moby"


def test_an_unknown_or_streaming_method_is_unimplemented(channel: ttrpc.Channel) -> None:
    stub = rpc.Stub(channel, SERVICE, Scope("moby"))
    for name in ("Delete", "Read"):
        with pytest.raises(errors.Unimplemented, match=name):
            stub.unary(name, content_pb2.DeleteContentRequest(), content_pb2.InfoResponse)


def test_the_frame_has_ten_bytes_before_the_message(address: str) -> None:
    payload = request_pb2.Request(service="x.Y", method="Z").SerializeToString()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(address)
        peer.sendall(struct.pack(">IIBB", len(payload), 7, 1, 0) + payload)
        length, stream, kind, flags = struct.unpack(">IIBB", peer.recv(10, socket.MSG_WAITALL))
        response = request_pb2.Response.FromString(peer.recv(length, socket.MSG_WAITALL))
    assert (stream, kind, flags) == (7, 2, 0)
    assert response.status.code == 12


def test_garbage_closes_the_connection(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(address)
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert peer.recv(1) == b""


def test_the_socket_is_for_owner_and_group(address: str) -> None:
    assert stat.S_IMODE(os.stat(address).st_mode) == 0o660


def test_nobody_at_the_address_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match="none"):
        ttrpc.Channel(f"{tmp_path}/none")
