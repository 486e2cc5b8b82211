"""``sh scripts/bench bulkhead``: whether a plugin that never answers slows another plugin down.

Two daemons on the same configuration: beside overlayfs a snapshotter in a program of its own, which never answers
``remove`` nor ``cleanup``. In the one it is used: its graves are full, as many calls hang as it may have, and a client
goes on making and removing snapshots on it. A round prepares and removes 500 snapshots of overlayfs, in the one and in
the other in turn. The ratio is that of the medians of the rounds' 99th percentiles of ``prepare``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks import daemons, tables
from plugin_sdk import errors, serve, snapshot_store
from plugin_sdk.mounts import Mount
from plugin_sdk.scope import Scope
from plugin_sdk.snapshots import Kind
from plugin_sdk.wire import snapshots
from plugin_sdk.wire.http2 import client

CALLS = 500  # of one round
GRAVES = 200
HANGING = 32  # calls of clients at once; the daemon itself makes up to 16 of them at once
PAUSE = 0.1  # seconds between two snapshots that are made on the plugin that hangs
NAMESPACE = "default"
ROOT = Path(__file__).resolve().parents[1]

CONFIG = """
[proxy_plugins.stuck]
type = "snapshot"
address = "{directory}/stuck.sock"
command = ["env", "PYTHONPATH={root}", "{python}", "-m", "benchmarks.bulkhead", "--stuck", "{directory}/stuck"]
"""


class Stuck(snapshot_store.Snapshotter):
    """Directories; ``remove`` and ``cleanup`` never return."""

    def _make(self, folder: Path, kind: Kind, parents: Sequence[int]) -> None:
        (folder / "fs").mkdir()

    def _mounts(self, snapshot: snapshot_store.Snapshot) -> list[Mount]:
        return [Mount("bind", str(self.store.path(snapshot.id) / "fs"), "", ("rbind", "rw"))]

    def _tree(self, folder: Path) -> Path:
        return folder / "fs"

    def remove(self, key: str) -> None:
        threading.Event().wait()

    def cleanup(self) -> None:
        threading.Event().wait()


def proxy(address: str, name: str) -> snapshots.Proxy:
    return snapshots.Proxy(client.connect(address), Scope(NAMESPACE), name)


def use(address: str) -> None:
    """Fills the graves, lets calls hang, says so, and goes on making and removing snapshots until killed."""
    stuck = proxy(address, "stuck")
    for number in range(GRAVES):
        stuck.prepare(f"grave-{number}")
        stuck.remove(f"grave-{number}")
    for _ in range(HANGING):
        threading.Thread(target=hang, args=(stuck,), daemon=True).start()
    time.sleep(1)
    assert not ENDED
    print("hangs", flush=True)
    for number in range(10**9):
        with contextlib.suppress(errors.Unavailable):  # once so many calls have not been answered
            stuck.prepare(f"more-{number}")
            stuck.remove(f"more-{number}")
        time.sleep(PAUSE)


def hang(stuck: snapshots.Proxy) -> None:
    while True:
        with contextlib.suppress(errors.Error):
            stuck.cleanup()
        ENDED.append(time.monotonic())
        time.sleep(PAUSE)


ENDED: list[float] = []
"""When calls that should hang have ended."""


@contextmanager
def user(address: str) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.bulkhead", "--use", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"hangs\n":
                raise RuntimeError("the client of the plugin that hangs has ended")
            yield
            if process.poll() is not None:
                raise RuntimeError("the client of the plugin that hangs has ended meanwhile")
        finally:
            process.kill()


def a_round(overlayfs: snapshots.Proxy, number: int) -> float:
    """Milliseconds of the 99th percentile of ``prepare``."""
    times = []
    gc.collect()
    for key in (f"{number}-{call}" for call in range(CALLS)):
        begin = time.perf_counter()
        overlayfs.prepare(key)
        times.append(1000 * (time.perf_counter() - begin))
        overlayfs.remove(key)
    return sorted(times)[CALLS * 99 // 100]


def compare(pair: Sequence[daemons.Daemon], rounds: int) -> list[list[float]]:
    proxies = [proxy(daemon.address, "overlayfs") for daemon in pair]
    found: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            found[which].append(a_round(proxies[which], number))
    return [each[1:] for each in found]  # the first ones warm


def start(directory: Path) -> daemons.Daemon:
    directory.mkdir()
    config = directory / "plugins.toml"
    config.write_text(CONFIG.format(directory=directory, root=ROOT, python=sys.executable))
    return daemons.start_corten(directory, "--config", str(config))


def report(hung: Sequence[float], free: Sequence[float]) -> None:
    print(f"# The 99th percentile of overlayfs' prepare, of rounds of {CALLS} calls\n")
    print(f"- machine: {tables.machine()}")
    print(f"- beside it: {GRAVES} graves, {HANGING} calls that hang, and {1 / PAUSE:.0f} new snapshots a second\n")
    print("| the other plugin | rounds | median ms | least | most |\n|---|---|---|---|---|")
    for name, values in (("hangs", hung), ("is not used", free)):
        print(f"| {name} | {len(values)} | {median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")
    print()


def measure(rounds: int) -> None:
    with daemons.scratch() as directory:
        pair: list[daemons.Daemon] = []
        try:
            pair.append(start(directory / "h"))
            pair.append(start(directory / "f"))
            with user(pair[0].address):
                hung, free = compare(pair, rounds)
        finally:
            for daemon in pair:
                daemon.stop()
    report(hung, free)
    tables.ratio("bulkhead", hung, free)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--stuck", help=argparse.SUPPRESS)
    parser.add_argument("--use", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stuck:
        serve.main("stuck", snapshotter=lambda given: Stuck(given.root), arguments=["--root", options.stuck])
    elif options.use:
        use(options.use)
    else:
        measure(options.rounds)


if __name__ == "__main__":
    main()
