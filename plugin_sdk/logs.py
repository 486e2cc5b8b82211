"""The log: one line an event on stderr, ``time level logger: message``; a plugin's logger bears its ``kind.id``.

Under systemd, whose journal adds the time itself, lines begin with the priority it understands (sd-daemon(3)). A
plugin's program that the daemon has started leaves the time out too: its lines become lines of the daemon's log.
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
    def __init__(self, journal: bool, stamped: bool = True) -> None:
        super().__init__()
        self._journal = journal
        self._stamped = stamped

    def format(self, record: logging.LogRecord) -> str:
        text = " ".join(record.getMessage().splitlines())
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self._journal:
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{record.name}: {text}"
        text = f"{record.levelname.lower()} {record.name}: {text}"
        return f"{_stamp(record.created)} {text}" if self._stamped else text


def _stamp(created: float) -> str:
    seconds, rest = divmod(created, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(rest * 1000):03d}Z"


def _not_canceled(record: logging.LogRecord) -> bool:
    """grpc tells of each call that the end of the program cancels."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def configure(level: str, *, stamped: bool = True) -> None:
    """Sends what is at least as grave as ``level`` (a name of plugins.toml) to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("JOURNAL_STREAM" in os.environ, stamped))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    handler.addFilter(_not_canceled)
    for noisy in ("asyncio", "grpc"):
        logging.getLogger(noisy).setLevel(max(LEVELS[level], logging.WARNING))
