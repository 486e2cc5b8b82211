"""What the parts of the suite for snapshotters stand on: their fixtures, and the snapshotter with names of its own.

A check asks for ``subject``. Its keys and names get a prefix that is new for each check, ``walk`` shows only what has
it, and at the end what is left of it is removed. So the suite runs against a plugin that serves others, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from plugin_sdk import errors, snapshots
from plugin_sdk.mounts import Mount
from plugin_sdk.snapshots import Info, Usage

Open = Callable[[], snapshots.Snapshotter]
_WAIT = 60  # seconds, for threads that have met


class Subject(snapshots.Snapshotter):
    def __init__(
        self, snapshotter: snapshots.Snapshotter, reopen: Open | None = None, crash: Open | None = None
    ) -> None:
        self.plugin = snapshotter
        self.prefix = f"conformance-{secrets.token_hex(5)}/"
        self._reopen = reopen
        self._crash = crash
        self._made: dict[str, None] = {}  # in order

    def full(self, key: str) -> str:
        """As the plugin knows it, for filters."""
        return self.prefix + key if key else ""

    def reopen(self) -> None:
        """Closes the object and goes on with another one over what it has kept."""
        again = self._reopen or self._crash
        if again is None:
            pytest.skip("supports_restart is false: the snapshotter cannot be closed and opened here")
        self.plugin.close()
        self.plugin = again()

    def crash(self) -> None:
        """The same without closing it."""
        if self._crash is None:
            self.reopen()
        else:
            self.plugin = self._crash()

    def tidy(self) -> None:
        """Children are younger than parents, but threads may have noted them earlier. What cannot be removed stays: the
        checks of ``remove`` tell of it."""
        left = list(reversed(list(self._made)))
        while left:
            stays = [name for name in left if not self._is_removed(name)]
            if stays == left:
                return
            left = stays

    def _is_removed(self, name: str) -> bool:
        try:
            self.plugin.remove(name)
        except errors.NotFound:
            return True
        except errors.Error:
            return False
        return True

    def stat(self, key: str) -> Info:
        return self._own(self.plugin.stat(self.full(key)))

    def update(self, info: Info, fieldpaths: Sequence[str] = ()) -> Info:
        return self._own(self.plugin.update(dataclasses.replace(info, name=self.full(info.name)), fieldpaths))

    def usage(self, key: str) -> Usage:
        return self.plugin.usage(self.full(key))

    def mounts(self, key: str) -> list[Mount]:
        return self.plugin.mounts(self.full(key))

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        with self._making(key) as full:
            return self.plugin.prepare(full, self.full(parent), labels)

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        with self._making(key) as full:
            return self.plugin.view(full, self.full(parent), labels)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        with self._making(name) as full:
            self.plugin.commit(full, self.full(key), labels)

    def remove(self, key: str) -> None:
        """It stays noted: another thread may have made it again."""
        self.plugin.remove(self.full(key))

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        return (self._own(info) for info in self.plugin.walk(filters) if info.name.startswith(self.prefix))

    def cleanup(self) -> None:
        self.plugin.cleanup()

    def close(self) -> None:
        self.plugin.close()

    @contextlib.contextmanager
    def _making(self, key: str) -> Iterator[str]:
        """What others have made already is not ours to remove."""
        full = self.full(key)
        try:
            yield full
        except errors.AlreadyExists:
            raise
        except BaseException:
            self.note(full)
            raise
        self.note(full)

    def note(self, full: str) -> None:
        """This is removed at the end, before what was noted earlier."""
        self._made.pop(full, None)
        self._made[full] = None

    def _own(self, info: Info) -> Info:
        name, parent = info.name.removeprefix(self.prefix), info.parent.removeprefix(self.prefix)
        return dataclasses.replace(info, name=name, parent=parent, labels=dict(info.labels))


class Rig:
    """The fixtures; a subclass of the suite gives ``snapshotter``, and says by the others what it cannot do."""

    @pytest.fixture
    def snapshotter(self) -> snapshots.Snapshotter:
        raise NotImplementedError("a subclass gives the snapshotter")

    @pytest.fixture
    def reopen(self) -> Open | None:
        """Answers a snapshotter over what a closed one has kept. None: nothing is kept, or it is not ours to start."""
        return None

    @pytest.fixture
    def crash(self) -> Open | None:
        """As reopen, but over what one has kept that is dropped here, without ``close``: kill -9 for a program. It may
        be called again. None: only ``reopen`` is tried."""
        return None

    @pytest.fixture
    def supports_restart(self, reopen: Open | None, crash: Open | None) -> bool:
        return reopen is not None or crash is not None

    @pytest.fixture
    def supports_kill(self) -> bool:
        """``crash`` ends a process, so it may come while a call runs."""
        return False

    @pytest.fixture
    def supports_cleanup(self) -> bool:
        return True

    @pytest.fixture
    def supports_sparse(self) -> bool:
        """Holes stay holes."""
        return True

    @pytest.fixture
    def supports_sharing(self) -> bool:
        """A child shares its parent's files, and does not count them."""
        return True

    @pytest.fixture
    def supports_targets(self) -> bool:
        """``target`` gives layers that the snapshotter has already."""
        return False

    @pytest.fixture
    def target(self) -> Callable[[], Mapping[str, str]]:
        """Each call answers labels for ``prepare``, the target label among them, of another layer that is there."""

        def target() -> Mapping[str, str]:
            raise NotImplementedError("a subclass with supports_targets gives a target")

        return target

    @pytest.fixture
    def layers(self) -> int:
        """How many layers must be possible, one upon the other."""
        return 20

    @pytest.fixture
    def subject(
        self, snapshotter: snapshots.Snapshotter, reopen: Open | None, crash: Open | None, supports_restart: bool
    ) -> Iterator[Subject]:
        subject = Subject(snapshotter, reopen, crash) if supports_restart else Subject(snapshotter)
        yield subject
        subject.tidy()


def together(*works: Callable[[], object]) -> list[object]:
    """Runs them at the same time and answers, in order, what each returned, or the contract's error that it raised."""
    barrier = threading.Barrier(len(works), timeout=_WAIT)

    def run(work: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return work()
        except errors.Error as err:
            return err

    with ThreadPoolExecutor(len(works)) as threads:
        return [future.result(_WAIT) for future in [threads.submit(run, work) for work in works]]


def kinds(outcomes: Sequence[object]) -> list[str]:
    """Sorted: the names of errors, ``done`` for all else."""
    return sorted(type(outcome).__name__ if isinstance(outcome, errors.Error) else "done" for outcome in outcomes)


def state(snapshotter: snapshots.Snapshotter) -> dict[str, Info]:
    return {info.name: info for info in snapshotter.walk()}
