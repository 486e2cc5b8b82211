"""The snapshots service: each request names its snapshotter."""

from __future__ import annotations

from collections.abc import Callable

from plugin_sdk.daemon import View
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, snapshots


def servicer(bind: Callable[[Scope], View]) -> rpc.Servicer:
    return snapshots.Servicer(lambda call, name: bind(call.scope).snapshotter(name))
