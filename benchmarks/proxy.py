"""``sh scripts/bench proxy``: what a snapshotter in a program of its own costs, under Corten and under containerd.

The same program, ``python -m proxy_plugins.btrfs``, one of it for each daemon, and beside it a snapshotter in the
daemon's own process: Corten's is the same class, registered through an entry point, containerd's its own ``btrfs``. All
of their subvolumes are on one btrfs in memory; the databases of both daemons are on one ext4 on a loop device, where an
fsync has its price. A round prepares a snapshot on a parent, commits it and removes it. The four take turns of forty
rounds, by the same client, in an order that changes, so that a daemon is in its own way and in nobody else's: what was
removed is removed from disk meanwhile, by Corten soon, by containerd when it collects, as it does by default after each
hundred changes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import daemons, tables
from plugin_sdk.mounts import Mount, mount
from plugin_sdk.scope import Scope
from plugin_sdk.wire import snapshots
from plugin_sdk.wire.http2 import client

STEPS = ("prepare", "commit", "remove")
NAMESPACE = "default"
KEPT: Mapping[str, str] = {"containerd.io/gc.root": "benchmark"}
PROXIED, OWN = "proxied", "btrfs"
WARMING, TURN = 20, 40  # rounds
MODULE = "proxy_plugins.btrfs.plugin"

CORTEN = """
[proxy_plugins.{name}]
type = "snapshot"
address = "{address}"
"""
CONTAINERD = """
[proxy_plugins.{name}]
  type = "snapshot"
  address = "{address}"
[plugins."io.containerd.snapshotter.v1.btrfs"]
  root_path = "{own}"
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """One snapshotter of one daemon. ``times`` are milliseconds of each step."""

    daemon: str
    snapshotter: str
    proxy: snapshots.Proxy
    times: dict[str, list[float]]

    @property
    def totals(self) -> list[float]:
        return [sum(steps) for steps in zip(*(self.times[step] for step in STEPS), strict=True)]

    def step(self, name: str, call: Callable[[], object]) -> None:
        begin = time.perf_counter()
        call()
        self.times[name].append(1000 * (time.perf_counter() - begin))

    def round(self, number: int) -> None:
        key, name = f"active-{number}", f"layer-{number}"
        self.step("prepare", lambda: self.proxy.prepare(key, "base", KEPT))
        self.step("commit", lambda: self.proxy.commit(name, key, KEPT))
        self.step("remove", lambda: self.proxy.remove(name))

    def begin(self) -> None:
        """The parent of all, and the first rounds, which warm."""
        self.proxy.prepare("making-base", "", KEPT)
        self.proxy.commit("base", "making-base", KEPT)
        for number in range(-WARMING, 0):
            self.round(number)
        for times in self.times.values():
            times.clear()


@contextmanager
def btrfs(directory: Path) -> Iterator[Path]:
    """A file system in memory, in a file that takes only what is written."""
    with daemons.scratch() as memory:
        image, target = memory / "image", directory / "btrfs"
        with image.open("wb") as file:
            file.truncate(2 << 30)
        subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
        target.mkdir()
        mount(Mount("btrfs", str(image), "", ("loop",)), target)
        try:
            yield target
        finally:
            daemons.unmount_below(target)


@contextmanager
def program(address: Path, root: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "proxy_plugins.btrfs", "--address", str(address), "--root", str(root)]
    with subprocess.Popen([*command, "--log-level", "warn"]) as process:
        try:
            while not address.exists():
                if process.poll() is not None:
                    raise RuntimeError("the btrfs program has ended")
                time.sleep(0.02)
            yield
        finally:
            process.terminate()


def register(folder: Path) -> None:
    """As an installed package would: the class, in the daemon's process."""
    info = folder / "corten_btrfs-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: corten-btrfs\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[corten.plugins]\nbtrfs = {MODULE}\n")
    os.environ["PYTHONPATH"] = str(folder)


@contextmanager
def started(directory: Path, volume: Path, peer: Path | None) -> Iterator[tuple[daemons.Daemon, daemons.Daemon]]:
    """Corten and containerd, with a program each."""
    with contextlib.ExitStack() as stack:
        addresses = [directory / f"{letter}.sock" for letter in "cp"]
        owns = [volume / f"{letter}-own" for letter in "cp"]
        for letter, address, own in zip("cp", addresses, owns, strict=True):
            own.mkdir()
            stack.enter_context(program(address, volume / letter))
        register(directory / "packages")
        (directory / "c/root").mkdir(parents=True)
        (directory / f"c/root/io.containerd.snapshotter.v1.{OWN}").symlink_to(owns[0])
        config = directory / "plugins.toml"
        config.write_text(CORTEN.format(name=PROXIED, address=addresses[0]))
        corten = daemons.start_corten(directory / "c", "--config", str(config))
        stack.callback(corten.stop)
        more = CONTAINERD.format(name=PROXIED, address=addresses[1], own=owns[1])
        unwanted = [name for name in daemons.UNWANTED if not name.endswith(".btrfs")]
        containerd = daemons.start_containerd(directory / "p", peer, more, unwanted=unwanted, collects=True)
        stack.callback(containerd.stop)
        yield corten, containerd


def contend(pair: Sequence[daemons.Daemon], rounds: int) -> list[Contender]:
    """In the order Corten proxied, containerd proxied, Corten's own, containerd's own."""
    contenders = [
        Contender(
            daemon.name,
            name,
            snapshots.Proxy(client.connect(daemon.address), Scope(NAMESPACE), name),
            {step: [] for step in STEPS},
        )
        for name in (PROXIED, OWN)
        for daemon in pair
    ]
    for contender in contenders:
        contender.begin()
    gc.freeze()
    order, chance = list(contenders), random.Random(1)
    for first in range(0, rounds, TURN):
        chance.shuffle(order)
        for contender in order:
            for number in range(first, first + TURN):
                contender.round(number)
    return contenders


def report(contenders: Sequence[Contender], pair: Sequence[daemons.Daemon], rounds: int) -> None:
    print("# Prepare, commit and remove of a snapshot through the whole daemon, on btrfs\n")
    print(f"- machine: {tables.machine()}")
    print(f"- peer: {tables.version(pair[1].command[0], '--version')}")
    print(f"- rounds, forty in turn: {rounds}\n")
    print(f"| daemon | snapshotter | median ms | {' | '.join(STEPS)} |\n|---|---|---|---|---|---|")
    for each in contenders:
        steps = " | ".join(f"{median(each.times[step]):.2f}" for step in STEPS)
        where = "in a program" if each.snapshotter == PROXIED else "in the daemon"
        print(f"| {each.daemon} | {where} | {median(each.totals):.2f} | {steps} |")
    print()
    for proxied, own in zip(contenders[:2], contenders[2:], strict=True):
        print(f"- {proxied.daemon}: a program costs {median(proxied.totals) - median(own.totals):.2f} ms more")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="folder with containerd and ctr")
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    with (
        daemons.scratch(ext4_size="1G") as directory,
        btrfs(directory) as volume,
        started(directory, volume, options.peer) as pair,
    ):
        contenders = contend(pair, options.rounds)
        report(contenders, pair, options.rounds)
    tables.ratio("proxy", contenders[0].totals, contenders[1].totals)


if __name__ == "__main__":
    main()
