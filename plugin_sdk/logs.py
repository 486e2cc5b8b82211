"""The log: one line an event on stderr, ``time level logger: message``; a plugin's logger bears its ``kind.id``.

Under systemd, whose journal adds the time itself, lines begin with the priority it understands (sd-daemon(3)).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time

LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Formatter(logging.Formatter):
    def __init__(self, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = " ".join(record.getMessage().splitlines())
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self._journal:
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{record.name}: {text}"
        seconds, rest = divmod(record.created, 1)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return f"{stamp}.{int(rest * 1000):03d}Z {record.levelname.lower()} {record.name}: {text}"


def _not_canceled(record: logging.LogRecord) -> bool:
    """grpc tells of each call that the end of the program cancels."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def configure(level: str) -> None:
    """Sends what is at least as grave as ``level`` (a name of plugins.toml) to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(journal="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    handler.addFilter(_not_canceled)
    for noisy in ("asyncio", "grpc"):
        logging.getLogger(noisy).setLevel(max(LEVELS[level], logging.WARNING))
