"""The suite for differs, third part: layers that must fail, and that nothing outside of the root is touched."""

from __future__ import annotations

import gzip
import os
import random
import tarfile
from pathlib import Path

import pytest

from plugin_sdk import content, diff, errors, oci
from plugin_sdk.conformance import layers
from plugin_sdk.conformance.layers import (
    Stack,
    block,
    directory,
    hard_link,
    member,
    padded,
    pax_header,
    symlink,
    tar,
    zstd,
)
from plugin_sdk.conformance.rig import Apply, Rig, keep
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.shelf import digest_of
from plugin_sdk.oci import Descriptor


class RefusalSuite(Rig):
    @holds("A media type that it does not know raises Unimplemented.")
    def test_an_unknown_media_type_is_unimplemented(self, apply: Apply, overlay: Stack) -> None:
        for media_type in ("text/plain", "", oci.LAYER_GZIP + "+encrypted", oci.MANIFEST):
            with pytest.raises(errors.Unimplemented):
                apply(overlay, member("a"), media_type=media_type)

    @holds("A blob that is missing raises NotFound.")
    def test_a_missing_blob_is_not_found(self, differ: diff.Differ, store: content.Store, overlay: Stack) -> None:
        with pytest.raises(errors.NotFound):
            differ.apply(Descriptor(oci.LAYER, digest_of(b"nothing"), 7), overlay.push(), store)

    @holds("A blob of another size than the descriptor's raises InvalidArgument.")
    def test_a_wrong_size_is_an_invalid_argument(
        self, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        digest = keep(store, tar(member("a")))
        with pytest.raises(errors.InvalidArgument, match=digest):
            differ.apply(Descriptor(oci.LAYER, digest, 5), overlay.push(), store)

    @holds(
        "A layer that would leave the root raises InvalidArgument.",
        "Nothing outside of the mount's root is touched, whatever the tar says.",
    )
    @pytest.mark.parametrize(
        "name", ["../evil", "/../evil", "a/../../evil", "..", "../.wh.evil", "../../../../../../evil"]
    )
    def test_names_that_climb_out_are_refused(self, apply: Apply, folder: Path, overlay: Stack, name: str) -> None:
        with pytest.raises(errors.InvalidArgument, match=r"evil|\.\."):
            apply(overlay, member("a"), member(name, b"evil"))
        assert not list(folder.rglob("*evil*"))

    @holds(
        "Nothing outside of the mount's root is touched, whatever the tar says.",
        "Symbolic links on the way to a name are followed, as if the root were ``/``.",
    )
    @pytest.mark.parametrize("target", ["../../../../../../../../../..", "/", "../.."])
    def test_links_that_climb_out_end_at_the_root(
        self, apply: Apply, folder: Path, overlay: Stack, target: str
    ) -> None:
        outside = folder / "outside"
        outside.mkdir()
        apply(overlay, symlink("d/l", f"{target}{outside}"), member("d/l/evil", b"evil"), member("d/l/.wh.x"))
        assert not list(outside.iterdir())
        assert f"{outside}/evil".lstrip("/") in overlay.tree()

    @holds("Nothing outside of the mount's root is touched, whatever the tar says.")
    def test_a_link_in_place_of_a_parent_stays_inside(self, apply: Apply, folder: Path, stack: Stack) -> None:
        (folder / "outside").mkdir()
        (folder / "outside" / "kept").touch()
        up = "../" * 20 + str(folder).lstrip("/")
        apply(stack, directory("d"), symlink("d/x", up), member("d/x/outside/evil"), member("d/x/outside/.wh.kept"))
        apply(stack, member("d/x/outside/.wh..wh..opq"))
        assert [path.name for path in (folder / "outside").iterdir()] == ["kept"]

    @holds("A layer that would leave the root raises InvalidArgument.")
    @pytest.mark.parametrize("target", ["../../../etc/passwd", "/etc/passwd", "no/such", "d", "", "/"])
    def test_hard_links_to_what_is_not_inside_are_refused(self, apply: Apply, overlay: Stack, target: str) -> None:
        with pytest.raises(errors.InvalidArgument, match=r"evil|etc/passwd"):
            apply(overlay, directory("d"), hard_link("evil", target))
        assert "evil" not in overlay.tree()

    @holds(
        "A layer that would leave the root raises InvalidArgument.",
        "Nothing outside of the mount's root is touched, whatever the tar says.",
    )
    def test_a_hard_link_through_a_link_stays_inside(self, apply: Apply, folder: Path, overlay: Stack) -> None:
        (folder / "secret").write_text("secret")
        with pytest.raises(errors.InvalidArgument, match="evil"):
            apply(overlay, symlink("l", str(folder)), hard_link("evil", "l/secret"))

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    def test_circles_of_links_are_refused(self, apply: Apply, overlay: Stack) -> None:
        with pytest.raises(errors.InvalidArgument, match="x/f"):
            apply(overlay, symlink("x", "y"), symlink("y", "x"), member("x/f"))

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    @pytest.mark.parametrize("name", [".wh.", "d/.wh..", "d/.wh..."])
    def test_whiteouts_of_no_name_are_refused(self, apply: Apply, overlay: Stack, name: str) -> None:
        with pytest.raises(errors.InvalidArgument, match="whiteout"):
            apply(overlay, directory("d"), member(name))

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    @pytest.mark.parametrize("entry", [member("f/x"), directory("f/x"), symlink("f/x/y", "z")])
    def test_a_file_on_the_way_is_refused(self, apply: Apply, overlay: Stack, entry: layers.Member) -> None:
        with pytest.raises(errors.InvalidArgument, match='"f"'):
            apply(overlay, member("f"), entry)

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    @pytest.mark.parametrize("name", ["n" * 256, "d/" * 2100 + "x"])
    def test_too_long_names_are_refused(self, apply: Apply, overlay: Stack, name: str) -> None:
        with pytest.raises(errors.InvalidArgument, match="long"):
            apply(overlay, member(name))

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    def test_something_else_in_place_of_the_root_is_refused(self, apply: Apply, stack: Stack) -> None:
        for entry in (member("."), symlink("/", "x"), hard_link(".", "a")):
            with pytest.raises(errors.InvalidArgument):
                apply(stack, member("a"), entry)

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    @pytest.mark.parametrize("kind", [b"V", b"M", b"D", b"Z"])
    def test_unknown_types_are_refused(self, apply: Apply, overlay: Stack, kind: bytes) -> None:
        with pytest.raises(errors.InvalidArgument, match='"odd"'):
            apply(overlay, data=block(b"odd", kind=kind) + bytes(1024))

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    @pytest.mark.parametrize("length", [1, 511, 513, 700, 1025, 2000])
    def test_a_tar_that_is_cut_off_is_refused(self, apply: Apply, overlay: Stack, length: int) -> None:
        data = tar(member("a", b"x" * 600), member("b", b"y" * 600))
        with pytest.raises(errors.InvalidArgument):
            apply(overlay, data=data[:length])

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    def test_a_compressed_stream_that_is_cut_off_is_refused(self, apply: Apply, overlay: Stack) -> None:
        data = tar(*(member(str(i), os.urandom(3000)) for i in range(200)))
        for media_type, blob in ((oci.LAYER_GZIP, gzip.compress(data)), (oci.LAYER_ZSTD, zstd(data))):
            for length in (5, 1000, len(blob) // 2):
                with pytest.raises(errors.InvalidArgument):
                    apply(overlay, data=blob[:length], media_type=media_type)

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    def test_a_gzip_stream_without_its_checksum_is_refused(self, apply: Apply, overlay: Stack) -> None:
        blob = gzip.compress(tar(member("a")))
        for damaged in (blob[:-8], blob[:-4], blob[:-8] + bytes(8), blob + b"trailing"):
            with pytest.raises(errors.InvalidArgument, match="gzip"):
                apply(overlay, data=damaged, media_type=oci.LAYER_GZIP)

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    @pytest.mark.parametrize("media_type", [oci.LAYER_GZIP, oci.LAYER_ZSTD])
    def test_what_is_not_compressed_is_refused(self, apply: Apply, overlay: Stack, media_type: str) -> None:
        with pytest.raises(errors.InvalidArgument, match=media_type[-4:]):
            apply(overlay, member("a"), media_type=media_type)

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    def test_a_wrong_checksum_is_refused(self, apply: Apply, overlay: Stack) -> None:
        data = bytearray(tar(member("a", time=None), format=tarfile.USTAR_FORMAT))
        data[0] += 1
        with pytest.raises(errors.InvalidArgument, match="checksum"):
            apply(overlay, data=bytes(data))

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    @pytest.mark.parametrize(
        "record",
        [b"30 path=x\n", b"x path=x\n", b"9 pathx\n", b"0 a=\n", b"11 mtime=x\n", b"9 uid=x\n", b"10 size=-5\n"],
    )
    def test_malformed_extended_headers_are_refused(self, apply: Apply, overlay: Stack, record: bytes) -> None:
        data = block(b"h", len(record), b"x") + padded(record) + block(b"a") + bytes(1024)
        with pytest.raises(errors.InvalidArgument, match="header"):
            apply(overlay, data=data)

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    def test_endless_extended_headers_are_refused(self, apply: Apply, overlay: Stack) -> None:
        with pytest.raises(errors.InvalidArgument, match="exceed"):
            apply(overlay, data=block(b"h", 1 << 32, b"x") + bytes(4096))
        with pytest.raises(errors.InvalidArgument, match="exceed"):
            apply(overlay, data=(block(b"h", 512, b"L") + bytes(512)) * 2000)

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    @pytest.mark.parametrize("places", ["5,5,0,5", "0,5,3,5", "0,9", "0,5,99999999,5", "0,5,7"])
    def test_impossible_sparse_files_are_refused(self, apply: Apply, overlay: Stack, places: str) -> None:
        header = pax_header([("GNU.sparse.size", "20"), ("GNU.sparse.map", places)])
        with pytest.raises(errors.InvalidArgument, match="sparse"):
            apply(overlay, data=header + block(b"s", 10) + padded(bytes(10)) + bytes(1024))

    @holds(
        "Whatever a layer says, the outcome is files inside or one of the errors named here.",
        "Nothing outside of the mount's root is touched, whatever the tar says.",
    )
    @pytest.mark.parametrize("seed", range(2))
    def test_damaged_tars_end_in_an_error_or_inside(
        self, apply: Apply, folder: Path, overlay: Stack, seed: int
    ) -> None:
        generator = random.Random(seed)
        sound = hostile(folder)
        before = layers.scan(folder / "guard")
        for _ in range(25):
            data = bytearray(sound)
            for _ in range(generator.randrange(1, 12)):
                damage(data, generator)
            try:
                apply(overlay, data=repaired(bytes(data)) if generator.random() < 0.8 else bytes(data))
            except errors.Error as err:
                assert not isinstance(err, errors.Internal | errors.Unavailable | errors.Unknown), err
            assert layers.scan(folder / "guard") == before


def hostile(folder: Path) -> bytes:
    """A tar full of ways out, and a directory beside the root that must stay as it is."""
    guard = folder / "guard"
    guard.mkdir()
    (guard / "file").write_text("kept")
    up = "../" * 20 + str(guard).lstrip("/")
    return tar(
        symlink("l", str(guard)),
        symlink("m", up),
        directory("d"),
        member("l/evil", b"evil" * 300),
        member("m/.wh.file"),
        member("m/.wh..wh..opq"),
        member("d/" + "long/" * 30 + "x", b"x", xattrs={"trusted.a": b"b"}),
        symlink("d/n", "../m"),
        member("d/n/file", b"evil"),
        hard_link("h", "d/n/file"),
        directory("l", 0o777),
        member("dev", kind=tarfile.CHRTYPE, device=(1, 3)),
    )


def damage(data: bytearray, generator: random.Random) -> None:
    at = generator.randrange(len(data))
    kind = generator.randrange(5)
    if kind == 0:
        data[at] = generator.randrange(256)
    elif kind == 1:
        data[at : at + generator.randrange(40)] = generator.choice((b"../", b"/", b"\0", b"..", b"12 "))
    elif kind == 2:
        start = at // 512 * 512
        data[start + 156 : start + 157] = generator.choice((b"0", b"1", b"2", b"5", b"L", b"K", b"x", b"g", b"S"))
    elif kind == 3:
        start, other = at // 512 * 512, generator.randrange(len(data)) // 512 * 512
        data[start : start + 512] = data[other : other + 512]
    else:
        del data[at + 512 :]


def repaired(data: bytes) -> bytes:
    """With right checksums, so that the damage gets further."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    for number, one in enumerate(blocks):
        if len(one) == 512 and one[257:262] == b"ustar":
            blank = one[:148] + b" " * 8 + one[156:]
            blocks[number] = one[:148] + b"%06o\0 " % sum(blank) + one[156:]
    return b"".join(blocks)
