"""An implementation of a contract becomes a program: a proxy plugin of Corten, and of containerd.

A whole program::

    from plugin_sdk import serve
    from stars.snapshotter import Stars

    if __name__ == "__main__":
        serve.main("stars", snapshotter=lambda options: Stars(options.root), version="1.0")

which plugins.toml declares as::

    [proxy_plugins.stars]
    type = "snapshot"
    address = "/run/stars.sock"
    command = ["python3", "-m", "stars", "--address", "/run/stars.sock", "--root", "/var/lib/stars"]

``main`` is the command line, ``serve`` what it does then. The socket is its owner's alone, mode 0600: whoever calls a
plugin has its rights, and a TCP address therefore needs TLS with certificates on both sides. One program may serve
several contracts. Beside them it answers the handshake (``plugin_sdk.handshake``) and gRPC's health checks.

The contracts are served as they are. Each call runs in a thread, its deadline is known to ``wire`` alone, and errors
travel as ``plugin_sdk.errors``; what else is raised is a defect, logged with its traceback. Whom a call is for does
not matter to a snapshotter and a content store: their keys are unique, and containerd's own collector calls without a
namespace. A differ is given the content of the namespace for which it works.

SIGTERM and SIGINT end it: no call is taken any more, those that run have a moment to end, streams less, and then the
implementations are closed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from plugin_sdk import content as content_
from plugin_sdk import diff, errors, flags, handshake, lanes, logs, plugin, snapshots, systemd
from plugin_sdk.place import Place, Tls
from plugin_sdk.wire import address as address_
from plugin_sdk.wire import content as wire_content
from plugin_sdk.wire import diff as wire_diff
from plugin_sdk.wire import event_loop, health, rpc
from plugin_sdk.wire import handshake as wire_handshake
from plugin_sdk.wire import snapshots as wire_snapshots
from plugin_sdk.wire.http2.server import Server

CONTENT_ADDRESS = "/run/corten/corten.sock"
"""Where a differ finds content: the daemon."""

GRACE, STREAMS = 2.0, 0.5  # seconds that calls and streams have at the end; the daemon kills after five
THREADS, WAITING = 64, 4096  # the daemon calls each kind of plugin 16 times at once

_log = logging.getLogger("corten.serve")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says, for those who make the implementations.

    ``root`` is the directory of what the plugin keeps, ``content`` the address of the content that a differ uses,
    ``config`` an instance of the class that ``main`` was given, or None."""

    place: Place
    root: Path
    content: str
    config: Any


def main(
    name: str,
    *,
    snapshotter: Callable[[Options], snapshots.Snapshotter] | None = None,
    content: Callable[[Options], content_.Store] | None = None,
    differ: Callable[[Options], diff.Differ] | None = None,
    config: type | None = None,
    version: str = "",
    capabilities: Sequence[str] = (),
    platforms: Sequence[str] = (),
    exports: Mapping[str, str] | None = None,
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """The command line of the program ``name``; ends the process. The makers are called once, in the order of the
    parameters; one that cannot raises ``plugin.SkipPlugin``, one of ``plugin_sdk.errors`` or OSError.

    ``config`` is a dataclass of ``plugin.setting``, as in a Registration: each of its fields is a flag. The
    description is for the handshake; ``exports`` is the root directory if it is not given and there is a snapshotter:
    the daemon then refuses mounts outside of it. Exit codes: 0 after a signal, 1 when it cannot start, 2 for wrong
    use; then one sentence is on stderr."""
    options, level = _parse(name, version, config, arguments)
    logs.configure(level, stamped="CORTEN_PLUGIN_NAME" not in os.environ)
    if exports is None:
        exports = {"root": str(options.root)} if snapshotter else {}
    makers = {"snapshotter": snapshotter, "content": content, "differ": differ}
    said = handshake.Description(handshake.API, version, (), tuple(capabilities), tuple(platforms), exports)
    try:
        implementations = _made(options, {key: make for key, make in makers.items() if make is not None})
        serve(options.place, **implementations, description=said, content_address=options.content)
    except (plugin.SkipPlugin, errors.Error, OSError) as err:
        sys.exit(f"{name}: {_sentence(err)}")
    sys.exit(0)


def _made(options: Options, makers: Mapping[str, Callable[[Options], Any]]) -> dict[str, Any]:
    """All of them, or none is left open."""
    with contextlib.ExitStack() as unused:
        made = {}
        for key, make in makers.items():
            made[key] = make(options)
            unused.callback(_close, made[key])
        unused.pop_all()
    return made


def _sentence(err: Exception) -> str:
    if isinstance(err, OSError) and err.strerror:
        return f"{err.filename}: {err.strerror}" if err.filename else err.strerror
    return str(err)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser(name: str, version: str, config: type | None) -> _Parser:
    parser = _Parser(prog=name, allow_abbrev=False, description=f"Serves the plugin {name} for a container daemon.")
    environment = os.environ.get
    parser.add_argument(
        "--address",
        default=environment("CORTEN_PLUGIN_ADDRESS", ""),
        help="Path of the socket, or host:port; without it CORTEN_PLUGIN_ADDRESS, or what systemd hands over.",
    )
    parser.add_argument("--root", type=Path, default=Path("/var/lib", name), help="Directory of what is kept.")
    parser.add_argument(
        "--content",
        default=environment("CORTEN_CONTENT_ADDRESS") or CONTENT_ADDRESS,
        help="Where a differ finds content; without it CORTEN_CONTENT_ADDRESS, or the daemon's own socket.",
    )
    parser.add_argument(
        "--log-level", choices=logs.LEVELS, default="info", metavar="LEVEL", help=", ".join(logs.LEVELS)
    )
    for what in ("cert", "key", "ca"):
        parser.add_argument(f"--tls-{what}", default="", metavar="FILE", help="For a TCP address; PEM.")
    parser.add_argument("--version", action="version", version=f"{name} {version}".rstrip())
    if config is not None:
        flags.add(parser, config)
    return parser


def _parse(name: str, version: str, config: type | None, arguments: Sequence[str] | None) -> tuple[Options, str]:
    parser = _parser(name, version, config)
    given = parser.parse_args(arguments)
    try:
        place = Place(given.address, tls=_tls(given.tls_cert, given.tls_key, given.tls_ca))
        place.check()
        address_.split(given.content)
        settings = flags.made(config, given) if config is not None else None
    except errors.InvalidArgument as err:
        parser.error(err.message)
    if not (given.address or "LISTEN_FDS" in os.environ):
        parser.error("--address is missing: the path of the socket on which to serve")
    return Options(place, given.root.absolute(), given.content, settings), given.log_level


def _tls(*files: str) -> Tls | None:
    if not any(files):
        return None
    if not all(files):
        raise errors.InvalidArgument("--tls-cert, --tls-key and --tls-ca go together")
    return Tls(*files)


def serve(
    place: Place | str,
    *,
    snapshotter: snapshots.Snapshotter | None = None,
    content: content_.Store | None = None,
    differ: diff.Differ | None = None,
    description: handshake.Description | None = None,
    content_address: str = CONTENT_ADDRESS,
) -> None:
    """Serves until SIGTERM or SIGINT, in the main thread, and closes the implementations then, or when it fails.

    ``place`` may be an address alone. Of the ``description``, kinds and instance are filled in. A differ works on the
    content at ``content_address``. Raises InvalidArgument for a place that cannot be, FailedPrecondition when another
    server lives there or it cannot be used."""
    place = Place(place) if isinstance(place, str) else place
    with contextlib.ExitStack() as stack:
        for made in (differ, content, snapshotter):
            stack.callback(_close, made)
        place.check()
        served = []
        if snapshotter is not None:
            served.append(_Served(plugin.SNAPSHOTTER, wire_snapshots.Servicer(lambda call, name: snapshotter)))
        if content is not None:
            served.append(_Served(plugin.CONTENT, wire_content.Servicer(lambda call: content)))
        if differ is not None:
            found = stack.enter_context(_Content(content_address))
            served.append(_Served(plugin.DIFFER, wire_diff.Servicer(lambda call: (differ, found.of(call)))))
        event_loop.run(_run(place, served, description or handshake.Description()))


def _close(made: Any) -> None:
    """A contract need not have ``close``."""
    close = getattr(made, "close", None)
    if close is not None:
        close()


@dataclass(frozen=True, slots=True)
class _Served:
    kind: str
    servicer: rpc.Servicer


class _Content:
    """The content at an address, for one call at a time."""

    def __init__(self, address: str) -> None:
        from plugin_sdk.wire import transport  # imports grpc, which a program without a differ need not pay for

        self._channel = transport.connect(address, lease=False)

    def __enter__(self) -> _Content:
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()

    def of(self, call: rpc.Call) -> content_.Store:
        """The caller's namespace, deadline and end; never the lease, which only the daemon resolves."""
        return wire_content.Proxy(self._channel, call.scope)


async def _run(place: Place, served: Sequence[_Served], description: handshake.Description) -> None:
    stopped = _stop_on_signals()
    lane = lanes.Lane("calls", THREADS, WAITING)
    server = Server(lambda name: lane)
    for servicer in _servicers(served, description):
        server.mount(rpc.without_namespace(servicer))
    try:
        where = place.listen(server)
        await server.start()
        gc.freeze()
        systemd.notify("READY=1")
        _log.info("serves %s at %s", ", ".join(each.kind for each in served), where)
        await stopped.wait()
        systemd.notify("STOPPING=1")
        _log.info("stops")
    finally:
        await server.stop(GRACE, streams=STREAMS)
        lane.shutdown(cancel_futures=True)


def _stop_on_signals() -> asyncio.Event:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def _servicers(served: Sequence[_Served], said: handshake.Description) -> list[rpc.Servicer]:
    description = handshake.Description(
        said.api,
        said.version,
        tuple(each.kind for each in served),
        said.capabilities,
        said.platforms,
        said.exports,
        secrets.token_hex(8),
    )
    contracts = [each.servicer for each in served]
    known = [*contracts, wire_handshake.Servicer(description, _Askers().told)]
    return [*known, health.Servicer(servicer.service for servicer in known)]


class _Askers:
    """Daemons ask again and again whether the program is there; the log has each once."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str, handshake.Range]] = set()

    def told(self, name: str, version: str, speaks: handshake.Range) -> None:
        if (name, version, speaks) in self._known:
            return
        self._known.add((name, version, speaks))
        _log.info("used by Corten %s as %s", version, name)
        if not handshake.API.overlaps(speaks):
            _log.error("Corten %s speaks API %s, this program %s", version, speaks, handshake.API)
