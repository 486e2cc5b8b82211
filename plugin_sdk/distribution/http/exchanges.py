"""Requests to one host on behalf of one transfer: its URL, headers, authentication and redirects."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlencode, urljoin, urlsplit

from plugin_sdk import errors, release
from plugin_sdk.distribution.http import auth, connections, hosts, statuses
from plugin_sdk.distribution.http.connections import Failed

_AGENT = f"corten/{release.VERSION}"
_REDIRECTS = 5
_KEPT = frozenset({"Accept", "Range", "User-Agent"})  # headers that another host than ours may see
_REFUSALS = 3  # a request without a token, one with an old token, one with a new one

Query = Sequence[tuple[str, str]]


class Schemes:
    """Which scheme an ambiguous host has turned out to speak; for the whole process."""

    def __init__(self) -> None:
        self._spoken: dict[str, str] = {}

    def likely(self, host: hosts.Host) -> tuple[str, ...]:
        """Those to try, in order."""
        spoken = self._spoken.get(host.address)
        return (spoken,) if spoken in host.schemes else host.schemes

    def remember(self, host: hosts.Host, scheme: str) -> None:
        if len(host.schemes) > 1:
            self._spoken[host.address] = scheme

    def forget(self, host: hosts.Host) -> None:
        """It did not understand: the next request tries all again."""
        self._spoken.pop(host.address, None)


class Exchange:
    """``headers`` are the caller's; ``registry`` is the reference's host, which hosts that stand in for it are told."""

    def __init__(
        self,
        host: hosts.Host,
        registry: str,
        headers: Mapping[str, str],
        made: connections.Connections,
        schemes: Schemes,
        login: auth.Login,
        look: Callable[[], None],
    ) -> None:
        self.host = host
        self.look = look
        self._registry = registry
        self._connections = made
        self._schemes = schemes
        self._headers = _merged({"User-Agent": _AGENT}, _of_table(host), _from_caller(host, headers))
        self._login = login

    @property
    def name(self) -> str:
        """For messages."""
        return self.host.address

    def watched(self, look: Callable[[], None]) -> Exchange:
        """The same, with its login, for requests that ``look`` interrupts."""
        other = copy.copy(self)
        other.look = look
        return other

    def url(self, path: str, query: Query = (), scheme: str = "") -> str:
        pairs = list(query) if self.host.origin else [*query, ("ns", self._registry)]
        end = f"?{urlencode(pairs)}" if pairs else ""
        return f"{scheme or self._schemes.likely(self.host)[0]}://{self.host.address}{self.host.path}{path}{end}"

    def send(
        self,
        method: str,
        path: str,
        scopes: tuple[str, ...],
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> statuses.Answer:
        """The answer of the host, or of where it redirects a GET or HEAD. Raises Failed, also for the status 401.

        An ambiguous host that does not understand one scheme, or answers 400, is tried with the other one.
        """
        failures: list[Failed] = []
        doubtful: statuses.Answer | None = None
        for scheme in self._schemes.likely(self.host):
            try:
                answer = self.send_to(method, self.url(path, query, scheme), scopes, headers or {}, body)
            except connections.NotUnderstood as err:
                failures.append(err)
                continue
            if answer.status != 400:
                self._schemes.remember(self.host, scheme)
                if doubtful is not None:
                    doubtful.close()
                return answer
            doubtful = answer
        self._schemes.forget(self.host)
        if doubtful is None:
            raise failures[0]
        return doubtful

    def send_to(
        self,
        method: str,
        url: str,
        scopes: tuple[str, ...],
        headers: Mapping[str, str],
        body: connections.Body | Callable[[], connections.Body] = None,
        timeout: float = 0.0,
    ) -> statuses.Answer:
        """To a URL of this host; one of another host, which the registry has named, gets no credentials.

        ``body`` as a function makes it again for each attempt; ``timeout`` 0 is that of the connections.
        """

        def sent(all_headers: Mapping[str, str]) -> statuses.Answer:
            return self._follow(method, url, all_headers, body() if callable(body) else body, timeout)

        if not self._ours(url):
            return sent(_merged(headers, {"User-Agent": _AGENT}))
        for _ in range(_REFUSALS):
            proof = self._login.proof(scopes, self.look)
            own = {"Authorization": proof.header} if proof.header else {}
            answer = sent(_merged(self._headers, headers, own))
            if answer.status != 401:
                return answer
            challenges = answer.headers.getlist("WWW-Authenticate")
            discard(answer)
            self._login.refused(proof, challenges, scopes)
        raise Failed("it refuses the credentials", errors.Unauthenticated, again=False)

    def _ours(self, url: str) -> bool:
        return _server(url) == _server(f"{urlsplit(url).scheme}://{self.host.address}")

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], body: connections.Body, timeout: float
    ) -> statuses.Answer:
        for _ in range(_REDIRECTS + 1):
            tls = self.host.tls if self._ours(url) else hosts.Tls(self.host.tls.ca, (), self.host.tls.skip_verify)
            dial = self.host.dial_timeout
            answer = self._connections.send(method, url, headers, tls, self.look, body, dial, timeout)
            target = answer.headers.get("Location")
            if method not in ("GET", "HEAD") or answer.status not in (301, 302, 303, 307, 308) or not target:
                return answer
            discard(answer)
            target = _target(url, target)
            if _server(target) != _server(url):
                headers = {name: value for name, value in headers.items() if name in _KEPT}
            url = target
        raise Failed(f"it redirects more than {_REDIRECTS} times", errors.FailedPrecondition, again=False)


def _of_table(host: hosts.Host) -> dict[str, str]:
    made: dict[str, str] = {}
    for name, value in host.headers:
        made[name] = f"{made[name]}, {value}" if name in made else value
    return made


def _from_caller(host: hosts.Host, headers: Mapping[str, str]) -> dict[str, str]:
    """The caller's credentials are for the registry itself."""
    return {name: value for name, value in headers.items() if host.origin or name.lower() != "authorization"}


def _merged(*layers: Mapping[str, str]) -> dict[str, str]:
    """Later ones replace earlier ones; names are written in one way."""
    return {name.title(): value for layer in layers for name, value in layer.items()}


def _server(url: str) -> tuple[str | None, int]:
    """Name and port, which is that of the scheme where the URL has none."""
    parts = urlsplit(url)
    return parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)


def joined(url: str, location: str) -> str:
    """Raises Failed for what is no URL; its text is not told, since it may be signed."""
    try:
        target = urljoin(url, location)
        _server(target)
    except ValueError:
        raise Failed("it names a malformed URL", errors.FailedPrecondition, again=False) from None
    return target


def _target(url: str, location: str) -> str:
    target = joined(url, location)
    scheme = urlsplit(target).scheme
    if scheme != "https" and scheme != urlsplit(url).scheme:
        raise Failed(f"it redirects to another scheme ({scheme})", errors.FailedPrecondition, again=False)
    return target


def discard(answer: statuses.Answer) -> None:
    """Reads what little there is left, so that the connection can be used again, or closes it."""
    with contextlib.suppress(Failed):
        statuses.whole(answer, 64 << 10)
