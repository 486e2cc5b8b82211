"""The health service, as gRPC clients ask it: of the daemon, its services and its plugins (``kind.id``)."""

from __future__ import annotations

from collections.abc import Iterable

from plugin_sdk.wire import health, rpc


def servicer(others: Iterable[rpc.Servicer], source: health.Source) -> rpc.Servicer:
    """``others`` are the services that are served beside it."""
    return health.Servicer((other.service for other in others), source)
