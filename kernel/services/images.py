"""The images service: names of the caller's namespace."""

from __future__ import annotations

from collections.abc import Callable

from plugin_sdk.daemon import View
from plugin_sdk.scope import Scope
from plugin_sdk.wire import images, rpc


def servicer(bind: Callable[[Scope], View]) -> rpc.Servicer:
    return images.Servicer(lambda call: bind(call.scope).images)
