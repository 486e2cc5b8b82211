"""The leases service: what the caller keeps from collection."""

from __future__ import annotations

from collections.abc import Callable

from plugin_sdk.daemon import View
from plugin_sdk.scope import Scope
from plugin_sdk.wire import leases, rpc


def servicer(bind: Callable[[Scope], View]) -> rpc.Servicer:
    return leases.Servicer(lambda call: bind(call.scope).leases)
