from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path

import pytest

from kernel.metadata import schema
from kernel.metadata.database import CHECKPOINT, LOG_SIZE, Database, Transaction, forbid_transaction
from plugin_sdk import errors, events

FULL = 2  # https://sqlite.org/pragma.html#pragma_synchronous


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meta.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


def put(name: str, value: str = "") -> object:
    return lambda tx: tx.execute("INSERT INTO meta VALUES (?, ?)", (name, value)) and tx.number


def names(database: Database) -> list[str]:
    with database.read() as cursor:
        return [name for (name,) in cursor.execute("SELECT name FROM meta ORDER BY name")]


def test_a_write_is_read_afterwards_and_after_reopening(path: Path) -> None:
    database = Database(path)
    database.write(put("a"))
    assert names(database) == ["a"]
    database.close()
    database = Database(path)
    assert names(database) == ["a"]
    database.close()


def test_a_change_that_raises_leaves_nothing_and_its_neighbours_alone(database: Database) -> None:
    gate = threading.Event()

    def fail(tx: Transaction) -> None:
        tx.execute("INSERT INTO meta VALUES ('bad', '')")
        raise errors.InvalidArgument("no")

    blocker = threading.Thread(target=lambda: database.write(lambda tx: gate.wait() and None))
    blocker.start()
    outcomes: list[object] = []

    def attempt(change: object) -> None:
        try:
            outcomes.append(database.write(change))
        except errors.InvalidArgument as err:
            outcomes.append(err)

    threads = [threading.Thread(target=attempt, args=(change,)) for change in (put("a"), fail, put("b"))]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    gate.set()
    for thread in [*threads, blocker]:
        thread.join()
    assert names(database) == ["a", "b"]
    assert sum(isinstance(outcome, errors.InvalidArgument) for outcome in outcomes) == 1


def test_what_is_queued_shares_one_commit(path: Path) -> None:
    published: list[Sequence[events.Envelope]] = []
    database = Database(path, published.append)
    gate, begun = threading.Event(), threading.Event()
    threads = [threading.Thread(target=lambda: database.write(lambda tx: begun.set() or (gate.wait() and None)))]
    threads[0].start()
    assert begun.wait(60)
    threads += [
        threading.Thread(
            target=lambda n=n: database.write(lambda tx: (put(f"{n}")(tx), tx.emit("n", f"/t/{n}", "", b"")))
        )
        for n in range(5)
    ]
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.05)
    gate.set()
    for thread in threads:
        thread.join()
    database.close()
    assert [len(batch) for batch in published] == [5]


def test_only_a_commit_with_something_to_wait_for_is_synced(database: Database) -> None:
    def syncs(tx: Transaction) -> bool:
        return tx.one("PRAGMA synchronous")[0] == FULL

    assert database.write(syncs)
    assert not database.write(syncs, synced=False)
    assert database.write(syncs)
    gate, begun = threading.Event(), threading.Event()
    with futures.ThreadPoolExecutor(3) as pool:
        pool.submit(database.write, lambda tx: begun.set() or (gate.wait() and None))
        assert begun.wait(60)
        both = [pool.submit(database.write, syncs, synced=synced) for synced in (False, True)]
        time.sleep(0.05)
        gate.set()
        assert all(done.result() for done in both)


def test_who_writes_alone_does_it_in_its_own_thread(database: Database) -> None:
    assert database.write(lambda tx: threading.current_thread()) is threading.current_thread()


def test_those_that_come_meanwhile_are_not_overtaken(database: Database) -> None:
    begun, gate, order = threading.Event(), threading.Event(), []

    def hold(tx: Transaction) -> None:
        begun.set()
        gate.wait(10)

    def write(name: str) -> None:
        database.write(lambda tx: order.append(name))

    threads = [threading.Thread(target=lambda: database.write(hold))]
    threads[0].start()
    assert begun.wait(60)
    for name in "abc":
        threads.append(threading.Thread(target=write, args=(name,)))
        threads[-1].start()
        time.sleep(0.02)
    gate.set()
    for thread in threads:
        thread.join(60)
    assert order == ["a", "b", "c"]


def test_many_writers_and_readers_lose_nothing(database: Database) -> None:
    def work(writer: int) -> None:
        for n in range(60):
            database.write(put(f"{writer}-{n}"))
            assert f"{writer}-{n}" in names(database)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(names(database)) == 8 * 60


def test_closing_waits_for_the_write_that_runs(path: Path) -> None:
    database = Database(path)
    begun, results = threading.Event(), []

    def slow(tx: Transaction) -> str:
        begun.set()
        time.sleep(0.2)
        put("slow")(tx)
        return "done"

    writer = threading.Thread(target=lambda: results.append(database.write(slow)))
    writer.start()
    assert begun.wait(60)
    database.close()
    writer.join(60)
    assert results == ["done"]
    later = Database(path)
    assert names(later) == ["slow"]
    later.close()


def test_events_are_published_after_the_commit_and_before_the_answer(path: Path) -> None:
    seen: list[list[str]] = []
    database = Database(path, lambda _: seen.append(names(database)))
    database.write(lambda tx: (put("a")(tx), tx.emit("ns", "/a/b", "type", b"payload")))
    assert seen == [["a"]]
    database.close()


def test_a_failed_change_publishes_nothing(path: Path) -> None:
    seen: list[object] = []
    database = Database(path, seen.append)

    def fail(tx: Transaction) -> None:
        tx.emit("ns", "/a/b", "type", b"")
        raise errors.NotFound("x: not found")

    with pytest.raises(errors.NotFound):
        database.write(fail)
    database.close()
    assert seen == []


def test_numbers_rise_and_never_return_even_with_a_new_file(path: Path, tmp_path: Path) -> None:
    database = Database(path)
    first = database.write(put("a"))
    second = database.write(put("b"))
    database.close()
    assert second > first
    time.sleep(0.005)
    other = Database(tmp_path / "other.db")
    assert other.write(put("a")) > second
    other.close()


def test_numbers_rise_when_the_clock_was_set_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(path)
    first = database.write(put("a"))
    database.close()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    database = Database(path)
    assert database.write(put("b")) > first
    database.close()


def test_no_number_returns_after_a_crash(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    database = Database(path)
    for n in range(3):
        last = max(database.write(put(f"{n}-{each}")) for each in range(1500))
        copy = path.with_name(f"copy-{n}.db")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        later = Database(copy)
        assert later.write(put("later")) > last
        later.close()
    database.close()


def test_a_change_that_fails_alone_leaves_nothing(database: Database) -> None:
    def fail(tx: Transaction) -> None:
        put("bad")(tx)
        raise errors.InvalidArgument("no")

    with pytest.raises(errors.InvalidArgument):
        database.write(fail)
    database.write(put("good"))
    assert names(database) == ["good"]


def test_a_newer_file_is_a_clear_error(path: Path) -> None:
    Database(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    with pytest.raises(errors.FailedPrecondition, match=f"schema version {schema.VERSION + 1}"):
        Database(path)


def test_the_guard_raises_within_a_read_and_a_write(database: Database) -> None:
    forbid_transaction("a call")
    with database.read(), pytest.raises(errors.Internal):
        forbid_transaction("a call")
    with pytest.raises(errors.Internal):
        database.write(lambda tx: forbid_transaction("a call"))
    forbid_transaction("a call")


def test_a_read_is_one_snapshot(database: Database) -> None:
    with database.read() as cursor:
        assert cursor.execute("SELECT count(*) FROM meta").fetchone()[0] == 0
        writer = threading.Thread(target=lambda: database.write(put("a")))
        writer.start()
        writer.join()
        assert cursor.execute("SELECT count(*) FROM meta").fetchone()[0] == 0
    assert names(database) == ["a"]


def test_a_reader_cannot_write(database: Database) -> None:
    with database.read() as cursor, pytest.raises(sqlite3.OperationalError):
        cursor.execute("INSERT INTO meta VALUES ('a', '')")


def test_a_closed_database_is_unavailable(path: Path) -> None:
    database = Database(path)
    database.close()
    with pytest.raises(errors.Unavailable):
        database.write(put("a"))
    with pytest.raises(errors.Unavailable), database.read():
        pass


def test_the_log_is_copied_while_writing(database: Database, path: Path) -> None:
    for n in range(1100):
        database.write(put(f"{n}", "x" * 2000))
    deadline = time.monotonic() + 60
    while path.stat().st_size < 500_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.stat().st_size >= 500_000


def test_the_log_begins_again_however_long_writing_goes_on(database: Database, path: Path) -> None:
    log = Path(f"{path}-wal")
    database.write(put("first"))
    assert log.stat().st_size == LOG_SIZE
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            names(database)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(8 * CHECKPOINT):
        database.write(put(f"{n}"))
    ended.set()
    reader.join()
    assert log.stat().st_size <= 3 * LOG_SIZE


def test_what_a_crash_leaves_in_a_log_that_has_begun_again_is_read(database: Database, path: Path) -> None:
    written = {f"{n:04}" for n in range(2 * CHECKPOINT + 30)}
    for name in sorted(written):
        database.write(put(name))
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    later = Database(copy)
    assert set(names(later)) == written
    later.close()


def test_a_full_disk_is_unavailable_and_leaves_what_was_there(database: Database) -> None:
    database.write(put("a"))
    (pages,) = database._connection.execute("PRAGMA page_count").fetchone()
    database._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(errors.Unavailable, match="full"):
        database.write(put("b", "x" * 1_000_000))
    database._connection.execute("PRAGMA max_page_count = 1000000")
    database.write(put("c"))
    assert names(database) == ["a", "c"]


def test_an_exchange_that_raises_does_not_stop_the_writer(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def publish(_: Sequence[events.Envelope]) -> None:
        raise ValueError("a defect")

    database = Database(path, publish)
    database.write(lambda tx: (put("a")(tx), tx.emit("ns", "/a/b", "type", b"")))
    database.write(put("b"))
    assert names(database) == ["a", "b"]
    database.close()
    assert "not published" in caplog.text
