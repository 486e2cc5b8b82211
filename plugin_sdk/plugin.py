"""How a plugin makes itself known.

A complete plugin, in a package whose pyproject.toml says ``[project.entry-points."corten.plugins"] stars =
"corten_stars"``::

    from plugin_sdk import plugin

    @plugin.hookimpl
    def register_snapshotters():
        def create(context):
            from corten_stars.snapshotter import Stars      # imported when needed, not when registered
            return Stars(context.root)
        return [plugin.Registration(plugin.SNAPSHOTTER, "stars", create)]

and, if it has a configuration of its own, in plugins.toml::

    [plugins."io.containerd.snapshotter.v1.stars"]
    brightness = 3

The hooks, each with one sentence, are listed in ``kernel/hookspecs.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from plugin_sdk.daemon import Daemon
    from plugin_sdk.workers import Workers

PROJECT = "corten"
ENTRY_POINTS = "corten.plugins"

CONTENT = "io.containerd.content.v1"
SNAPSHOTTER = "io.containerd.snapshotter.v1"
DIFFER = "io.containerd.differ.v1"
RUNTIME = "io.containerd.runtime.v2"
SERVICE = "io.containerd.grpc.v1"

hookimpl = pluggy.HookimplMarker(PROJECT)


class SkipPlugin(Exception):
    """Raised by ``create`` when the plugin cannot work on this machine and nobody need worry; the text says why."""


def setting(default: Any, doc: str, *, unneeded: bool = False, secret: bool = False) -> Any:
    """A field of a configuration's dataclass; ``doc`` is one sentence, which ``cortend config default`` prints.

    ``unneeded``: containerd knows it and it has no effect, so that setting it is a warning. ``secret``: its value is
    never shown."""
    metadata = {"doc": doc, "unneeded": unneeded, "secret": secret}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class PluginContext:
    """What ``create`` is handed. ``root`` (kept) and ``state`` (until reboot) are directories of the plugin's own,
    made on first use by the plugin; ``config`` is an instance of the registration's ``config`` class, or None."""

    config: object
    root: Path
    state: Path
    log: logging.Logger
    daemon: Daemon
    workers: Workers


@dataclass(frozen=True, slots=True)
class Registration:
    """``kind`` and ``id`` name the plugin; ``create`` makes the object that does the work.

    ``requires`` are kinds, or ``kind.id``, that must be created before. ``config`` is a dataclass whose fields
    (``setting``) are the keys allowed in ``[plugins."kind.id"]``. Platforms are ``os/architecture`` texts; empty means
    the machine's own. ``alias`` is the ``kind.id`` by which containerd knows the same: its table has the configuration,
    and it is shown and can be disabled by that name too.
    """

    kind: str
    id: str
    create: Callable[[PluginContext], object]
    requires: tuple[str, ...] = ()
    config: type | None = None
    capabilities: frozenset[str] = frozenset()
    platforms: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
    alias: str = ""

    @property
    def table(self) -> str:
        """The name of its table in plugins.toml."""
        return self.alias or self.name

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.id}"
