"""Content plugins that tell namespaces apart, as containerd's own content service does, and blobs that a plugin has
although nobody wrote them through the daemon."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.metadata import fields, graves, schema
from kernel.metadata.database import Database
from kernel.metadata.store import Metadata, View
from plugin_sdk import content, errors, plugin
from plugin_sdk.scope import Scope
from tests import scripted
from tests.registries import FixedRegistry

DATA = b"some content"
DIGEST = scripted.digest_of(DATA)


class Apart(FixedRegistry):
    """A store a namespace."""

    def __init__(self) -> None:
        super().__init__(content=object())
        self.stores: dict[str, scripted.Store] = defaultdict(scripted.Store)

    @contextmanager
    def use(self, kind: str, id: str, scope: Scope) -> Iterator[object]:
        with super().use(kind, id, scope):
            yield self.stores[scope.namespace]


@pytest.fixture
def registry() -> Apart:
    return Apart()


@pytest.fixture
def metadata(tmp_path: Path, registry: Apart) -> Iterator[Metadata]:
    database = Database(tmp_path / "meta.db")
    yield Metadata(database, registry, background=False)
    database.close()


def put(view: View, ref: str = "ref", expected: str = "") -> None:
    with view.content.writer(ref, expected=expected) as writer:
        if not writer.status().offset:
            writer.write(DATA)
        writer.commit(len(DATA), DIGEST)


def get(view: View) -> bytes:
    with view.content.reader(DIGEST) as reader:
        return reader.read_at(0, reader.size)


def settle(metadata: Metadata) -> int:
    return metadata.settle_plugin(plugin.CONTENT, "content")


def test_a_shared_blob_is_read_where_the_plugin_has_it(metadata: Metadata, registry: Apart) -> None:
    one, two = metadata.view(Scope("one")), metadata.view(Scope("two"))
    put(one)
    put(two, expected=DIGEST)
    assert get(two) == DATA
    assert registry.stores["two"].blobs == {}


def test_a_shared_blob_is_removed_where_the_plugin_has_it_with_its_last_name(
    metadata: Metadata, registry: Apart
) -> None:
    one, two = metadata.view(Scope("one")), metadata.view(Scope("two"))
    put(one)
    put(two, expected=DIGEST)
    one.content.delete(DIGEST)
    assert settle(metadata) == 0
    assert get(two) == DATA
    two.content.delete(DIGEST)
    assert settle(metadata) == 0
    assert registry.stores["one"].blobs == {}


def test_bytes_that_were_committed_in_two_namespaces_are_removed_from_both(metadata: Metadata, registry: Apart) -> None:
    one, two = metadata.view(Scope("one")), metadata.view(Scope("two"))
    put(one)
    put(two)
    one.content.delete(DIGEST)
    assert settle(metadata) == 0
    assert get(two) == DATA
    two.content.delete(DIGEST)
    assert settle(metadata) == 0
    assert registry.stores["one"].blobs == registry.stores["two"].blobs == {}


@pytest.mark.parametrize("expected", ["", DIGEST])
def test_what_others_have_made_in_a_plugin_survives_our_removal(
    metadata: Metadata, registry: Apart, expected: str
) -> None:
    registry.remote = True
    registry.stores["one"].blobs[DIGEST] = DATA
    one = metadata.view(Scope("one"))
    put(one, expected=expected)
    assert get(one) == DATA
    one.content.delete(DIGEST)
    assert settle(metadata) == 0
    assert registry.stores["one"].blobs == {DIGEST: DATA}


@pytest.mark.parametrize("ours", [True, False])
def test_who_has_made_what_a_cut_off_commit_finds_is_told_by_the_ingest(
    metadata: Metadata, registry: Apart, ours: bool
) -> None:
    registry.remote = True
    store, one = registry.stores["one"], metadata.view(Scope("one"))
    store.modes["commit"] = ["lost" if ours else "late"]
    store.delay = 1000
    with pytest.raises(errors.Unavailable):
        put(one)
    store.restart()
    store.blobs[DIGEST] = DATA
    assert settle(metadata) == 0
    one.content.delete(DIGEST)
    assert settle(metadata) == 0
    assert (DIGEST in store.blobs) is not ours


def test_what_is_in_the_daemons_own_store_is_removed_whoever_made_it(metadata: Metadata, registry: Apart) -> None:
    registry.stores["one"].blobs[DIGEST] = DATA
    one = metadata.view(Scope("one"))
    put(one, expected=DIGEST)
    one.content.delete(DIGEST)
    assert settle(metadata) == 0
    assert registry.stores["one"].blobs == {}


@pytest.mark.parametrize(("made", "left"), [("us", {}), ("them", {DIGEST: DATA})])
def test_a_blob_that_a_differ_has_made_by_our_order_is_known_by_a_label(
    metadata: Metadata, registry: Apart, monkeypatch: pytest.MonkeyPatch, made: str, left: dict[str, bytes]
) -> None:
    registry.remote = True
    store = registry.stores["one"]
    store.blobs[DIGEST] = DATA
    labels = {fields.MADE: made, "a": "b"}
    monkeypatch.setattr(store, "info", lambda digest: content.Info(digest, len(DATA), labels=labels))
    one = metadata.view(Scope("one"))
    with one.content.writer("ref", len(DATA), DIGEST) as writer:
        writer.commit(len(DATA), DIGEST, {fields.MADE: "us"})
    assert one.content.info(DIGEST).labels == {"a": "b"}
    one.content.delete(DIGEST)
    assert settle(metadata) == 0
    assert store.blobs == left


def test_what_is_taken_back_from_a_grave_stays_where_it_was(metadata: Metadata, registry: Apart) -> None:
    one, two = metadata.view(Scope("one")), metadata.view(Scope("two"))
    put(one)
    with two.content.writer("ref", expected=DIGEST) as writer:
        one.content.delete(DIGEST)
        writer.commit(len(DATA), DIGEST)
    assert settle(metadata) == 0
    assert get(two) == DATA


def test_a_shared_blob_is_copied_from_where_it_is_when_something_else_is_written(metadata: Metadata) -> None:
    put(metadata.view(Scope("one")))
    with metadata.view(Scope("two")).content.writer("ref", expected=DIGEST) as writer:
        writer.write(b" and more")
        assert writer.commit() == scripted.digest_of(DATA + b" and more")


@pytest.fixture
def view(metadata: Metadata, registry: Apart) -> View:
    """The plugin has the blob already."""
    registry.stores["one"].blobs[DIGEST] = DATA
    return metadata.view(Scope("one"))


@pytest.mark.parametrize("total", [0, len(DATA)])
def test_a_blob_that_the_plugin_has_is_not_written_again(view: View, metadata: Metadata, total: int) -> None:
    with view.content.writer("ref", total, DIGEST) as writer:
        assert writer.status().offset == len(DATA)
        assert view.content.status("ref").offset == len(DATA)
        writer.commit(len(DATA), DIGEST, {"a": "b"})
    assert get(view) == DATA
    assert view.content.info(DIGEST).labels == {"a": "b"}
    assert settle(metadata) == 0


def test_a_blob_of_another_size_is_not_taken_for_it(view: View) -> None:
    with view.content.writer("ref", len(DATA) + 1, DIGEST) as writer:
        assert writer.status().offset == 0


def test_an_adoption_that_is_given_up_can_be_begun_again(view: View, metadata: Metadata) -> None:
    view.content.writer("ref", expected=DIGEST).close()
    put(view, expected=DIGEST)
    assert get(view) == DATA
    assert settle(metadata) == 0


def test_what_the_plugin_has_lost_meanwhile_cannot_be_adopted(view: View, registry: Apart) -> None:
    with view.content.writer("ref", expected=DIGEST) as writer:
        del registry.stores["one"].blobs[DIGEST]
        with pytest.raises(errors.NotFound):
            writer.commit(len(DATA), DIGEST)


def test_what_is_not_adopted_is_not_removed(view: View, metadata: Metadata, registry: Apart) -> None:
    view.content.writer("ref", expected=DIGEST).close()
    view.content.abort("ref")
    assert settle(metadata) == 0
    assert registry.stores["one"].blobs == {DIGEST: DATA}


def test_a_blob_in_a_grave_is_taken_back_with_its_home(view: View, metadata: Metadata, registry: Apart) -> None:
    put(view, expected=DIGEST)
    view.content.delete(DIGEST)
    with metadata.database.read() as cursor:
        [row] = cursor.execute("SELECT * FROM graves WHERE type = ?", (graves.CONTENT,)).fetchall()
    assert (row["namespace"], row["backend"]) == ("one", DIGEST)
    put(view, expected=DIGEST)
    assert settle(metadata) == 0
    assert get(view) == DATA


def test_a_blob_in_a_grave_is_not_adopted(view: View, metadata: Metadata) -> None:
    """It would be gone before the commit."""
    put(view, expected=DIGEST)
    view.content.delete(DIGEST)
    with view.content.writer("ref", expected=DIGEST) as writer:
        assert writer.status().offset == 0
        writer.write(DATA)
        assert settle(metadata) == 0
        assert writer.commit(len(DATA), DIGEST) == DIGEST
    assert get(view) == DATA


def test_a_database_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    Database(path).close()
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP TABLE homes; DROP TABLE graves;"
        "CREATE TABLE graves (id INTEGER PRIMARY KEY, type TEXT NOT NULL, plugin TEXT NOT NULL,"
        " namespace TEXT NOT NULL, backend TEXT NOT NULL, uncertain INTEGER NOT NULL DEFAULT 0,"
        " tries INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '', born INTEGER NOT NULL,"
        " UNIQUE (type, plugin, backend));"
        "INSERT INTO blobs VALUES ('ns', 'd', 1, '{}', 1, 1, 1);"
        "INSERT INTO graves VALUES (7, 'content', 'content', 'ns', 'e', 0, 2, 'why', 1);"
        "PRAGMA user_version = 1;"
    )
    connection.close()
    database = Database(path)
    with database.read() as cursor:
        assert [tuple(row) for row in cursor.execute("SELECT * FROM homes")] == [("d", "ns", 1)]
        assert [tuple(row)[:5] for row in cursor.execute("SELECT * FROM graves")] == [
            (7, "content", "content", "ns", "e")
        ]
        assert cursor.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION
    database.write(lambda tx: graves.dig(tx, graves.CONTENT, "content", "other", "e"))
    database.close()
