"""The metadata as a whole: views of namespaces, each implementing the contracts of ``plugin_sdk`` again.

::

    metadata = Metadata(database, registry, tasks=…, events=…, differ=…)
    metadata.settle()                                       # what the last run has left half-done
    view = metadata.view(Scope("default", lease="pull-1"))
    view.snapshotter("overlayfs").prepare("container-7", parent="layer-2")

The facts of an object are in SQLite (``schema.py``); plugins are called by ``registry.use(kind, id, scope)``. Every
method of a view blocks, and takes care of leases, edges and events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kernel.metadata import graves, leases, settling
from kernel.metadata.backends import Backends, Registry
from kernel.metadata.claims import Claims
from kernel.metadata.containers import Containers
from kernel.metadata.content import Content
from kernel.metadata.database import Database
from kernel.metadata.images import Images
from kernel.metadata.leases import Leases
from kernel.metadata.namespaces import Namespaces
from kernel.metadata.reaper import Reaper
from kernel.metadata.snapshots import Snapshots
from plugin_sdk import diff, errors, events, identifiers, plugin, tasks
from plugin_sdk.scope import Scope

if TYPE_CHECKING:
    from plugin_sdk import transfer

Tasks = Callable[[Scope], tasks.Manager]
Events = Callable[[Scope], events.Exchange]
Differs = Callable[[Scope, str], diff.Differ]
Transfers = Callable[[Scope], "transfer.Transferrer"]


def _absent(*_: object) -> None:
    raise errors.Unimplemented("this part of the daemon is not there")


class Metadata:
    """``tasks``, ``events``, ``differ`` and ``transfer`` make what a view offers beside SQLite's.

    ``background`` False leaves settling and reaping to explicit calls of ``settle_plugin``; tests use it.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        tasks: Tasks = _absent,  # type: ignore[assignment]
        events: Events = _absent,  # type: ignore[assignment]
        differ: Differs = _absent,  # type: ignore[assignment]
        transfer: Transfers = _absent,  # type: ignore[assignment]
        background: bool = True,
    ) -> None:
        self.database = database
        self.tasks = tasks
        self.events = events
        self.differ = differ
        self.transfer = transfer
        self._registry = registry
        self._reaper = Reaper(self.settle_plugin)
        kick = self._reaper.kick if background else lambda kind, id: None
        self.backends = Backends(database, registry, Claims(), kick)

    def view(self, scope: Scope) -> View:
        """Raises InvalidArgument for a malformed namespace."""
        identifiers.validate(scope.namespace)
        return View(self, scope)

    def namespaces(self, scope: Scope | None = None) -> Namespaces:
        return Namespaces(self.backends, scope.namespace if scope else "")

    def lease_exists(self, namespace: str, id: str) -> bool:
        return leases.exists(self.database, namespace, id)

    def settle(self) -> None:
        """At start, once the plugins are there: begins to end what was cut off, in the background."""
        for kind in (plugin.CONTENT, plugin.SNAPSHOTTER):
            for id in self._registry.ids(kind):
                self.plugin_ready(kind, id, restarted=True)

    def plugin_ready(self, kind: str, id: str, *, restarted: bool) -> None:
        """A plugin has become ok: started, restarted, or reachable again.

        ``restarted`` says that no call of before can take effect any more: true of built-ins after the daemon's own
        start, and of a program that has begun anew.
        """
        if restarted:
            settling.calls_ended(self.backends, kind, id)
        self.backends.kick(kind, id)

    def settle_plugin(self, kind: str, id: str) -> int:
        """One attempt at each row that is not ready and at each grave; answers how many are left."""
        left = settling.settle(self.backends, kind, id)
        return left + graves.attempt_all(self.backends, kind, id)

    def close(self) -> None:
        """Ends the reaper; the database is the caller's."""
        self._reaper.close()


class View:
    """Implements ``plugin_sdk.daemon.View``."""

    def __init__(self, metadata: Metadata, scope: Scope) -> None:
        self._metadata = metadata
        self._scope = scope

    @property
    def content(self) -> Content:
        return Content(self._metadata.backends, self._scope)

    @property
    def images(self) -> Images:
        return Images(self._metadata.database, self._scope)

    @property
    def containers(self) -> Containers:
        return Containers(self._metadata.database, self._scope)

    @property
    def leases(self) -> Leases:
        return Leases(self._metadata.database, self._scope)

    @property
    def tasks(self) -> tasks.Manager:
        return self._metadata.tasks(self._scope)

    @property
    def events(self) -> events.Exchange:
        return self._metadata.events(self._scope)

    @property
    def transfer(self) -> transfer.Transferrer:
        return self._metadata.transfer(self._scope)

    def snapshotter(self, name: str) -> Snapshots:
        if not self._metadata.backends.registry.knows(plugin.SNAPSHOTTER, name):
            raise errors.InvalidArgument(f"snapshotter not loaded: {name}")
        return Snapshots(self._metadata.backends, self._scope, name)

    def differ(self, name: str = "") -> diff.Differ:
        return self._metadata.differ(self._scope, name)
