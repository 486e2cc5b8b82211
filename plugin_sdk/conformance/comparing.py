"""The suite for differs, last part: ``compare``, and that applying what it writes makes the same tree."""

from __future__ import annotations

import gzip
import os
import random
import secrets
import shutil
import stat
import tarfile
from pathlib import Path

import pytest

from plugin_sdk import content, diff, errors, oci
from plugin_sdk.conformance import layers
from plugin_sdk.conformance.layers import (
    WHEN,
    Stack,
    directory,
    hard_link,
    member,
    symlink,
)
from plugin_sdk.conformance.rig import CAPABILITY, Apply, Rig, keep
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.shelf import digest_of, get
from plugin_sdk.oci import Descriptor


class CompareSuite(Rig):
    @holds("Of identical trees it makes a valid tar without entries.")
    def test_identical_trees_make_an_empty_tar(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, directory("d"), member("d/a", b"x"), hard_link("b", "d/a"), symlink("l", "a"))
        layer = differ.compare(overlay.view(1), overlay.view(1), store, media_type=oci.LAYER)
        assert layers.names(get(store, layer.digest)) == []

    @holds("An empty media type means OCI tar+gzip.", "No mounts are an empty tree.")
    def test_an_empty_media_type_means_gzip(self, differ: diff.Differ, store: content.Store, overlay: Stack) -> None:
        overlay.push()
        layer = differ.compare([], overlay.mounts(), store)
        assert layer.media_type == oci.LAYER_GZIP
        assert layers.names(gzip.decompress(get(store, layer.digest))) == []

    @holds(
        "The blob gets ``labels``, also when it existed already.",
        "If it is compressed, it gets the label ``containerd.io/uncompressed`` with its diff ID, too.",
    )
    @pytest.mark.parametrize("media_type", [oci.LAYER, oci.LAYER_GZIP, oci.LAYER_ZSTD])
    def test_the_blob_gets_the_labels_and_its_diff_id(
        self, apply: Apply, differ: diff.Differ, store: content.Store, stack: Stack, media_type: str
    ) -> None:
        apply(stack, member("a", b"data" * 10000 + os.urandom(20)))
        layer = differ.compare([], stack.mounts(), store, media_type=media_type, labels={"x": "y"})
        info = store.info(layer.digest)
        assert (layer.media_type, layer.size) == (media_type, info.size)
        diff_id = differ.apply(layer, stack.push(), store).digest
        uncompressed = {oci.UNCOMPRESSED_LABEL: diff_id} if media_type != oci.LAYER else {}
        assert info.labels == {"x": "y", **uncompressed}

    @holds(
        "The blob gets ``labels``, also when it existed already.",
        "If it is compressed, it gets the label ``containerd.io/uncompressed`` with its diff ID, too.",
    )
    def test_a_blob_that_exists_gets_the_labels_too(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, member("a", os.urandom(20)))
        first = differ.compare([], overlay.mounts(), store, labels={"a": "1", "b": "1"})
        assert differ.compare([], overlay.mounts(), store, labels={"b": "2", "c": "2"}) == first
        labels = dict(store.info(first.digest).labels)
        assert labels.pop(oci.UNCOMPRESSED_LABEL).startswith("sha256:")
        assert labels == {"a": "1", "b": "2", "c": "2"}

    @holds("An empty ref means one of the differ's choice, and a given ref begins again at 0.")
    def test_a_given_ref_begins_again(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, member("a", os.urandom(20)))
        ref = f"begins-again-{secrets.token_hex(6)}"
        with store.writer(ref, total=5, expected=digest_of(ref.encode())) as writer:
            writer.write(b"left over")
        layer = differ.compare([], overlay.mounts(), store, media_type=oci.LAYER, ref=ref)
        assert layers.names(get(store, layer.digest)) == ["a"]
        with pytest.raises(errors.NotFound):
            store.status(ref)

    @holds("When ``compare`` raises, its ingest stays and can be aborted.")
    def test_a_failed_compare_leaves_an_ingest_that_can_be_aborted(
        self, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        ref = f"fails-{secrets.token_hex(6)}"
        overlay.push()
        with overlay.writable() as root:
            (root / ".wh.odd").touch()
        with pytest.raises(errors.InvalidArgument, match=r"wh\.odd"):
            differ.compare([], overlay.mounts(), store, ref=ref)
        store.abort(ref)

    @holds(
        "Readers and writers are closed when the call ends.",
        "When ``compare`` raises, its ingest stays and can be aborted.",
    )
    def test_after_a_failed_compare_its_ref_is_free(
        self, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        ref = f"fails-{secrets.token_hex(6)}"
        overlay.push()
        with overlay.writable() as root:
            (root / "a").write_bytes(os.urandom(20))
            (root / ".wh.odd").touch()
        for _ in range(2):
            with pytest.raises(errors.InvalidArgument, match=r"wh\.odd"):
                differ.compare([], overlay.mounts(), store, ref=ref)
        with overlay.writable() as root:
            (root / ".wh.odd").unlink()
        layer = differ.compare([], overlay.mounts(), store, media_type=oci.LAYER, ref=ref)
        assert layers.names(get(store, layer.digest)) == ["a"]

    @holds("Writes the changes that make ``upper`` of ``lower`` and answers the descriptor of the blob.")
    @pytest.mark.parametrize("media_type", [oci.LAYER, oci.LAYER_GZIP, oci.LAYER_ZSTD])
    def test_compare_answers_the_descriptor_of_the_blob(
        self, differ: diff.Differ, store: content.Store, overlay: Stack, media_type: str
    ) -> None:
        overlay.push()
        with overlay.writable() as root:
            (root / "large").write_bytes(os.urandom(2_500_001))
        layer = differ.compare([], overlay.mounts(), store, media_type=media_type)
        data = get(store, layer.digest)
        assert layer == Descriptor(media_type, digest_of(data), len(data))
        at, magic = {oci.LAYER: (257, b"ustar"), oci.LAYER_GZIP: (0, b"\x1f\x8b")}.get(media_type, (0, b"\x28\xb5"))
        assert data[at : at + len(magic)] == magic

    @holds(
        "If it is compressed, it gets the label ``containerd.io/uncompressed`` with its diff ID, too.",
        "The blob gets ``labels``, also when it existed already.",
    )
    def test_a_blob_that_another_has_written_gets_the_labels_too(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, member("a", os.urandom(20)))
        first = differ.compare([], overlay.mounts(), store)
        data = get(store, first.digest)
        store.delete(first.digest)
        keep(store, data)
        assert differ.compare([], overlay.mounts(), store, labels={"a": "1"}) == first
        diff_id = digest_of(gzip.decompress(data))
        assert store.info(first.digest).labels == {"a": "1", oci.UNCOMPRESSED_LABEL: diff_id}

    @holds("No mounts are an empty tree.", "What only ``lower`` has becomes a whiteout.")
    def test_nothing_above_is_a_whiteout_of_everything(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, directory("d"), member("d/a"), member("b"), symlink("l", "b"))
        layer = differ.compare(overlay.view(1), [], store, media_type=oci.LAYER)
        assert [name for name in layers.names(get(store, layer.digest)) if name != "."] == [".wh.b", ".wh.d", ".wh.l"]
        assert layers.names(get(store, differ.compare([], [], store, media_type=oci.LAYER).digest)) == []

    @holds("What only ``lower`` has becomes a whiteout.")
    def test_a_removed_directory_is_one_whiteout(
        self, apply: Apply, differ: diff.Differ, store: content.Store, stack: Stack
    ) -> None:
        apply(stack, directory("d"), directory("d/e"), member("d/e/f"), member("d/g"), member("h"))
        apply(stack, member("d/.wh.e"), member(".wh.h"))
        layer = differ.compare(stack.view(1), stack.mounts(), store, media_type=oci.LAYER)
        written = layers.names(get(store, layer.digest))
        assert [name for name in written if ".wh." in name] == ["d/.wh.e", ".wh.h"]
        assert [name for name in written if name.startswith("d/e")] == []

    @holds("A media type that it cannot write raises Unimplemented.")
    @pytest.mark.parametrize("media_type", ["text/plain", oci.DOCKER_LAYER_GZIP, oci.LAYER_GZIP + "+encrypted"])
    def test_other_media_types_are_not_written(
        self, differ: diff.Differ, store: content.Store, overlay: Stack, media_type: str
    ) -> None:
        overlay.push()
        with pytest.raises(errors.Unimplemented):
            differ.compare([], overlay.mounts(), store, media_type=media_type)

    @holds("The same trees make the same blob.")
    def test_the_same_trees_make_the_same_blob(
        self, apply: Apply, differ: diff.Differ, store: content.Store, stack: Stack
    ) -> None:
        apply(stack, member("a"), member("b"))
        apply(stack, member(".wh.a"), member("d/c", b"x", xattrs={"trusted.b": b"1", "trusted.a": b"2"}))
        first = differ.compare(stack.view(1), stack.mounts(), store)
        assert differ.compare(stack.view(1), stack.view(2), store) == first

    @holds(
        "Entries stand in the order of their names, and directories before what is in them.",
        "What only ``lower`` has becomes a whiteout.",
    )
    def test_entries_stand_in_order_with_their_parents_before(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, directory("d"), directory("d/e"), member("d/e/f"), member("d/g"), directory("h"), member("z"))
        apply(overlay, member("d/e/f", b"new"), member("d/.wh.g"), member("h.txt"))
        layer = differ.compare(overlay.view(1), overlay.mounts(), store, media_type=oci.LAYER)
        assert layers.names(get(store, layer.digest)) == ["d", "d/e", "d/e/f", "d/.wh.g", "h.txt"]

    @holds("Every kind of file is written but sockets.")
    def test_every_kind_of_file_is_written(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        everything = [
            directory("d", 0o1777, owner=(5, 5), xattrs={"trusted.a": b"\0\xff"}),
            member("d/file", b"data" * 1000, mode=0o4755, owner=(3_000_000_000, 1)),
            member("d/ping", b"x", xattrs={"security.capability": CAPABILITY}),
            hard_link("d/again", "d/file"),
            symlink("d/link", "t" * 150),
            member("d/null", kind=tarfile.CHRTYPE, device=(1, 3)),
            member("d/loop", kind=tarfile.BLKTYPE, device=(7, 300)),
            member("d/fifo", kind=tarfile.FIFOTYPE, owner=(2, 2)),
            member("d/" + "n" * 200, b"x", time=5),
            member("d/not-utf8-\udcff", b"x", xattrs={"trusted.b": b""}),
        ]
        apply(overlay, *everything)
        layer = differ.compare([], overlay.mounts(), store)
        copied = Stack(overlay.beside("copy"), "plain")
        differ.apply(layer, copied.push(), store)
        assert copied.tree() == overlay.tree()
        kinds = {info.name: info for info in layers.members(gzip.decompress(get(store, layer.digest)))}
        assert kinds["d/file"].islnk() and kinds["d/file"].linkname == "d/again"
        assert kinds["d/loop"].devminor == 300

    @holds("``compare`` writes one blob, which makes ``upper`` of ``lower`` when it is applied there.")
    def test_a_link_to_a_file_of_the_lower_tree_brings_all_its_names(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, member("m", b"data"), member("other"))
        apply(overlay, hard_link("a", "m"))
        layer = differ.compare(overlay.view(1), overlay.mounts(), store, media_type=oci.LAYER)
        first, second = layers.members(get(store, layer.digest))
        assert (first.name, second.name, second.linkname) == ("a", "m", "a")

    @holds("Where both times have no fraction, the content decides.")
    def test_content_decides_when_times_have_no_fraction(
        self, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        written = [("whole", 5 * 10**9), ("fraction", 5 * 10**9 + 1), ("same", 5 * 10**9)]
        for data in (b"old", b"new"):
            overlay.push()
            with overlay.writable() as root:
                for name, time in written:
                    (root / name).write_bytes(data if name != "same" else b"one")
                    os.utime(root / name, ns=(time, time))
        layer = differ.compare(overlay.view(1), overlay.mounts(), store, media_type=oci.LAYER)
        assert layers.names(get(store, layer.digest)) == ["whole"]

    @holds("A change of anything is seen: kind, mode, owner, size, time, attributes, the target of a link.")
    @pytest.mark.parametrize("change", ["mode", "owner", "time", "size", "attribute", "kind", "target"])
    def test_a_change_of_anything_is_seen(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack, change: str
    ) -> None:
        apply(overlay, member("a", b"data"), symlink("b", "old"), member("c"))
        overlay.push()
        with overlay.writable() as root:
            if change == "mode":
                (root / "a").chmod(0o600)
            elif change == "owner":
                os.chown(root / "a", 1, 1)
            elif change == "attribute":
                os.setxattr(root / "a", "trusted.a", b"1")
            elif change == "size":
                (root / "a").write_bytes(b"data and more")
                os.utime(root / "a", ns=(WHEN, WHEN))
            elif change == "time":
                os.utime(root / "a", ns=(WHEN, WHEN + 1))
            elif change == "kind":
                (root / "a").unlink()
                (root / "a").mkdir()
            else:
                (root / "b").unlink()
                (root / "b").symlink_to("new")
                os.utime(root / "b", ns=(WHEN, WHEN), follow_symlinks=False)
        layer = differ.compare(overlay.view(1), overlay.mounts(), store, media_type=oci.LAYER)
        assert layers.names(get(store, layer.digest)) == ["b" if change == "target" else "a"]

    @holds("Every kind of file is written but sockets.")
    def test_sockets_are_left_out(self, differ: diff.Differ, store: content.Store, overlay: Stack) -> None:
        overlay.push()
        with overlay.writable() as root:
            os.mknod(root / "s", stat.S_IFSOCK | 0o600)
            (root / "a").touch()
        layer = differ.compare([], overlay.mounts(), store, media_type=oci.LAYER)
        assert layers.names(get(store, layer.digest)) == ["a"]

    @holds("``source_date_epoch`` (nanoseconds) bounds every time in the tar.")
    def test_an_epoch_bounds_every_time(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, directory("d"), member("d/gone"))
        apply(overlay, member("d/.wh.gone"), member("d/new"), member("d/old", time=3 * 10**9))
        layer = differ.compare(overlay.view(1), overlay.mounts(), store, media_type=oci.LAYER, source_date_epoch=10**18)
        times = {info.name: info.mtime for info in layers.members(get(store, layer.digest))}
        assert times == {"d": 10**9, "d/.wh.gone": 10**9, "d/new": 10**9, "d/old": 3}

    @holds("``source_date_epoch`` (nanoseconds) bounds every time in the tar.")
    @pytest.mark.parametrize("epoch", [0, 1_000_000_007, 2 * 10**18])
    def test_any_epoch_is_a_bound(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack, epoch: int
    ) -> None:
        apply(overlay, member("old", time=0), member("new"), directory("d"))
        layer = differ.compare([], overlay.mounts(), store, media_type=oci.LAYER, source_date_epoch=epoch)
        copied = Stack(overlay.beside("copy"), "plain")
        differ.apply(layer, copied.push(), store)
        times = {name: node[5] for name, node in copied.tree().items() if name in ("old", "new")}
        assert times == {"old": 0, "new": min(WHEN, epoch)}

    @holds("``source_date_epoch`` (nanoseconds) bounds every time in the tar.", "The same trees make the same blob.")
    def test_trees_that_differ_in_later_times_make_the_same_blob(
        self, differ: diff.Differ, store: content.Store, folder: Path
    ) -> None:
        made = []
        for time in (2, 3):
            stack = Stack(folder / str(time), "plain")
            (folder / str(time)).mkdir()
            stack.push()
            with stack.writable() as root:
                (root / "a").write_text("data")
                os.utime(root / "a", ns=(time * 10**9, time * 10**9))
            made.append(differ.compare([], stack.mounts(), store, source_date_epoch=10**9))
        assert made[0] == made[1]

    @holds("Both trees stay as they are.")
    def test_both_trees_stay_as_they_are(
        self, apply: Apply, differ: diff.Differ, store: content.Store, stack: Stack, folder: Path
    ) -> None:
        apply(stack, directory("d"), member("d/a"))
        apply(stack, member("d/b"))
        before = [layers.scan(folder / "layer-0"), layers.scan(folder / "layer-1")]
        differ.compare(stack.view(1), stack.mounts(), store)
        assert [layers.scan(folder / "layer-0"), layers.scan(folder / "layer-1")] == before

    @holds("``compare`` writes one blob, which makes ``upper`` of ``lower`` when it is applied there.")
    @pytest.mark.parametrize("seed", range(3))
    def test_applying_a_difference_makes_the_upper_tree(
        self, differ: diff.Differ, store: content.Store, stack: Stack, seed: int
    ) -> None:
        generator = random.Random(seed)
        copied = Stack(stack.beside("copy"), stack.kind)
        for depth in range(3):
            stack.push()
            with stack.writable() as root:
                for _ in range(40):
                    change(root, generator)
            layer = differ.compare(stack.view(depth) if depth else [], stack.mounts(), store)
            differ.apply(layer, copied.push(), store)
            assert copied.tree() == stack.tree()


def change(root: Path, generator: random.Random) -> None:
    """One step of somebody at work below ``root``."""
    folders = [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]
    folder = generator.choice(sorted(folders))
    path = folder / generator.choice("abcdefgh")
    time = generator.randrange(1, 2 * 10**18)
    if path.is_dir() and not path.is_symlink():
        if generator.random() < 0.5:
            shutil.rmtree(path)
        else:
            _dress(path, generator, time)
        return
    if os.path.lexists(path):
        if generator.random() < 0.3:
            _dress(path, generator, time)
            return
        path.unlink()
        if generator.random() < 0.3:
            return
    kind = generator.randrange(7)
    if kind <= 1:
        path.write_bytes(generator.randbytes(generator.randrange(2000)))
    elif kind == 2:
        path.symlink_to(generator.choice(("a", "/b", "../c", "x" * 120)))
    elif kind == 3:
        os.mkfifo(path)
    elif kind == 4:
        files = sorted(one for one in root.rglob("*") if not one.is_dir() or one.is_symlink())
        if files:
            os.link(generator.choice(files), path, follow_symlinks=False)
            return
        path.touch()
    else:
        path.mkdir()
    _dress(path, generator, time)


def _dress(path: Path, generator: random.Random, time: int) -> None:
    os.chown(path, generator.randrange(3), generator.randrange(3), follow_symlinks=False)
    if not path.is_symlink():
        path.chmod(generator.choice((0o755, 0o644, 0o4711, 0o2755, 0o1700)))
        if generator.random() < 0.3 and (path.is_file() or path.is_dir()):
            os.setxattr(path, f"trusted.{generator.choice('ab')}", generator.randbytes(3))
    os.utime(path, ns=(time, time), follow_symlinks=False)
