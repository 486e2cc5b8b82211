"""Programs of snapshotters that are there in milliseconds, so that they can be killed and started again and again.

One process imports what a program imports and forks one for each start. It has no threads, so that it may fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 120  # seconds

NURSE = """
import importlib, json, os, pathlib, signal, sys
from plugin_sdk import serve

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    module, address, root = json.loads(line)
    make = importlib.import_module(module).Snapshotter
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        try:
            serve.serve(address, snapshotter=make(pathlib.Path(root)))
        finally:
            os._exit(1)
    print(pid, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Program:
    pid: int
    pidfd: int

    def kill(self) -> None:
        """SIGKILL; answers when the process has gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        assert select.select([self.pidfd], [], [], PATIENCE)[0], f"process {self.pid} does not die"
        os.close(self.pidfd)


class Nursery:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, module: str, address: Path, root: Path) -> Program:
        """The class ``Snapshotter`` of a module, served at a socket. Answers when it listens."""
        address.unlink(missing_ok=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([module, str(address), str(root)]), file=self._process.stdin, flush=True)
        pid = int(self._process.stdout.readline())
        program = Program(pid, os.pidfd_open(pid))
        end = time.monotonic() + PATIENCE
        while not _listens(address):
            assert time.monotonic() < end, f"nobody listens at {address}"
            assert not select.select([program.pidfd], [], [], 0)[0], f"the program for {root} has ended"
            time.sleep(0.002)
        return program


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    process = subprocess.Popen(
        [sys.executable, "-c", NURSE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    with process:
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(PATIENCE)


def _listens(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as attempt:
        try:
            attempt.connect(str(address))
        except OSError:
            return False
    return True
