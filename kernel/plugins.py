"""Plugins: how they are found, made and used.

Three steps. ``discover`` lets each plugin register by itself: the built-ins, named by dotted strings so that the kernel
imports none of them, then installed packages by their entry points. ``Registry.load`` calls ``create`` in the order of
``requires``. ``Registry.use`` hands the object to one call. A plugin that fails in the first two steps is recorded with
its reason and shown; the others go on. Proxy plugins come and go while the daemon runs, by ``Registry.put`` and
``Registry.withdraw``.

This is the only file that imports by name.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import pluggy

from kernel import hookspecs
from plugin_sdk import daemon, errors, lanes, plugin
from plugin_sdk.scope import Scope

log = logging.getLogger("plugins")

BUILTINS = (
    "plugins_builtin.content.plugin",
    "plugins_builtin.snapshots.plugin",
    "plugins_builtin.diff.plugin",
    "plugins_builtin.runtime.plugin",
    "plugins_builtin.transfer.plugin",
)

NOUNS: Mapping[str, str] = {
    plugin.CONTENT: "content store",
    plugin.SNAPSHOTTER: "snapshotter",
    plugin.DIFFER: "differ",
    plugin.RUNTIME: "runtime",
    plugin.SERVICE: "service",
}

SKIPPED = "skip plugin"  # clients look for these words: a plugin that is merely skipped is no reason to refuse to start

DRAIN = 10.0  # seconds that a replaced plugin's calls are given to end

_WAITING = 16  # calls that wait for a thread of a plugin
_PATIENT = 1000  # the same where all threads may wait for a program to come back, or a call is a long piece of work


@dataclass(frozen=True, slots=True)
class Failure:
    """A plugin that could not even register."""

    source: str
    error: str


@dataclass(frozen=True, slots=True)
class Found:
    """What all plugins registered, each with its source: a dotted name or an entry point."""

    registrations: Sequence[tuple[str, plugin.Registration]]
    failures: Sequence[Failure]


def discover(builtins: Iterable[str] = BUILTINS, group: str = plugin.ENTRY_POINTS) -> Found:
    """Lets every plugin register; one that raises, or misspells a hook, is a Failure and registers nothing."""
    manager = pluggy.PluginManager(plugin.PROJECT)
    manager.add_hookspecs(hookspecs)
    collector = _Collector(manager)
    for name in builtins:
        collector.add(name, functools.partial(importlib.import_module, name))
    for point in importlib.metadata.entry_points(group=group):
        collector.add(f"{point.name} ({point.value})", point.load)
    manager.check_pending()
    return Found(collector.registrations, collector.failures)


class _Collector:
    def __init__(self, manager: pluggy.PluginManager) -> None:
        self.registrations: list[tuple[str, plugin.Registration]] = []
        self.failures: list[Failure] = []
        self._manager = manager
        self._current: list[plugin.Registration] = []
        for hook, kind in hookspecs.KINDS.items():
            getattr(manager.hook, hook).call_historic(self._receiver(hook, kind))

    def _receiver(self, hook: str, kind: str) -> Callable[[Any], None]:
        def receive(result: Any) -> None:
            for registration in result:
                if not isinstance(registration, plugin.Registration) or registration.kind != kind:
                    raise TypeError(f"{hook} must return Registrations of kind {kind}, not {registration!r}")
                self._current.append(registration)

        return receive

    def add(self, source: str, load: Callable[[], object]) -> None:
        self._current = []
        try:
            self._register(source, load())
        except Exception as err:  # noqa: BLE001  # a plugin fails alone, however it fails
            error = f"{type(err).__name__}: {err}"
            self.failures.append(Failure(source, error))
        else:
            self.registrations += [(source, registration) for registration in self._current]

    def _register(self, source: str, module: object) -> None:
        try:
            self._manager.register(module, name=source)
            self._refuse_misspelt(source, module)
        except BaseException:
            # pluggy keeps a plugin whose historic hook raised
            if self._manager.has_plugin(source):
                self._manager.unregister(name=source)
            raise

    def _refuse_misspelt(self, source: str, module: object) -> None:
        for caller in self._manager.get_hookcallers(module) or ():
            if not caller.has_spec():
                near = difflib.get_close_matches(caller.name, hookspecs.KINDS, 1, 0.0)[0]
                raise LookupError(f"plugin {source} implements the unknown hook {caller.name}; did it mean {near}?")


class Remote(Protocol):
    """What ``create`` makes for a plugin in a process of its own."""

    @property
    def is_ok(self) -> bool: ...

    def bind(self, scope: Scope) -> object:
        """The contract's object, for one use."""
        ...

    def info(self) -> daemon.PluginInfo: ...

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Slot:
    """One registered plugin: ``made`` is what create returned, None unless it is ok; ``remote`` the same, if it is in
    another process, whether it is ok or not."""

    source: str
    registration: plugin.Registration
    made: object | None = None
    error: str = ""
    skipped: bool = False
    uses: int = 0
    lane: lanes.Lane | None = None
    root: str = ""
    remote: Remote | None = None

    @property
    def is_ok(self) -> bool:
        return self.made is not None and (self.remote is None or self.remote.is_ok)


class Registry:
    """The plugins that are there, by kind and id.

    ``context`` makes what a registration's ``create`` is handed; it may raise for a wrong configuration.
    ``guard`` is called before each use, with what is about to happen; it raises when the thread has a transaction open.
    ``platform`` is the machine's, shown for plugins that name none.
    """

    def __init__(
        self,
        context: Callable[[plugin.Registration], plugin.PluginContext],
        guard: Callable[[str], None] | None = None,
        platform: str = "",
    ) -> None:
        self._context = context
        self._guard = guard
        self._platform = platform
        self._slots: dict[str, _Slot] = {}  # by kind.id
        self._failures: list[Failure] = []
        self._shown: dict[tuple[str, str], daemon.PluginInfo] = {}
        self._changed = threading.Condition()
        self._metadata = lanes.Lane("metadata", threads=8, waiting=1024)

    # --- loading

    def load(self, found: Found, disabled: Iterable[str] = ()) -> None:
        """Makes all plugins but the ``disabled`` ones (``kind.id``). Raises FailedPrecondition when there is more than
        one content store."""
        for failure in found.failures:
            self._fail(failure.source, failure.error)
        wanted = self._enabled(found.registrations, set(disabled))
        self._check_one_content_store(wanted)
        for slot in _ordered(wanted):
            self._slots[slot.registration.name] = slot
            self._make(slot)

    def _enabled(self, registrations: Iterable[tuple[str, plugin.Registration]], disabled: set[str]) -> list[_Slot]:
        slots: dict[str, _Slot] = {}
        names = set()
        for source, registration in registrations:
            names |= {registration.name, registration.table}
            if disabled & {registration.name, registration.table}:
                continue
            if first := slots.get(registration.name):
                self._fail(source, f"{registration.name} is registered already, by {first.source}")
                continue
            slots[registration.name] = _Slot(source, registration)
        for name in sorted(disabled - names):
            log.warning("disabled_plugins names %s, which is not there", name)
        return list(slots.values())

    def _fail(self, source: str, error: str) -> None:
        log.error("plugin %s does not load: %s", source, error)
        self._failures.append(Failure(source, error))

    def _check_one_content_store(self, slots: Iterable[_Slot]) -> None:
        stores = [slot for slot in slots if slot.registration.kind == plugin.CONTENT]
        if len(stores) > 1:
            named = " and ".join(f"{slot.registration.name} ({slot.source})" for slot in stores)
            raise errors.FailedPrecondition(f"there is more than one content store: {named}; disable all but one")

    def check(self, required: Iterable[str] = ()) -> None:
        """Raises FailedPrecondition when there is no content store, or a ``required`` plugin has not started. One in a
        process of its own need not be ok yet."""
        for name in required:
            slot = self._slots.get(name)
            if slot is None:
                raise errors.FailedPrecondition(f"the required plugin {name} is not there")
            if slot.made is None:
                raise errors.FailedPrecondition(f"the required plugin {name} did not start: {slot.error}")
        if not self.ids(plugin.CONTENT):
            reasons = [slot.error for slot in self._slots.values() if slot.registration.kind == plugin.CONTENT]
            reasons += [f"{failure.source}: {failure.error}" for failure in self._failures]
            reasons += [info.error for info in self._shown.values() if info.error]
            raise errors.FailedPrecondition("there is no content store: " + ("; ".join(reasons) or "none is enabled"))

    def _make(self, slot: _Slot) -> None:
        registration = slot.registration
        name = registration.name
        if slot.error or not self._has_requirements(slot):
            log.error("plugin %s is not started: %s", name, slot.error)
            return
        begin = time.perf_counter()
        try:
            context = self._context(registration)
            slot.root = str(context.root)
            slot.made = registration.create(context)
        except plugin.SkipPlugin as err:
            slot.error, slot.skipped = f"{err}: {SKIPPED}", True
            log.info("plugin %s is skipped: %s", name, err)
        except Exception as err:  # a plugin fails alone, however it fails
            slot.error = err.message if isinstance(err, errors.Error) else f"{type(err).__name__}: {err}"
            log.error("plugin %s does not start: %s", name, slot.error, exc_info=log.isEnabledFor(logging.DEBUG))
        else:
            slot.lane = lanes.Lane(name, waiting=_PATIENT if registration.kind == plugin.SERVICE else _WAITING)
            log.debug("plugin %s is ok after %.0f ms", name, 1000 * (time.perf_counter() - begin))

    def _has_requirements(self, slot: _Slot) -> bool:
        for wanted in slot.registration.requires:
            if not any(self._answers(other, wanted) for other in self._slots.values() if other.made is not None):
                slot.error = f"requires {wanted}, which is not there"
                return False
        return True

    @staticmethod
    def _answers(slot: _Slot, wanted: str) -> bool:
        return wanted in (slot.registration.kind, slot.registration.name)

    # --- using

    @contextmanager
    def use(self, kind: str, id: str, scope: Scope | None = None) -> Iterator[Any]:
        """The plugin's object, for one call. Raises InvalidArgument for one that is not loaded, Internal when the
        calling thread has a transaction open. Calls of one in another process may raise Unavailable besides."""
        if self._guard is not None:
            self._guard(f"plugin {kind}.{id} is called")
        with self._changed:
            slot = self._find(kind, id)
            slot.uses += 1
        try:
            yield slot.made if slot.remote is None else slot.remote.bind(scope or Scope(""))
        finally:
            with self._changed:
                slot.uses -= 1
                self._changed.notify_all()

    def _find(self, kind: str, id: str) -> _Slot:
        slot = self._slots.get(f"{kind}.{id}")
        noun = NOUNS.get(kind, "plugin")
        if slot is None:
            raise errors.InvalidArgument(f"{noun} not loaded: {id}")
        if slot.made is None:
            raise errors.InvalidArgument(f"{noun} not loaded: {id}: {slot.error}")
        return slot

    def has(self, kind: str, id: str) -> bool:
        """Whether such a plugin is ok."""
        slot = self._slots.get(f"{kind}.{id}")
        return slot is not None and slot.is_ok

    def knows(self, kind: str, id: str) -> bool:
        """Whether such a plugin can be named; one in a process of its own also while that is away."""
        slot = self._slots.get(f"{kind}.{id}")
        return slot is not None and slot.made is not None

    def ids(self, kind: str) -> list[str]:
        """Of the plugins of this kind that can be named, in the order of loading."""
        with self._changed:
            registrations = [slot.registration for slot in self._slots.values() if slot.made is not None]
        return [registration.id for registration in registrations if registration.kind == kind]

    def is_remote(self, kind: str, id: str) -> bool:
        """Whether it is in a process of its own, so that others may use it too."""
        slot = self._slots.get(f"{kind}.{id}")
        return slot is not None and slot.remote is not None

    def sources(self) -> Mapping[str, str]:
        """Of the plugins in this process, by ``kind.id``: where they come from."""
        with self._changed:
            return {name: slot.source for name, slot in self._slots.items() if slot.remote is None}

    def lane(self, name: str) -> lanes.Lane:
        """The threads of the plugin ``kind.id``, or of the first one of a ``kind``; for any other name, those for work
        on the metadata."""
        slot = self._slots.get(name)
        if slot is None and name in NOUNS and (ids := self.ids(name)):
            slot = self._slots.get(f"{name}.{ids[0]}")
        return self._metadata if slot is None or slot.lane is None else slot.lane

    # --- showing

    def show(self, info: daemon.PluginInfo) -> None:
        """Adds to ``infos`` one that is no plugin here, such as a service of the kernel, or changes it."""
        with self._changed:
            self._shown[info.kind, info.id] = info

    def hide(self, kind: str, id: str) -> None:
        """Takes back what ``show`` has added."""
        with self._changed:
            self._shown.pop((kind, id), None)

    def infos(self) -> list[daemon.PluginInfo]:
        """All plugins by kind and id, those included that failed."""
        with self._changed:
            slots, shown = list(self._slots.values()), list(self._shown.values())
        failed = [daemon.PluginInfo(plugin.ENTRY_POINTS, f.source, error=f.error) for f in self._failures]
        own = [info for slot in slots for info in self._infos(slot)]
        return sorted([*own, *shown, *failed], key=lambda info: (info.kind, info.id))

    def states(self) -> Mapping[str, bool]:
        """Whether each plugin that was not skipped is ok, by ``kind.id``."""
        with self._changed:
            return {name: slot.is_ok for name, slot in self._slots.items() if not slot.skipped}

    def _infos(self, slot: _Slot) -> list[daemon.PluginInfo]:
        """Once by each of its names."""
        info = self._info(slot)
        if not slot.registration.alias:
            return [info]
        kind, _, id = slot.registration.alias.rpartition(".")
        return [info, replace(info, kind=kind, id=id, requires=())]

    def _info(self, slot: _Slot) -> daemon.PluginInfo:
        registration = slot.registration
        full = slot.lane is not None and slot.lane.full and registration.kind != plugin.SERVICE
        degraded = "degraded: all its threads are busy" if full else ""
        if slot.remote is not None:
            return self._remote_info(slot.remote.info(), degraded)
        stores = registration.kind in (plugin.CONTENT, plugin.SNAPSHOTTER)
        return daemon.PluginInfo(
            registration.kind,
            registration.id,
            requires=registration.requires,
            platforms=registration.platforms or self._own_platform(registration.kind),
            exports={**({"root": slot.root} if stores and slot.root else {}), **registration.exports},
            capabilities=sorted(registration.capabilities),
            error=slot.error or degraded,
            skipped=slot.skipped,
        )

    def _remote_info(self, info: daemon.PluginInfo, degraded: str) -> daemon.PluginInfo:
        platforms = info.platforms or self._own_platform(info.kind)
        if degraded and not info.error:
            return replace(info, platforms=platforms, error=degraded, state="degraded")
        return replace(info, platforms=platforms)

    def _own_platform(self, kind: str) -> tuple[str, ...]:
        runs = kind in (plugin.SNAPSHOTTER, plugin.DIFFER, plugin.RUNTIME)
        return (self._platform,) if runs and self._platform else ()

    # --- coming and going

    def put(self, registration: plugin.Registration, source: str = "", *, remote: bool = False) -> Callable[..., None]:
        """Makes the plugin and puts it in the place of the one with its name, if there is one. What is answered ends
        the latter when it is called, as ``withdraw``'s does. Raises what ``create`` raises; the old one then stays."""
        context = self._context(registration)
        made = registration.create(context)
        name = registration.name
        slot = _Slot(source or name, registration, made, root=str(context.root))
        slot.remote = cast(Remote, made) if remote else None
        with self._changed:
            old = self._slots.get(name)
            if remote and old is not None and old.remote is not None:  # calls that wait for a thread stay
                slot.lane, old.lane = old.lane, None
            else:
                slot.lane = lanes.Lane(name, waiting=_PATIENT if remote else _WAITING)
            self._slots[name] = slot
        return functools.partial(self._retire, old) if old is not None else lambda drain=0.0: None

    def withdraw(self, kind: str, id: str) -> Callable[..., None]:
        """Calls that follow find no such plugin. What is answered gives those that run ``drain`` seconds when it is
        called, and closes the plugin. Raises NotFound."""
        with self._changed:
            slot = self._slots.pop(f"{kind}.{id}", None)
        if slot is None:
            raise errors.NotFound(f"plugin {kind}.{id}: not found")
        return functools.partial(self._retire, slot)

    def _retire(self, slot: _Slot, drain: float = DRAIN) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: not slot.uses, drain):
                log.warning("plugin %s: %d calls did not end in %.0f s", slot.registration.name, slot.uses, drain)
        _close(slot)
        if slot.lane is not None:
            slot.lane.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Closes the plugins in the opposite order of their making, and ends the lanes; nobody may call any more."""
        for slot in reversed(list(self._slots.values())):
            if slot.lane is not None:
                slot.lane.shutdown(cancel_futures=True)
            _close(slot)
        self._metadata.shutdown(cancel_futures=True)


def _close(slot: _Slot) -> None:
    close = getattr(slot.made, "close", None)
    if close is None:
        return
    try:
        close()
    except Exception as err:  # noqa: BLE001  # the others are still to be closed
        log.error("plugin %s does not close: %s", slot.registration.name, err)


def _ordered(slots: Sequence[_Slot]) -> list[_Slot]:
    """Each after all that it requires; those in a circle last, each with an error that names the circle."""
    ordered: list[_Slot] = []
    path: list[_Slot] = []

    def visit(slot: _Slot) -> None:
        if slot in path:
            circle = [other.registration.name for other in [*path[path.index(slot) :], slot]]
            for other in path[path.index(slot) :]:
                other.error = "requires itself in a circle: " + " → ".join(circle)
            return
        if slot in ordered:
            return
        path.append(slot)
        for wanted in slot.registration.requires:
            for other in slots:
                if Registry._answers(other, wanted) and other is not slot:
                    visit(other)
        path.pop()
        ordered.append(slot)

    for slot in slots:
        visit(slot)
    return ordered
