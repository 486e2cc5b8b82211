"""Transfers: by the daemon where it can, else here, with the daemon's other services.

containerd has its Transfer service since 1.7, and that of 1.7 leaves out how a registry is to be spoken to. Where it
does not do, the same engine that Corten's daemon has works in this process: registries are spoken to from here, with
this machine's configuration and credentials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from plugin_sdk import errors, transfer
from plugin_sdk.transfer import Ask, Challenge, Credentials, Destination, Progress, Registry, Report, Source

if TYPE_CHECKING:
    from corten.client import Client

__all__ = ["Challenge", "Credentials", "Progress", "Registry", "RegistryOptions", "Transfers"]

SERVICE = "containerd.services.transfer.v1.Transfer"
_FIRST = "1.7."  # of containerd, the first with Transfer; it knows neither host_dir nor scheme
STREAMING = "containerd.services.streaming.v1.Streaming"


class RegistryOptions(TypedDict, total=False):
    """How a registry is spoken to.

    credentials: for the registry's hosts, or what is asked for them at a challenge
    headers: sent with each request
    host_dir: a folder of hosts.toml files, used instead of the daemon's own
    plain_http: whether hosts that no file describes speak HTTP without TLS
    """

    credentials: Credentials | Ask | None
    headers: Mapping[str, str]
    host_dir: str
    plain_http: bool


def registry(reference: str | Registry, options: RegistryOptions) -> Registry:
    if isinstance(reference, Registry):
        return reference
    return Registry(
        reference,
        options.get("headers", {}),
        options.get("host_dir", ""),
        "http" if options.get("plain_http") else "",
        _ask(options.get("credentials")),
    )


def _ask(given: Credentials | Ask | None) -> Ask | None:
    return (lambda challenge: given) if isinstance(given, Credentials) else given


class Transfers(transfer.Transferrer):
    """A ``plugin_sdk.transfer.Transferrer``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def transfer(self, source: Source, destination: Destination, progress: Report | None = None) -> Sequence[str]:
        """As the contract says. ``progress`` is called in threads of the client's."""
        from plugin_sdk.wire.transfer import Proxy

        if self._client.lacks(SERVICE) or self._is_too_much(source, destination):
            return self._here(source, destination, progress)
        try:
            return Proxy(self._client.channel, self._client.scope).transfer(source, destination, progress)
        except errors.Unimplemented as err:
            if not any(service in err.message for service in (SERVICE, STREAMING)):
                raise
            self._client.note_lack(SERVICE)
        return self._here(source, destination, progress)

    def _is_too_much(self, source: Source, destination: Destination) -> bool:
        """Whether the daemon's Transfer would not see to all that is asked."""
        ends = [end for end in (source, destination) if isinstance(end, Registry)]
        return any(end.host_dir or end.scheme for end in ends) and self._client.version().version.startswith(_FIRST)

    def _here(self, source: Source, destination: Destination, progress: Report | None) -> Sequence[str]:
        from plugin_sdk.distribution import engine

        scope = self._client.scope
        here = engine.Engine(
            self._client, scope.namespace, scope.lease, self._client.registries(), check=self._client.check()
        )
        return here.transfer(source, destination, progress)
