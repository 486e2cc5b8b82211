"""The tasks service: running instances of containers. Wait holds no thread."""

from __future__ import annotations

from collections.abc import Callable

from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, tasks


def servicer(bind: Callable[[Scope], tasks.Manager]) -> rpc.Servicer:
    return tasks.Servicer(lambda call: bind(call.scope))
