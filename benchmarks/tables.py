"""What every benchmark prints: what was measured, where, and the ratio as the last line."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.daemons import Daemon


def machine() -> str:
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores {model or platform.machine()}, {memory:.0f} GiB, linux {platform.release()}"


def version(*command: str) -> str:
    """The first line of what a program says of itself."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().splitlines()[0] if done.returncode == 0 else "unknown"


def show(
    what: str, unit: str, corten: Sequence[float], peer: Sequence[float], daemons: Sequence[Daemon], **facts: str
) -> None:
    """The head and the table. ``daemons`` are Corten's and the peer."""
    print(f"# {what}\n")
    for name, value in {"machine": machine(), "peer": version(daemons[1].command[0], "--version"), **facts}.items():
        print(f"- {name}: {value}")
    print(f"\n| daemon | runs | median {unit} | least | most |\n|---|---|---|---|---|")
    for name, values in (("corten", corten), ("containerd", peer)):
        print(f"| {name} | {len(values)} | {median(values):.4g} | {min(values):.4g} | {max(values):.4g} |")
    print()


def ratio(name: str, corten: Sequence[float], peer: Sequence[float]) -> None:
    """The last line: Corten's median by the peer's."""
    print(f"{name} ratio={median(corten) / median(peer):.2f}", flush=True)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
