"""The diff service: the differs are tried in the order of loading, until one knows the media type. Each is asked in its
own lane, so that one that hangs holds up only calls that come to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plugin_sdk import plugin
from plugin_sdk.daemon import View
from plugin_sdk.scope import Scope
from plugin_sdk.wire import diff, rpc


def servicer(bind: Callable[[Scope], View], ids: Callable[[], Sequence[str]]) -> rpc.Servicer:
    """``ids`` answers those of the differs, in their order."""

    def alternatives(call: rpc.Call) -> diff.Alternatives:
        view = bind(call.scope)
        return [(f"{plugin.DIFFER}.{id}", view.differ(id)) for id in ids()], view.content

    return diff.Servicer.of_several(alternatives)
