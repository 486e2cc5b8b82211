"""Registers the differ ``walking``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from plugin_sdk import plugin


@dataclass(frozen=True, slots=True)
class Config:
    """What a worker may use for one layer."""

    memory_limit: int = plugin.setting(2 << 30, "Bytes of memory that the worker of a layer may use.")
    layer_limit: int = plugin.setting(1 << 40, "Bytes that a layer may have when it is uncompressed.")
    entry_limit: int = plugin.setting(10_000_000, "Entries that a layer may have.")
    header_limit: int = plugin.setting(1 << 20, "Bytes that the extended headers of one entry may have.")


@plugin.hookimpl
def register_differs() -> Iterable[plugin.Registration]:
    def create(context: plugin.PluginContext) -> object:
        from plugins_builtin.diff.walking import Differ

        config = context.config if isinstance(context.config, Config) else Config()
        return Differ(context.workers, context.state, config)

    return [plugin.Registration(plugin.DIFFER, "walking", create, config=Config)]
