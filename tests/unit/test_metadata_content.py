from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.metadata.content_rows import LIFETIME
from kernel.metadata.database import Database
from kernel.metadata.store import Metadata, View
from plugin_sdk import errors, plugin
from plugin_sdk.content import Info
from plugin_sdk.events import Envelope
from plugin_sdk.leases import Resource
from plugin_sdk.scope import Scope
from tests import scripted
from tests.registries import FixedRegistry

DATA = b"some content"
DIGEST = scripted.digest_of(DATA)


@pytest.fixture
def store() -> scripted.Store:
    return scripted.Store()


@pytest.fixture
def published() -> list[Envelope]:
    return []


@pytest.fixture
def metadata(tmp_path: Path, store: scripted.Store, published: list[Envelope]) -> Iterator[Metadata]:
    database = Database(tmp_path / "meta.db", published.extend)
    yield Metadata(database, FixedRegistry(store), background=False)
    database.close()


@pytest.fixture
def view(metadata: Metadata) -> View:
    return metadata.view(Scope("ns"))


def other(metadata: Metadata, lease: str | None = None) -> View:
    return metadata.view(Scope("other", lease))


def put(view: View, data: bytes = DATA, ref: str = "ref", labels: dict[str, str] | None = None) -> str:
    with view.content.writer(ref) as writer:
        writer.write(data)
        return writer.commit(labels=labels)


def rows(metadata: Metadata, sql: str) -> list[tuple[object, ...]]:
    with metadata.database.read() as cursor:
        return [tuple(row) for row in cursor.execute(sql)]


def reap(metadata: Metadata) -> int:
    return metadata.settle_plugin(plugin.CONTENT, "content")


def test_the_store_sees_namespace_sequence_and_ref(view: View, store: scripted.Store) -> None:
    view.content.writer("a ref/with:signs").close()
    (ref,) = store.ingests
    namespace, number, rest = ref.split("/", 2)
    assert (namespace, rest) == ("ns", "a ref/with:signs")
    assert int(number) > 0


def test_a_sequence_does_not_return_after_abort(view: View, store: scripted.Store, metadata: Metadata) -> None:
    view.content.writer("ref").close()
    (first,) = store.ingests
    view.content.abort("ref")
    view.content.writer("ref").close()
    assert reap(metadata) == 0
    (second,) = store.ingests
    assert first != second


def test_another_namespaces_refs_and_blobs_are_not_found(view: View, metadata: Metadata) -> None:
    put(view)
    view.content.writer("open").close()
    for call in (
        lambda: other(metadata).content.status("open"),
        lambda: other(metadata).content.abort("open"),
        lambda: other(metadata).content.info(DIGEST),
        lambda: other(metadata).content.reader(DIGEST),
        lambda: other(metadata).content.delete(DIGEST),
        lambda: other(metadata).content.update(Info(DIGEST, 0)),
    ):
        with pytest.raises(errors.NotFound):
            call()


def test_a_shared_blob_opens_at_its_end_and_commits_without_data(
    view: View, metadata: Metadata, store: scripted.Store
) -> None:
    put(view, labels={"mine": "1"})
    with other(metadata).content.writer("ref", expected=DIGEST) as writer:
        status = writer.status()
        assert (status.ref, status.offset, status.total, status.expected) == ("ref", len(DATA), len(DATA), DIGEST)
        assert writer.digest() == DIGEST
        assert other(metadata).content.status("ref").offset == len(DATA)
        assert writer.commit(len(DATA), DIGEST, {"theirs": "2"}) == DIGEST
    assert other(metadata).content.info(DIGEST).labels == {"theirs": "2"}
    assert view.content.info(DIGEST).labels == {"mine": "1"}
    assert store.ingests == {}


def test_a_blob_of_another_size_is_not_shared(view: View, metadata: Metadata) -> None:
    put(view)
    with other(metadata).content.writer("ref", total=5, expected=DIGEST) as writer:
        assert writer.status().offset == 0


@pytest.mark.parametrize(("size", "expected"), [(3, DIGEST), (0, "sha256:" + "0" * 64)])
def test_a_shared_commit_is_checked_too(view: View, metadata: Metadata, size: int, expected: str) -> None:
    put(view)
    with other(metadata).content.writer("ref", expected=DIGEST) as writer, pytest.raises(errors.FailedPrecondition):
        writer.commit(size, expected)
    assert other(metadata).content.status("ref").offset == len(DATA)


def test_cutting_a_shared_ingest_begins_a_real_one(view: View, metadata: Metadata, store: scripted.Store) -> None:
    put(view)
    with other(metadata).content.writer("ref", expected=DIGEST) as writer:
        writer.truncate(4)
        assert writer.status().offset == 4
        writer.truncate(0)
        writer.write(b"something else")
        assert writer.commit() == scripted.digest_of(b"something else")


def test_writing_to_a_shared_ingest_appends_to_its_bytes(view: View, metadata: Metadata) -> None:
    put(view)
    with other(metadata).content.writer("ref", expected=DIGEST) as writer:
        writer.write(b" and more")
        assert writer.commit() == scripted.digest_of(DATA + b" and more")


def test_a_shared_commit_fails_when_the_blob_has_gone(view: View, metadata: Metadata, store: scripted.Store) -> None:
    put(view)
    with other(metadata).content.writer("ref", expected=DIGEST) as writer:
        view.content.delete(DIGEST)
        assert reap(metadata) == 0
        with pytest.raises(errors.FailedPrecondition, match=DIGEST):
            writer.commit()
    with other(metadata).content.writer("ref", expected=DIGEST) as writer:
        assert writer.status().offset == 0


def test_a_shared_commit_takes_back_a_grave_that_is_not_begun(view: View, metadata: Metadata) -> None:
    put(view)
    with other(metadata).content.writer("ref", expected=DIGEST) as writer:
        view.content.delete(DIGEST)
        writer.commit()
    assert rows(metadata, "SELECT * FROM graves") == []
    assert other(metadata).content.reader(DIGEST).read_at(0, 100) == DATA


def test_a_write_takes_back_a_grave_that_is_not_begun(view: View, metadata: Metadata, store: scripted.Store) -> None:
    put(view)
    view.content.delete(DIGEST)
    put(view, ref="again")
    assert reap(metadata) == 0
    assert DIGEST in store.blobs


def test_a_write_waits_for_the_end_of_a_removal_that_has_begun(
    view: View, metadata: Metadata, store: scripted.Store
) -> None:
    put(view)
    view.content.delete(DIGEST)
    store.modes["delete"] = ["lost"]
    assert reap(metadata) == 1
    put(view, ref="again")
    assert rows(metadata, "SELECT * FROM graves") == []
    assert store.blobs == {DIGEST: DATA}
    view.content.delete(DIGEST)
    store.modes["delete"] = ["refused", "refused"]
    assert reap(metadata) == 1
    with view.content.writer("third") as writer:
        writer.write(DATA)
        with pytest.raises(errors.Unavailable, match="being removed"):
            writer.commit()


def test_a_ref_that_is_open_is_unavailable_and_free_afterwards(view: View, metadata: Metadata) -> None:
    with view.content.writer("ref"):
        with pytest.raises(errors.Unavailable, match='ref "ref" locked'):
            view.content.writer("ref")
        other(metadata).content.writer("ref").close()
    view.content.writer("ref").close()


def test_a_ref_that_is_committed_while_it_is_opened_begins_anew(
    view: View, metadata: Metadata, store: scripted.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is read before the ingest is claimed, and the last writer ends in between."""
    first = view.content.writer("ref")
    first.write(DATA)
    claims = metadata.backends.claims
    take = claims.take

    def late(*names: str) -> bool:
        monkeypatch.undo()
        first.commit()
        return take(*names)

    monkeypatch.setattr(claims, "take", late)
    with view.content.writer("ref") as second:
        assert second.status().offset == 0
        second.write(b"more")
        assert second.commit() == scripted.digest_of(b"more")
    assert view.content.info(DIGEST).size == len(DATA)
    assert (store.ingests, view.content.list_statuses()) == ({}, [])


def test_an_ingest_expires_a_day_after_its_last_open(view: View, metadata: Metadata) -> None:
    view.content.writer("ref").close()
    ((first, owner_expires),) = rows(
        metadata, "SELECT i.expires_at, e.expires FROM ingests i JOIN edges e ON e.target = 'ingests ' || i.ref"
    )
    assert first == owner_expires
    assert 0 < first - LIFETIME <= time.time_ns()  # type: ignore[operator]
    view.content.writer("ref").close()
    ((second,),) = rows(metadata, "SELECT expires_at FROM ingests")
    assert second > first  # type: ignore[operator]


def test_a_leased_ingest_does_not_expire_and_passes_its_lease_to_the_blob(metadata: Metadata, view: View) -> None:
    view.leases.create("l")
    leased = metadata.view(Scope("ns", "l"))
    with leased.content.writer("ref") as writer:
        assert view.leases.list_resources("l") == [Resource("ref", "ingests")]
        assert rows(metadata, "SELECT expires_at FROM ingests") == [(0,)]
        writer.write(DATA)
        writer.commit()
    assert view.leases.list_resources("l") == [Resource(DIGEST, "content")]


def test_a_lease_that_goes_during_a_commit_does_not_harm_it(
    metadata: Metadata, view: View, store: scripted.Store
) -> None:
    view.leases.create("l")
    with metadata.view(Scope("ns", "l")).content.writer("ref") as writer:
        writer.write(DATA)
        store.steps = lambda name: name == "before commit" and view.leases.delete("l")
        writer.commit()
    assert view.content.info(DIGEST).size == len(DATA)


def test_labels_make_edges_that_go_with_the_blob(view: View, metadata: Metadata) -> None:
    put(view, labels={"containerd.io/gc.ref.content.0": "sha256:x", "containerd.io/gc.root": "1", "plain": "p"})
    sql = "SELECT source, target FROM edges ORDER BY 1, 2"
    node = f"content {DIGEST}"
    assert rows(metadata, sql) == [("", node), (node, "content sha256:x")]
    view.content.update(Info(DIGEST, 0, labels={"containerd.io/gc.ref.snapshot.s": "y"}))
    assert rows(metadata, sql) == [(node, "snapshots/s y")]
    view.content.delete(DIGEST)
    assert rows(metadata, sql) == []


def test_events_tell_of_blobs(view: View, published: list[Envelope]) -> None:
    put(view)
    view.content.delete(DIGEST)
    assert [(event.topic, event.event.type_url) for event in published] == [
        ("/content/create", "containerd.events.ContentCreate"),
        ("/content/delete", "containerd.events.ContentDelete"),
    ]


def test_a_refused_commit_leaves_an_ingest_that_can_be_gone_on_with(view: View, store: scripted.Store) -> None:
    store.modes["commit"] = ["refused"]
    with view.content.writer("ref") as writer:
        writer.write(DATA)
        with pytest.raises(errors.PermissionDenied):
            writer.commit()
        writer.commit()
    assert view.content.info(DIGEST).size == len(DATA)


def test_an_unclear_answer_is_looked_up(view: View, store: scripted.Store) -> None:
    store.modes["commit"] = ["unclear", "unclear but done"]
    with view.content.writer("ref") as writer:
        writer.write(DATA)
        with pytest.raises(errors.Unknown):
            writer.commit()
        assert writer.commit() == DIGEST
    assert view.content.info(DIGEST).size == len(DATA)


def test_a_lost_answer_is_unavailable_and_settled(view: View, store: scripted.Store, metadata: Metadata) -> None:
    store.modes["commit"] = ["lost"]
    with view.content.writer("ref") as writer:
        writer.write(DATA)
        with pytest.raises(errors.Unavailable):
            writer.commit(labels={"a": "b"})
    for call in (lambda: view.content.writer("ref"), lambda: view.content.abort("ref")):
        with pytest.raises(errors.Unavailable):
            call()
    assert reap(metadata) == 0
    assert view.content.info(DIGEST).labels == {"a": "b"}


def test_a_commit_that_another_settles_meanwhile_is_left_alone(
    view: View, store: scripted.Store, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.modes["commit"] = ["lost"]
    with view.content.writer("ref") as writer, pytest.raises(errors.Unavailable):
        writer.write(DATA)
        writer.commit()
    claims = metadata.backends.claims
    take = claims.take

    def come_second(*names: str) -> bool:
        monkeypatch.setattr(claims, "take", take)
        assert reap(metadata) == 0
        view.content.writer("ref").close()
        return take(*names)

    monkeypatch.setattr(claims, "take", come_second)
    assert reap(metadata) == 0
    assert view.content.status("ref").offset == 0


def test_errors_of_the_plugin_name_the_callers_ref(view: View, store: scripted.Store, metadata: Metadata) -> None:
    view.content.writer("ref").close()
    store.ingests.clear()
    with view.content.writer("ref") as writer:
        store.ingests.clear()
        with pytest.raises(errors.NotFound, match=r'^ingest "ref": not found$'):
            writer.write(b"x")


def test_two_namespaces_may_commit_one_digest_at_once(metadata: Metadata, store: scripted.Store) -> None:
    store.steps = lambda name: time.sleep(0.005)
    failed: list[BaseException] = []

    def work(namespace: str) -> None:
        try:
            put(metadata.view(Scope(namespace)))
        except errors.Error as err:
            failed.append(err)

    threads = [threading.Thread(target=work, args=(f"ns{number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert store.blobs == {DIGEST: DATA}
    assert reap(metadata) == 0
    assert store.ingests == {}


def test_a_reader_counts_as_in_flight_until_it_is_closed(view: View, metadata: Metadata) -> None:
    put(view)
    registry = metadata.backends.registry
    with view.content.reader(DIGEST):
        assert registry.inflight == 1  # type: ignore[attr-defined]
    assert registry.inflight == 0  # type: ignore[attr-defined]


def test_without_a_content_store_content_is_unavailable(tmp_path: Path) -> None:
    database = Database(tmp_path / "none.db")
    view = Metadata(database, FixedRegistry(), background=False).view(Scope("ns"))
    with pytest.raises(errors.Unavailable, match="content store"):
        view.content.writer("ref")
    database.close()
