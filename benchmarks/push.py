"""``sh scripts/bench push``: how long the image of ``pull`` takes from the store to a registry on this machine.

The one daemon pushes, then the other, in turn: Corten's through its Transfer service, containerd's as ``ctr images
push`` does it; each time to a repository that has nothing yet. The blobs are there by a pull from another name of the
registry's host, so that none is mounted from there. Both daemons lie on one loop-mounted ext4 whose file is on tmpfs,
as are the registry's data.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import daemons, pull, registries, tables, unpack


class Side(pull.Side):
    def push(self, reference: str) -> float:
        """Seconds."""
        begin = time.perf_counter()
        if self.daemon.name == "corten":
            self.client.images.push(self.reference, reference, scheme="http")
        else:
            line = ("images", "push", "--plain-http", reference, self.reference)
            done = self.daemon.ctr(*line, namespace=pull.NAMESPACE, timeout=600)
            if done.returncode:
                raise SystemExit(f"ctr images push: {done.stderr.decode()}")
        return time.perf_counter() - begin


def compare(pair: Sequence[Side], registry: registries.Registry, rounds: int) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in pair]
    for number in range(rounds + 1):
        for side, found in zip(pair, times, strict=True):
            found.append(side.push(f"{registry.host.replace('localhost', '127.0.0.1')}/{side.daemon.name}-{number}:1"))
            print(f"{side.daemon.name}: {found[-1]:.2f} s", flush=True)
    return [found[1:] for found in times]  # the first ones warm caches


def report(pair: Sequence[daemons.Daemon], image: Sequence[unpack.Layer], times: Sequence[Sequence[float]]) -> None:
    packed = sum(len(layer.blob) for layer in image)
    corten, peer = times
    facts = {
        "image": f"{len(image)} layers, gzip {packed / 1e6:.0f} MB",
        "registry": f"{tables.version(registries.PROGRAM, '--version')}, a process on this machine, data on tmpfs",
        "client": "Transfer by the client library; ctr images push",
        "speed": f"{packed / median(corten) / 1e6:.0f} and {packed / median(peer) / 1e6:.0f} MB/s",
    }
    tables.show("an image from the content store to a registry", "s", corten, peer, pair, **facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="folder with containerd, ctr and the shim")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    below: list[str] = []
    image = [unpack.make(kind, below) for kind in unpack.KINDS]
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(unpack.disk())
        shelf = stack.enter_context(daemons.scratch())
        registry, reference = stack.enter_context(pull.served(shelf, image, "gzip"))
        started = [daemons.start_corten(directory / "c")]
        stack.callback(lambda: [daemon.stop() for daemon in started])
        started.append(daemons.start_containerd(directory / "p", options.peer))
        sides = [stack.enter_context(contextlib.closing(Side(daemon, image, reference))) for daemon in started]
        for side in sides:
            side.run()
        times = compare(sides, registry, options.rounds)
        report(started, image, times)
    tables.ratio("push", *times)


if __name__ == "__main__":
    main()
