"""Registers the snapshotters ``overlayfs`` and ``native``."""

from __future__ import annotations

from collections.abc import Iterable

from plugin_sdk import plugin


@plugin.hookimpl
def register_snapshotters() -> Iterable[plugin.Registration]:
    return [
        plugin.Registration(plugin.SNAPSHOTTER, "overlayfs", _create_overlayfs),
        plugin.Registration(plugin.SNAPSHOTTER, "native", _create_native),
    ]


def _create_overlayfs(context: plugin.PluginContext) -> object:
    from plugins_builtin.snapshots.overlayfs import Snapshotter

    return Snapshotter(context.root)


def _create_native(context: plugin.PluginContext) -> object:
    from plugins_builtin.snapshots.native import Snapshotter

    return Snapshotter(context.root, context.workers)
