"""The connection to a proxy plugin: whether it may be used, and what is at its other end.

``connect`` answers a Link when a program answers there, Refused when what it finds is wrong and stays so until somebody
changes it, and Unavailable when nobody is there yet.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kernel.proxies.tables import Spec
from plugin_sdk import errors, handshake
from plugin_sdk.release import VERSION
from plugin_sdk.scope import Scope
from plugin_sdk.wire import address as address_
from plugin_sdk.wire import handshake as wire
from plugin_sdk.wire import rpc
from plugin_sdk.wire.http2 import client, frames

if TYPE_CHECKING:
    from cryptography import x509

NAMESPACE = "corten"
"""Of the calls that look whether a plugin is there; nothing is ever made in it."""

_TIMEOUT = 2.0  # seconds for the handshake


class Refused(errors.FailedPrecondition):
    """The plugin is not used, and trying again changes nothing by itself."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that listens at a socket: ``begun`` tells it from a later one of the same PID, in clock ticks after
    the boot ``boot``."""

    boot: str
    pid: int
    begun: int

    @property
    def lives(self) -> bool:
        return self.boot == boot_id() and _begun(self.pid) == self.begun


@dataclass(frozen=True, slots=True)
class Facts:
    """What is told of a plugin: what it says of itself, and of the rest what its table says. ``doubts`` are keys of the
    table that it contradicts, a sentence each."""

    version: str
    capabilities: Sequence[str]
    platforms: Sequence[str]
    exports: Mapping[str, str]
    doubts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """``peer`` is None where it cannot be told; ``said`` is the handshake, if there is one."""

    channel: rpc.Channel
    peer: Peer | None
    said: handshake.Description | None

    @property
    def instance(self) -> str:
        return self.said.instance if self.said is not None else ""


def connect(spec: Spec) -> Link:
    """Raises Refused or Unavailable; closes what it has opened."""
    if spec.socket:
        check_socket(spec.socket, spec.table.allow_others)
    peer = peer_of(spec.socket) if spec.socket else None
    channel = client.connect(spec.table.address, lease=False) if spec.socket else _connect_tls(spec)
    try:
        said = describe(channel, spec.name, _TIMEOUT)
        if said is not None:
            _check_described(spec, said)
        return Link(channel, peer, said)
    except BaseException:
        channel.close()
        raise


def _connect_tls(spec: Spec) -> rpc.Channel:
    from plugin_sdk.wire import transport  # imports grpc, which takes 70 ms and 20 MB

    ca, certificate, key = read_tls(spec)
    return transport.connect(
        spec.table.address, lease=False, tls=transport.Tls(ca, certificate, key, spec.table.tls_name)
    )


def describe(channel: rpc.Channel, name: str, timeout: float) -> handshake.Description | None:
    """None from a program that answers but has no handshake. Raises Unavailable and DeadlineExceeded."""
    scope = Scope(NAMESPACE, deadline=time.monotonic() + timeout)
    try:
        return wire.Proxy(channel, scope).describe(VERSION, name)
    except (errors.Unavailable, errors.DeadlineExceeded, errors.Canceled):
        raise
    except errors.Error:  # an answer all the same: mostly Unimplemented, or a complaint of a missing namespace
        return None


def _check_described(spec: Spec, said: handshake.Description) -> None:
    if not said.api.overlaps(handshake.API):
        raise Refused(f"it speaks versions {said.api} of the plugin API, and this daemon {handshake.API}")
    if spec.kind not in said.kinds:
        kinds = ", ".join(said.kinds) or "nothing"
        raise Refused(f"its table says type {spec.table.type!r}, and it serves {kinds}")


def facts(spec: Spec, said: handshake.Description | None) -> Facts:
    """What a program says is true; what only the table says is believed."""
    table = spec.table
    typed = [table.platform] if table.platform else []
    if said is None:
        return Facts("", sorted(table.capabilities), typed, dict(table.exports))
    doubts = []
    if table.capabilities and set(table.capabilities) != set(said.capabilities):
        doubts.append(_doubt("capabilities", sorted(table.capabilities), sorted(said.capabilities)))
    if typed and said.platforms and table.platform not in said.platforms:
        doubts.append(_doubt("platform", table.platform, ", ".join(said.platforms)))
    for name, value in table.exports.items():
        if said.exports.get(name, value) != value:
            doubts.append(_doubt(f"exports.{name}", value, said.exports[name]))
    exports = {**table.exports, **said.exports}
    return Facts(said.version, sorted(said.capabilities), list(said.platforms) or typed, exports, doubts)


def _doubt(key: str, typed: object, said: object) -> str:
    return f"its table says {key} = {typed!r}, the plugin itself {said!r}, which is used"


# --- sockets


def check_socket(path: str, allow_others: bool) -> None:
    """Raises Unavailable when there is none yet, Refused for anything else and for one that strangers may write to."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise errors.Unavailable(f'there is no socket "{path}" yet') from None
    except OSError as err:
        raise Refused(f'its address "{path}" cannot be used: {err.strerror}') from err
    if not stat.S_ISSOCK(status.st_mode):
        raise Refused(f'its address "{path}" is no socket')
    others = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != 0)
    if others and not allow_others and _within_reach(Path(path)):
        mode = stat.filemode(status.st_mode)
        raise Refused(f'others may write to its socket "{path}" ({mode}): change that, or set allow_others = true')
    if not allow_others and _may_be_replaced(Path(path), status.st_uid) and _within_reach(Path(path)):
        text = f'its socket "{path}" belongs to user {status.st_uid}, in a directory where anybody may put one'
        raise Refused(f"{text}: change that, or set allow_others = true")


def _may_be_replaced(path: Path, owner: int) -> bool:
    """Whether a stranger may have put the socket there: in a sticky directory it has its owner's name on it."""
    mode = path.parent.stat().st_mode
    return bool(mode & stat.S_IWOTH) and not (mode & stat.S_ISVTX and owner in (0, os.geteuid()))


def _within_reach(path: Path) -> bool:
    """Whether everybody may pass through the directories above."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)


def peer_of(path: str) -> Peer | None:
    """The process that listens (SO_PEERCRED of unix(7)). Raises Unavailable when nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_TIMEOUT)
        try:
            probe.connect(path)
        except OSError as err:
            reason = os.strerror(err.errno) if err.errno else str(err)
            raise errors.Unavailable(f'nobody answers at "{path}": {reason}') from err
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    begun = _begun(pid)
    return None if begun is None else Peer(boot_id(), pid, begun)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _begun(pid: int) -> int | None:
    """None when there is no such process; also for PID 0, which stands for one of another linux pid namespace."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


# --- TLS


def read_tls(spec: Spec) -> tuple[bytes, bytes, bytes]:
    """The files of the table, in PEM: CA, our certificate, its key. They must be valid now; then a connection is tried,
    since that tells what is wrong with the plugin's own certificate. Raises Refused or Unavailable."""
    table = spec.table
    ca = _read_certificates(table.tls_ca)
    certificate, key = b"", b""
    if table.tls_cert:
        certificate, key = _read_certificates(table.tls_cert), _read(table.tls_key)
    _try_tls(spec)
    return ca, certificate, key


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as err:
        raise Refused(f"{path} cannot be read: {err.strerror}") from err


def _read_certificates(path: str) -> bytes:
    from cryptography import x509

    data = _read(path)
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError as err:
        raise Refused(f"{path} holds no certificate in PEM") from err
    for certificate in found:
        _check_valid(path, certificate)
    return data


def _check_valid(path: str, certificate: x509.Certificate) -> None:
    now, begin, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise Refused(f"the certificate in {path} expired on {end:%Y-%m-%d %H:%M:%S} UTC")
    if now < begin:
        raise Refused(f"the certificate in {path} is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC")


def _try_tls(spec: Spec) -> None:
    import ssl

    table = spec.table
    target, _ = address_.split(table.address)
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    context = ssl.create_default_context(cafile=table.tls_ca)
    context.set_alpn_protocols(["h2"])
    try:
        if table.tls_cert:
            context.load_cert_chain(table.tls_cert, table.tls_key)
        with (
            socket.create_connection((host, int(port)), _TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=table.tls_name or host) as secured,
        ):
            _await_settings(secured)
    except ssl.SSLCertVerificationError as err:
        raise Refused(f'the certificate of "{target}" is refused: {err.verify_message}') from err
    except (ssl.SSLError, ConnectionResetError) as err:
        reason = getattr(err, "reason", None) or "it ends the connection, as for a certificate that it does not accept"
        raise Refused(f'TLS with "{target}" fails: {reason}') from err
    except OSError as err:
        raise errors.Unavailable(f'nobody answers at "{target}": {err.strerror or err}') from err


def _await_settings(secured: socket.socket) -> None:
    """In TLS 1.3 a server refuses our certificate after the handshake, by an alert, or just closes. Raises OSError."""
    secured.sendall(frames.PREFACE + frames.settings({}))
    if not secured.recv(1):
        raise ConnectionResetError
