"""The helper for authors of content stores, with blobs that are not the ingest's own file."""

import os
import zlib

import pytest

from plugin_sdk import content as contract
from plugin_sdk import content_store
from plugin_sdk.conformance import content, crash, resuming


class Packed(content_store.Store):
    """Blobs in one compressed piece each, under names that say their size."""

    def __init__(self, root):
        self._blobs = root / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True)
        super().__init__(root)

    def _path(self, digest):
        for path in self._blobs.glob(f"{digest}.*"):
            return path
        raise FileNotFoundError(digest)

    def _info(self, digest):
        path = self._path(digest)
        when = path.stat().st_mtime_ns
        return contract.Info(digest, int(path.suffix[1:]), when, when)

    def _digests(self):
        return [path.stem for path in self._blobs.iterdir()]

    def _open(self, digest):
        return Reader(zlib.decompress(self._path(digest).read_bytes()))

    def _remove(self, digest):
        self._path(digest).unlink()

    def _stage(self, digest, data):
        staged = data.with_name("packed")
        staged.write_bytes(zlib.compress(data.read_bytes()))
        return staged

    def _keep(self, digest, staged):
        staged.rename(self._blobs / f"{digest}.{staged.with_name('data').stat().st_size}")

    def _settle(self, digest):
        content_store.sync(self._blobs)


class Reader(content_store.Reader):
    def __init__(self, data):
        super().__init__(len(data))
        self._data = data

    def _read(self, offset, size):
        return self._data[offset : offset + size]


class TestPacked(content.ContentSuite):
    @pytest.fixture
    def store(self, tmp_path):
        return Packed(tmp_path)

    @pytest.fixture
    def supports_labels(self):
        return False

    @pytest.fixture
    def reopen(self, tmp_path):
        return lambda: Packed(tmp_path)

    @pytest.fixture
    def crash(self, tmp_path):
        def crash(work):
            resuming.in_child(lambda end: work(Packed(tmp_path), end))
            return Packed(tmp_path)

        return crash


def test_a_crash_at_any_step_of_commit_leaves_the_ingest_or_the_blob(tmp_path):
    data = os.urandom(10_000)
    digest = content.digest_of(data)

    def work():
        with Packed(tmp_path).writer("ref", expected=digest) as writer:
            writer.truncate(0)
            writer.write(data)
            writer.commit(len(data), digest)

    def check():
        store = Packed(tmp_path)
        blobs, ingests = [info.digest for info in store.walk()], content.refs(store)
        assert (blobs, ingests) in [([], ["ref"]), ([digest], []), ([], [])]
        if blobs:
            assert content.get(store, digest) == data
            store.delete(digest)

    assert crash.at_every_step(work, check) > 5
