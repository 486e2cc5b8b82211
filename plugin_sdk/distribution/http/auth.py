"""Authentication at a registry's host: challenges, and the tokens that answer them.

A host answers 401 and says what it wants. Basic is answered by name and secret. Bearer names a token server, which
gives a token for a scope, to anybody or for credentials; tokens are kept until they expire, for the whole process.
Source: RFC 9110 section 11, RFC 6750, and "Token Authentication Specification" of Docker's registry.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlencode, urlsplit

from plugin_sdk import errors
from plugin_sdk.distribution.http import connections, hosts, statuses
from plugin_sdk.distribution.http.connections import Failed
from plugin_sdk.transfer import Credentials

_CLIENT = "corten"
_LEAST = 60  # seconds that a token is good for if its server does not say
_EARLY = 10  # seconds before its end at which a token is not used any more
_LONGEST = 1 << 20  # bytes of a token server's answer
_FIELD = re.compile(r'\s*(?:([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))\s*(?:,|$)|'
                    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s+|\s*,|$)|,)")  # fmt: skip

Find = Callable[[Sequence[str]], Credentials | None]
"""Answers credentials for the ``WWW-Authenticate`` headers of a host."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A challenge. ``scheme`` is in lower case; ``realm`` is the token server's URL if that is ``bearer``."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""
    error: str = ""


def challenges(headers: Sequence[str]) -> list[Wanted]:
    """Those of ``WWW-Authenticate`` headers, in order; what cannot be read ends a header."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        place = 0
        while place < len(header) and (match := _FIELD.match(header, place)) and match.end() > place:
            place = match.end()
            key, quoted, plain, scheme = match.groups()
            if scheme:
                found.append((scheme.lower(), {}))
            elif key and found:
                found[-1][1][key.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    known = ("realm", "service", "scope", "error")
    return [Wanted(scheme, **{key: values.get(key, "") for key in known}) for scheme, values in found]


def scope(path: str, *actions: str) -> str:
    return f"repository:{path}:{','.join(actions)}"


def basic(credentials: Credentials) -> str:
    """The header for name and secret."""
    pair = f"{credentials.username}:{credentials.secret}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def given(headers: Mapping[str, str]) -> Credentials | None:
    """Those of an ``Authorization`` among a caller's headers; name and secret of Basic can also buy a token."""
    header = next((value for name, value in headers.items() if name.lower() == "authorization"), "")
    if not header:
        return None
    scheme, _, value = header.partition(" ")
    try:
        name, colon, secret = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError:
        return Credentials(header=header)
    return Credentials(name, secret) if scheme.lower() == "basic" and colon else Credentials(header=header)


@dataclass(frozen=True, slots=True)
class _Key:
    wanted: Wanted
    scopes: tuple[str, ...]
    credentials: Credentials | None


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    token: str = field(default="", repr=False)
    until: float = 0.0


class Authority:
    """What is known of hosts' challenges, and the tokens; one for the process."""

    def __init__(self, made: connections.Connections) -> None:
        self._connections = made
        self._wanted: dict[str, tuple[Wanted, Sequence[str]]] = {}
        self._tokens: dict[_Key, _Entry] = {}
        self._lock = threading.Lock()

    def known(self, address: str) -> tuple[Wanted | None, Sequence[str]]:
        """What a host has wanted, and the headers in which it said so."""
        return self._wanted.get(address, (None, ()))

    def remember(self, address: str, wanted: Wanted, headers: Sequence[str]) -> None:
        self._wanted[address] = wanted, headers

    def token(self, key: _Key, tls: hosts.Tls, look: Callable[[], None]) -> tuple[str, bool]:
        """And whether it was fetched just now; of many threads that want the same one, one fetches it."""
        with self._lock:
            self._tokens = {at: entry for at, entry in self._tokens.items() if _in_use(entry) or at == key}
            entry = self._tokens.setdefault(key, _Entry())
        while not entry.lock.acquire(timeout=0.1):
            look()
        try:
            if time.monotonic() < entry.until:
                return entry.token, False
            entry.token, entry.until = _fetch(self._connections, key, tls, look)
            return entry.token, True
        finally:
            entry.lock.release()

    def drop(self, key: _Key, token: str) -> None:
        """A host does not take the token any more."""
        with self._lock:
            entry = self._tokens.get(key)
        if entry is not None and entry.token == token:
            entry.until = 0.0


def _in_use(entry: _Entry) -> bool:
    return entry.lock.locked() or time.monotonic() < entry.until


@dataclass(frozen=True, slots=True)
class Proof:
    """``header`` is the ``Authorization`` of a request; ``old`` is its token if that was not fetched just now."""

    header: str = field(default="", repr=False)
    old: str = field(default="", repr=False)


class Login:
    """Of one transfer at one host. ``find`` answers credentials for the host's challenge, asked once."""

    def __init__(
        self,
        authority: Authority,
        host: hosts.Host,
        secure: Callable[[], bool],
        find: Find,
    ) -> None:
        self._authority = authority
        self._host = host
        self._secure = secure
        self._find = find
        self._found: Credentials | None = None
        self._asked = False
        self._lock = threading.Lock()

    def proof(self, scopes: tuple[str, ...], look: Callable[[], None]) -> Proof:
        """For a request; empty as long as the host wants none. Raises Failed."""
        wanted, headers = self._authority.known(self._host.address)
        if wanted is None:
            return Proof()
        credentials = self._credentials(headers)
        if credentials is not None and credentials.header:
            return Proof(credentials.header)
        if wanted.scheme == "basic":
            return Proof() if credentials is None else Proof(basic(credentials))
        key = _Key(wanted, scopes, credentials)
        self._keep_safe(wanted, credentials)
        token, fresh = self._authority.token(key, self._host.tls, look)
        return Proof(f"Bearer {token}", token if not fresh else "")

    def _keep_safe(self, wanted: Wanted, credentials: Credentials | None) -> None:
        malformed = Failed("its token server's URL is malformed", errors.FailedPrecondition, again=False)
        try:
            realm = urlsplit(wanted.realm)
        except ValueError:
            raise malformed from None
        if realm.scheme not in ("http", "https"):
            raise malformed
        scheme, local = realm.scheme, hosts.is_local(realm.netloc)
        if credentials is not None and scheme == "http" and self._secure() and not local:
            reason = "it wants the credentials sent to a token server without TLS"
            raise Failed(reason, errors.FailedPrecondition, again=False)

    def _credentials(self, headers: Sequence[str]) -> Credentials | None:
        with self._lock:
            if not self._asked:
                self._found = self._find(headers)
                self._asked = True
            return self._found

    def refused(self, sent: Proof, headers: Sequence[str], scopes: tuple[str, ...]) -> None:
        """After a 401. Returns if the request can be tried once more, raises Failed if not."""
        wanted = next((one for one in challenges(headers) if one.scheme in ("bearer", "basic")), None)
        if wanted is None:
            raise Failed("it does not say how to authenticate", errors.Unauthenticated, again=False)
        before, _ = self._authority.known(self._host.address)
        known = Wanted(wanted.scheme, wanted.realm, wanted.service)
        self._authority.remember(self._host.address, known, headers)
        credentials = self._credentials(headers)
        if before != known or not sent.header:
            if wanted.scheme == "basic" and credentials is None:
                raise missing()
            return
        if sent.old:
            self._authority.drop(_Key(known, scopes, credentials), sent.old)
            return
        if credentials is None:
            raise missing()
        if wanted.error == "insufficient_scope":
            raise Failed("the credentials do not allow it", errors.PermissionDenied, again=False)
        raise Failed("it refuses the credentials", errors.Unauthenticated, again=False)


def missing() -> Failed:
    return Failed("it wants credentials, and there are none", errors.Unauthenticated, again=False)


# -- the token server ----------------------------------------------------------------------------------------------


def _fetch(made: connections.Connections, key: _Key, tls: hosts.Tls, look: Callable[[], None]) -> tuple[str, float]:
    """A token and when it expires on the monotonic clock."""
    began = time.monotonic()
    credentials = key.credentials
    if credentials is not None and credentials.refresh:
        answer = _post(made, key, tls, look, {"grant_type": "refresh_token", "refresh_token": credentials.refresh})
    else:
        answer = _get(made, key, tls, look)
        if answer.status in (404, 405) and credentials is not None:
            answer.close()
            form = {"grant_type": "password", "username": credentials.username, "password": credentials.secret}
            answer = _post(made, key, tls, look, form)
    return _read(answer, key, began)


def _get(made: connections.Connections, key: _Key, tls: hosts.Tls, look: Callable[[], None]) -> statuses.Answer:
    query = [("scope", scope) for scope in key.scopes]
    if key.wanted.service:
        query.insert(0, ("service", key.wanted.service))
    headers = {}
    if key.credentials is not None:
        query.append(("account", key.credentials.username))
        headers["Authorization"] = basic(key.credentials)
    joint = "&" if urlsplit(key.wanted.realm).query else "?"
    return made.send("GET", f"{key.wanted.realm}{joint}{urlencode(query)}", headers, tls, look)


def _post(
    made: connections.Connections, key: _Key, tls: hosts.Tls, look: Callable[[], None], form: dict[str, str]
) -> statuses.Answer:
    whole = {"client_id": _CLIENT, "service": key.wanted.service, "scope": " ".join(key.scopes), **form}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return made.send("POST", key.wanted.realm, headers, tls, look, urlencode(whole).encode())


def _read(answer: statuses.Answer, key: _Key, began: float) -> tuple[str, float]:
    if answer.status in (400, 401, 403):
        answer.close()
        if key.credentials is None:
            raise missing()
        raise Failed("its token server refuses the credentials", errors.Unauthenticated, again=False)
    if answer.status != 200:
        failed = statuses.failed(answer)
        raise Failed(f"its token server: {failed.reason}", failed.kind, failed.again, failed.after)
    try:
        found = json.loads(statuses.whole(answer, _LONGEST))
        token = str(found.get("token") or found["access_token"])
        seconds = float(found.get("expires_in") or _LEAST)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Failed("its token server does not answer a token", errors.Unavailable) from None
    return token, began + max(seconds - _EARLY, _EARLY) - _age(found.get("issued_at"))


def _age(issued: object) -> float:
    """Seconds since a token was made, by its server; 0 where the clocks differ or nothing is said."""
    try:
        then = datetime.fromisoformat(str(issued)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    age = time.time() - then
    return age if 0 < age < _LEAST else 0.0
