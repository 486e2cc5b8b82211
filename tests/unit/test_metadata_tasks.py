from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.metadata import tasks
from kernel.metadata.database import Database
from plugin_sdk import errors
from plugin_sdk.events import Envelope
from plugin_sdk.runtime import Exit


@pytest.fixture
def events() -> list[Envelope]:
    return []


@pytest.fixture
def database(tmp_path: Path, events: list[Envelope]) -> Iterator[Database]:
    database = Database(tmp_path / "meta.db", events.extend)
    yield database
    database.close()


def begin(database: Database, id: str = "web") -> tasks.Row:
    return database.write(lambda tx: tasks.begin(tx, "default", id, "runc"))


def test_each_task_has_an_incarnation_of_its_own(database: Database) -> None:
    first = begin(database)
    database.write(lambda tx: tasks.abandon(tx, first))
    assert begin(database).incarnation > first.incarnation


def test_a_container_has_one_task(database: Database) -> None:
    begin(database)
    with pytest.raises(errors.AlreadyExists, match="task web"):
        begin(database)
    assert begin(database, "other").id == "other"


def test_rows_and_exits_are_read_back(database: Database) -> None:
    row = begin(database)
    database.write(lambda tx: tasks.started(tx, row, 7))
    database.write(lambda tx: tasks.record_exit(tx, row, Exit("default", "web", "e", 8, 9, 10)))
    with database.read() as cursor:
        assert tasks.rows(cursor) == [tasks.Row(row.incarnation, "default", "web", "runc", tasks.STARTED, 7)]
        assert tasks.exits(cursor, row.incarnation) == {"e": (8, 9, 10)}


def test_a_start_and_an_exit_have_one_event_each(database: Database, events: list[Envelope]) -> None:
    row = begin(database)
    for _ in range(2):
        database.write(lambda tx: tasks.started(tx, row, 7))
        database.write(lambda tx: tasks.record_exit(tx, row, Exit("default", "web", "", 7, 0, 1)))
    assert [event.topic for event in events] == ["/tasks/start", "/tasks/exit"]


def test_delete_takes_the_exits_along(database: Database, events: list[Envelope]) -> None:
    row = begin(database)
    end = Exit("default", "web", "", 7, 0, 1)
    database.write(lambda tx: tasks.record_exit(tx, row, end))
    assert database.write(lambda tx: tasks.delete(tx, row, end))
    assert not database.write(lambda tx: tasks.delete(tx, row, end))
    assert not database.write(lambda tx: tasks.record_exit(tx, row, end))
    with database.read() as cursor:
        assert tasks.exits(cursor, row.incarnation) == {}
    assert [event.topic for event in events] == ["/tasks/exit", "/tasks/delete"]
