"""Transfers by the daemon's service, as clients ask for them, and what a failed one may leave.

with pulls.daemon(scratch / "own", 'min_rate = 1000000') as own:       # a Corten for one test, with that table
    with corten.connect(own.address, "default") as view:
        steps = pulls.pull(view, plain.reference("team/app:1"))        # the steps that were told
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import corten
from benchmarks import daemons
from plugin_sdk import platforms, snapshots, transfer
from plugin_sdk.wire import transfer as wire

AMD64, ARM64 = platforms.parse("linux/amd64"), platforms.parse("linux/arm64")
REFERS = re.compile(r"containerd\.io/gc\.ref\.").match
TABLE = '[plugins."io.containerd.transfer.v1.local"]'


def pull(
    view: corten.Client,
    reference: str,
    *,
    unpack: bool = True,
    snapshotter: str = "",
    platforms: Sequence[platforms.Platform] = (AMD64,),
    told: Callable[[transfer.Progress], None] = lambda step: None,
    ask: transfer.Ask | None = None,
    host_dir: Path | str = "",
    scheme: str = "",
    name: str = "",
) -> list[transfer.Progress]:
    """As ``ctr images pull`` does: one platform, with snapshots. ``told`` hears of each step at once."""
    registry = transfer.Registry(reference, host_dir=str(host_dir), scheme=scheme, ask=ask)
    unpacks = [transfer.Unpack(platform, snapshotter) for platform in platforms] if unpack else []
    store = transfer.ImageStore(name or reference, platforms=platforms, unpacks=unpacks)
    return _transfer(view, registry, store, told)


def push(
    view: corten.Client,
    name: str,
    reference: str,
    *,
    told: Callable[[transfer.Progress], None] = lambda step: None,
    ask: transfer.Ask | None = None,
    host_dir: Path | str = "",
    scheme: str = "",
) -> list[transfer.Progress]:
    """All platforms of the image ``name``."""
    registry = transfer.Registry(reference, host_dir=str(host_dir), scheme=scheme, ask=ask)
    return _transfer(view, transfer.ImageStore(name), registry, told)


def _transfer(
    view: corten.Client,
    source: transfer.Source,
    destination: transfer.Destination,
    told: Callable[[transfer.Progress], None],
) -> list[transfer.Progress]:
    steps: list[transfer.Progress] = []

    def tell(step: transfer.Progress) -> None:
        steps.append(step)
        told(step)

    wire.Proxy(view.channel, view.scope).transfer(source, destination, tell)
    return steps


@contextlib.contextmanager
def daemon(directory: Path, table: str = "", environment: Mapping[str, str] | None = None) -> Iterator[daemons.Daemon]:
    """Corten with ``table`` as its table of the transfer plugin. At its end there is no mount and no process of it."""
    directory.mkdir()
    config = directory / "config.toml"
    config.write_text(f"version = 3\n{TABLE}\n{table}\n")
    with mock.patch.dict(os.environ, environment or {}):
        made = daemons.start_corten(directory, "--config", str(config))
    try:
        yield made
        assert not daemons.mounts_below(directory)
    finally:
        made.stop()
    assert not made.leftovers()


class Running(threading.Thread):
    """A transfer in a thread of its own; ``join`` and look at ``failure``."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.work()
        except BaseException as err:  # noqa: BLE001 — for the thread that joins
            self.failure = err


def wait_until(condition: Callable[[], object], what: str, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"it never happens: {what}"
        time.sleep(0.01)


def remains(view: corten.Client) -> dict[str, list[str]]:
    """What a transfer that failed may not leave: records, leases, snapshots that are not committed, and blobs that
    refer to others. Layers, configs and committed snapshots that were whole before it failed are left for collection.
    """
    found = {
        "images": [image.name for image in view.images.list()],
        "leases": [lease.id for lease in view.leases.list()],
        "content": [info.digest for info in view.content.walk() if any(map(REFERS, info.labels))],
        "snapshots": [info.name for info in view.snapshotter().walk() if info.kind != snapshots.Kind.COMMITTED],
    }
    return {kind: names for kind, names in found.items() if names}
