"""The content service: blobs and ingests of the caller's namespace."""

from __future__ import annotations

from collections.abc import Callable

from plugin_sdk.daemon import View
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content, rpc


def servicer(bind: Callable[[Scope], View]) -> rpc.Servicer:
    return content.Servicer(lambda call: bind(call.scope).content)
