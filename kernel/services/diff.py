"""The diff service: the differs are tried in the order of loading, until one knows the media type."""

from __future__ import annotations

from collections.abc import Callable

from plugin_sdk import content
from plugin_sdk import diff as differs
from plugin_sdk.daemon import View
from plugin_sdk.scope import Scope
from plugin_sdk.wire import diff, rpc


def servicer(bind: Callable[[Scope], View]) -> rpc.Servicer:
    def resolve(call: rpc.Call) -> tuple[differs.Differ, content.Store]:
        view = bind(call.scope)
        return view.differ(), view.content

    return diff.Servicer(resolve)
