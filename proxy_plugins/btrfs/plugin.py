"""Registers the snapshotter ``btrfs`` in the daemon's own process: the same class that ``__main__`` serves.

An installed package names this module in its entry points: ``[project.entry-points."corten.plugins"] btrfs =
"proxy_plugins.btrfs.plugin"``.
"""

from __future__ import annotations

from collections.abc import Iterable

from plugin_sdk import plugin


@plugin.hookimpl
def register_snapshotters() -> Iterable[plugin.Registration]:
    return [plugin.Registration(plugin.SNAPSHOTTER, "btrfs", _create)]


def _create(context: plugin.PluginContext) -> object:
    from proxy_plugins.btrfs.snapshotter import Snapshotter

    return Snapshotter(context.root)
