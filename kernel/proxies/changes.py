"""The proxy plugins of a configuration: begun with it, and changed with it while the daemon runs.

An edit is taken whole or not at all. Plugins are put into the registry and taken out of it in the caller's thread, one
edit after the other; draining and ending what was taken out happens in threads of its own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from kernel.proxies.remote import Remote, Surroundings
from kernel.proxies.tables import TABLE, Spec, Tables, conflict
from plugin_sdk import daemon, errors, plugin

log = logging.getLogger("proxies")

_PATIENCE = 30.0  # seconds for what drains, when the daemon ends


class Registry(Protocol):
    def put(
        self, registration: plugin.Registration, source: str = "", *, remote: bool = False
    ) -> Callable[..., None]: ...

    def withdraw(self, kind: str, id: str) -> Callable[..., None]: ...

    def sources(self) -> Mapping[str, str]: ...

    def show(self, info: daemon.PluginInfo) -> None: ...

    def hide(self, kind: str, id: str) -> None: ...


class Ready(Protocol):
    def __call__(self, kind: str, id: str, *, restarted: bool) -> None: ...


class Proxies:
    """``root`` and ``state`` are the daemon's directories, ``address`` its socket. ``ready`` is told of each plugin
    that becomes ok, ``changed`` that the state of some plugin is another one."""

    def __init__(
        self, registry: Registry, root: Path, state: Path, address: str, ready: Ready, changed: Callable[[], None]
    ) -> None:
        self._registry = registry
        self._root = root
        self._own = tuple(sorted({form for path in (root, state) for form in (str(path), os.path.realpath(path))}))
        self._address = address
        self._ready = ready
        self._changed = changed
        self._remotes: dict[str, Remote] = {}
        self._addresses: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._ending: list[threading.Thread] = []
        self._faulty: list[str] = []
        self._tables: Tables | None = None

    def begin(self, tables: Tables) -> None:
        """At start: what cannot be used is shown, and the rest begun."""
        self._tables = tables
        for name, fault in tables.faults.items():
            self._show_fault(name, fault)
        for spec in tables.specs.values():
            if conflict := self._conflict(spec):
                self._show_fault(spec.name, conflict)
            else:
                self._add(spec)

    def change(self, tables: Tables) -> None:
        """Raises InvalidArgument, with a line for each thing that is wrong; then nothing has changed."""
        if tables == self._tables:
            return
        wrong = [*tables.faults.values(), *filter(None, map(self._conflict, tables.specs.values()))]
        if wrong:
            raise errors.InvalidArgument("\n".join(wrong))
        self._tables = tables
        for name in self._faulty:
            self._registry.hide(TABLE, name)
        self._faulty = []
        for old in list(self._remotes.values()):
            spec = tables.specs.get(old.spec.name)
            if spec is None or spec.kind != old.spec.kind:
                self._remove(old)
        for spec in tables.specs.values():
            self._put(spec)
        self._changed()

    def close(self) -> None:
        """Ends every program, all at once."""
        for remote in self._remotes.values():
            self._in_background(f"end-{remote.spec.name}", remote.close)
        self._remotes.clear()
        for thread in self._ending:
            thread.join(_PATIENCE)

    # --- one plugin

    def _put(self, spec: Spec) -> None:
        old = self._remotes.get(spec.name)
        if old is None:
            self._add(spec)
        elif old.spec.connects_like(spec):
            old.adopt(spec)
        else:
            log.info("%s", spec.about("begins anew: its table has changed"))
            self._add(spec)

    def _add(self, spec: Spec) -> None:
        remote = Remote(spec, self._surroundings(spec))
        old = self._remotes.get(spec.name)
        registration = plugin.Registration(spec.kind, spec.name, lambda context: remote)
        end = self._registry.put(registration, spec.place, remote=True)
        self._remotes[spec.name] = remote
        remote.start()
        if old is not None:
            old.give_way(remote)
            self._in_background(f"drain-{spec.name}", end, old.spec.table.drain)

    def _remove(self, remote: Remote) -> None:
        spec = remote.spec
        log.info("%s", spec.about("is removed: no call is taken any more"))
        end = self._registry.withdraw(spec.kind, spec.name)
        del self._remotes[spec.name]
        self._in_background(f"drain-{spec.name}", end, spec.table.drain)

    def _surroundings(self, spec: Spec) -> Surroundings:
        def ready(restarted: bool) -> None:
            self._ready(spec.kind, spec.name, restarted=restarted)

        environment = {
            "CORTEN_PLUGIN_ADDRESS": spec.table.address,
            "CORTEN_PLUGIN_NAME": spec.name,
            "CORTEN_CONTENT_ADDRESS": self._address,
        }
        return Surroundings(
            self._own,
            str(self._root / spec.id),
            self._root / "peers" / f"{spec.id}.json",
            environment,
            list(self._arguments(spec)),
            logging.getLogger(spec.id),
            ready,
            self._changed,
            self._addresses[spec.table.address],
        )

    def _arguments(self, spec: Spec) -> Iterator[str]:
        """A differ is told where the blobs are."""
        given = any(part.partition("=")[0] == "--content" for part in spec.table.command)
        if spec.kind == plugin.DIFFER and not given:
            yield from ("--content", self._address)

    def _in_background(self, name: str, work: Callable[..., None], *arguments: object) -> None:
        self._ending = [thread for thread in self._ending if thread.is_alive()]
        thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
        self._ending.append(thread)
        thread.start()

    # --- what cannot be

    def _conflict(self, spec: Spec) -> str:
        if spec.socket and os.path.realpath(spec.socket) == os.path.realpath(self._address):
            return spec.about("has the daemon's own address: it would call itself")
        return conflict(spec, self._registry.sources())

    def _show_fault(self, name: str, fault: str) -> None:
        log.error("%s", fault)
        self._faulty.append(name)
        self._registry.show(daemon.PluginInfo(TABLE, name, error=fault, state="refused"))
