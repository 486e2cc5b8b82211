"""``sh scripts/bench memory``: the private memory of what watches over ten idle containers.

Private memory is what ends with a process: Private_Clean + Private_Dirty of proc(5) ``smaps_rollup``. On our side the
shims and the spawner from which they are forked, on the other containerd-shim-runc-v2. The containers sleep, the
same image on both sides, and get a while to come to rest.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path
from statistics import median

from benchmarks import daemons, tables
from scripts import images

CONTAINERS = 10
REST = 8.0  # seconds: by then helpers that are not needed any more have ended on both sides


def private(pid: int) -> int:
    """KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def start_containers(daemon: daemons.Daemon, ctr: str) -> None:
    for number in range(CONTAINERS):
        line = [ctr, "--address", daemon.address, "run", "--detach", images.BUSYBOX, f"idle-{number}"]
        subprocess.run([*line, "/bin/sleep", "3600"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def supervisors(daemon: daemons.Daemon) -> dict[str, list[int]]:
    """Process ids of the daemon's children by what they are; containers' own processes are left out."""
    found: dict[str, list[int]] = {"shim": [], "spawner": []}
    for pid in daemon.leftovers():
        name, command = _identity(pid)
        if "shim" in name or "containerd-shim" in command:
            found["shim"].append(pid)
        elif "spawner" in command:
            found["spawner"].append(pid)
    return found


def _identity(pid: int) -> tuple[str, str]:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return name, Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return "", ""


def measure(daemon: daemons.Daemon) -> tuple[list[int], int]:
    """KiB of each shim, and of the spawners in all. Raises RuntimeError when there are not as many shims as tasks."""
    found = supervisors(daemon)
    if len(found["shim"]) != CONTAINERS:
        raise RuntimeError(f"{daemon.name} has {len(found['shim'])} shims for {CONTAINERS} containers")
    return [private(pid) for pid in found["shim"]], sum(private(pid) for pid in found["spawner"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="folder with containerd, ctr and the shim")
    options = parser.parse_args()
    with daemons.scratch() as directory:
        archive = images.write_busybox(directory / "busybox.tar")
        pair: list[daemons.Daemon] = []
        try:
            pair.append(daemons.start_corten(directory / "c"))
            pair.append(daemons.start_containerd(directory / "p", options.peer))
            ctr = pair[1].ctr_path
            for daemon in pair:
                subprocess.run([ctr, "--address", daemon.address, "images", "import", archive], check=True)
                start_containers(daemon, ctr)
            time.sleep(REST)
            corten, peer = (measure(daemon) for daemon in pair)
        finally:
            for daemon in pair:
                daemon.stop()
    report(corten, peer, tables.version(ctr, "--version"))


def report(corten: tuple[list[int], int], peer: tuple[list[int], int], client: str) -> None:
    print(f"# Private memory of what watches over {CONTAINERS} idle containers\n")
    print(f"- machine: {tables.machine()}\n- client: {client}, the same for both")
    print("\n| daemon | a shim, median KiB | spawner KiB | in all KiB | a container KiB |\n|---|---|---|---|---|")
    totals = [sum(shims) + spawner for shims, spawner in (corten, peer)]
    for name, (shims, spawner), total in zip(("corten", "containerd"), (corten, peer), totals, strict=True):
        print(f"| {name} | {median(shims):.0f} | {spawner} | {total} | {total / CONTAINERS:.0f} |")
    print(f"\nmemory ratio={totals[0] / totals[1]:.2f}", flush=True)


if __name__ == "__main__":
    main()
