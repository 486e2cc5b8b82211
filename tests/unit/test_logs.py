"""The log is one line an event."""

from __future__ import annotations

import logging
import re

from kernel import config
from plugin_sdk import logs


def record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("io.containerd.snapshotter.v1.a", level, "", 0, message, args, None)


def test_an_event_is_one_line_with_time_level_and_plugin() -> None:
    line = logs.Formatter(journal=False).format(record("two\nlines of %s", "text"))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info io\.containerd\.snapshotter\.v1\.a: two lines of text", line
    )


def test_the_journal_gets_priorities_instead_of_times() -> None:
    line = logs.Formatter(journal=True).format(record("bad", level=logging.ERROR))
    assert line == "<3>io.containerd.snapshotter.v1.a: bad"


def test_a_line_that_another_log_takes_has_no_time() -> None:
    line = logs.Formatter(journal=False, stamped=False).format(record("bad", level=logging.ERROR))
    assert line == "error io.containerd.snapshotter.v1.a: bad"


def test_every_level_of_the_configuration_is_known() -> None:
    assert set(logs.LEVELS) == set(config.LEVELS)
