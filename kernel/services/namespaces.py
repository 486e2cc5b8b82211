"""The namespaces service; it works without the namespace header."""

from __future__ import annotations

from collections.abc import Callable

from plugin_sdk import namespaces as contract
from plugin_sdk.scope import Scope
from plugin_sdk.wire import namespaces, rpc


def servicer(bind: Callable[[Scope], contract.Store]) -> rpc.Servicer:
    return namespaces.Servicer(lambda call: bind(call.scope))
