"""The client: a daemon over its socket, bound to a namespace.

One connection serves any number of clients: ``client.namespace("other")`` and ``client.lease()`` answer clients that
are bound otherwise and share it. A unix socket is spoken to by our own HTTP/2, TCP by grpcio, which takes 70 ms and
20 MB to import.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from plugin_sdk import diff, errors, namespaces
from plugin_sdk.daemon import PluginInfo, ServerInfo
from plugin_sdk.scope import Scope
from plugin_sdk.wire import address as address_
from plugin_sdk.wire import rpc

if TYPE_CHECKING:
    from corten.containers import Containers
    from corten.content import Content
    from corten.events import Events
    from corten.images import Images
    from corten.leases import Leases
    from corten.snapshots import Snapshotter
    from corten.tasks import Tasks
    from corten.transfers import Transfers
    from plugin_sdk.distribution.registry import Registries

SNAPSHOTTER, RUNTIME = "overlayfs", "io.containerd.runc.v2"
_DEFAULTS = "containerd.io/defaults/"
_LEASED = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM texts for a TCP address: what the server's certificate must be signed by, and our own certificate with its
    key, if the server asks for one. ``name`` is what the server's certificate must bear; empty: the address's host."""

    ca: bytes
    certificate: bytes = b""
    key: bytes = b""
    name: str = ""


class Version(NamedTuple):
    version: str
    revision: str


class _Connection:
    """What the clients of one daemon share; used from any thread."""

    def __init__(self, channel: rpc.Channel, caller: Callable[[], Scope | None]) -> None:
        self.channel = channel
        self.caller = caller
        self.lacking: set[str] = set()
        self._registries: Registries | None = None
        self._lock = threading.Lock()

    def registries(self) -> Registries:
        from plugin_sdk.distribution.registry import Registries

        with self._lock:
            if self._registries is None:
                self._registries = Registries()
            return self._registries

    def close(self) -> None:
        self.channel.close()
        if self._registries is not None:
            self._registries.close()


def connect(address: str, namespace: str, tls: Tls | None = None) -> Client:
    return Client(_Connection(_open(address, tls), lambda: None), Scope(namespace))


def _open(address: str, tls: Tls | None) -> rpc.Channel:
    _, is_path = address_.split(address)
    if is_path and tls is None:
        from plugin_sdk.wire.http2 import client

        return client.connect(address)
    if is_path:
        raise errors.InvalidArgument(f'address "{address}" is a socket, which has no TLS')
    from plugin_sdk.wire import transport

    secured = None if tls is None else transport.Tls(tls.ca, tls.certificate, tls.key, tls.name)
    return transport.connect(address, tls=secured)


class Client(AbstractContextManager["Client"]):
    """A ``plugin_sdk.daemon.Daemon``, and the ``plugin_sdk.daemon.View`` of its namespace and lease.

    As a context it closes the connection at the end, if it is the one that ``connect`` has answered. ``scope`` says to
    what it is bound.
    """

    def __init__(self, connection: _Connection, scope: Scope, *, owner: bool = True) -> None:
        self.channel = connection.channel
        self.scope = scope
        self._connection = connection
        self._owner = owner

    def __repr__(self) -> str:
        lease = f", lease={self.scope.lease!r}" if self.scope.lease else ""
        return f"<corten.Client namespace={self.scope.namespace!r}{lease}>"

    # --- bound otherwise

    def view(self, namespace: str, lease: str | None = None) -> Client:
        """A client of that namespace and lease over the same connection."""
        return Client(self._connection, Scope(namespace, lease), owner=False)

    def namespace(self, name: str) -> Client:
        """As ``view``, mostly for a with statement; the lease does not come along, since it is of this namespace."""
        return self.view(name)

    @contextlib.contextmanager
    def lease(
        self, id: str = "", labels: Mapping[str, str] | None = None, expires: timedelta = _LEASED
    ) -> Iterator[Client]:
        """A client under a new lease, which is deleted at the end: what was made stays only if something refers to it.

        When this program dies before, the lease ends after ``expires``. An empty id means one of the daemon's choice.
        """
        from plugin_sdk.leases import EXPIRE_LABEL

        until = (datetime.now(UTC) + expires).isoformat(timespec="seconds")
        made = self.leases.create(id, {EXPIRE_LABEL: until, **(labels or {})})
        try:
            yield self.view(self.scope.namespace, made.id)
        finally:
            with contextlib.suppress(errors.NotFound):
                self.leases.delete(made.id)

    @contextlib.contextmanager
    def leased(self) -> Iterator[Client]:
        """This client if it is under a lease, else one under a new lease."""
        if self.scope.lease:
            yield self
            return
        with self.lease() as client:
            yield client

    def over(self, wrap: Callable[[rpc.Channel], rpc.Channel], caller: Callable[[], Scope | None]) -> Client:
        """The same client over a channel that ``wrap`` makes of its own; to be used instead of this one.

        ``caller`` answers a scope that is cancelled when whoever calls in this thread has gone."""
        return Client(_Connection(wrap(self.channel), caller), self.scope)

    def close(self) -> None:
        """Calls that run raise Unavailable, and so do those that follow, of all clients of the connection."""
        if self._owner:
            self._connection.close()

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- the daemon

    @property
    def namespaces(self) -> namespaces.Store:
        from plugin_sdk.wire.namespaces import Proxy

        return Proxy(self.channel, Scope(self.scope.namespace))  # containerd tells of a change in the caller's

    def plugins(self, filters: Sequence[str] = ()) -> list[PluginInfo]:
        """Filters know type, id, platforms, capabilities."""
        from plugin_sdk.wire.introspection import Proxy

        return list(Proxy(self.channel, Scope("")).plugins(filters))

    def server(self) -> ServerInfo:
        from plugin_sdk.wire.introspection import Proxy

        return Proxy(self.channel, Scope("")).server()

    def health(self, name: str = "") -> bool:
        """Whether the daemon serves, or a service or a plugin (``kind.id``) of it. Raises NotFound."""
        from plugin_sdk.wire.health import Proxy

        return Proxy(self.channel, Scope("")).check(name)

    def version(self) -> Version:
        """The daemon's version and revision."""
        from plugin_sdk.wire.version import Proxy

        return Version(*Proxy(self.channel, Scope("")).version())

    # --- the namespace

    @property
    def content(self) -> Content:
        from corten.content import Content

        return Content(self.channel, self.scope)

    @property
    def images(self) -> Images:
        from corten.images import Images

        return Images(self)

    @property
    def containers(self) -> Containers:
        from corten.containers import Containers

        return Containers(self)

    @property
    def leases(self) -> Leases:
        from corten.leases import Leases

        return Leases(self.channel, self.scope)

    @property
    def tasks(self) -> Tasks:
        from corten.tasks import Tasks

        return Tasks(self.channel, self.scope)

    @property
    def events(self) -> Events:
        from corten.events import Events

        return Events(self.channel, self.scope)

    def snapshotter(self, name: str = "") -> Snapshotter:
        """The named one, or the namespace's own (``default``)."""
        from corten.snapshots import Snapshotter

        return Snapshotter(self, name or self.default("snapshotter"))

    def differ(self, name: str = "") -> diff.Differ:
        """One that tries all of the daemon's in order; over the wire none can be named."""
        from plugin_sdk.wire.diff import Proxy

        return Proxy(self.channel, self.scope)

    @property
    def transfer(self) -> Transfers:
        """What pull, push, import and export of ``images`` are made of."""
        from corten.transfers import Transfers

        return Transfers(self)

    # --- what the library itself asks

    def lacks(self, service: str) -> bool:
        """Whether the daemon has said that it does not have the service."""
        return service in self._connection.lacking

    def note_lack(self, service: str) -> None:
        self._connection.lacking.add(service)

    def check(self) -> Callable[[], None]:
        """Of the scope of whoever calls now, for work that takes long."""
        return (self._connection.caller() or self.scope).check

    def registries(self) -> Registries:
        """Connections to registries from this process, for a daemon that does not transfer."""
        return self._connection.registries()

    def default(self, kind: str) -> str:
        """The ``snapshotter`` or ``runtime`` that this namespace's label ``containerd.io/defaults/KIND`` names, else
        ``overlayfs`` and ``io.containerd.runc.v2``."""
        labels = self.namespaces.get(self.scope.namespace).labels
        return labels.get(_DEFAULTS + kind) or {"snapshotter": SNAPSHOTTER, "runtime": RUNTIME}[kind]
