"""``sh scripts/bench start``: how long ``ctr run --rm`` takes for a tiny image that is already unpacked.

The same ctr, the same runc, the same busybox with /bin/true, on tmpfs; a run of the one and a run of the other in turn.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import time
from pathlib import Path
from statistics import median

from benchmarks import daemons, tables
from scripts import images


def measure(daemon: daemons.Daemon, ctr: str, name: str) -> float:
    """Milliseconds of one run. Raises CalledProcessError when it fails."""
    line = [ctr, "--address", daemon.address, "run", "--rm", images.BUSYBOX, name, "/bin/true"]
    begin = time.perf_counter()
    subprocess.run(line, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - begin)


def compare(pair: list[daemons.Daemon], ctr: str, rounds: int) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in pair]
    for number in range(rounds + 3):
        both = list(zip(pair, times, strict=True))
        for daemon, found in both if number % 2 else reversed(both):
            found.append(measure(daemon, ctr, f"{daemon.name}-{number}"))
    return [found[3:] for found in times]  # the first ones warm caches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="folder with containerd, ctr and the shim")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with daemons.scratch() as directory:
        archive = images.write_busybox(directory / "busybox.tar")
        pair = []
        try:
            pair.append(daemons.start_corten(directory / "c"))
            pair.append(daemons.start_containerd(directory / "p", options.peer))
            ctr = pair[1].ctr_path
            for daemon in pair:
                subprocess.run([ctr, "--address", daemon.address, "images", "import", archive], check=True)
            corten, peer = compare(pair, ctr, options.rounds)
            report(pair, corten, peer, ctr)
        finally:
            for daemon in pair:
                daemon.stop()
    tables.ratio("start", corten, peer)


def report(pair: list[daemons.Daemon], corten: list[float], peer: list[float], ctr: str) -> None:
    engine = shutil.which("runc") or "runc"
    facts = {
        "client": f"{tables.version(ctr, '--version')}, the same for both",
        "engine": f"{tables.version(engine, '--version')} by itself {engine_alone(engine, pair[1].directory):.0f} ms",
        "image": "busybox, one layer, unpacked before; overlayfs on tmpfs",
    }
    tables.show("ctr run --rm /bin/true, from the start of ctr to its end", "ms", corten, peer, pair, **facts)


def engine_alone(engine: str, directory: Path) -> float:
    """Milliseconds of create, start and delete without any daemon: what neither can save."""
    bundle = directory / "bundle"
    (bundle / "rootfs/bin").mkdir(parents=True)
    shutil.copy(next(source for source in images.SOURCES if Path(source).exists()), bundle / "rootfs/bin/true")
    subprocess.run([engine, "spec"], check=True, cwd=bundle)
    spec = (bundle / "config.json").read_text().replace('"terminal": true', '"terminal": false')
    (bundle / "config.json").write_text(spec.replace('"sh"', '"/bin/true"'))
    return median(_engine_run(engine, bundle, f"alone-{number}") for number in range(10))


def _engine_run(engine: str, bundle: Path, name: str) -> float:
    base = [engine, "--root", str(bundle / "state")]
    begin = time.perf_counter()
    subprocess.run([*base, "create", "--bundle", str(bundle), name], check=True, stdin=subprocess.DEVNULL)
    subprocess.run([*base, "start", name], check=True)
    subprocess.run([*base, "delete", "--force", name], check=True)
    return 1000 * (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
