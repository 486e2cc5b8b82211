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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kernel import config, directories, plugins
from kernel.differs import Differ
from kernel.events import Exchange
from kernel.metadata.database import Database, forbid_transaction
from kernel.metadata.namespaces import Namespaces
from kernel.metadata.store import Metadata, View
from kernel.tasks import Tasks
from kernel.transfers import Transferrer
from kernel.watch import Watch
from plugin_sdk import containers, daemon, errors, filters, platforms, plugin, systemd
from plugin_sdk.scope import Scope
from plugin_sdk.workers import Workers

if TYPE_CHECKING:
    from kernel.proxies.changes import Proxies
    from kernel.server import Server
    from plugin_sdk.wire import rpc

log = logging.getLogger("daemon")

DATABASE = "metadata.db"
UUID = "uuid"
SERVICE_IDS = {"v1": "healthcheck"}  # of grpc.health.v1.Health
GRACE = 0.5  # seconds that calls are given when the daemon stops
EDIT = ("corten.configuration", "plugins.toml")  # as what a refused edit is shown
NEEDED: Mapping[str, str] = {
    plugin.CONTENT: "containerd.services.content.v1.Content",
    plugin.SNAPSHOTTER: "containerd.services.snapshots.v1.Snapshots",
    plugin.DIFFER: "containerd.services.diff.v1.Diff",
    plugin.RUNTIME: "containerd.services.tasks.v1.Tasks",
}
"""The service that does not serve without a plugin of the kind."""


class Daemon:
    """A ``plugin_sdk.daemon.Daemon``. Raises FailedPrecondition, with the reason, when a part cannot be made."""

    def __init__(self, loaded: config.Loaded, workers: Workers) -> None:
        self._loaded = loaded
        self._workers = workers
        self._proxies: Proxies | None = None
        self._told = set(loaded.warnings)
        self._listeners: list[Callable[[], None]] = []
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
            transfer=lambda scope: Transferrer(self.registry, scope),
        )
        stack.callback(self.metadata.close)
        self._load_plugins()
        self.metadata.settle()
        stack.callback(self._end_proxies)
        if not self._loaded.proxies.is_empty:
            self.proxies.begin(self._loaded.proxies)
        self.registry.check(self._loaded.config.required_plugins)
        self.tasks.recover()

    def _load_plugins(self) -> None:
        found = plugins.discover()
        self._registrations = [registration for _, registration in found.registrations]
        before = len(self._loaded.warnings)
        self._loaded.check_plugins(self._registrations)
        for warning in self._loaded.warnings[before:]:
            log.warning("%s", warning)
        self.registry.load(found, self._loaded.config.disabled_plugins)

    @property
    def proxies(self) -> Proxies:
        """Made when there is one for the first time: it imports grpc."""
        if self._proxies is None:
            from kernel.proxies.changes import Proxies

            address = self._loaded.config.grpc.address
            self._proxies = Proxies(
                self.registry, self._root, self._state, address, self.metadata.plugin_ready, self._tell_health
            )
        return self._proxies

    def _end_proxies(self) -> None:
        if self._proxies is not None:
            self._proxies.close()

    def reload(self, load: Load) -> Iterable[Path]:
        """Reads the configuration again and changes the proxy plugins by it; an edit that is wrong changes nothing and
        is shown. Answers paths, with ``*``, of files a change of which may be one of the configuration."""
        try:
            loaded = load()
            loaded.check_plugins(self._registrations)
            if self._proxies is not None or not loaded.proxies.is_empty:
                self.proxies.change(loaded.proxies)
        except errors.Error as err:
            self._refuse_edit(err.message)
            return self._loaded.patterns
        self.registry.hide(*EDIT)
        for warning in {*loaded.warnings, *loaded.needs_restart(self._loaded)} - self._told:
            log.warning("%s", warning)
        self._told |= {*loaded.warnings, *loaded.needs_restart(self._loaded)}
        return loaded.patterns

    def _refuse_edit(self, reason: str) -> None:
        for line in reason.splitlines():
            log.error("the configuration stays as it is: %s", line)
        error = f"the last edit is refused and changes nothing: {reason}"
        self.registry.show(daemon.PluginInfo(*EDIT, error=error, state="refused", since=time.time_ns()))
        self._tell_health()

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

    def differs(self) -> Sequence[str]:
        return self.registry.ids(plugin.DIFFER)

    def health(self) -> Mapping[str, bool]:
        """Of the plugins, of the services that need one of some kind, and of the daemon: whether it is ready."""
        states = self.registry.states()
        kinds = {kind: any(states[name] for name in states if name.startswith(f"{kind}.")) for kind in NEEDED}
        required = (states.get(name, False) for name in self._loaded.config.required_plugins)
        ready = kinds[plugin.CONTENT] and all(required)
        return {**states, **{service: kinds[kind] for kind, service in NEEDED.items()}, "": ready}

    def on_health(self, changed: Callable[[], None]) -> Callable[[], None]:
        self._listeners.append(changed)
        return lambda: self._listeners.remove(changed)

    def _tell_health(self) -> None:
        for changed in list(self._listeners):
            changed()
        systemd.notify(f"STATUS={self._readiness()}")

    def _readiness(self) -> str:
        """One line for whoever asks the service manager."""
        ailing = [info for info in self.registry.infos() if info.state not in ("", "ok")]
        said = "; ".join(f"{info.id} is {info.state}: {info.error}" for info in ailing).replace("\n", "; ")
        return f"{'ready' if self.health()[''] else 'not ready'}{f'; {said}' if said else ''}"

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


Load = Callable[[], config.Loaded]
"""Reads the configuration."""


def run(load: Load, loaded: config.Loaded, workers: Workers) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP, or an edit, lets ``load`` read the configuration again. Raises
    FailedPrecondition, with the reason, when it cannot start."""
    from plugin_sdk.wire import event_loop

    event_loop.run(_run(load, loaded, workers))


async def _run(load: Load, loaded: config.Loaded, workers: Workers) -> None:
    stopped = _stop_on_signals()
    async with contextlib.AsyncExitStack() as stack:
        made = await _start(loaded, workers, stack)
        watch = Watch(loaded.patterns, lambda: made.reload(load))
        stack.callback(watch.close)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watch.poke)
        systemd.notify("READY=1")
        await stopped.wait()
        systemd.notify("STOPPING=1")
        log.info("stops; running tasks go on")


def _stop_on_signals() -> asyncio.Event:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


async def _start(loaded: config.Loaded, workers: Workers, stack: contextlib.AsyncExitStack) -> Daemon:
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
    return made


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
