"""What can be plugged in: the table of contents.

A hook registers, an object works: each hook returns Registrations (``plugin_sdk.plugin``), and what their ``create``
makes is called directly from then on. All hooks are historic: pluggy calls each plugin by itself, also one that is
registered later, so a plugin that raises fails alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pluggy

from plugin_sdk import plugin

hookspec = pluggy.HookspecMarker(plugin.PROJECT)


@hookspec(historic=True)
def register_content_stores() -> Iterable[plugin.Registration]:
    """Returns Registrations of kind CONTENT, which create a ``content.Store``; exactly one of all is enabled."""
    return ()


@hookspec(historic=True)
def register_snapshotters() -> Iterable[plugin.Registration]:
    """Returns Registrations of kind SNAPSHOTTER, which create a ``snapshots.Snapshotter``."""
    return ()


@hookspec(historic=True)
def register_differs() -> Iterable[plugin.Registration]:
    """Returns Registrations of kind DIFFER, which create a ``diff.Differ``; they are tried in the order of loading."""
    return ()


@hookspec(historic=True)
def register_runtimes() -> Iterable[plugin.Registration]:
    """Returns Registrations of kind RUNTIME, which create a ``runtime.Runtime``; the id is the runtime's name."""
    return ()


@hookspec(historic=True)
def register_services() -> Iterable[plugin.Registration]:
    """Returns Registrations of kind SERVICE, which create a ``wire.rpc.Servicer`` that the daemon's socket offers."""
    return ()


KINDS: Mapping[str, str] = {
    "register_content_stores": plugin.CONTENT,
    "register_snapshotters": plugin.SNAPSHOTTER,
    "register_differs": plugin.DIFFER,
    "register_runtimes": plugin.RUNTIME,
    "register_services": plugin.SERVICE,
}
"""The kind that each hook registers; a Registration of another kind is an error that names the plugin and the hook."""
