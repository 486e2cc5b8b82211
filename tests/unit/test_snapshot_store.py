import threading

import pytest

from plugin_sdk import errors, snapshot_store, snapshots
from plugin_sdk.snapshots import Kind, Usage


@pytest.fixture
def made():
    return []


@pytest.fixture
def store(tmp_path, made):
    def make(folder, kind, parents):
        made.append((kind, tuple(parents)))
        (folder / "content").touch()

    opened = snapshot_store.Store(tmp_path / "root", make)
    opened.recover()
    yield opened
    opened.close()


def layer(store, name, parent=""):
    store.create(f"make {name}", Kind.ACTIVE, parent)
    store.commit(name, f"make {name}", None, lambda snapshot: Usage(512, 1))
    return store.get(name)


def folders(store):
    return {path.name for path in store.path(0).parent.iterdir()}


def test_parents_are_told_nearest_first(store, made):
    one, two, three = layer(store, "1"), layer(store, "2", "1"), layer(store, "3", "2")
    assert three.parents == (two.id, one.id)
    store.create("key", Kind.VIEW, "3")
    assert made[-1] == (Kind.VIEW, (three.id, two.id, one.id))


def test_a_snapshot_has_the_directory_of_its_id(store):
    snapshot = store.create("key", Kind.ACTIVE)
    assert (store.path(snapshot.id) / "content").exists()
    assert folders(store) == {str(snapshot.id)}


def test_usage_is_that_of_the_commit(store):
    assert layer(store, "layer").usage == Usage(512, 1)


def test_a_making_that_fails_leaves_nothing(store):
    def fail(folder, kind, parents):
        (folder / "half").touch()
        raise errors.FailedPrecondition("no")

    store._make = fail
    with pytest.raises(errors.FailedPrecondition):
        store.create("key", Kind.ACTIVE)
    assert folders(store) == set()
    assert list(store.walk()) == []


def test_a_sealing_that_fails_leaves_the_active_snapshot(store):
    def fail(snapshot):
        raise errors.DataLoss("no")

    store.create("key", Kind.ACTIVE)
    with pytest.raises(errors.DataLoss):
        store.commit("layer", "key", None, fail)
    assert [info.kind for info in store.walk()] == [Kind.ACTIVE]


def test_no_transaction_is_open_while_a_snapshot_is_made_or_sealed(store):
    def make(folder, kind, parents):
        in_another_thread(lambda: store.create("other", Kind.ACTIVE))

    def seal(snapshot):
        in_another_thread(lambda: store.remove("other"))
        return Usage(0, 0)

    plain, store._make = store._make, lambda *args: (setattr(store, "_make", plain), make(*args))
    store.create("key", Kind.ACTIVE)
    store.commit("layer", "key", None, seal)
    assert {info.name for info in store.walk()} == {"layer"}


def in_another_thread(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_a_parent_removed_meanwhile_is_not_found(store):
    def make(folder, kind, parents):
        store.remove("layer")

    layer(store, "layer")
    store._make = make
    with pytest.raises(errors.NotFound, match="layer"):
        store.create("key", Kind.ACTIVE, "layer")
    assert folders(store) == set()


def test_a_parent_whose_files_vanish_meanwhile_is_not_found(store):
    def make(folder, kind, parents):
        store.remove("layer")
        store.path(parents[0]).joinpath("content").read_text()

    layer(store, "layer")
    store._make = make
    with pytest.raises(errors.NotFound, match="layer"):
        store.create("key", Kind.ACTIVE, "layer")


def test_a_key_removed_while_it_is_sealed_is_not_found(store):
    def seal(snapshot):
        store.remove("key")
        raise FileNotFoundError("content")

    store.create("key", Kind.ACTIVE)
    with pytest.raises(errors.NotFound, match="key"):
        store.commit("layer", "key", None, seal)


def test_a_key_removed_and_made_again_meanwhile_is_not_committed(store):
    def seal(snapshot):
        store.remove("key")
        store.create("key", Kind.ACTIVE)
        return Usage(0, 0)

    store.create("key", Kind.ACTIVE)
    with pytest.raises(errors.NotFound, match="key"):
        store.commit("layer", "key", None, seal)


def test_removing_and_cleaning_at_once_leaves_nothing(store):
    for number in range(30):
        store.create(str(number), Kind.ACTIVE)
    cleaning = threading.Thread(target=lambda: [store.clean() for _ in range(30)])
    cleaning.start()
    for number in range(30):
        store.remove(str(number))
    cleaning.join()
    assert folders(store) == set()


def test_a_store_has_one_owner(store, tmp_path):
    with pytest.raises(errors.FailedPrecondition, match="in use"):
        snapshot_store.Store(tmp_path / "root", lambda *args: None)


def test_a_closed_store_can_be_opened_again(store, tmp_path):
    layer(store, "layer")
    store.close()
    again = snapshot_store.Store(tmp_path / "root", lambda *args: None)
    try:
        assert again.get("layer").info.kind is Kind.COMMITTED
    finally:
        again.close()


def test_a_directory_whose_new_name_a_power_cut_took_away_is_made_again(store, tmp_path):
    snapshot = store.create("key", Kind.ACTIVE)
    store.close()
    store.path(snapshot.id).rename(store.path(snapshot.id).with_name(f"new-{snapshot.id}"))
    again = snapshot_store.Store(tmp_path / "root", lambda folder, kind, parents: (folder / "again").touch())
    again.recover()
    try:
        assert (again.path(snapshot.id) / "again").exists()
        again.clean()
        assert folders(again) == {str(snapshot.id)}
    finally:
        again.close()


def test_a_root_whose_records_cannot_be_opened_is_free_for_the_next_attempt(store, tmp_path):
    store.close()
    records = tmp_path / "root" / "snapshots.db"
    records.rename(tmp_path / "kept")
    records.mkdir()
    for _ in range(2):
        with pytest.raises(errors.FailedPrecondition, match=r"root cannot be written: unable to open"):
            snapshot_store.Store(tmp_path / "root", lambda *args: None)
    records.rmdir()
    (tmp_path / "kept").rename(records)
    snapshot_store.Store(tmp_path / "root", lambda *args: None).close()


@pytest.fixture
def atomic(tmp_path):
    """A store whose ``make`` makes the directory itself, but for views."""

    def make(folder, kind, parents):
        if kind is Kind.ACTIVE:
            folder.mkdir()

    opened = snapshot_store.Store(tmp_path / "atomic", make, atomic=True)
    opened.recover()
    yield opened
    opened.close()


def copy(snapshot, target):
    target.mkdir()
    return Usage(512, 1)


def test_replacing_makes_the_committed_snapshot_beside_the_active_one(atomic):
    active = atomic.create("key", Kind.ACTIVE, "", {"a": "b"})
    atomic.replace("layer", "key", {"c": "d"}, copy)
    layer = atomic.get("layer")
    assert layer.id > active.id
    assert (layer.info.kind, layer.info.labels, layer.usage) == (Kind.COMMITTED, {"c": "d"}, Usage(512, 1))
    with pytest.raises(errors.NotFound):
        atomic.get("key")
    atomic.clean()
    assert folders(atomic) == {str(layer.id)}
    child = atomic.create("child", Kind.ACTIVE, "layer")
    atomic.replace("top", "child", None, copy)
    assert atomic.get("top").parents == (layer.id,) == child.parents


def test_replacing_that_fails_leaves_the_active_snapshot(atomic):
    def fail(snapshot, target):
        raise errors.DataLoss("no")

    def lose(snapshot, target):
        target.mkdir()
        atomic.remove("key")
        return Usage(0, 0)

    active = atomic.create("key", Kind.ACTIVE)
    with pytest.raises(errors.DataLoss):
        atomic.replace("layer", "key", None, fail)
    assert folders(atomic) == {str(active.id)}
    with pytest.raises(errors.NotFound, match="key"):
        atomic.replace("layer", "key", None, lose)
    assert folders(atomic) == set()


def test_a_directory_that_is_not_made_is_not_missed(atomic, tmp_path):
    atomic.create("view", Kind.VIEW)
    assert folders(atomic) == set()
    atomic.remove("view")


def test_ids_do_not_return_when_the_highest_was_replaced_and_removed(atomic, tmp_path):
    atomic.create("key", Kind.ACTIVE)
    atomic.replace("layer", "key", None, copy)
    last = atomic.get("layer").id
    atomic.remove("layer")
    atomic.close()
    again = snapshot_store.Store(tmp_path / "atomic", lambda *args: None, atomic=True)
    try:
        assert again.create("key", Kind.ACTIVE).id > last
    finally:
        again.close()


def test_labels_named_by_paths_change_and_others_stay(store):
    store.create("key", Kind.ACTIVE, "", {"a": "1", "b.c/d": "2", "none": ""})
    changed = snapshots.Info("key", Kind.UNKNOWN, labels={"b.c/d": "3"})
    assert store.update(changed, ["labels.b.c/d", "labels.a"]).labels == {"b.c/d": "3"}
