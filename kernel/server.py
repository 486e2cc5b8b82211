"""The edge: the sockets on which the services are offered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from kernel.config import Config
from plugin_sdk.scope import Scope
from plugin_sdk.wire import edge, rpc, transport


class Server:
    """gRPC at the configured address. Made and used within one event loop."""

    def __init__(self, config: Config, lane: Callable[[str], edge.Lane], check_lease: Callable[[Scope], None]) -> None:
        self._config = config.grpc
        self._grpc = transport.Server(lane, check_lease)

    def mount(self, servicers: Iterable[rpc.Servicer]) -> None:
        for servicer in servicers:
            self._grpc.mount(servicer)

    async def start(self) -> None:
        """Raises FailedPrecondition when an address cannot be used."""
        Path(self._config.address).parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._grpc.listen(self._config.address, uid=self._config.uid, gid=self._config.gid)
        await self._grpc.start()

    async def stop(self) -> None:
        """Ends what still runs: open waits and subscriptions fail, tasks go on."""
        await self._grpc.stop()
