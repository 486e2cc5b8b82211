"""plugins.toml: the configuration, in containerd's schema (versions 2, 3 and 4).

Each table is a dataclass; its fields are the keys that are known, with their defaults and what they mean. So the daemon
runs without any file. ``load`` reads a file and its ``imports``; an unknown key and a wrong type are InvalidArgument
with file, line and the nearest valid name; in the table of a proxy plugin they are a fault of that plugin alone. A
table of a plugin that is not there, and a key that containerd knows and Corten does not need, are warnings.
"""

# ruff: noqa: RUF009  # key() makes fields, and the tables that are their defaults are immutable
from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel import toml
from kernel.proxies import tables
from kernel.proxies.tables import ProxyPlugin, Tables
from kernel.toml import key
from plugin_sdk import plugin

PATH = Path("/etc/corten/plugins.toml")
VERSION = 4
VERSIONS = (2, 3, 4)
MESSAGE_SIZE = 16 << 20
_LONGEST_STATE = 107 - len("/s/") - 20 - 1  # unix(7): what a socket's path may have; of a shim's, 20 are a hash

LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")

FLAGS: Mapping[str, tuple[str, ...]] = {
    "address": ("grpc", "address"),
    "root": ("root",),
    "state": ("state",),
    "log_level": ("debug", "level"),
}
"""The keys that flags of ``cortend`` set; they go before every file."""

SERVER_TABLES: Mapping[str, str] = {
    f"io.containerd.server.v1.{name}": name for name in ("grpc", "ttrpc", "debug", "metrics")
}
"""Where version 4 has what is a top-level table before."""


@dataclass(frozen=True, slots=True)
class Grpc:
    address: str = key("/run/corten/corten.sock", "Path of the socket that clients connect to.")
    uid: int = key(0, "Owner of the socket.")
    gid: int = key(0, "Group of the socket.")
    max_recv_message_size: int = key(MESSAGE_SIZE, "Bytes of the largest message that is received.")
    max_send_message_size: int = key(MESSAGE_SIZE, "Bytes of the largest message that is sent.")
    tcp_address: str = key("", "A TCP address to listen at.", unneeded=True)
    tcp_tls_ca: str = key("", "Certificates that clients must be signed by.", unneeded=True)
    tcp_tls_cert: str = key("", "Certificate of the TCP address.", unneeded=True)
    tcp_tls_key: str = key("", "Key of that certificate.", unneeded=True)
    tcp_tls_common_name: str = key("", "Name that a client's certificate must bear.", unneeded=True)


@dataclass(frozen=True, slots=True)
class Ttrpc:
    address: str = key("", "Path of the socket that shims report to; empty: that of grpc with .ttrpc added.")
    uid: int = key(0, "Owner of the socket.")
    gid: int = key(0, "Group of the socket.")


@dataclass(frozen=True, slots=True)
class Debug:
    level: str = key("info", "What is logged: trace, debug, info, warn, error, fatal or panic.")
    address: str = key("", "A socket for profiling.", unneeded=True)
    uid: int = key(0, "Owner of that socket.", unneeded=True)
    gid: int = key(0, "Group of that socket.", unneeded=True)
    format: str = key("", "Format of the log: text or json.", unneeded=True)


@dataclass(frozen=True, slots=True)
class Metrics:
    address: str = key("", "A TCP address for Prometheus.", unneeded=True)
    grpc_histogram: bool = key(False, "Whether latencies are counted.", unneeded=True)


@dataclass(frozen=True, slots=True)
class Cgroup:
    path: str = key("", "The daemon's own cgroup; a service manager does that.", unneeded=True)


@dataclass(frozen=True, slots=True)
class StreamProcessor:
    accepts: tuple[str, ...] = key((), "Media types it reads.")
    returns: str = key("", "Media type it writes.")
    path: str = key("", "The program.")
    args: tuple[str, ...] = key((), "Its arguments.")
    env: tuple[str, ...] = key((), "Its environment.")


@dataclass(frozen=True, slots=True)
class Config:
    version: int = key(VERSION, "Version of this schema: 2, 3 or 4.")
    root: str = key("/var/lib/corten", "Directory of what is kept: the database, and what the plugins store.")
    state: str = key("/run/corten", "Directory of what is gone after a reboot: bundles of tasks, sockets.")
    temp: str = key("", "Directory for temporary files; empty: the system's.")
    plugin_dir: str = key("", "Directory of dynamic plugins.", unneeded=True)
    imports: tuple[str, ...] = key((), "Files to read over this one, in order; relative to this file, * is allowed.")
    required_plugins: tuple[str, ...] = key((), 'Plugins, as "kind.id", without which the daemon does not start.')
    disabled_plugins: tuple[str, ...] = key((), 'Plugins, as "kind.id", that are not started.')
    oom_score: int = key(0, "The daemon's oom_score_adj, -1000 to 1000; 0: as it is.")
    grpc: Grpc = key(Grpc(), 'The socket for clients; in version 4 also [plugins."io.containerd.server.v1.grpc"].')
    ttrpc: Ttrpc = key(Ttrpc(), 'The socket for shims; in version 4 also [plugins."io.containerd.server.v1.ttrpc"].')
    debug: Debug = key(Debug(), "The log.")
    metrics: Metrics = key(Metrics(), "Figures.")
    cgroup: Cgroup = key(Cgroup(), "Where the daemon runs.")
    timeouts: Mapping[str, str] = key({}, "Time limits of containerd's shims and tasks.", unneeded=True)
    stream_processors: Mapping[str, StreamProcessor] = key({}, "Programs that decode layers.", unneeded=True)
    plugins: Mapping[str, Mapping[str, Any]] = key({}, 'One table a plugin: [plugins."kind.id"].')
    proxy_plugins: Mapping[str, ProxyPlugin] = key({}, "One table a plugin that runs as a program of its own.")

    @property
    def ttrpc_address(self) -> str:
        return self.ttrpc.address or self.grpc.address + ".ttrpc"


class Loaded:
    """A configuration, what there is to warn of, and the tables of plugins, which are decoded when those are known.

    ``proxies`` are the proxy plugins that can be used, and why others cannot; ``config.proxy_plugins`` has the former.
    A change of a file that one of the ``patterns`` matches, in its folder, may be a change of it.
    """

    def __init__(self, config: Config, document: toml.Document, proxies: Tables, patterns: Iterable[Path]) -> None:
        self.config = config
        self.proxies = proxies
        self.patterns = frozenset(patterns)
        self._document = document

    @property
    def warnings(self) -> list[str]:
        return self._document.warnings

    def proxy_faults(self, registrations: Iterable[tuple[str, plugin.Registration]]) -> list[str]:
        """Why proxy plugins cannot be used beside these, with their sources; a line each."""
        disabled = set(self.config.disabled_plugins)
        sources = {of.name: source for source, of in registrations if of.name not in disabled}
        conflicts = (tables.conflict(spec, sources) for spec in self.proxies.specs.values())
        lack = tables.lack(self.proxies.specs, sources)
        return [*self.proxies.faults.values(), *filter(None, (*conflicts, lack))]

    def needs_restart(self, running: Loaded) -> list[str]:
        """What differs from the configuration that the daemon was started with, besides proxy plugins."""
        mine, theirs = (dataclasses.asdict(loaded.config) for loaded in (self, running))
        changed = [name for name in mine if name != tables.TABLE and mine[name] != theirs[name]]
        places = [(self._document.place((name,)), name) for name in changed]
        return [f"{place}{name!r} takes effect when the daemon is started again" for place, name in places]

    def plugin_config(self, registration: plugin.Registration) -> object:
        """The registration's ``config`` as an instance, None if it has none. Raises InvalidArgument."""
        where = ("plugins", registration.table)
        table = self.config.plugins.get(registration.table, {})
        if registration.config is not None:
            return self._document.decode(registration.config, table, where)
        for name in table:
            raise self._document.error(
                (*where, name), f"plugin {registration.table} has no key {name!r}, nor any other"
            )
        return None

    def check_plugins(self, registrations: Iterable[plugin.Registration]) -> None:
        """Raises InvalidArgument for a wrong key of one of these; warns of tables that belong to none."""
        names = set(SERVER_TABLES)
        for registration in registrations:
            names.add(registration.table)
            self.plugin_config(registration)
        for name in self.config.plugins:
            if name not in names:
                self._document.warn(("plugins", name), f"there is no plugin {name!r}" + _near(name, names))


def load(path: Path | None = None, overrides: Mapping[str, str] | None = None) -> Loaded:
    """Reads ``path`` (None: ``PATH`` if it exists, else nothing). ``overrides`` are the flags: address, root, state,
    log_level. Raises InvalidArgument, and NotFound for a given file that is not there."""
    document = toml.Document()
    patterns = {(path or PATH).absolute()}
    if path is not None or PATH.exists():
        patterns |= _read(document, (path or PATH).absolute())
    if document.data.get("version", VERSION) not in VERSIONS:
        version = document.data["version"]
        raise document.error(("version",), f"version {version!r} is not known; known are 2, 3 and 4")
    _lift_server_tables(document)
    for flag, value in (overrides or {}).items():
        document.put(FLAGS[flag], value, "--" + flag.replace("_", "-"))
    proxies = tables.read(document, document.data.pop(tables.TABLE, {}))
    config = document.decode(Config, document.data)
    _check(config, document)
    usable = {name: spec.table for name, spec in proxies.specs.items()}
    return Loaded(dataclasses.replace(config, proxy_plugins=usable), document, proxies, patterns)


def _read(document: toml.Document, first: Path) -> set[Path]:
    """Answers the paths of the files, links followed, and of those that may appear, with ``*``."""
    lists: dict[str, list[Any]] = {"disabled_plugins": [], "required_plugins": []}
    waiting: list[Path] = [first]
    seen: set[Path] = set()
    patterns: set[Path] = set()
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        patterns |= {path.parent / "*" if path.is_symlink() else path, path.resolve()}
        data = document.add(path)
        for name, values in lists.items():
            if isinstance(data.get(name), list):
                values += [value for value in data[name] if value not in values]
                document.data[name] = values
        imports = data.get("imports", ())
        waiting += _imports(document, path, imports)
        patterns |= {path.parent / pattern for pattern in imports if isinstance(pattern, str)}
    return patterns


def _imports(document: toml.Document, path: Path, patterns: Any) -> Iterator[Path]:
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(pattern, str) for pattern in patterns):
        return
    for pattern in patterns:
        full = str(path.parent / pattern)
        if not glob.has_magic(full) and not Path(full).exists():
            raise document.error(("imports",), f"imported file {full} is not there")
        yield from map(Path, sorted(glob.glob(full)) if glob.has_magic(full) else [full])


def _lift_server_tables(document: toml.Document) -> None:
    if document.data.get("version", VERSION) < 4:
        return
    plugins = document.data.get("plugins", {})
    for name, short in SERVER_TABLES.items():
        table = plugins.get(name) if isinstance(plugins, dict) else None
        if not isinstance(table, dict):
            continue
        if short in document.data:
            document.warn(("plugins", name), f"[{short}] is set too; this table goes first")
        fields = {field.name for field in dataclasses.fields(_class_of(short))}
        for wrong in sorted(set(table) - fields):
            text = f"unknown key {wrong!r} in [plugins.{name!r}]" + toml.nearest(wrong, fields)
            raise document.error(("plugins", name, wrong), text)
        document.data[short] = {**document.data.get(short, {}), **table}


def _class_of(short: str) -> Any:
    return {"grpc": Grpc, "ttrpc": Ttrpc, "debug": Debug, "metrics": Metrics}[short]


def _check(config: Config, document: toml.Document) -> None:
    if config.debug.level not in LEVELS:
        raise document.error(
            ("debug", "level"), f"unknown level {config.debug.level!r}" + _near(config.debug.level, LEVELS)
        )
    if not -1000 <= config.oom_score <= 1000:
        raise document.error(("oom_score",), f"oom_score {config.oom_score} is not between -1000 and 1000")
    for field in ("root", "state"):
        if not Path(getattr(config, field)).is_absolute():
            raise document.error((field,), f"{field} must be an absolute path, not {getattr(config, field)!r}")
    if len(os.fsencode(config.state)) > _LONGEST_STATE:
        text = f"state must have at most {_LONGEST_STATE} bytes, for the paths of the shims' sockets: {config.state}"
        raise document.error(("state",), text)
    if config.root == config.state:
        raise document.error(("state",), f"root and state must not be the same directory: {config.root}")


def _near(name: str, valid: Iterable[str]) -> str:
    return toml.nearest(name, valid)


EXAMPLE = """
# For example this one, which comes with Corten and keeps snapshots on btrfs, where its root lies:
# [proxy_plugins.btrfs]
# type = "snapshot"
# address = "/run/corten-btrfs.sock"
# command = ["corten-btrfs", "--root", "/var/lib/corten-btrfs"]
"""


def default_text(plugins: Iterable[plugin.Registration] = ()) -> str:
    """The defaults as an annotated plugins.toml, with a table for each plugin that can be configured."""
    tables: dict[str, Any] = {of.table: of.config() for of in plugins if of.config is not None}
    return _text(dataclasses.replace(Config(), plugins=tables), annotate=True) + EXAMPLE


def dump_text(loaded: Loaded, plugins: Iterable[plugin.Registration] = ()) -> str:
    """What is in effect."""
    tables: dict[str, Any] = dict(loaded.config.plugins) | {
        of.table: loaded.plugin_config(of) for of in plugins if of.config is not None
    }
    return _text(dataclasses.replace(loaded.config, imports=(), plugins=tables), annotate=False)


def _text(config: Config, annotate: bool) -> str:
    return "\n".join(toml.render(config, annotate=annotate)) + "\n"
