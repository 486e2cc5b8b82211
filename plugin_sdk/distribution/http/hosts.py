"""Which hosts serve a registry: folders of ``hosts.toml``, as containerd has them.

For the registry ``example.com:5000`` a folder holds ``example.com_5000_``, ``example.com:5000`` or ``_default``; the
first that exists is read. In it, ``hosts.toml``::

    server = "https://example.com:5000"         # the registry itself: tried last
    ca = "ca.pem"                               # keys at the top are the server's

    [host."https://mirror.example.com"]         # tried in the order of the file
    capabilities = ["pull", "resolve"]          # of pull, resolve, push, referrers; all if there is none
    client = [["client.cert", "client.key"]]    # a path, a list of paths, or of pairs
    skip_verify = false
    override_path = false                       # true: the URL's path is whole, no /v2 is added
    dial_timeout = "5s"
    header = { x-team = ["a", "b"] }

Without a ``hosts.toml`` the folder's ``*.crt`` are authorities, and a ``*.cert`` with its ``*.key`` a client's
certificate, as Docker has them. A relative path is one in the folder. A file that changed is read again.
"""

from __future__ import annotations

import ipaddress
import os
import posixpath
import re
import threading
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plugin_sdk import errors

CAPABILITIES = frozenset({"pull", "resolve", "push", "referrers"})
DOCKER_HUB = "registry-1.docker.io"

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files; of a client's pair the key is empty if it is in the certificate's file."""

    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """Where requests go: ``address`` is a name with its port if it has one, ``path`` precedes that of each request.

    ``schemes`` are tried in order until one is understood. ``origin`` is the registry itself; others are told which
    registry is meant. ``dial_timeout`` is in seconds, None for the default.
    """

    address: str
    schemes: tuple[str, ...] = ("https",)
    path: str = "/v2"
    capabilities: frozenset[str] = CAPABILITIES
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = ()
    dial_timeout: float | None = None
    origin: bool = True


def is_local(address: str) -> bool:
    """Whether a host, with or without port, is this machine by name."""
    name = (urlsplit(f"//{address}").hostname or "").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def default(registry: str, scheme: str = "") -> Host:
    """The registry itself, when no file says otherwise; ``scheme`` is what the caller wants."""
    if registry == "docker.io":
        return Host(DOCKER_HUB)
    if scheme:
        return Host(registry, (scheme,))
    if is_local(registry) and _port(registry) not in (None, 443):
        return Host(registry, ("http", "https"))
    return Host(registry)


def _port(address: str) -> int | None:
    try:
        return urlsplit(f"//{address}").port
    except ValueError:
        return None


class Folders:
    """Reads host files and keeps them until they change. Used by any number of threads."""

    def __init__(self) -> None:
        self._read: dict[tuple[Path, str, str], tuple[object, tuple[Host, ...]]] = {}
        self._lock = threading.Lock()

    def hosts(self, registry: str, folders: Sequence[str], scheme: str = "") -> tuple[Host, ...]:
        """In the order in which they are tried. Raises FailedPrecondition for a file that cannot be used."""
        folder = _folder(registry, folders)
        if folder is None:
            return (default(registry, scheme),)
        state = _state(folder)
        with self._lock:
            known = self._read.get((folder, registry, scheme))
        if known is None or known[0] != state:
            known = state, _load(folder, registry, scheme)
            with self._lock:
                self._read[folder, registry, scheme] = known
        return known[1]


def _folder(registry: str, folders: Sequence[str]) -> Path | None:
    name, colon, port = registry.rpartition(":")
    names = [f"{name}_{port}_"] if colon else []
    candidates = (Path(folder, entry) for folder in folders for entry in (*names, registry, "_default"))
    return next((folder for folder in candidates if folder.exists()), None)


def _state(folder: Path) -> object:
    """Differs when a file of the folder was changed."""
    try:
        return tuple(sorted(_stamp(entry) for entry in os.scandir(folder)))
    except OSError as err:
        raise _wrong(folder, err.strerror or str(err)) from err


def _stamp(entry: os.DirEntry[str]) -> tuple[str, int, int, int]:
    try:
        found = entry.stat()
    except OSError:  # a link to nothing, which whoever reads it reports
        return entry.name, 0, 0, 0
    return entry.name, found.st_mtime_ns, found.st_size, found.st_ino


def _wrong(file: Path, why: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(f"{file} cannot be used: {why}")


def _load(folder: Path, registry: str, scheme: str) -> tuple[Host, ...]:
    file = folder / "hosts.toml"
    try:
        text = file.read_bytes() if file.exists() else b""
    except OSError as err:
        raise _wrong(file, err.strerror or str(err)) from err
    if not text.strip():
        return (_ambiguous(replace(default(registry, scheme), tls=_certificates(folder))),)
    try:
        found = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise _wrong(file, str(err)) from err
    tables = _Table(file, "", found)
    hosts = [_host(table, url, registry) for url, table in tables.tables("host")]
    server = tables.text("server")
    last = _settings(tables, _located(tables, server, registry) if server else default(registry, scheme))
    if not server and any(_covers(host, last) for host in hosts):
        return tuple(map(_ambiguous, hosts))
    return tuple(map(_ambiguous, (*hosts, last)))


def _covers(host: Host, other: Host) -> bool:
    """Whether a table is that of the registry itself, which then need not be asked a second time without its keys."""
    return (host.address, host.path) == (other.address, other.path) and host.capabilities >= other.capabilities


def _certificates(folder: Path) -> Tls:
    names = sorted(entry.name for entry in os.scandir(folder))
    pairs = []
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix == ".cert":
            if f"{stem}.key" not in names:
                raise _wrong(folder / name, f"its key {stem}.key is missing")
            pairs.append((str(folder / name), str(folder / f"{stem}.key")))
    return Tls(tuple(str(folder / name) for name in names if name.endswith(".crt")), tuple(pairs))


def _ambiguous(host: Host) -> Host:
    """Plain http with TLS files at a port of its own: https if the host understands it, as containerd has it."""
    tls = host.tls.ca or host.tls.client or host.tls.skip_verify
    if "http" in host.schemes and tls and _port(host.address) not in (None, 80):
        return replace(host, schemes=("https", "http"))
    return host


def _host(table: _Table, url: str, registry: str) -> Host:
    return _settings(table, _located(table, url, registry))


def _located(table: _Table, url: str, registry: str) -> Host:
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        valid = parts.scheme in _DEFAULT_PORTS and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        raise table.wrong("server" if not table.name else "", "it is not the URL of a host") from None
    if not valid or parts.username is not None or parts.query:
        raise table.wrong("server" if not table.name else "", f"{parts.hostname or url!r} is not the URL of a host")
    path = posixpath.normpath(f"/{parts.path.lstrip('/')}").rstrip("/")
    if not path.endswith("/v2") and not table.truth("override_path"):
        path += "/v2"
    origin = parts.netloc == registry or (registry == "docker.io" and parts.netloc == DOCKER_HUB)
    return Host(parts.netloc, (parts.scheme,), path, origin=origin)


def _settings(table: _Table, host: Host) -> Host:
    named = frozenset(name.lower() for name in table.texts("capabilities"))
    for name in sorted(named - CAPABILITIES):
        raise table.wrong("capabilities", f"{name!r} is none of {', '.join(sorted(CAPABILITIES))}")
    return replace(
        host,
        capabilities=named or CAPABILITIES,
        tls=Tls(tuple(map(table.path, table.texts("ca"))), table.pairs("client"), table.truth("skip_verify")),
        headers=tuple(table.headers()),
        dial_timeout=table.seconds("dial_timeout"),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of a file, with its name for messages; "" is the top."""

    file: Path
    name: str
    values: Mapping[str, Any]

    def wrong(self, key: str, why: str) -> errors.FailedPrecondition:
        return _wrong(self.file, f"{'.'.join(part for part in (self.name, key) if part)}: {why}")

    def tables(self, key: str) -> list[tuple[str, _Table]]:
        found = self.values.get(key, {})
        if not isinstance(found, dict):
            raise self.wrong(key, "must be tables")
        for name, table in found.items():
            if not isinstance(table, dict):
                raise self.wrong(f'{key}."{name}"', "must be a table")
        return [(name, _Table(self.file, f'{key}."{name}"', table)) for name, table in found.items()]

    def text(self, key: str) -> str:
        value = self.values.get(key, "")
        if not isinstance(value, str):
            raise self.wrong(key, "must be a string")
        return value

    def truth(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be true or false")
        return value

    def texts(self, key: str) -> list[str]:
        value = self.values.get(key, [])
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise self.wrong(key, "must be a string or a list of strings")
        return found

    def path(self, name: str) -> str:
        return str(self.file.parent / name)

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        value = self.values.get(key, [])
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise self.wrong(key, "must be a path, a list of paths or a list of pairs")
        return tuple(self._pair(key, [item] if isinstance(item, str) else item) for item in items)

    def _pair(self, key: str, item: object) -> tuple[str, str]:
        if not isinstance(item, list) or not all(isinstance(part, str) for part in item) or not 1 <= len(item) <= 2:
            raise self.wrong(key, "must be a path, a list of paths or a list of pairs")
        return self.path(item[0]), self.path(item[1]) if len(item) == 2 and item[1] else ""

    def headers(self) -> list[tuple[str, str]]:
        found = self.values.get("header", {})
        if not isinstance(found, dict):
            raise self.wrong("header", "must be a table")
        table = _Table(self.file, f"{self.name}.header".lstrip("."), found)
        made = [(name, value) for name in found for value in table.texts(name)]
        for name, value in made:
            if re.search(r"[^!-~]|:", name) or re.search(r"[\r\n\0]", value):
                raise table.wrong(name, "is not a header")
        return made

    def seconds(self, key: str) -> float | None:
        value = self.text(key)
        if not value:
            return None
        spans = _SPAN.findall(value)
        if "".join(number + unit for number, unit in spans) != value:
            raise self.wrong(key, f'{value!r} is not a span of time such as "5s" or "1m30s"')
        return sum(float(number) * _UNITS[unit] for number, unit in spans)
