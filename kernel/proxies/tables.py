"""The tables ``[proxy_plugins.NAME]``: which plugins run as programs of their own, and how they are reached.

A table that is wrong is a fault of its plugin alone: the others, and the daemon, go on.
"""

# ruff: noqa: RUF009  # key() makes fields
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel import toml
from kernel.toml import Duration, key
from plugin_sdk import errors, identifiers, platforms, plugin
from plugin_sdk.wire import address as address_

TABLE = "proxy_plugins"

TYPES: Mapping[str, str] = {
    "content": plugin.CONTENT,
    "snapshot": plugin.SNAPSHOTTER,
    "diff": plugin.DIFFER,
    "sandbox": "io.containerd.sandbox.controller.v1",
}

_UNUSED = TYPES["sandbox"]
_TIMEOUT = Duration(60)
_LONG_TIMEOUT = Duration(1800)  # of a differ, whose calls take as long as a layer is large


@dataclass(frozen=True, slots=True)
class ProxyPlugin:
    type: str = key("", "Its kind: content, snapshot or diff, or the long name of the kind.")
    address: str = key("", "Path of its socket, or HOST:PORT for TLS.")
    platform: str = key("", "The platform it serves, such as linux/amd64; empty: the machine's own.")
    exports: Mapping[str, str] = key({}, "What clients are told of it; mounts outside of root, if given, are refused.")
    capabilities: tuple[str, ...] = key((), "What it can do, such as remap-ids.")
    command: tuple[str, ...] = key((), "The program to start for it, with arguments; empty: it runs already.")
    restart: bool = key(True, "Whether the program is started again when it ends.")
    timeout: Duration = key(Duration(0), "How long one call may take; 0s: a minute, half an hour for a differ.")
    grace: Duration = key(Duration(10), "How long a call waits for a plugin that is being started or restarted.")
    drain: Duration = key(Duration(10), "How long running calls are given when the plugin is removed or changed.")
    allow_others: bool = key(False, "Use the socket although others than root and its owner may write to it.")
    tls_ca: str = key("", "File of the certificates that the plugin's must be signed by, for HOST:PORT.")
    tls_cert: str = key("", "File of our certificate, if the plugin asks for one.")
    tls_key: str = key("", "File of that certificate's key.")
    tls_name: str = key("", "Name that the plugin's certificate must bear; empty: that in the address.")


@dataclass(frozen=True, slots=True)
class Spec:
    """One plugin as its table says. ``place`` is ``file:line`` of the table, times are in seconds."""

    name: str
    kind: str
    place: str
    table: ProxyPlugin

    @property
    def id(self) -> str:
        """``kind.name``, as plugins are called."""
        return f"{self.kind}.{self.name}"

    @property
    def timeout(self) -> float:
        return self.table.timeout or (_LONG_TIMEOUT if self.kind == plugin.DIFFER else _TIMEOUT)

    @property
    def socket(self) -> str:
        """The path of a unix socket; empty for a TCP address."""
        target, is_path = address_.split(self.table.address)
        return target if is_path else ""

    def about(self, text: str) -> str:
        """One line for the log and for people: where the table is, which plugin, what."""
        return f"{self.place}: proxy plugin {self.name!r}: {text}"

    def connects_like(self, other: Spec) -> bool:
        """Whether the other differs only in what can be changed while the program runs."""
        soft = {name: getattr(self.table, name) for name in ("exports", "capabilities", "platform", "restart")}
        soft |= {name: getattr(self.table, name) for name in ("timeout", "grace", "drain")}
        return self.kind == other.kind and dataclasses.replace(other.table, **soft) == self.table


@dataclass(frozen=True, slots=True)
class Tables:
    """What is declared: plugins by name, and of those that cannot be used the reason."""

    specs: Mapping[str, Spec]
    faults: Mapping[str, str]

    @property
    def is_empty(self) -> bool:
        return not (self.specs or self.faults)


def read(document: toml.Document, tables: Any) -> Tables:
    """Raises InvalidArgument only when there are no tables at all where they should be."""
    if not isinstance(tables, dict):
        raise document.error((TABLE,), f"{TABLE!r} must be a table, not {tables!r}")
    specs, faults = {}, {}
    for name, table in tables.items():
        try:
            spec = _spec(document, name, table)
        except errors.InvalidArgument as err:
            faults[name] = err.message
        else:
            if spec.kind == _UNUSED:
                document.warn((TABLE, name), f"proxy plugin {name!r}: sandbox controllers are known and not used yet")
            else:
                specs[name] = spec
    faults |= _rivals(specs)
    return Tables({name: spec for name, spec in specs.items() if name not in faults}, faults)


def conflict(spec: Spec, sources: Mapping[str, str]) -> str:
    """Why it cannot be beside the plugins in the daemon's process (``kind.id`` → where from); empty when it can."""
    if source := sources.get(spec.id):
        return spec.about(f"there is a plugin {spec.id} already ({source}): disabled_plugins can name it")
    stores = [name for name in sources if name.startswith(f"{plugin.CONTENT}.")]
    if spec.kind == plugin.CONTENT and stores:
        return spec.about(f"there is a content store already, {stores[0]}: disabled_plugins can name it")
    return ""


def lack(specs: Mapping[str, Spec], sources: Mapping[str, str]) -> str:
    """What the daemon could not start without; empty when all is there."""
    kinds = {spec.kind for spec in specs.values()} | {name.rpartition(".")[0] for name in sources}
    return "" if plugin.CONTENT in kinds else "there would be no content store"


def _rivals(specs: Mapping[str, Spec]) -> Mapping[str, str]:
    """Those that would start a second program at an address, or be a second content store."""
    faults: dict[str, str] = {}
    programs: dict[str, str] = {}
    stores: list[str] = []
    for name, spec in specs.items():
        if spec.table.command and (first := programs.setdefault(spec.table.address, name)) != name:
            faults[name] = spec.about(f"has the address of {first!r}, and both have a command: one program serves both")
        elif spec.kind == plugin.CONTENT:
            stores.append(name)
            if name != stores[0]:
                faults[name] = spec.about(f"is a second content store beside {stores[0]!r}: there can be one")
    return faults


def _spec(document: toml.Document, name: str, table: Any) -> Spec:
    where = (TABLE, name)

    def refuse(key: str, text: str) -> errors.InvalidArgument:
        return document.error((*where, key), f"proxy plugin {name!r} {text}")

    if not isinstance(table, dict):
        raise document.error(where, f"proxy plugin {name!r} must be a table")
    decoded = document.decode(ProxyPlugin, table, where)
    try:
        identifiers.validate(name)
    except errors.InvalidArgument as err:
        raise refuse("", f"has a name that cannot be used: {err.message}") from err
    types = [*TYPES, *TYPES.values()]
    if decoded.type not in types:
        raise refuse("type", f"has the unknown type {decoded.type!r}" + toml.nearest(decoded.type, types))
    _check_address(decoded, refuse)
    _check_tls(decoded, refuse)
    if decoded.platform:
        try:
            platforms.require_known(platforms.parse(decoded.platform))
        except errors.InvalidArgument as err:
            raise refuse("platform", f"has an unknown platform: {err.message}") from err
    if not all(decoded.command[:1]):
        raise refuse("command", "has an empty command")
    if root := decoded.exports.get("root"):
        _require_absolute(root, "exports", "a root", refuse)
    return Spec(name, TYPES.get(decoded.type, decoded.type), document.place(where).removesuffix(": "), decoded)


def _check_address(table: ProxyPlugin, refuse: Any) -> None:
    if not table.address:
        raise refuse("", "has no address")
    try:
        target, is_path = address_.split(table.address)
    except errors.InvalidArgument as err:
        raise refuse("address", f"has the {err.message}") from err
    host, _, port = target.rpartition(":")
    if is_path:
        _require_absolute(target, "address", "an address", refuse)
    elif not (host and port.isdigit() and int(port) < 65536):
        raise refuse("address", f"has the address {table.address!r}, which is neither an absolute path nor HOST:PORT")


def _check_tls(table: ProxyPlugin, refuse: Any) -> None:
    _, is_path = address_.split(table.address)
    given = [name for name in ("tls_ca", "tls_cert", "tls_key", "tls_name") if getattr(table, name)]
    if is_path and given:
        raise refuse(given[0], f"has {given[0]}, which goes with HOST:PORT and not with a socket")
    if not is_path and not table.tls_ca:
        raise refuse("address", "has an address of TCP, which needs TLS: set tls_ca")
    if bool(table.tls_cert) != bool(table.tls_key):
        raise refuse(given[0], "needs tls_cert and tls_key together")
    for name in given[:-1] if table.tls_name else given:
        _require_absolute(getattr(table, name), name, f"a file {name}", refuse)


def _require_absolute(path: str, key: str, what: str, refuse: Any) -> None:
    if not Path(path).is_absolute():
        raise refuse(key, f"has {what} that is not an absolute path: {path!r}")
