"""What views offer as ``transfer``: the plugin that transfers, if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plugin_sdk import errors, plugin
from plugin_sdk.scope import Scope

if TYPE_CHECKING:
    from kernel.plugins import Registry
    from plugin_sdk import transfer

NAME = "transferrer"
"""The method of a service that answers the one for a scope."""


class Transferrer:
    """A ``plugin_sdk.transfer.Transferrer``."""

    def __init__(self, registry: Registry, scope: Scope) -> None:
        self._registry = registry
        self._scope = scope

    def transfer(
        self,
        source: transfer.Source,
        destination: transfer.Destination,
        progress: transfer.Report | None = None,
    ) -> Sequence[str]:
        for id in self._registry.ids(plugin.SERVICE):
            with self._registry.use(plugin.SERVICE, id, self._scope) as service:
                if hasattr(service, NAME):
                    done: Sequence[str] = service.transferrer(self._scope).transfer(source, destination, progress)
                    return done
        raise errors.Unimplemented("no plugin here transfers images")
