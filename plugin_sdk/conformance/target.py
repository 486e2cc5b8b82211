"""Whom ``plugin_sdk.conformance.checking`` checks, and the connections to it: no call waits for ever."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from google.protobuf.message import Message

from plugin_sdk import errors
from plugin_sdk.scope import Scope
from plugin_sdk.wire import address as address_
from plugin_sdk.wire import transport

if TYPE_CHECKING:
    from plugin_sdk.wire import rpc


@dataclass(frozen=True, slots=True)
class Target:
    """A program that serves ``types``, keys of ``asking.TYPES``.

    ``name`` is what the calls give as the snapshotter's name. ``content`` is the address of the content store that a
    differ reads, empty for the program's own. A call that takes longer than ``timeout`` seconds fails. ``tls`` is for
    TCP addresses.
    """

    address: str
    types: tuple[str, ...] = ()
    name: str = "corten-check"
    namespace: str = "corten-check"
    content: str = ""
    timeout: float = 60.0
    tls: transport.Tls | None = None

    @property
    def scope(self) -> Scope:
        return Scope(self.namespace)

    def connect(self, address: str) -> rpc.Channel:
        tls = None if address_.split(address)[1] else self.tls
        return _Patient(address, transport.connect(address, lease=False, tls=tls), self.timeout)


class _Patient:
    """A channel whose calls have a deadline, streams as a whole."""

    def __init__(self, address: str, channel: rpc.Channel, timeout: float) -> None:
        self._address = address
        self._channel = channel
        self._timeout = timeout

    def unary(self, service: str, method: rpc.Method, request: Message, scope: Scope) -> Message:
        with scope.within(self._timeout) as bounded:
            try:
                return self._channel.unary(service, method, request, bounded)
            except errors.DeadlineExceeded as err:
                raise errors.DeadlineExceeded(
                    f'"{self._address}" has not answered {method.name} within {self._timeout:g} s'
                ) from err

    def stream(
        self, service: str, method: rpc.Method, requests: Iterable[Message], scope: Scope
    ) -> rpc.Stream[Message]:
        with scope.within(self._timeout) as bounded:
            return self._channel.stream(service, method, requests, bounded)

    def close(self) -> None:
        self._channel.close()


TARGET = pytest.StashKey[Target]()
