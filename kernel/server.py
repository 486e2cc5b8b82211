"""The edge: the sockets on which the services are offered, gRPC for clients and ttrpc for shims."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from kernel.config import Config
from plugin_sdk import errors
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, ttrpc
from plugin_sdk.wire.edge import Lane
from plugin_sdk.wire.http2 import server as http2


class Lanes(Protocol):
    def lane(self, name: str) -> Lane: ...


class Leases(Protocol):
    def check_lease(self, scope: Scope) -> None: ...


class Server:
    """Made and used within one event loop."""

    def __init__(self, config: Config, lanes: Lanes, leases: Leases) -> None:
        self._config = config
        self._grpc = http2.Server(
            lanes.lane,
            leases.check_lease,
            max_receive=config.grpc.max_recv_message_size,
            max_send=config.grpc.max_send_message_size,
        )
        self._ttrpc = ttrpc.Server(lanes.lane)

    def mount(self, servicers: Iterable[rpc.Servicer]) -> None:
        for servicer in servicers:
            self._grpc.mount(servicer)

    def mount_for_shims(self, servicers: Iterable[rpc.Servicer]) -> None:
        for servicer in servicers:
            self._ttrpc.mount(servicer)

    async def start(self) -> None:
        """Raises FailedPrecondition, by name, when an address cannot be used."""
        grpc, shims = self._config.grpc, self._config.ttrpc
        for address in (grpc.address, self._config.ttrpc_address):
            _make_parent(address)
        self._ttrpc.listen(self._config.ttrpc_address, uid=shims.uid, gid=shims.gid)
        await self._ttrpc.start()
        self._grpc.listen(grpc.address, uid=grpc.uid, gid=grpc.gid)
        await self._grpc.start()

    async def stop(self, grace: float = 0.0) -> None:
        """Takes no more calls, gives those that run ``grace`` seconds and cancels the rest."""
        await asyncio.gather(self._grpc.stop(grace), self._ttrpc.stop(grace))


def _make_parent(address: str) -> None:
    parent = Path(address.removeprefix("unix://")).parent
    try:
        parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as err:
        raise errors.FailedPrecondition(f"directory {parent} of a socket cannot be made: {err.strerror}") from err
