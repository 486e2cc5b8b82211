"""The hosts of one image in their order: who is asked first, when the next one is, and what is said in the end."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from plugin_sdk import errors
from plugin_sdk.distribution.http import exchanges, retries
from plugin_sdk.distribution.http.connections import Failed

_AVOIDED = 30.0  # seconds for which a host that could not be reached is asked last

_TELLING = (
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.ResourceExhausted,
    errors.DataLoss,
    errors.FailedPrecondition,
)

T = TypeVar("T")


class Health:
    """Which hosts could not be reached lately; for the whole process."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def report(self, name: str, failed: Failed | None) -> None:
        """How a request to a host ended, None for well."""
        if failed is None:
            self._until.pop(name, None)
        elif failed.kind is errors.Unavailable:
            self._until[name] = time.monotonic() + _AVOIDED

    def is_ill(self, name: str) -> bool:
        return self._until.get(name, 0.0) > time.monotonic()


class Hosts:
    """Of one image, which messages name. Hosts but the last one in line are given up after one retry."""

    def __init__(
        self, image: str, found: Sequence[exchanges.Exchange], patience: retries.Patience, health: Health
    ) -> None:
        self._image = image
        self._found = found
        self._patience = patience
        self._health = health
        self._served: dict[str, set[str]] = {}
        self._rejected: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def watched(self, look: Callable[[], None]) -> Hosts:
        """The same, with what is known of the hosts, for requests that ``look`` interrupts."""
        other = copy.copy(self)
        other._found = [host.watched(look) for host in self._found]
        return other

    def able(self, capability: str, what: str, digest: str = "") -> list[exchanges.Exchange]:
        """Those to ask, in order; hosts that have sent wrong bytes for ``digest``, or are not there, come last."""
        rejected = self._rejected.get(digest, set())
        found = self._capable(capability, what)
        return sorted(found, key=lambda host: (host.name in rejected, self._health.is_ill(host.name)))

    def _capable(self, capability: str, what: str) -> list[exchanges.Exchange]:
        found = [host for host in self._found if capability in host.host.capabilities]
        if not found:
            raise errors.FailedPrecondition(f"cannot {what} image {self._image}: none of its hosts may {capability}")
        return found

    def patience(self, is_last: bool) -> retries.Patience:
        return self._patience if is_last else replace(self._patience, retries=min(1, self._patience.retries))

    def ask(self, capability: str, what: str, step: Callable[[exchanges.Exchange], T], absent: int | None = None) -> T:
        """The first answer. ``what`` is a verb, or a verb and a thing with ``of``; ``absent`` is as in ``Patience``.
        Raises the error of all hosts."""
        failures: list[tuple[str, Failed]] = []
        line = self.able(capability, what)
        for host in line:
            try:
                return self._ask(host, replace(self.patience(host is line[-1]), absent=absent), step)
            except Failed as failed:
                failures.append((host.name, failed))
        raise self.error(what, failures)

    def ask_first(
        self,
        capability: str,
        what: str,
        step: Callable[[exchanges.Exchange], T],
        moved: Callable[[], int] = lambda: 0,
    ) -> T:
        """As ``ask``, but one host only: what changes a registry is not continued at another place."""
        host = self._capable(capability, what)[0]
        try:
            return self._patience.call(lambda: step(host), host.look, moved)
        except Failed as failed:
            raise self.error(what, [(host.name, failed)]) from failed

    def _ask(self, host: exchanges.Exchange, patience: retries.Patience, step: Callable[[exchanges.Exchange], T]) -> T:
        try:
            answer = patience.call(lambda: step(host), host.look)
        except Failed as failed:
            self._health.report(host.name, failed)
            raise
        self._health.report(host.name, None)
        return answer

    def report(self, name: str, failed: Failed | None) -> None:
        self._health.report(name, failed)

    def error(self, what: str, failures: Sequence[tuple[str, Failed]]) -> errors.Error:
        """Of the kind of the last host's failure, which is the registry itself unless it is ill; if that cannot be
        reached, of that of another host which tells more."""
        reasons = "; ".join(f"{name}: {failed.reason}" for name, failed in failures)
        last = failures[-1][1]
        telling = [failed for _, failed in failures if failed.kind in _TELLING]
        if last.kind is errors.Unavailable and telling:
            last = telling[-1]
        made = last.kind(f"cannot {what} image {self._image}: {reasons}")
        made.__cause__ = last
        return made

    # -- hosts that lie

    def served(self, digest: str, name: str) -> None:
        with self._lock:
            self._served.setdefault(digest, set()).add(name)

    def reject(self, digest: str) -> bool:
        """Those that have served ``digest`` since the last ``reject`` did it wrong. Answers whether others are left."""
        with self._lock:
            rejected = self._rejected.setdefault(digest, set())
            served = self._served.pop(digest, set())
            if served <= rejected:
                return False  # those that were left have not got it
            rejected |= served
            return any("pull" in host.host.capabilities and host.name not in rejected for host in self._found)

    def rejected(self, digest: str) -> list[str]:
        """The hosts that have served ``digest`` wrong."""
        with self._lock:
            return sorted(self._rejected.get(digest, ()))
