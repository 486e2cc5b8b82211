"""Leases of a namespace; ``client.lease()`` makes one for the time of a with statement."""

from __future__ import annotations

from plugin_sdk.leases import EXPIRE_LABEL, Lease, Resource
from plugin_sdk.wire.leases import Proxy

__all__ = ["EXPIRE_LABEL", "Lease", "Leases", "Resource"]


class Leases(Proxy):
    """A ``plugin_sdk.leases.Manager``."""

    def get(self, id: str) -> Lease:
        """Raises NotFound."""
        from plugin_sdk import errors

        for lease in self.list():
            if lease.id == id:
                return lease
        raise errors.NotFound(f'lease "{id}": not found')
