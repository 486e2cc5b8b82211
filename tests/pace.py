"""How slow the machine is just now. Time limits in tests are for a quiet one, and grow where it is not.

Where an issue or a page names a figure, as two seconds, that is the limit: on a machine that takes three times
``REFERENCE`` for the same start of a program, it is three times as much.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

REFERENCE = 0.15
"""Seconds that a start of Python with a few imports takes on a quiet machine of this year."""

_PROGRAM = [sys.executable, "-I", "-c", "import asyncio, decimal, email.message, json, logging, subprocess, typing"]


def slowness() -> float:
    """How many times slower than ``REFERENCE``, at least 1."""
    return max(1.0, statistics.median(_start() for _ in range(3)) / REFERENCE)


def scaled(seconds: float) -> float:
    """A limit on a quiet machine as it is on this one."""
    return round(seconds * slowness(), 1)


def within(took: float, limit: float) -> bool:
    """Whether it took no longer. What is quick enough on any machine is not measured against it."""
    return took < limit or took < scaled(limit)


def _start() -> float:
    begun = time.monotonic()
    subprocess.run(_PROGRAM, check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - begun
