"""``sh scripts/bench edge``: what a call costs at the daemon's HTTP/2 edge, against the same servicer on grpc.aio, and
what ``ctr`` makes of it, against containerd.

Two processes serve the version service, one on each server; grpcio's client calls them in turn. The ratio is that of
the processor time that the servers take for a call, which other programs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import daemons, tables
from scripts import images

CALLS = 1000  # of one round, one after the other
CALLERS = 16
TICK = 1000 / os.sysconf("SC_CLK_TCK")  # milliseconds


@dataclass(slots=True)
class Found:
    """Of each round, in microseconds but for ``rate``."""

    latency: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


def serve(kind: str, path: str) -> None:
    """Until killed."""
    if kind == "http2":
        from plugin_sdk.wire.http2.server import Server
    else:
        from plugin_sdk.wire.transport import Server  # type: ignore[assignment]
    from plugin_sdk.wire import version

    async def main() -> None:
        server = Server(lambda name: None)  # type: ignore[arg-type, return-value]
        server.mount(version.Servicer("1.0", "revision"))
        server.listen(path)
        await server.start()
        print("serves", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def serving(kind: str, directory: Path) -> Iterator[tuple[int, str]]:
    """The process and its socket."""
    path = str(directory / f"{kind}.sock")
    command = [sys.executable, "-m", "benchmarks.edge", "--serve", kind, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid, path
        finally:
            process.kill()


def cpu(pid: int) -> float:
    """Milliseconds that all threads of a process have run, of themselves and of the linux kernel for them."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def caller(path: str) -> Callable[[], object]:
    from plugin_sdk.scope import Scope
    from plugin_sdk.wire import transport, version

    return version.Proxy(transport.connect(path), Scope("")).version


def one_after_the_other(pid: int, call: Callable[[], object], found: Found) -> None:
    times = []
    before = cpu(pid)
    for _ in range(CALLS):
        begin = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - begin))
    found.latency.append(median(times))
    found.work.append(1000 * (cpu(pid) - before) / CALLS)


def side_by_side(call: Callable[[], object], found: Found) -> None:
    count = CALLS // CALLERS
    threads = [threading.Thread(target=lambda: [call() for _ in range(count)]) for _ in range(CALLERS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.rate.append(CALLERS * count / (time.perf_counter() - begin))


def compare_servers(directory: Path, rounds: int) -> dict[str, Found]:
    kinds = {"http2": Found(), "grpc.aio": Found()}
    with serving("http2", directory) as ours, serving("grpc.aio", directory) as theirs:
        calls = {kind: (pid, caller(path)) for kind, (pid, path) in zip(kinds, (ours, theirs), strict=True)}
        for number in range(rounds + 1):
            for kind, (pid, call) in calls.items():
                found = kinds[kind] if number else Found()  # the first round warms
                one_after_the_other(pid, call, found)
                side_by_side(call, found)
    return kinds


def compare_ctr(directory: Path, peer: Path | None, rounds: int) -> None:
    archive = images.write_busybox(directory / "busybox.tar")
    pair = []
    try:
        pair.append(daemons.start_corten(directory / "c"))
        pair.append(daemons.start_containerd(directory / "p", peer))
        ctr = pair[1].ctr_path
        for daemon in pair:
            daemon.ctr_path = ctr
            daemon.ctr("images", "import", str(archive), check=True)
        print("| daemon | `ctr run --rm`, ms of its processor | `ctr version`, ms |\n|---|---|---|")
        for name, work, wall in measure_ctr(pair, rounds):
            print(f"| {name} | {work:.1f} | {wall:.1f} |")
        print()
    finally:
        for daemon in pair:
            daemon.stop()


def measure_ctr(pair: list[daemons.Daemon], rounds: int) -> Iterator[tuple[str, float, float]]:
    work = {daemon.name: 0.0 for daemon in pair}
    walls: dict[str, list[float]] = {daemon.name: [] for daemon in pair}
    for number in range(rounds + 2):
        for daemon in pair:
            before = cpu(daemon.pid)
            daemon.ctr("run", "--rm", images.BUSYBOX, f"e-{number}", "/bin/true", check=True)
            work[daemon.name] += cpu(daemon.pid) - before if number >= 2 else 0
            begin = time.perf_counter()
            daemon.ctr("version", check=True)
            walls[daemon.name].append(1000 * (time.perf_counter() - begin))
    for daemon in pair:
        yield daemon.name, work[daemon.name] / rounds, median(walls[daemon.name])


def report(kinds: dict[str, Found]) -> None:
    print("# A call of Version over a unix socket, grpcio's client\n")
    print(f"- machine: {tables.machine()}")
    print(f"- rounds of {CALLS} calls, one server in turn with the other: {len(kinds['http2'].work)}\n")
    print(f"| server | median µs | µs of its processor | calls/s of {CALLERS} callers |\n|---|---|---|---|")
    for kind, found in kinds.items():
        print(f"| {kind} | {median(found.latency):.0f} | {median(found.work):.0f} | {median(found.rate):.0f} |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="folder with containerd, ctr and the shim")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    with daemons.scratch() as directory:
        kinds = compare_servers(directory, max(options.rounds // 4, 1))
        report(kinds)
        compare_ctr(directory, options.peer, options.rounds)
    tables.ratio("edge", kinds["http2"].work, kinds["grpc.aio"].work)


if __name__ == "__main__":
    main()
