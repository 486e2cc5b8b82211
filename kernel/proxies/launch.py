"""Becomes the program of a proxy plugin: ``python -I -S launch.py PARENT COMMAND…``.

Between fork and exec: the program is to end when the daemon does, also when that is killed (PR_SET_PDEATHSIG of
prctl(2)). A process with threads cannot set this in its child itself without risk. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
NOT_STARTED = 127
"""The exit code when the program cannot be run; its reason is then the last line of output."""


def main(parent: int, command: list[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it has ended before it could be watched
        sys.exit(NOT_STARTED)
    try:
        os.execvp(command[0], command)
    except OSError as err:
        sys.exit(_told(f"{command[0]}: {err.strerror}"))


def _told(reason: str) -> int:
    os.write(2, f"{reason}\n".encode())
    return NOT_STARTED


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
