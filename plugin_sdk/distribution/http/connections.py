"""Connections to hosts: pools, TLS, proxies, and what can go wrong on the way, as one sentence each."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from plugin_sdk import errors
from plugin_sdk.distribution.http import hosts, waiting

_PER_HOST = 16  # connections kept; more are made when needed, and closed afterwards
_HOSTS = 64

logging.getLogger("urllib3").setLevel(logging.WARNING)  # below, it tells URLs, of which some are signed

Body = bytes | Iterable[bytes] | None
TROUBLE = (exceptions.HTTPError, OSError)
"""What reading an answer raises, for ``failure``."""


class Failed(Exception):
    """A request that came to nothing: the reason, as it follows a host's name; ``kind`` is what it means for the
    caller, ``again`` whether the same request may succeed soon, ``after`` how many seconds the host wants us to wait,
    ``code`` what the specification calls it, ``absent`` whether there was nobody to ask.
    """

    def __init__(
        self,
        reason: str,
        kind: type[errors.Error] = errors.Unavailable,
        again: bool = True,
        after: float | None = None,
        code: str = "",
        absent: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.again = again
        self.after = after
        self.code = code
        self.absent = absent


class NotUnderstood(Failed):
    """Perhaps the host does not speak TLS, or speaks nothing else."""


class _Connection(HTTPConnection):
    def _new_conn(self) -> Any:
        return _connected(self)


class _SecureConnection(HTTPSConnection):
    def _new_conn(self) -> Any:
        return _connected(self)

    def connect(self) -> None:
        super().connect()
        self.is_verified = True  # or else ``skip_verify`` was set: no warning


def _connected(by: HTTPConnection) -> Any:
    try:
        return waiting.connect(by._dns_host, by.port, by.timeout, by.socket_options)
    except UnicodeError as err:
        raise exceptions.LocationParseError(by.host) from err
    except socket.gaierror as err:
        raise exceptions.NameResolutionError(by.host, by, err) from err
    except TimeoutError as err:
        raise exceptions.ConnectTimeoutError(by, "timed out") from err
    except OSError as err:
        raise exceptions.NewConnectionError(by, err.strerror or str(err)) from err


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class Connections:
    """Used by any number of threads. ``timeout`` is how many seconds a host may be silent, ``dial_timeout`` how many a
    connection may take to be made."""

    def __init__(self, timeout: float, dial_timeout: float) -> None:
        self._timeout = timeout
        self._dial_timeout = dial_timeout
        self._proxies = {
            scheme: url if "://" in url or scheme == "no" else f"http://{url}"
            for scheme, url in urllib.request.getproxies_environment().items()
        }
        self._managers: dict[tuple[str, hosts.Tls | None], tuple[object, urllib3.PoolManager]] = {}
        self._lock = threading.Lock()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        tls: hosts.Tls,
        look: Callable[[], None],
        body: Body = None,
        dial_timeout: float | None = None,
        timeout: float = 0.0,
    ) -> urllib3.BaseHTTPResponse:
        """The answer, its body unread; redirects are answers. Raises Failed, or what ``look`` raises."""
        try:
            manager = self._manager(url, tls)
            limits = urllib3.Timeout(connect=dial_timeout or self._dial_timeout, read=timeout or self._timeout)
            with waiting.looking(self._until_answered(look) if body is None and not timeout else look):
                return manager.request(
                    method,
                    url,
                    headers=headers,
                    body=body,
                    timeout=limits,
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                )
        except (exceptions.HTTPError, OSError, ValueError) as err:
            raise failure(err) from None  # its text may have the query of a signed URL

    def _until_answered(self, look: Callable[[], None]) -> Callable[[], None]:
        """A host that says its headers letter by letter is as good as silent."""
        end = time.monotonic() + 2 * self._timeout + self._dial_timeout

        def looked() -> None:
            look()
            if time.monotonic() > end:
                raise TimeoutError("no answer")

        return looked

    def close(self) -> None:
        with self._lock:
            managers = list(self._managers.values())
            self._managers.clear()
        for _, manager in managers:
            manager.clear()

    def _manager(self, url: str, tls: hosts.Tls) -> urllib3.PoolManager:
        """One for all hosts with the same TLS files; another one when those have changed."""
        wanted = tls if url.startswith("https:") else None
        key, stamps = (self._proxy(url), wanted), _stamps(wanted)
        with self._lock:
            before, found = self._managers.get(key, (None, None))
            if found is not None and before == stamps:
                return found
            made = _made(*key)
            self._managers[key] = stamps, made
        if found is not None:
            found.clear()
        return made

    def _proxy(self, url: str) -> str:
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme) or self._proxies.get("all", "")
        if not proxy or hosts.is_local(parts.netloc) or self._spared(parts.hostname or "", parts.netloc):
            return ""
        return proxy

    def _spared(self, name: str, address: str) -> bool:
        """As ``NO_PROXY`` says: names, domains, addresses and networks."""
        if urllib.request.proxy_bypass_environment(address, self._proxies):  # type: ignore[attr-defined]
            return True
        try:
            own = ipaddress.ip_address(name)
        except ValueError:
            return False
        return any(own in network for network in _networks(self._proxies.get("no", "")))


def _networks(text: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = []
    for part in text.split(","):
        try:
            found.append(ipaddress.ip_network(part.strip(), strict=False))
        except ValueError:
            continue
    return found


def _made(proxy: str, tls: hosts.Tls | None) -> urllib3.PoolManager:
    """Without ``tls`` for plain HTTP: to read all authorities costs some time."""
    options: dict[str, Any] = {"maxsize": _PER_HOST}
    if tls is not None:
        options["ssl_context"] = _context(tls)
    made = _proxied(proxy, options) if proxy else urllib3.PoolManager(_HOSTS, **options)
    made.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return made


def _proxied(proxy: str, options: dict[str, Any]) -> urllib3.PoolManager:
    parts = urlsplit(proxy)
    headers = None
    if parts.username:
        headers = urllib3.make_headers(proxy_basic_auth=f"{parts.username}:{parts.password or ''}")
    return urllib3.ProxyManager(proxy, _HOSTS, proxy_headers=headers, **options)


def _stamps(tls: hosts.Tls | None) -> tuple[object, ...]:
    if tls is None:
        return ()
    names = [*tls.ca, *(name for pair in tls.client for name in pair if name)]
    return tuple(_stamp(name) for name in names)


def _stamp(name: str) -> object:
    try:
        found = os.stat(name)
    except OSError as err:
        raise Failed(f"{name} cannot be read: {err.strerror}", errors.FailedPrecondition, False) from err
    return found.st_mtime_ns, found.st_size, found.st_ino


def _context(tls: hosts.Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.sslsocket_class = waiting.Secure
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for name in tls.ca:
        with _named(name, "no certificate in PEM"):
            context.load_verify_locations(name)
    for certificate, key in tls.client:
        with _named(certificate, "no certificate in PEM with its key, unencrypted"):
            context.load_cert_chain(certificate, key or None, password="")
    return context


@contextlib.contextmanager
def _named(file: str, why: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as err:
        raise Failed(f"{file} is {why}", errors.FailedPrecondition, False) from err


# -- reasons -------------------------------------------------------------------------------------------------------


def failure(err: BaseException) -> Failed:
    """What an exception of the HTTP library means."""
    if isinstance(err, exceptions.ProxyError):
        return Failed(f"the proxy cannot be used: {failure(err.original_error).reason}")
    if isinstance(err, exceptions.NameResolutionError):
        return Failed("its name cannot be resolved", absent=True)
    if isinstance(err, exceptions.NewConnectionError):
        return Failed(f"no connection can be made: {str(err).rpartition(': ')[2]}", absent=True)
    if isinstance(err, exceptions.ConnectTimeoutError):
        return Failed("no connection is made in time")
    if isinstance(err, exceptions.ReadTimeoutError | TimeoutError):
        return Failed("it does not answer in time")
    if isinstance(err, exceptions.SSLError | ssl.SSLError):
        return _tls(err)
    if isinstance(err, exceptions.LocationParseError | exceptions.LocationValueError | ValueError):
        return Failed("its URL or a header for it is malformed", errors.InvalidArgument, False)
    return _protocol(err)


def _protocol(err: BaseException) -> Failed:
    text = str(err)
    if "BadStatusLine" in text or "Remote end closed" in text:
        return NotUnderstood("it has closed the connection without an answer")
    return NotUnderstood("the connection was cut")


_TLS = {
    "certificate has expired": "its certificate has expired",
    "CERTIFICATE_REQUIRED": "it wants a client's certificate",
    "certificate required": "it wants a client's certificate",
    "Hostname mismatch": "its certificate is for another name",
    "IP address mismatch": "its certificate is for another name",
    "certificate is not valid for": "its certificate is for another name",
    "unable to get local issuer": "its certificate is not signed by a known authority",
    "self-signed certificate": "its certificate is not signed by a known authority",
    "self signed certificate": "its certificate is not signed by a known authority",
    "CERTIFICATE_VERIFY_FAILED": "its certificate cannot be verified",
}


def _tls(err: BaseException) -> Failed:
    text = str(err)
    for sign, reason in _TLS.items():
        if sign in text:
            return Failed(reason, again=False)
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text or "HTTP_REQUEST" in text:
        return NotUnderstood("it does not speak TLS", again=False)
    if "EOF" in text:
        return NotUnderstood("it has closed the connection without an answer")
    if "ALERT" in text or "alert" in text:
        return Failed("it refuses the TLS connection", again=False)
    return Failed("the connection was cut")
