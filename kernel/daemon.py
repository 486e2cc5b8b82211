"""The composition root: makes every part of the daemon, in order, and takes it down in the opposite one.

The order: the spawner has been started before anything else was imported; then directories and their lock, the
database, the exchange of events, the plugins, what a crash has left unfinished, the tasks that went on meanwhile, and
at last the sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kernel import config, directories, plugins
from kernel.differs import Differ
from kernel.events import Exchange
from kernel.metadata.database import Database, forbid_transaction
from kernel.metadata.namespaces import Namespaces
from kernel.metadata.store import Metadata, View
from kernel.tasks import Tasks
from plugin_sdk import containers, daemon, errors, filters, platforms, plugin, systemd
from plugin_sdk.scope import Scope
from plugin_sdk.workers import Workers

if TYPE_CHECKING:
    from kernel.server import Server
    from plugin_sdk.wire import rpc

log = logging.getLogger("daemon")

DATABASE = "metadata.db"
UUID = "uuid"
SERVICE_IDS = {"v1": "healthcheck"}  # of grpc.health.v1.Health
GRACE = 0.5  # seconds that calls are given when the daemon stops


class Daemon:
    """A ``plugin_sdk.daemon.Daemon``. Raises FailedPrecondition, with the reason, when a part cannot be made."""

    def __init__(self, loaded: config.Loaded, workers: Workers) -> None:
        self._loaded = loaded
        self._workers = workers
        self._root, self._state = Path(loaded.config.root), Path(loaded.config.state)
        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._make(stack)
            self._closing = stack.pop_all()

    def _make(self, stack: contextlib.ExitStack) -> None:
        self.exchange = Exchange()
        stack.callback(self.exchange.close)
        self.database = _open(self._root / DATABASE, self.exchange)
        stack.callback(self.database.close)
        self.registry = plugins.Registry(self._context, forbid_transaction, str(platforms.host()))
        stack.callback(self.registry.close)
        self.tasks = Tasks(self.database, self.registry, self._containers, self._state)
        stack.callback(self.tasks.close)
        self.metadata = Metadata(
            self.database,
            self.registry,
            tasks=self.tasks.bind,
            events=lambda scope: self.exchange.bind(scope.namespace),
            differ=lambda scope, name: Differ(self.registry, scope, name),
        )
        stack.callback(self.metadata.close)
        self._load_plugins()
        self.metadata.settle()
        self.tasks.recover()

    def _load_plugins(self) -> None:
        settings, found = self._loaded.config, plugins.discover()
        before = len(self._loaded.warnings)
        self._loaded.check_plugins(registration for _, registration in found.registrations)
        for warning in self._loaded.warnings[before:]:
            log.warning("%s", warning)
        self.registry.load(found, settings.disabled_plugins, settings.required_plugins)
        for name, proxy in settings.proxy_plugins.items():
            kind = config.PROXY_TYPES.get(proxy.type, proxy.type)
            reason = f"proxy plugins are not started yet: {plugins.SKIPPED}"
            log.warning("proxy plugin %s is skipped: proxy plugins are not started yet", name)
            self.registry.show(daemon.PluginInfo(kind, name, error=reason, skipped=True))

    def _context(self, registration: plugin.Registration) -> plugin.PluginContext:
        return plugin.PluginContext(
            self._loaded.plugin_config(registration),
            self._root / registration.name,
            self._state / registration.name,
            logging.getLogger(registration.name),
            self,
            self._workers,
        )

    @property
    def namespaces(self) -> Namespaces:
        return self.metadata.namespaces(Scope(""))

    def view(self, namespace: str, lease: str | None = None) -> View:
        """Raises InvalidArgument for a malformed namespace, NotFound for a lease that does not exist."""
        scope = Scope(namespace, lease)
        self.check_lease(scope)
        return self.metadata.view(scope)

    def bind(self, scope: Scope) -> View:
        """For one call at the edge, which has checked the lease."""
        return self.metadata.view(scope)

    def bind_namespaces(self, scope: Scope) -> Namespaces:
        return self.metadata.namespaces(scope)

    def _containers(self, scope: Scope) -> containers.Store:
        return self.metadata.view(scope).containers

    def check_lease(self, scope: Scope) -> None:
        """Raises NotFound when the lease of the scope does not exist."""
        if scope.lease and not self.metadata.lease_exists(scope.namespace, scope.lease):
            raise errors.NotFound(f'lease "{scope.lease}": not found')

    def plugins(self, filters_: Sequence[str] = ()) -> list[daemon.PluginInfo]:
        matches = filters.compile(filters_)
        return [info for info in self.registry.infos() if matches(_fields(info))]

    def show_services(self, servicers: Iterable[rpc.Servicer]) -> None:
        """The kernel's own, under the names that containerd shows: of containerd.services.NAME.v1.…"""
        for servicer in servicers:
            name = servicer.service.split(".")[2].lower()
            self.registry.show(daemon.PluginInfo(plugin.SERVICE, SERVICE_IDS.get(name, name)))

    def plugin_services(self) -> Iterator[rpc.Servicer]:
        for id in self.registry.ids(plugin.SERVICE):
            with self.registry.use(plugin.SERVICE, id) as servicer:
                yield servicer

    def server(self) -> daemon.ServerInfo:
        return daemon.ServerInfo(self._uuid(), os.getpid(), os.stat("/proc/self/ns/pid").st_ino)

    def _uuid(self) -> str:
        """Made once and kept in the root directory."""
        path = self._root / UUID
        with contextlib.suppress(FileNotFoundError, ValueError):
            return str(uuid.UUID(path.read_text()))
        made = str(uuid.uuid4())
        path.write_text(made)
        return made

    def end_waits(self) -> None:
        """Those who wait for a task or for events are told Unavailable."""
        self.tasks.close()
        self.exchange.close()

    def close(self) -> None:
        """Ends every part but the running tasks. The edge must have stopped."""
        self._closing.close()


def _open(path: Path, exchange: Exchange) -> Database:
    try:
        return Database(path, exchange.publish)
    except sqlite3.Error as err:
        raise errors.FailedPrecondition(f"metadata database {path} cannot be opened: {err}") from err


def _fields(info: daemon.PluginInfo) -> filters.Adaptor:
    values = {"type": info.kind, "id": info.id}

    def field(path: filters.Path) -> str | None:
        if path[0] in ("platforms", "platform"):
            return filters.field(",".join(info.platforms))
        if path[0] == "capabilities":
            return ",".join(info.capabilities) or None
        return filters.field(values[path[0]]) if len(path) == 1 and path[0] in values else None

    return field


def run(loaded: config.Loaded, workers: Workers) -> None:
    """Serves until SIGTERM or SIGINT. Raises FailedPrecondition, with the reason, when it cannot start."""
    asyncio.run(_run(loaded, workers))


async def _run(loaded: config.Loaded, workers: Workers) -> None:
    stopped = _stop_on_signals()
    async with contextlib.AsyncExitStack() as stack:
        await _start(loaded, workers, stack)
        systemd.notify("READY=1")
        await stopped.wait()
        systemd.notify("STOPPING=1")
        log.info("stops; running tasks go on")


def _stop_on_signals() -> asyncio.Event:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


async def _start(loaded: config.Loaded, workers: Workers, stack: contextlib.AsyncExitStack) -> None:
    begin = time.perf_counter()
    settings = loaded.config
    _set_process(settings)
    directories.make(Path(settings.root), Path(settings.state))
    for directory in (settings.root, settings.state):
        stack.enter_context(directories.taken(Path(directory)))
    made = Daemon(loaded, workers)
    stack.callback(made.close)

    from kernel import offer  # imports protobuf and grpc, which take most of the start
    from kernel.server import Server

    server = Server(settings, made.registry, made)
    servicers = offer.servicers(made)
    made.show_services(servicers)
    server.mount([*servicers, *made.plugin_services()])
    server.mount_for_shims(offer.ttrpc_servicers(made))
    stack.push_async_callback(_stop, server, made)
    await server.start()
    gc.freeze()  # what is there now stays: collections need not look at it
    log.info("serves at %s after %.0f ms", settings.grpc.address, 1000 * (time.perf_counter() - begin))


async def _stop(server: Server, made: Daemon) -> None:
    """Open waits and subscriptions end with Unavailable; other calls have a moment to end."""
    stopping = asyncio.create_task(server.stop(GRACE))
    await asyncio.sleep(0)  # no call is taken from here on
    made.end_waits()
    await stopping


def _set_process(settings: config.Config) -> None:
    os.umask(0o022)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if settings.temp:
        directories.make(Path(settings.temp))
        os.environ["TMPDIR"] = settings.temp
    if settings.oom_score:
        try:
            Path("/proc/self/oom_score_adj").write_text(str(settings.oom_score))
        except OSError as err:
            log.warning("oom_score %d cannot be set: %s", settings.oom_score, err.strerror)
