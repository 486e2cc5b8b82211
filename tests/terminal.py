"""A program at a terminal: what is typed, what it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence


def run(argv: Sequence[str], dialogue: Sequence[tuple[str, str]] = (), timeout: float = 200) -> tuple[int, str]:
    """Runs ``argv`` at a terminal of 30 rows and 100 columns. Each (expected, typed): awaits the one, types the other.

    Answers the exit code and all that was shown, line ends as ``\\n``. Raises AssertionError when it takes too long.
    """
    control, terminal = pty.openpty()
    try:
        resize(control, 30, 100)
        with subprocess.Popen(
            argv, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
        ) as process:
            os.close(terminal)
            try:
                shown = _talk(control, dialogue, time.monotonic() + timeout)
            except AssertionError:
                process.kill()
                raise
        return process.returncode, shown.decode(errors="replace").replace("\r", "")
    finally:
        os.close(control)


def resize(control: int, rows: int, columns: int) -> None:
    fcntl.ioctl(control, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _talk(control: int, dialogue: Sequence[tuple[str, str]], deadline: float) -> bytes:
    shown, seen, steps = b"", 0, list(dialogue)
    while True:
        if steps and (at := shown.find(steps[0][0].encode(), seen)) >= 0:
            expected, typed = steps.pop(0)
            seen = at + len(expected.encode())
            os.write(control, typed.encode())
        ready, _, _ = select.select([control], [], [], 0.2)
        assert time.monotonic() < deadline, f"waited too long for {steps or 'the end'}; shown: {shown!r}"
        if ready:
            try:
                piece = os.read(control, 65536)
            except OSError:  # EIO: the last one at the other end has gone
                return shown
            if not piece:
                return shown
            shown += piece
