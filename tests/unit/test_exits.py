import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel.exits import Entry, Outcome, Recorder
from kernel.metadata import tasks as records
from kernel.metadata.database import Database, Transaction
from plugin_sdk import errors
from plugin_sdk.events import Envelope
from plugin_sdk.runtime import Exit

EXIT = Exit("default", "web", "", 7, 3, 1)


def test_the_first_result_stays() -> None:
    outcome = Outcome()
    outcome.set(EXIT)
    outcome.set(errors.Unavailable("later"))
    assert outcome.wait() == EXIT
    assert asyncio.run(outcome.wait_async()) == EXIT


def test_an_error_is_raised_to_each_who_waits() -> None:
    outcome = Outcome()
    outcome.set(errors.Unavailable("gone"))
    for _ in range(2):
        with pytest.raises(errors.Unavailable, match="gone"):
            outcome.wait()


def test_all_who_wait_are_told() -> None:
    outcome = Outcome()
    found: list[Exit] = []
    threads = [threading.Thread(target=lambda: found.append(outcome.wait())) for _ in range(5)]
    for thread in threads:
        thread.start()

    async def wait() -> list[Exit]:
        waits = [asyncio.ensure_future(outcome.wait_async()) for _ in range(5)]
        await asyncio.sleep(0.01)
        threading.Timer(0.01, outcome.set, [EXIT]).start()
        return await asyncio.gather(*waits)

    assert asyncio.run(wait()) == [EXIT] * 5
    for thread in threads:
        thread.join(60)
    assert found == [EXIT] * 5


def test_a_wait_that_ends_early_leaves_nothing_behind() -> None:
    outcome = Outcome()
    with pytest.raises(errors.DeadlineExceeded):
        outcome.wait(timeout=0.001)

    async def cancel() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(outcome.wait_async(), 0.001)

    asyncio.run(cancel())
    assert outcome._waiting == []


class Sick(Database):
    """Cannot be written until ``well`` is set."""

    def __init__(self, path: Path, events: list[Envelope]) -> None:
        super().__init__(path, events.extend)
        self.well = threading.Event()
        self.tried = threading.Event()

    def write(self, change: Any) -> Any:
        if not self.well.is_set():
            self.tried.set()
            raise errors.Unavailable("the disk is full")
        return super().write(change)


@pytest.fixture
def events() -> list[Envelope]:
    return []


@pytest.fixture
def database(tmp_path: Path, events: list[Envelope]) -> Iterator[Sick]:
    database = Sick(tmp_path / "meta.db", events)
    yield database
    database.close()


def made(database: Database) -> Entry:
    def begin(tx: Transaction) -> records.Row:
        return records.begin(tx, "default", "web", "runtime")

    return Entry(Database.write(database, begin), Path("/bundle"))


def test_an_exit_is_told_only_once_it_is_recorded(database: Sick, events: list[Envelope]) -> None:
    recorder, entry = Recorder(database), made(database)
    recorder.exited(entry, EXIT)
    assert database.tried.wait(60)
    assert not entry.outcome("").done
    database.well.set()
    assert entry.outcome("").wait(60) == EXIT
    assert [event.topic for event in events] == ["/tasks/exit"]
    recorder.close()


def test_reports_are_written_in_their_order(database: Sick, events: list[Envelope]) -> None:
    database.well.set()
    recorder, entry = Recorder(database), made(database)
    recorder.out_of_memory(entry)
    recorder.exited(entry, EXIT)
    recorder.exited(entry, EXIT)
    recorder.close()
    assert [event.topic for event in events] == ["/tasks/oom", "/tasks/exit"]


def test_a_recorder_that_cannot_write_can_be_closed(database: Sick) -> None:
    recorder, entry = Recorder(database), made(database)
    recorder.exited(entry, EXIT)
    assert database.tried.wait(60)
    recorder.close()
    assert not entry.outcome("").done


def test_an_exit_of_a_task_that_has_gone_is_not_recorded(database: Sick, events: list[Envelope]) -> None:
    database.well.set()
    recorder, entry = Recorder(database), made(database)
    database.write(lambda tx: records.abandon(tx, entry.row))
    recorder.exited(entry, EXIT)
    recorder.close()
    assert events == []
