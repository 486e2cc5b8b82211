"""Registers the content store ``local``."""

from __future__ import annotations

from collections.abc import Iterable

from plugin_sdk import plugin


@plugin.hookimpl
def register_content_stores() -> Iterable[plugin.Registration]:
    return [plugin.Registration(plugin.CONTENT, "content", _create)]


def _create(context: plugin.PluginContext) -> object:
    from plugins_builtin.content.local import Store

    return Store(context.root)
