"""Registers the differ ``walking``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from plugin_sdk import plugin


@dataclass(frozen=True, slots=True)
class Config:
    """What a worker may use for one layer: bytes of memory, bytes of the uncompressed tar, number of entries, bytes of
    one entry's extended headers."""

    memory_limit: int = 2 << 30
    layer_limit: int = 1 << 40
    entry_limit: int = 10_000_000
    header_limit: int = 1 << 20


@plugin.hookimpl
def register_differs() -> Iterable[plugin.Registration]:
    def create(context: plugin.PluginContext) -> object:
        from plugins_builtin.diff.walking import Differ

        config = context.config if isinstance(context.config, Config) else Config()
        return Differ(context.workers, context.state, config)

    return [plugin.Registration(plugin.DIFFER, "walking", create, config=Config)]
