"""Files that are read again when they change."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.watch import Watch
from tests import pace


class Reading:
    """Counts; ``patterns`` are what it answers."""

    def __init__(self, *patterns: Path) -> None:
        self.patterns = patterns
        self.times = 0
        self._read = threading.Condition()

    def __call__(self) -> tuple[Path, ...]:
        with self._read:
            self.times += 1
            self._read.notify_all()
        return self.patterns

    def wait(self, times: int, seconds: float = 5) -> bool:
        with self._read:
            return self._read.wait_for(lambda: self.times >= times, seconds)


Begin = Callable[..., Reading]


@pytest.fixture
def begin() -> Iterator[Begin]:
    watches: list[Watch] = []

    def begin(*patterns: Path) -> Reading:
        reading = Reading(*patterns)
        watches.append(Watch(patterns, reading))
        reading.watch = watches[-1]  # type: ignore[attr-defined]
        assert reading.wait(1)  # once at the beginning
        time.sleep(0.05)
        return reading

    yield begin
    for watch in watches:
        watch.close()


def test_a_change_is_read_once_when_it_has_settled(tmp_path: Path, begin: Begin) -> None:
    file = tmp_path / "plugins.toml"
    file.write_text("a")
    reading = begin(file)
    for number in range(5):
        file.write_text(str(number))
        time.sleep(0.01)
    assert reading.wait(2)
    assert not reading.wait(3, 0.4)


@pytest.mark.parametrize("way", ["rename", "remove", "create", "append"])
def test_every_way_to_change_a_file_is_noticed(tmp_path: Path, begin: Begin, way: str) -> None:
    file = tmp_path / "plugins.toml"
    if way != "create":
        file.write_text("a")
    reading = begin(file)
    if way == "rename":
        (tmp_path / "new").write_text("b")
        os.replace(tmp_path / "new", file)
    elif way == "remove":
        file.unlink()
    elif way == "append":
        with file.open("a") as opened:
            opened.write("b")
    else:
        file.write_text("b")
    assert reading.wait(2)


def test_other_files_and_mere_reading_are_not_noticed(tmp_path: Path, begin: Begin) -> None:
    file = tmp_path / "plugins.toml"
    file.write_text("a")
    reading = begin(file)
    file.read_text()
    (tmp_path / "log").write_text("a line")
    assert not reading.wait(2, 0.4)


def test_a_new_file_that_a_pattern_matches_is_noticed(tmp_path: Path, begin: Begin) -> None:
    reading = begin(tmp_path / "*.toml")
    (tmp_path / "b.conf").touch()
    assert not reading.wait(2, 0.3)
    (tmp_path / "a.toml").touch()
    assert reading.wait(2)


def test_the_patterns_of_the_last_reading_are_watched(tmp_path: Path, begin: Begin) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    reading = begin(tmp_path / "a" / "x")
    reading.patterns = (tmp_path / "b" / "x",)
    (tmp_path / "a" / "x").touch()
    assert reading.wait(2)
    time.sleep(0.1)
    (tmp_path / "a" / "x").write_text("1")
    assert not reading.wait(3, 0.4)
    (tmp_path / "b" / "x").touch()
    assert reading.wait(3)


def test_a_folder_that_is_not_there_is_passed_over_and_a_poke_helps(tmp_path: Path, begin: Begin) -> None:
    reading = begin(tmp_path / "none" / "x")
    (tmp_path / "none").mkdir()
    reading.watch.poke()  # type: ignore[attr-defined]
    assert reading.wait(2)
    time.sleep(0.1)
    (tmp_path / "none" / "x").touch()
    assert reading.wait(3)


def test_a_folder_may_be_a_link(tmp_path: Path, begin: Begin) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    reading = begin(tmp_path / "link" / "x")
    (tmp_path / "real" / "x").touch()
    assert reading.wait(2)


def test_close_returns_although_nothing_changes(tmp_path: Path) -> None:
    watch = Watch([tmp_path / "x"], Reading(tmp_path / "x"))
    begin = time.monotonic()
    watch.close()
    assert pace.within(time.monotonic() - begin, 3)
