"""The suite for transferrers on containerd 2.x, by our client half: that speaks to containerd too.

What fails is containerd's: it unpacks only into snapshotters that its configuration lists, does not see that a blob is
not that of its name, gives UNKNOWN for much, and tells no steps of an import but its end.
"""

from __future__ import annotations

import contextlib
import types
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import corten
from plugin_sdk import transfer
from plugin_sdk.conformance.transferring import TransferSuite
from plugin_sdk.daemon import View
from plugin_sdk.scope import Scope
from plugin_sdk.wire.http2 import client
from plugin_sdk.wire.transfer import Proxy
from tests.sides import Both

pytestmark = [pytest.mark.root, pytest.mark.peer]


def differs(check: Any) -> Any:
    """The check, marked for containerd alone."""
    copy = types.FunctionType(check.__code__, check.__globals__, check.__name__, check.__defaults__, check.__closure__)
    copy.__dict__.update(check.__dict__)
    return pytest.mark.xfail(strict=True, reason="containerd does otherwise")(copy)


class TestContainerd(TransferSuite):
    test_layers_are_unpacked_when_that_is_wanted = differs(TransferSuite.test_layers_are_unpacked_when_that_is_wanted)
    test_what_fails_leaves_nothing = differs(TransferSuite.test_what_fails_leaves_nothing)
    test_what_is_wrong_is_named = differs(TransferSuite.test_what_is_wrong_is_named)
    test_steps_are_told = differs(TransferSuite.test_steps_are_told)

    @pytest.fixture
    def namespace(self) -> str:
        return f"suite-{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def view(self, newest: Both, namespace: str) -> Iterator[View]:
        with corten.connect(newest.peer.daemon.address) as connection:
            yield connection.view(namespace)

    @pytest.fixture
    def transferrer(self, newest: Both, namespace: str) -> Iterator[transfer.Transferrer]:
        with contextlib.closing(client.connect(f"unix://{newest.peer.daemon.address}")) as channel:
            yield Proxy(channel, Scope(namespace))
