"""One transfer: for whom it works, and what it holds meanwhile."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from plugin_sdk import daemon as offered
from plugin_sdk import errors, leases, transfer

_KEPT = timedelta(days=1)  # what a transfer that died leaves, ingests above all, so that the next one goes on there


def _always() -> None:
    """Nobody goes away."""


@dataclass(frozen=True, slots=True)
class Job:
    """``check`` raises Canceled or DeadlineExceeded when nobody waits for it any more; it is called often, from any
    thread."""

    daemon: offered.Daemon
    namespace: str
    lease: str | None = None
    progress: transfer.Report | None = None
    check: Callable[[], None] = _always
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, step: transfer.Progress) -> None:
        """Reports a step, one at a time."""
        if self.progress is not None:
            with self._telling:
                self.progress(step)

    @contextlib.contextmanager
    def leased(self) -> Iterator[offered.View]:
        """A view under the caller's lease, or one of our own that ends with the context."""
        if self.lease is not None:
            yield self.daemon.view(self.namespace, self.lease)
            return
        with self.own() as view:
            yield view

    @contextlib.contextmanager
    def own(self) -> Iterator[offered.View]:
        """A view under a lease that ends with the context, whatever lease the caller has."""
        manager = self.daemon.view(self.namespace).leases
        lease = f"transfer-{time.time_ns()}-{secrets.token_hex(4)}"
        expires = (datetime.now(UTC) + _KEPT).isoformat(timespec="seconds")
        manager.create(lease, {leases.EXPIRE_LABEL: expires})
        try:
            yield self.daemon.view(self.namespace, lease)
        finally:
            with contextlib.suppress(errors.NotFound):
                manager.delete(lease)
