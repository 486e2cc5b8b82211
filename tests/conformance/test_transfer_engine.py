"""The suite for transferrers, on the engine in a kernel, directly, by the kernel's plugin, and over a socket."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from kernel.daemon import Daemon
from plugin_sdk import transfer
from plugin_sdk.conformance.transferring import TransferSuite
from plugin_sdk.daemon import View
from plugin_sdk.distribution import registry
from plugin_sdk.distribution.engine import Engine
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, streaming
from plugin_sdk.wire import transfer as wire
from plugin_sdk.wire.http2 import client
from plugin_sdk.wire.http2.server import Server
from tests import kernels, serving

pytestmark = pytest.mark.root
serve = serving.serve


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with kernels.running(tmp_path_factory.mktemp("kernel")) as made:
        yield made


@pytest.fixture(scope="module")
def registries() -> Iterator[registry.Registries]:
    with registry.Registries(registry.Settings(retries=1)) as made:
        yield made


class OnAKernel(TransferSuite):
    @pytest.fixture
    def namespace(self) -> str:
        return f"suite-{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def view(self, kernel: Daemon, namespace: str) -> View:
        return kernel.view(namespace)


class TestEngine(OnAKernel):
    @pytest.fixture
    def transferrer(self, kernel: Daemon, namespace: str, registries: registry.Registries) -> transfer.Transferrer:
        return Engine(kernel, namespace, registries=registries)


class TestKernel(OnAKernel):
    pass


class TestWire(OnAKernel):
    @pytest.fixture
    def server_kind(self) -> type[Server]:
        return Server

    @pytest.fixture
    def connect(self) -> serving.Connect:
        return client.connect

    @pytest.fixture
    def transferrer(
        self, serve: serving.Serve, kernel: Daemon, namespace: str, registries: registry.Registries
    ) -> transfer.Transferrer:
        streams = streaming.Streams()

        def resolve(call: rpc.Call) -> transfer.Transferrer:
            return Engine(kernel, namespace, registries=registries, check=call.scope.check)

        channel = serve(wire.Servicer(resolve, streams), streaming.Servicer(streams))
        return wire.Proxy(channel, Scope(namespace))
