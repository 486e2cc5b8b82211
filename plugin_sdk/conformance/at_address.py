"""The suites for a program at an address, which ``plugin_sdk.conformance.checking`` runs.

Nothing is known of the program but what it answers, and it is not ended or started here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence

import pytest

from plugin_sdk import content, diff, errors, mounts, oci, snapshots
from plugin_sdk.conformance import asking
from plugin_sdk.conformance.content import ContentSuite
from plugin_sdk.conformance.diff import DiffSuite
from plugin_sdk.conformance.shelf import Shelf
from plugin_sdk.conformance.snapshots import SnapshotSuite
from plugin_sdk.conformance.target import TARGET, Target
from plugin_sdk.wire import content as wire_content
from plugin_sdk.wire import diff as wire_diff
from plugin_sdk.wire import snapshots as wire_snapshots


class Program:
    """The contracts at the far end, and what has been asked of them once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._channel = target.connect(target.address)
        self._beside = target.connect(target.content) if target.content else self._channel

    def close(self) -> None:
        self._channel.close()
        self._beside.close()

    @property
    def snapshotter(self) -> snapshots.Snapshotter:
        return wire_snapshots.Proxy(self._channel, self._target.scope, self._target.name)

    @property
    def store(self) -> content.Store:
        return wire_content.Proxy(self._channel, self._target.scope)

    @property
    def content_of_differ(self) -> content.Store:
        return wire_content.Proxy(self._beside, self._target.scope)

    @property
    def differ(self) -> diff.Differ:
        return wire_diff.Proxy(self._channel, self._target.scope)

    @functools.cached_property
    def blobs_before(self) -> frozenset[str]:
        return frozenset(info.digest for info in self.content_of_differ.walk())

    @functools.cached_property
    def cleans_up(self) -> bool:
        return asking.cleans_up(self.snapshotter)

    @functools.cached_property
    def keeps_holes(self) -> bool:
        return asking.keeps_holes(self.snapshotter)

    @functools.cached_property
    def shares(self) -> bool:
        return asking.shares(self.snapshotter)

    @functools.cached_property
    def keeps_labels(self) -> bool:
        return asking.keeps_labels(Shelf(self.store))

    @functools.cached_property
    def inflates_zstd(self) -> bool:
        return asking.inflates_zstd(self.differ, Shelf(self.content_of_differ))


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    program = Program(request.config.stash[TARGET])
    yield program
    program.close()


class TestSnapshot(SnapshotSuite):
    @pytest.fixture
    def snapshotter(self, program: Program) -> snapshots.Snapshotter:
        return program.snapshotter

    @pytest.fixture
    def supports_cleanup(self, program: Program) -> bool:
        """Removing leaves something to free."""
        return program.cleans_up

    @pytest.fixture
    def supports_sparse(self, program: Program) -> bool:
        """Holes stay holes."""
        return program.keeps_holes

    @pytest.fixture
    def supports_sharing(self, program: Program) -> bool:
        """A child shares its parent's files, and does not count them."""
        return program.shares


class TestContent(ContentSuite):
    @pytest.fixture
    def store(self, program: Program) -> content.Store:
        return program.store

    @pytest.fixture
    def supports_labels(self, program: Program) -> bool:
        """Blobs have labels."""
        return program.keeps_labels

    @pytest.fixture
    def supports_truncate(self) -> bool:
        """At a socket to 0 only."""
        return False


class TestDiff(DiffSuite):
    @pytest.fixture
    def store(self, program: Program) -> Iterator[content.Store]:
        store = Noting(program.content_of_differ, program.blobs_before)
        yield store
        store.clear()

    @pytest.fixture
    def differ(self, program: Program, store: Noting) -> diff.Differ:
        return Differ(program.differ, store)

    @pytest.fixture
    def supports_store(self) -> bool:
        """It has one of its own."""
        return False

    @pytest.fixture
    def supports_zstd(self, program: Program) -> bool:
        """Layers may be compressed with zstd."""
        return program.inflates_zstd


class Noting(Shelf):
    """The store of a differ: what a check and the differ write there is removed, unless it was there ``before``."""

    def __init__(self, store: content.Store, before: frozenset[str]) -> None:
        super().__init__(store)
        self._inner = store
        self._before = before
        self._refs: set[str] = set()

    def writer(self, ref: str, total: int = 0, expected: str = "") -> content.Writer:
        self._refs.add(ref)
        return super().writer(ref, total, expected)

    @contextlib.contextmanager
    def noting_ingests(self) -> Iterator[None]:
        """When it fails within, the ingests that are new then are noted: a differ chooses their refs."""
        before = {status.ref for status in self.list_statuses()}
        try:
            yield
        except errors.Error:
            self._refs |= {status.ref for status in self.list_statuses()} - before
            raise

    def note(self, digest: str) -> str:
        return digest if digest in self._before else super().note(digest)

    def clear(self) -> None:
        super().clear()
        for ref in self._refs:
            with contextlib.suppress(errors.Error):
                self._inner.abort(ref)


class Differ(diff.Differ):
    """A differ whose blobs are noted."""

    def __init__(self, differ: diff.Differ, store: Noting) -> None:
        self._differ = differ
        self._store = store

    def apply(
        self,
        descriptor: oci.Descriptor,
        mounts: Sequence[mounts.Mount],
        content: content.Store,
        *,
        payloads: Mapping[str, tuple[str, bytes]] | None = None,
        sync: bool = False,
    ) -> oci.Descriptor:
        return self._differ.apply(descriptor, mounts, content, payloads=payloads, sync=sync)

    def compare(
        self,
        lower: Sequence[mounts.Mount],
        upper: Sequence[mounts.Mount],
        content: content.Store,
        *,
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        source_date_epoch: int | None = None,
    ) -> oci.Descriptor:
        with self._store.noting_ingests():
            layer = self._differ.compare(
                lower,
                upper,
                content,
                media_type=media_type,
                ref=ref,
                labels=labels,
                source_date_epoch=source_date_epoch,
            )
        self._store.note(layer.digest)
        return layer
