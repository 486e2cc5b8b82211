"""The events services: publish, forward and subscribe; the second is for shims, over ttrpc."""

from __future__ import annotations

from collections.abc import Callable

from plugin_sdk.wire import events, rpc


def servicer(bind: Callable[[str], events.Exchange]) -> rpc.Servicer:
    return events.Servicer(lambda call: bind(call.scope.namespace))


def ttrpc_servicer(bind: Callable[[str], events.Exchange]) -> rpc.Servicer:
    return events.TtrpcServicer(lambda call: bind(call.scope.namespace))
