"""A snapshotter of the daemon, and its snapshots' trees as folders of this machine."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from plugin_sdk import errors, mounts
from plugin_sdk.snapshots import Info, Kind, Usage
from plugin_sdk.wire.snapshots import Proxy

if TYPE_CHECKING:
    from corten.client import Client

__all__ = ["Info", "Kind", "Snapshotter", "Usage"]


class Snapshotter(Proxy):
    """A ``plugin_sdk.snapshots.Snapshotter``. Mounting needs root on the daemon's machine."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(client.channel, client.scope, name)
        self.name = name
        self._client = client

    def exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except errors.NotFound:
            return False
        return True

    @contextlib.contextmanager
    def mounted(self, key: str) -> Iterator[Path]:
        """The tree of an active snapshot or a view, at a new folder for as long as the context lasts."""
        with mounts.temporary(self.mounts(key)) as path:
            yield Path(path)

    @contextlib.contextmanager
    def read_only(self, name: str) -> Iterator[Path]:
        """The tree of a committed snapshot: in a view of it that goes with the context."""
        key = f"look-{secrets.token_hex(6)}"
        with self._client.leased() as client:
            storage = client.snapshotter(self.name)
            made = storage.view(key, name)
            try:
                with mounts.temporary(made) as path:
                    yield Path(path)
            finally:
                storage.remove(key)
