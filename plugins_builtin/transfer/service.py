"""The service ``transfer``: the engine behind the wire. The engine is made when the first transfer comes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from plugin_sdk import daemon, plugin
from plugin_sdk.scope import Scope
from plugin_sdk.wire import streaming
from plugin_sdk.wire.transfer import Servicer
from plugins_builtin.transfer import settings

if TYPE_CHECKING:
    from plugin_sdk import transfer
    from plugins_builtin.transfer.making import Engines
    from plugins_builtin.transfer.plugin import Config

LANE = f"{plugin.SERVICE}.transfer"


class Service(Servicer):
    def __init__(self, offered: daemon.Daemon, config: Config, streams: streaming.Streams) -> None:
        super().__init__(lambda call: self.transferrer(call.scope), streams, LANE)
        settings.check(config)
        self._daemon = offered
        self._config = config
        self._engines: Engines | None = None
        self._lock = threading.Lock()

    def transferrer(self, scope: Scope) -> transfer.Transferrer:
        with self._lock:
            if self._engines is None:
                from plugins_builtin.transfer.making import Engines  # imports what speaks HTTP, and much else

                self._engines = Engines(self._daemon, self._config)
            return self._engines.make(scope)

    def close(self) -> None:
        with self._lock:
            if self._engines is not None:
                self._engines.close()
