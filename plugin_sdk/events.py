"""Events: what has happened, told to whoever listens.

A **topic** is ``/a/b`` of identifiers. An event is published after its change can be read, in the order of the
changes, once; nothing is replayed to later subscribers. Filters know namespace, topic and event.FIELD.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from plugin_sdk.runtime import Any


@dataclass(frozen=True, slots=True)
class Envelope:
    """``timestamp`` in nanoseconds since the epoch; ``event`` is a protobuf message as type URL and bytes."""

    timestamp: int
    namespace: str
    topic: str
    event: Any


class Subscription(Iterator[Envelope], Protocol):
    def close(self) -> None:
        """Ends the iteration, also one that waits in another thread."""
        ...


class Exchange(Protocol):
    def publish(self, topic: str, event: Any) -> None:
        """In the bound namespace, now. Raises InvalidArgument for a malformed topic."""
        ...

    def forward(self, envelope: Envelope) -> None:
        """As it is. Raises InvalidArgument without namespace, timestamp or valid topic."""
        ...

    def subscribe(self, filters: Sequence[str] = ()) -> Subscription:
        """From now on, of all namespaces, what one of the filters matches."""
        ...
