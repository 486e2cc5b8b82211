"""The version service: which release answers."""

from __future__ import annotations

from plugin_sdk import release
from plugin_sdk.wire import rpc, version


def servicer() -> rpc.Servicer:
    return version.Servicer(release.VERSION, release.REVISION)
