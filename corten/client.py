"""The daemon over its socket: every contract by the client half of its wire."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from plugin_sdk import containers, content, diff, events, images, leases, namespaces, snapshots, tasks
from plugin_sdk.daemon import PluginInfo
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, transport


class Connection(AbstractContextManager["Connection"]):
    """A ``plugin_sdk.daemon.Daemon``."""

    def __init__(self, address: str) -> None:
        self._channel: rpc.Channel = transport.connect(address)

    @property
    def namespaces(self) -> namespaces.Store:
        from plugin_sdk.wire.namespaces import Proxy

        return Proxy(self._channel, Scope(""))

    def view(self, namespace: str, lease: str | None = None) -> View:
        return View(self._channel, Scope(namespace, lease))

    def plugins(self, filters: Sequence[str] = ()) -> list[PluginInfo]:
        from plugin_sdk.wire.introspection import Proxy

        return list(Proxy(self._channel, Scope("")).plugins(filters))

    def health(self, name: str = "") -> bool:
        """Whether the daemon serves, or a service or a plugin (``kind.id``) of it. Raises NotFound."""
        from plugin_sdk.wire.health import Proxy

        return Proxy(self._channel, Scope("")).check(name)

    def version(self) -> tuple[str, str]:
        """The daemon's version and revision."""
        from plugin_sdk.wire.version import Proxy

        return Proxy(self._channel, Scope("")).version()

    def close(self) -> None:
        self._channel.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


class View:
    """A ``plugin_sdk.daemon.View``."""

    def __init__(self, channel: rpc.Channel, scope: Scope) -> None:
        self._channel = channel
        self._scope = scope

    @property
    def content(self) -> content.Store:
        from plugin_sdk.wire.content import Proxy

        return Proxy(self._channel, self._scope)

    @property
    def images(self) -> images.Store:
        from plugin_sdk.wire.images import Proxy

        return Proxy(self._channel, self._scope)

    @property
    def containers(self) -> containers.Store:
        from plugin_sdk.wire.containers import Proxy

        return Proxy(self._channel, self._scope)

    @property
    def leases(self) -> leases.Manager:
        from plugin_sdk.wire.leases import Proxy

        return Proxy(self._channel, self._scope)

    @property
    def tasks(self) -> tasks.Manager:
        from plugin_sdk.wire.tasks import Proxy

        return Proxy(self._channel, self._scope)

    @property
    def events(self) -> events.Exchange:
        from plugin_sdk.wire.events import Proxy

        return Proxy(self._channel, self._scope)

    def snapshotter(self, name: str) -> snapshots.Snapshotter:
        from plugin_sdk.wire.snapshots import Proxy

        return Proxy(self._channel, self._scope, name)

    def differ(self, name: str = "") -> diff.Differ:
        from plugin_sdk.wire.diff import Proxy

        return Proxy(self._channel, self._scope)
