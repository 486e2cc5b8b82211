"""Programs of plugins, started as people start them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(slots=True)
class Program:
    """A running one. ``log`` is the file with its standard output and error."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, address: str, timeout: float = 120) -> None:
        """Returns when it listens. Raises RuntimeError, with what it said, when it does not."""
        deadline = time.monotonic() + timeout
        while not answers(address):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nobody serves {address}: {self.said()}")
            time.sleep(0.02)

    def wait_to_say(self, words: str, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        while words not in self.said():
            over = self.process.poll() is not None or time.monotonic() > deadline
            assert not over or words in self.said(), f"it does not say {words!r}: {self.said()}"
            time.sleep(0.02)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def terminate(self, timeout: float = 120) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address) == 0


@contextlib.contextmanager
def started(
    command: Sequence[str], log: Path, environment: dict[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> Iterator[Program]:
    """Runs it; at the end it is killed if it still runs."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            pass_fds=pass_fds,
        )
    try:
        yield Program(process, log)
    finally:
        process.kill()
        process.wait()


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]
