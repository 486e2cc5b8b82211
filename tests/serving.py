"""Servers over real sockets, for tests of the wire: the fixture ``serve``."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, transport
from plugin_sdk.wire.http2 import client
from plugin_sdk.wire.http2.server import Server

Serve = Callable[..., transport.Channel | client.Channel]
Connect = Callable[..., transport.Channel | client.Channel]


@contextlib.contextmanager
def running(start: Callable[[], object], stop: Callable[[object], object]) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread; ``start`` and ``stop`` make coroutines that run in it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = asyncio.run_coroutine_threadsafe(start(), loop).result(120)  # type: ignore[arg-type]
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(stop(made), loop).result(120)  # type: ignore[arg-type]
        loop.call_soon_threadsafe(loop.stop)
        thread.join(120)
        loop.close()


SERVERS = {"grpc": transport.Server, "http2": Server}


@pytest.fixture(params=SERVERS)
def server_kind(request: pytest.FixtureRequest) -> type[transport.Server] | type[Server]:
    """Both servers, which behave alike: that of plugins' programs, and the daemon's."""
    return SERVERS[request.param]


CLIENTS = {"grpc": transport.connect, "http2": client.connect}


@pytest.fixture(params=CLIENTS)
def connect(request: pytest.FixtureRequest) -> Connect:
    """Both clients, which behave alike: grpc's, and the one that the daemon has for plugins."""
    return CLIENTS[request.param]


@pytest.fixture
def serve(tmp_path: Path, server_kind: type[transport.Server] | type[Server], connect: Connect) -> Iterator[Serve]:
    """Serves the servicers on a unix socket and answers a channel to it."""
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(8))

        def begin(*servicers: rpc.Servicer, check_lease: Callable[[Scope], None] | None = None) -> rpc.Channel:
            address = f"unix://{tmp_path}/{len(list(tmp_path.iterdir()))}.sock"

            async def start() -> transport.Server | Server:
                server = server_kind(lambda name: threads, check_lease)
                for servicer in servicers:
                    server.mount(servicer)
                server.listen(address)
                await server.start()
                return server

            stack.enter_context(running(start, lambda server: server.stop()))  # type: ignore[attr-defined]
            channel = connect(address)
            stack.callback(channel.close)
            return channel

        yield begin
