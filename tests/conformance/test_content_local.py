import os

import pytest

from plugin_sdk import content as contract
from plugin_sdk import content_ingest as ingest
from plugin_sdk import content_writer as writer
from plugin_sdk import errors
from plugin_sdk.conformance import content, crash, resuming
from plugins_builtin.content import local


class TestLocal(content.ContentSuite):
    @pytest.fixture
    def store(self, memory):
        return local.Store(memory)

    @pytest.fixture
    def supports_labels(self):
        return False

    @pytest.fixture
    def supports_fileno(self):
        return True

    @pytest.fixture
    def reopen(self, memory):
        return lambda: local.Store(memory)

    @pytest.fixture
    def crash(self, memory):
        def crash(work):
            resuming.in_child(lambda end: work(local.Store(memory), end))
            return local.Store(memory)

        return crash


def test_the_layout_is_containerds(tmp_path):
    store = local.Store(tmp_path)
    digest = content.put(store, b"data")
    with store.writer("some ref", total=9, expected=content.digest_of(b"123456789")) as open_writer:
        open_writer.write(b"1234")
    assert (tmp_path / "blobs" / digest.replace(":", "/")).read_bytes() == b"data"
    folder = tmp_path / "ingest" / content.digest_of(b"some ref").removeprefix("sha256:")
    assert {path.name for path in folder.iterdir()} == {"data", "ref", "startedat", "updatedat", "total", "expected"}
    assert (folder / "ref").read_text() == "some ref"
    assert (folder / "total").read_text() == "9"
    assert (folder / "startedat").read_text().endswith("Z")


def test_a_blob_is_not_writable(tmp_path):
    digest = content.put(local.Store(tmp_path), b"data")
    assert (tmp_path / "blobs" / digest.replace(":", "/")).stat().st_mode & 0o777 == 0o444


def test_a_ref_is_locked_against_other_processes_too(tmp_path):
    with local.Store(tmp_path).writer("ref"), pytest.raises(errors.Unavailable, match="ref"):
        local.Store(tmp_path).writer("ref")


def test_started_at_is_kept_to_the_nanosecond(tmp_path, monkeypatch):
    monkeypatch.setattr(ingest.time, "time_ns", lambda: 1_700_000_000_000_000_007)
    store = local.Store(tmp_path)
    store.writer("ref").close()
    assert store.status("ref").started_at == 1_700_000_000_000_000_007


def test_a_full_disk_leaves_a_writer_that_can_go_on(tmp_path, monkeypatch):
    def full(fd, data, offset):
        real(fd, data[:3], offset)
        raise OSError(28, "No space left on device")

    real = os.pwrite
    with local.Store(tmp_path).writer("ref") as open_writer:
        open_writer.write(b"first ")
        monkeypatch.setattr(writer.os, "pwrite", full)
        with pytest.raises(errors.ResourceExhausted, match="No space"):
            open_writer.write(b"second")
        monkeypatch.undo()
        open_writer.write(b"third")
        assert open_writer.commit() == content.digest_of(b"first third")


def test_bytes_that_cannot_be_synced_have_to_be_written_again(tmp_path, monkeypatch):
    def fail(fd):
        raise OSError(5, "Input/output error")

    store = local.Store(tmp_path)
    with store.writer("ref") as open_writer:
        open_writer.write(b"data")
        monkeypatch.setattr(writer.os, "fsync", fail)
        with pytest.raises(errors.DataLoss, match="ref"):
            open_writer.commit()
        monkeypatch.undo()
        assert open_writer.status().offset == 0
    assert list(store.walk()) == []


def test_strange_files_in_the_root_are_passed_over(tmp_path):
    store = local.Store(tmp_path)
    (tmp_path / "blobs" / "sha256" / "README").write_text("")
    (tmp_path / "ingest" / "README").write_text("")
    assert list(store.walk()) == []
    assert store.list_statuses() == []
    assert list(local.Store(tmp_path).walk()) == []


def test_a_crash_at_any_step_of_commit_leaves_the_ingest_or_the_blob(tmp_path):
    data = os.urandom(10_000)
    digest = content.digest_of(data)

    def work():
        with local.Store(tmp_path).writer("ref", expected=digest) as open_writer:
            open_writer.truncate(0)
            open_writer.write(data)
            open_writer.commit(len(data), digest)

    def check():
        store = local.Store(tmp_path)
        there = [info.digest for info in store.walk()]
        assert there in ([], [digest])
        if there:
            assert content.get(store, digest) == data
            assert store.list_statuses() == []
            store.delete(digest)
        for status in store.list_statuses():
            assert status.ref == "ref"
        assert not [path for path in (tmp_path / "ingest").iterdir() if path.name.startswith(".")]

    assert crash.at_every_step(work, check) > 5


def test_a_crash_at_any_step_of_abort_leaves_the_ingest_or_nothing(tmp_path):
    def work():
        store = local.Store(tmp_path)
        with store.writer("ref") as open_writer:
            open_writer.write(b"data")
        store.abort("ref")

    def check():
        refs = content.refs(local.Store(tmp_path))
        assert refs in ([], ["ref"])
        assert len(list((tmp_path / "ingest").iterdir())) == len(refs)

    assert crash.at_every_step(work, check) > 3


def test_it_is_a_store_of_the_contract(tmp_path):
    store: contract.Store = local.Store(tmp_path)
    assert list(store.walk()) == []
