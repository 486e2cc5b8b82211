from dataclasses import replace

import pytest

from kernel.spawner import Spawner
from plugin_sdk.conformance import diff
from plugins_builtin.content import local
from plugins_builtin.diff.plugin import Config
from plugins_builtin.diff.walking import Differ


class Labelled:
    """The content store ``local``, and labels as the kernel keeps them."""

    def __init__(self, root):
        self._store = local.Store(root)
        self._labels = {}

    def __getattr__(self, name):
        return getattr(self._store, name)

    def info(self, digest):
        return replace(self._store.info(digest), labels=dict(self._labels.get(digest, {})))

    def update(self, info, fieldpaths=()):
        assert all(path.startswith("labels.") for path in fieldpaths)
        keys = [path.removeprefix("labels.") for path in fieldpaths]
        self._labels.setdefault(info.digest, {}).update({key: info.labels[key] for key in keys})
        return self.info(info.digest)

    def writer(self, ref, total=0, expected=""):
        return LabelledWriter(self._store.writer(ref, total, expected), self._labels)


class LabelledWriter:
    def __init__(self, writer, labels):
        self._writer = writer
        self._labels = labels

    def __getattr__(self, name):
        return getattr(self._writer, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._writer.close()

    def commit(self, size=0, expected="", labels=None):
        digest = self._writer.commit(size, expected, labels)
        self._labels[digest] = dict(labels or {})
        return digest


@pytest.fixture(scope="module")
def spawner():
    spawner = Spawner()
    yield spawner
    spawner.close()


class TestWalking(diff.DiffSuite):
    @pytest.fixture
    def store(self, folder):
        return Labelled(folder / "content")

    @pytest.fixture
    def differ(self, folder, spawner):
        return Differ(spawner, folder / "state", Config())
