"""The daemon, as plugins and client programs see it: views of namespaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from plugin_sdk import containers, content, diff, events, images, leases, namespaces, snapshots, tasks

if TYPE_CHECKING:
    from plugin_sdk import transfer


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as introspection shows it. ``error`` is empty when it is ok; ``exports`` as ``root`` → path.

    ``state`` of one in a process of its own is starting, ok, degraded, backoff or refused, ``since`` when, in
    nanoseconds since the epoch; of others it is empty.
    """

    kind: str
    id: str
    requires: Sequence[str] = ()
    platforms: Sequence[str] = ()
    exports: dict[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = ()
    error: str = ""
    skipped: bool = False
    state: str = ""
    since: int = 0


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The daemon itself: an id that it keeps, its process id and the inode of its linux pid namespace, and for each
    outdated thing that is in use its id, a sentence, and when it was last used."""

    uuid: str
    pid: int
    pidns: int
    deprecations: Sequence[tuple[str, str, int]] = ()


class View(Protocol):
    """Everything of one namespace, under one lease if there is one."""

    @property
    def content(self) -> content.Store: ...

    @property
    def images(self) -> images.Store: ...

    @property
    def containers(self) -> containers.Store: ...

    @property
    def leases(self) -> leases.Manager: ...

    @property
    def tasks(self) -> tasks.Manager: ...

    @property
    def events(self) -> events.Exchange: ...

    @property
    def transfer(self) -> transfer.Transferrer:
        """It raises Unimplemented when nobody here transfers."""
        ...

    def snapshotter(self, name: str) -> snapshots.Snapshotter:
        """Raises InvalidArgument ``snapshotter not loaded: NAME``."""
        ...

    def differ(self, name: str = "") -> diff.Differ:
        """The named one, or one that tries all of them in order."""
        ...


class Daemon(Protocol):
    @property
    def namespaces(self) -> namespaces.Store: ...

    def view(self, namespace: str, lease: str | None = None) -> View: ...

    def plugins(self, filters: Sequence[str] = ()) -> list[PluginInfo]: ...
