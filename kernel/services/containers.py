"""The containers service: records of what to run."""

from __future__ import annotations

from collections.abc import Callable

from plugin_sdk.daemon import View
from plugin_sdk.scope import Scope
from plugin_sdk.wire import containers, rpc


def servicer(bind: Callable[[Scope], View]) -> rpc.Servicer:
    return containers.Servicer(lambda call: bind(call.scope).containers)
