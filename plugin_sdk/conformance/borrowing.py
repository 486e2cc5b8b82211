"""The suite for differs, fourth part: what it does with the store, the mounts and the threads that a call brings."""

from __future__ import annotations

import gzip
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plugin_sdk import content, diff, errors, mounts, oci
from plugin_sdk.conformance.layers import Stack, member, tar
from plugin_sdk.conformance.rig import Apply, Rig, keep
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.shelf import Shelf, digest_of, get, together
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor

LENT = "It reads and writes blobs through the content store that each call names, and files through mounts."
CLOSED = "Readers and writers are closed when the call ends."
PATIENCE = 20.0
"""Seconds within which a differ looks for its caller twice, and again those within which it gives up."""


class Lent(Shelf):
    """The store of one call: its blobs are no plain files, and what the differ does with them is noted."""

    def __init__(self, store: content.Store) -> None:
        super().__init__(store)
        self.read = 0
        self.opened = self.closed = 0

    def reader(self, digest: str) -> content.Reader:
        reader = _Reader(super().reader(digest), self)
        self.opened += 1
        return reader

    def served(self, offset: int, data: bytes) -> bytes:
        """What the differ gets of ``data``."""
        return data

    def asked(self) -> None:
        """The differ has read nothing, to see whether anybody waits."""


class _Reader(content.Reader):
    def __init__(self, reader: content.Reader, lent: Lent) -> None:
        self._reader = reader
        self._lent = lent
        self._open = True

    @property
    def size(self) -> int:
        return self._reader.size

    def read_at(self, offset: int, size: int) -> bytes:
        if not size:
            self._lent.asked()
            return b""
        data = self._lent.served(offset, self._reader.read_at(offset, size))
        self._lent.read = max(self._lent.read, offset + len(data))
        return data

    def fileno(self) -> int:
        raise errors.Unimplemented("this store's blobs are no plain files")

    def close(self) -> None:
        self._lent.closed += self._open
        self._open = False
        self._reader.close()

    def __exit__(self, *failure: object) -> None:
        self.close()


class Failing(Lent):
    def served(self, offset: int, data: bytes) -> bytes:
        if offset:
            raise errors.Unavailable("the store has gone")
        return data


class Changing(Lent):
    """One bit of each blob is another."""

    def served(self, offset: int, data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] ^ 1]) if data and not offset else data


class Shortening(Lent):
    """The blobs have lost their end."""

    def served(self, offset: int, data: bytes) -> bytes:
        return data[: max(0, 700 - offset)]


class Deserted(Lent):
    """The caller goes away when the differ has looked once, and the rest of the blob never comes."""

    def __init__(self, store: content.Store) -> None:
        super().__init__(store)
        self.looks = 0
        self.in_vain = False
        self.gone_at = 0.0
        self._gone = threading.Event()

    def served(self, offset: int, data: bytes) -> bytes:
        if self._gone.wait(0 if self.in_vain else PATIENCE):
            raise errors.Canceled("the caller has gone away")
        self.in_vain = True
        return data

    def asked(self) -> None:
        self.looks += 1
        if self.looks > 1:
            self.gone_at = self.gone_at or time.monotonic()
            self._gone.set()
            raise errors.Canceled("the caller has gone away")


class BorrowSuite(Rig):
    @pytest.fixture
    def lend(self, store: content.Store, supports_store: bool) -> Callable[[type[Lent]], Lent]:
        def lend(kind: type[Lent]) -> Lent:
            if not supports_store:
                pytest.skip("supports_store is false: the differ has a store of its own")
            return kind(store)

        return lend

    # The store

    @holds(LENT, "The blob's reader need not have a descriptor.", "``apply`` reads the blob to its very end.", CLOSED)
    @pytest.mark.parametrize("media_type", [oci.LAYER, oci.LAYER_GZIP])
    def test_apply_reads_the_whole_blob_from_the_store_of_the_call(
        self, differ: diff.Differ, lend: Callable[[type[Lent]], Lent], overlay: Stack, media_type: str
    ) -> None:
        lent = lend(Lent)
        layer = self._layer(lent, media_type, os.urandom(1_500_000), end=bytes(1_000_000))
        differ.apply(layer, overlay.push(), lent)
        assert "a" in overlay.tree()
        assert lent.read == layer.size
        assert lent.opened == lent.closed > 0

    @holds(LENT)
    def test_compare_writes_into_the_store_of_the_call(
        self, apply: Apply, differ: diff.Differ, lend: Callable[[type[Lent]], Lent], overlay: Stack
    ) -> None:
        lent = lend(Lent)
        apply(overlay, member("a", os.urandom(2_000_000)))
        layer = differ.compare([], overlay.mounts(), lent)
        assert lent.info(layer.digest).size == layer.size
        lent.clear()  # removes what was written there
        with pytest.raises(errors.NotFound):
            lent.info(layer.digest)

    @holds("An error of the store is raised as it is.", CLOSED)
    def test_a_store_that_fails_is_the_error(
        self, differ: diff.Differ, lend: Callable[[type[Lent]], Lent], overlay: Stack
    ) -> None:
        lent = lend(Failing)
        layer = self._layer(lent, oci.LAYER, os.urandom(3_000_000))
        with pytest.raises(errors.Unavailable, match="has gone"):
            differ.apply(layer, overlay.push(), lent)
        assert lent.opened == lent.closed

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.", CLOSED)
    def test_a_refused_layer_ends_the_reading(
        self, differ: diff.Differ, lend: Callable[[type[Lent]], Lent], overlay: Stack
    ) -> None:
        lent = lend(Lent)
        data = tar(member("../a")) + os.urandom(3_000_000)
        with pytest.raises(errors.InvalidArgument, match=r"\.\./a"):
            differ.apply(Descriptor(oci.LAYER, keep(lent, data), len(data)), overlay.push(), lent)
        assert lent.opened == lent.closed

    @holds("A blob whose bytes are not those of its digest raises DataLoss.")
    @pytest.mark.parametrize("kind", [Changing, Shortening])
    @pytest.mark.parametrize("media_type", [oci.LAYER, oci.LAYER_GZIP])
    def test_a_blob_that_is_not_its_digest_is_data_loss(
        self,
        differ: diff.Differ,
        lend: Callable[[type[Lent]], Lent],
        overlay: Stack,
        media_type: str,
        kind: type[Lent],
    ) -> None:
        lent = lend(kind)
        layer = self._layer(lent, media_type, os.urandom(2000))
        with pytest.raises(errors.DataLoss, match=layer.digest):
            differ.apply(layer, overlay.push(), lent)

    @holds("A blob whose bytes are not those of its digest raises DataLoss.")
    @pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
    def test_blobs_are_verified_by_the_algorithm_of_their_digest(
        self, differ: diff.Differ, store: content.Store, overlay: Stack, algorithm: str
    ) -> None:
        data = tar(member("a", os.urandom(20)))
        layer = Descriptor(oci.LAYER, digest_of(data, algorithm), len(data))
        with store.writer(f"verified-{layer.digest}", expected=layer.digest) as writer:
            writer.write(data)
            writer.commit(len(data), layer.digest)
        assert differ.apply(layer, overlay.push(), store).digest == digest_of(data)

    @holds(
        "While ``apply`` works it reads nothing (``read_at(0, 0)``) from the blob's reader now and then.",
        "When that raises, since the caller has gone, ``apply`` gives up.",
        CLOSED,
    )
    def test_apply_gives_up_when_its_caller_has_gone(
        self, differ: diff.Differ, lend: Callable[[type[Lent]], Lent], overlay: Stack
    ) -> None:
        lent = lend(Deserted)
        assert isinstance(lent, Deserted)
        layer = self._layer(lent, oci.LAYER, os.urandom(3_000_000))
        with pytest.raises(errors.Canceled):
            differ.apply(layer, overlay.push(), lent)
        assert not lent.in_vain
        assert time.monotonic() - lent.gone_at < PATIENCE
        assert lent.opened == lent.closed

    @holds("``payloads`` (type URL and bytes by id) are for stream processors, and change nothing where there is none.")
    def test_payloads_that_nobody_wants_change_nothing(
        self, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        data = tar(member("a", os.urandom(20)))
        payloads = {"example.test/key": ("type.example.test/Key", b"\0\xff secret"), "other": ("", b"")}
        layer = Descriptor(oci.LAYER, keep(store, data), len(data))
        assert differ.apply(layer, overlay.push(), store, payloads=payloads).digest == digest_of(data)
        assert "a" in overlay.tree()

    # The mounts

    @holds("When a call has ended, nothing is mounted that was not before.")
    def test_nothing_stays_mounted(
        self, apply: Apply, differ: diff.Differ, store: content.Store, stack: Stack, folder: Path
    ) -> None:
        before = mounts.mount_points()
        apply(stack, member("a", os.urandom(20)))
        with pytest.raises(errors.InvalidArgument):
            apply(stack, member("b"), member("../evil"))
        differ.compare(stack.view(1), stack.mounts(), store)
        with pytest.raises(errors.Unimplemented):
            differ.compare(stack.view(1), stack.mounts(), store, media_type="text/plain")
        left = set(mounts.mount_points()) - set(before)
        assert not [point for point in left if str(folder) in point]

    @holds("Mounts that cannot be mounted or written raise FailedPrecondition.")
    def test_a_mount_that_fails_is_named(self, differ: diff.Differ, store: content.Store, folder: Path) -> None:
        data = tar(member("a", os.urandom(20)))
        nowhere = [Mount("bind", str(folder / "nowhere"), "", ("rbind",))]
        with pytest.raises(errors.FailedPrecondition, match="nowhere"):
            differ.apply(Descriptor(oci.LAYER, keep(store, data), len(data)), nowhere, store)
        with pytest.raises(errors.FailedPrecondition, match="nowhere"):
            differ.compare([], nowhere, store)

    @holds("Mounts that cannot be mounted or written raise FailedPrecondition.")
    def test_a_read_only_root_is_a_failed_precondition(
        self, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        overlay.push()
        data = tar(member("a", os.urandom(20)))
        with pytest.raises(errors.FailedPrecondition, match='"a"'):
            differ.apply(Descriptor(oci.LAYER, keep(store, data), len(data)), overlay.view(1), store)

    @holds("A full disk raises ResourceExhausted.")
    def test_a_full_disk_is_resource_exhausted(self, differ: diff.Differ, store: content.Store) -> None:
        data = tar(member("a", os.urandom(200_000)))
        small = [Mount("tmpfs", "tmpfs", "", ("size=64k",))]
        with pytest.raises(errors.ResourceExhausted):
            differ.apply(Descriptor(oci.LAYER, keep(store, data), len(data)), small, store)

    @holds("Nothing outside of the mount's root is touched, whatever the tar says.")
    def test_files_beside_the_root_stay_as_they_are(self, apply: Apply, folder: Path, stack: Stack) -> None:
        stack.push()
        beside = folder / "beside"
        beside.write_text("kept")
        before = beside.stat()
        for name in ("beside", f"{folder}/beside", "layer-0/../beside"):
            apply(stack, member(name, b"inside", mode=0o600, owner=(9, 9)))
        after = beside.stat()
        assert beside.read_text() == "kept"
        assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)

    # Several at once

    @holds("All methods block and may be called from several threads.")
    def test_layers_and_differences_are_made_at_once(
        self, apply: Apply, differ: diff.Differ, store: content.Store, folder: Path
    ) -> None:
        stacks = [Stack(folder / f"at-once-{number}", "overlay") for number in range(4)]
        for number, stack in enumerate(stacks):
            (folder / f"at-once-{number}").mkdir()
            apply(stack, *(member(f"{number}-{file}", os.urandom(3000)) for file in range(50)))

        def copy(stack: Stack, number: int) -> bool:
            copied = Stack(stack.beside("copy"), "plain")
            for media_type in (oci.LAYER_GZIP, oci.LAYER):
                layer = differ.compare([], stack.mounts(), store, media_type=media_type, ref=f"{stacks}-{number}")
                differ.apply(layer, copied.push(), store)
            return copied.tree() == stack.tree()

        works = [lambda stack=stack, number=number: copy(stack, number) for number, stack in enumerate(stacks)]
        assert together(*works) == [True] * 4

    @holds("All methods block and may be called from several threads.", "The same trees make the same blob.")
    def test_the_same_difference_is_made_at_once(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, member("a", os.urandom(50_000)))
        view = overlay.view(1)
        labels = [{f"label-{number}": "1"} for number in range(4)]
        made = together(*[lambda each=each: differ.compare([], view, store, labels=each) for each in labels])
        assert made == [made[0]] * 4
        assert len(get(store, made[0].digest)) == made[0].size

    @staticmethod
    def _layer(store: content.Store, media_type: str, data: bytes, end: bytes = b"") -> Descriptor:
        blob = tar(member("a", data)) + end
        blob = gzip.compress(blob, 1) if media_type == oci.LAYER_GZIP else blob
        return Descriptor(media_type, keep(store, blob), len(blob))
