"""The suite for differs, first part: what ``apply`` answers, and the kinds of entries and of tars that it unpacks."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import struct
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from plugin_sdk import content, diff, errors, mounts, oci
from plugin_sdk.conformance.layers import (
    WHEN,
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
from plugin_sdk.conformance.rig import CAPABILITY, Apply, Rig, keep
from plugin_sdk.conformance.sentences import holds
from plugin_sdk.conformance.shelf import digest_of
from plugin_sdk.oci import Descriptor


class ApplySuite(Rig):
    @holds("Unpacks the layer and answers the descriptor of its uncompressed tar: media type, diff ID, size.")
    def test_apply_answers_the_descriptor_of_the_uncompressed_tar(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", b"data"))
        blob = gzip.compress(data)
        assert apply(overlay, data=blob, media_type=oci.LAYER_GZIP) == Descriptor(oci.LAYER, digest_of(data), len(data))

    @holds("gzip and zstd are inflated, also in several members or frames.")
    @pytest.mark.parametrize(
        "media_type", [oci.LAYER_GZIP, oci.FOREIGN_LAYER_GZIP, oci.DOCKER_LAYER_GZIP, oci.DOCKER_FOREIGN_LAYER_GZIP]
    )
    def test_gzip_is_inflated(self, apply: Apply, overlay: Stack, media_type: str) -> None:
        data = tar(member("a", b"data" * 1000))
        assert apply(overlay, data=gzip.compress(data), media_type=media_type).digest == digest_of(data)
        assert "a" in overlay.tree()

    @holds("gzip and zstd are inflated, also in several members or frames.")
    @pytest.mark.parametrize("media_type", [oci.LAYER_ZSTD, oci.FOREIGN_LAYER_ZSTD, oci.DOCKER_LAYER_ZSTD])
    def test_zstd_is_inflated(self, apply: Apply, overlay: Stack, media_type: str, supports_zstd: bool) -> None:
        data = tar(member("a", b"data" * 1000))
        if not supports_zstd:
            with pytest.raises(errors.Unimplemented):
                apply(overlay, data=zstd(data), media_type=media_type)
            return
        assert apply(overlay, data=zstd(data), media_type=media_type).digest == digest_of(data)
        assert "a" in overlay.tree()

    @holds("Docker's plain types may hide either.")
    @pytest.mark.parametrize("media_type", [oci.DOCKER_LAYER, oci.DOCKER_FOREIGN_LAYER])
    @pytest.mark.parametrize("wrap", [bytes, gzip.compress, lambda data: zstd(data)], ids=["tar", "gzip", "zstd"])
    def test_dockers_plain_type_may_hide_a_compression(
        self, apply: Apply, overlay: Stack, media_type: str, wrap: Callable[[bytes], bytes]
    ) -> None:
        data = tar(member("a", b"data"))
        assert apply(overlay, data=wrap(data), media_type=media_type).digest == digest_of(data)

    @holds("gzip and zstd are inflated, also in several members or frames.")
    def test_members_of_a_gzip_stream_are_one_layer(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", b"data" * 1000))
        blob = gzip.compress(data[:700]) + gzip.compress(b"") + gzip.compress(data[700:])
        assert apply(overlay, data=blob, media_type=oci.LAYER_GZIP).digest == digest_of(data)

    @holds("gzip and zstd are inflated, also in several members or frames.")
    def test_frames_of_a_zstd_stream_are_one_layer(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", b"data" * 1000))
        skippable = struct.pack("<II", 0x184D2A50, 3) + b"abc"
        blob = zstd(data[:700]) + skippable + zstd(data[700:])
        assert apply(overlay, data=blob, media_type=oci.LAYER_ZSTD).digest == digest_of(data)

    @holds("What follows the archive is part of the diff ID.", "``apply`` reads the blob to its very end.")
    def test_what_follows_the_archive_is_part_of_the_diff_id(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", b"data")) + os.urandom(3_000_000) + b"odd"
        assert apply(overlay, data=data) == Descriptor(oci.LAYER, digest_of(data), len(data))

    @holds("A tar may lack its final blocks.")
    def test_a_tar_without_its_final_blocks_is_whole(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", b"data"))[:2048]
        assert apply(overlay, data=data).digest == digest_of(data)
        assert "a" in overlay.tree()

    @holds("An entry replaces what is there, but a directory over a directory keeps what that holds.")
    def test_a_tar_without_entries_changes_nothing(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"data"))
        before = stack.tree()
        apply(stack)
        assert stack.tree() == before

    @holds("``sync`` asks for syncfs(2) before the answer.")
    def test_sync_is_accepted(self, differ: diff.Differ, store: content.Store, overlay: Stack) -> None:
        data = tar(member("a", b"data"))
        layer = Descriptor(oci.LAYER, keep(store, data), len(data))
        assert differ.apply(layer, overlay.push(), store, sync=True).digest == digest_of(data)

    @holds("All methods block and may be called from several threads.")
    def test_two_layers_are_unpacked_at_once(self, differ: diff.Differ, store: content.Store, folder: Path) -> None:
        answers: dict[int, Descriptor] = {}

        def unpack(number: int) -> None:
            place = folder / str(number)
            place.mkdir()
            answers[number] = differ.apply(found[number], Stack(place, "overlay").push(), store)

        tars = [tar(*(member(f"{n}-{i}", os.urandom(1000)) for i in range(200))) for n in range(4)]
        found = [Descriptor(oci.LAYER, keep(store, data), len(data)) for data in tars]
        threads = [threading.Thread(target=unpack, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answers[number].digest for number in range(4)] == [digest_of(data) for data in tars]

    # Apply: kinds of entries

    @holds("A file gets data, mode, owner, extended attributes and the time to the nanosecond.")
    def test_a_file_has_data_mode_owner_and_time(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member("a", b"data", mode=0o640, owner=(1000, 2000)))
        assert overlay.tree()["a"] == ("-rw-r-----", (1000, 2000), hashlib.sha256(b"data").hexdigest(), "a", (), WHEN)

    @holds("A file gets data, mode, owner, extended attributes and the time to the nanosecond.")
    def test_large_files_are_written_whole(self, apply: Apply, overlay: Stack) -> None:
        data = os.urandom(5_000_001)
        apply(overlay, member("a", b"x"), member("b", data), member("c", b"y"))
        assert overlay.tree()["b"][2] == hashlib.sha256(data).hexdigest()

    @holds("A file gets data, mode, owner, extended attributes and the time to the nanosecond.")
    @pytest.mark.parametrize("time", [0, 1, -1_500_000_000, 1_700_000_000_999_999_999, 4_300_000_000 * 10**9])
    def test_times_are_kept_to_the_nanosecond(self, apply: Apply, overlay: Stack, time: int) -> None:
        text = ("-" if time < 0 else "") + f"{abs(time) // 10**9}.{abs(time) % 10**9:09}"
        apply(overlay, member("a", time=None, pax={"mtime": text}))
        assert overlay.tree()["a"][5] == time

    @holds("So does a directory, also when entries follow that change it.")
    def test_a_directory_keeps_its_time_when_entries_follow(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), directory("d/e", time=7), member("d/e/f"), member("d/g"))
        apply(stack, member("d/e/h"))
        with mounts.temporary(stack.mounts()) as root:
            assert os.stat(f"{root}/d").st_mtime_ns == WHEN
            assert os.stat(f"{root}/d/e").st_mtime_ns == 7

    @holds("Symbolic links, devices and fifos are made as they are.")
    def test_a_symbolic_link_keeps_target_owner_and_time(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member("l", kind=tarfile.SYMTYPE, mode=0o777, link="/no/../where", owner=(5, 6)))
        assert overlay.tree()["l"] == ("lrwxrwxrwx", (5, 6), "/no/../where", "l", (), WHEN)

    @holds("Hard links share one file, also with a file of a lower layer.")
    def test_hard_links_share_one_file(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member("a", b"data"), hard_link("d/b", "a"), hard_link("c", "./d/b"))
        tree = overlay.tree()
        assert tree["a"] == tree["d/b"] == tree["c"]

    @holds("Hard links share one file, also with a file of a lower layer.")
    def test_a_hard_link_to_a_file_of_a_lower_layer_shares_it(self, apply: Apply, stack: Stack) -> None:
        original = member("d/a", b"data", owner=(7, 8), mode=0o4755)
        apply(stack, directory("d"), original, symlink("d/l", "target"))
        apply(stack, hard_link("e/b", "d/a", owner=(7, 8), mode=0o4755), hard_link("m", "/d/l"))
        tree = stack.tree()
        assert tree["e/b"] == tree["d/a"]
        assert tree["m"] == tree["d/l"]
        assert tree["d/a"][:3] == ("-rwsr-xr-x", (7, 8), hashlib.sha256(b"data").hexdigest())

    @holds("Hard links share one file, also with a file of a lower layer.")
    def test_the_header_of_a_hard_link_is_for_its_file_too(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"data", owner=(1, 1), xattrs={"trusted.a": b"1"}))
        last = hard_link("b", "a", owner=(2, 3), mode=0o6711, time=77, xattrs={"trusted.a": b"2"})
        apply(stack, last)
        digest = hashlib.sha256(b"data").hexdigest()
        expected = ("-rws--s--x", (2, 3), digest, "a", (("trusted.a", b"2"),), 77)
        assert stack.tree()["a"] == stack.tree()["b"] == expected

    @holds("Hard links share one file, also with a file of a lower layer.")
    def test_a_hard_link_to_a_symbolic_link_is_not_followed(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, symlink("l", "/etc/passwd"), hard_link("m", "l"))
        assert overlay.tree()["m"][0] == "lrwxrwxrwx"

    @holds("Symbolic links, devices and fifos are made as they are.")
    def test_devices_and_fifos_are_made(self, apply: Apply, overlay: Stack) -> None:
        apply(
            overlay,
            member("null", kind=tarfile.CHRTYPE, mode=0o666, device=(1, 3)),
            member("dev/loop", kind=tarfile.BLKTYPE, mode=0o660, device=(7, 300), owner=(0, 6)),
            member("fifo", kind=tarfile.FIFOTYPE, mode=0o600, owner=(3, 4)),
        )
        tree = overlay.tree()
        assert tree["null"][:3] == ("crw-rw-rw-", (0, 0), "1:3")
        assert tree["dev/loop"][:3] == ("brw-rw----", (0, 6), "7:300")
        assert tree["fifo"] == ("prw-------", (3, 4), "0:0", "fifo", (), WHEN)

    @holds(
        "A file gets data, mode, owner, extended attributes and the time to the nanosecond.",
        "So does a directory, also when entries follow that change it.",
    )
    @pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711, 0o1644])
    @pytest.mark.parametrize("owner", [(0, 0), (1000, 1000)])
    def test_special_bits_survive_the_owner(
        self, apply: Apply, overlay: Stack, mode: int, owner: tuple[int, int]
    ) -> None:
        apply(overlay, member("a", b"x", mode=mode, owner=owner), directory("d", mode=mode | 0o1000, owner=owner))
        assert overlay.tree()["a"][:2] == (stat.filemode(stat.S_IFREG | mode), owner)
        assert overlay.tree()["d"][:2] == (stat.filemode(stat.S_IFDIR | mode | 0o1000), owner)

    @holds("A file gets data, mode, owner, extended attributes and the time to the nanosecond.")
    def test_a_setgid_directory_gives_nothing_to_its_entries(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d", 0o2775, owner=(0, 50)))
        apply(stack, directory("d/e"), member("d/f"), symlink("d/l", "x"), member("d/p", kind=tarfile.FIFOTYPE))
        tree = stack.tree()
        assert tree["d/e"][:2] == ("drwxr-xr-x", (0, 0))
        assert {tree[name][1] for name in ("d/f", "d/l", "d/p")} == {(0, 0)}

    @holds(
        "A file gets data, mode, owner, extended attributes and the time to the nanosecond.",
        "So does a directory, also when entries follow that change it.",
    )
    def test_extended_attributes_are_set(self, apply: Apply, stack: Stack) -> None:
        values = {"trusted.one": b"1", "trusted.binary": b"\0\xff=\n", "security.two": b""}
        apply(stack, directory("d", xattrs=values), member("d/f", xattrs=values), symlink("d/l", "x"))
        apply(stack, directory("d", xattrs={"trusted.one": b"2"}))
        tree = stack.tree()
        assert tree["d"][4] == (("trusted.one", b"2"),)
        assert dict(tree["d/f"][4]) == values  # type: ignore[call-overload]

    @holds("A file gets data, mode, owner, extended attributes and the time to the nanosecond.")
    def test_attributes_as_libarchive_writes_them_are_set(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member("f", pax={"LIBARCHIVE.xattr.trusted.a%3db": "AAH/"}))
        assert overlay.tree()["f"][4] == (("trusted.a=b", b"\0\1\xff"),)

    @holds("A file gets data, mode, owner, extended attributes and the time to the nanosecond.")
    def test_capabilities_survive_the_owner(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member("ping", b"x", owner=(1, 1), mode=0o755, xattrs={"security.capability": CAPABILITY}))
        assert overlay.tree()["ping"][4] == (("security.capability", CAPABILITY),)

    @holds("Attributes of overlayfs are not taken from a layer.")
    def test_words_of_overlayfs_are_not_taken_from_a_layer(self, apply: Apply, folder: Path) -> None:
        stack = Stack(folder, "overlay")
        apply(stack, directory("d"), member("d/secret"))
        values = {"trusted.overlay.opaque": b"y", "trusted.overlay.redirect": b"/", "trusted.overlay.metacopy": b""}
        apply(stack, directory("d", xattrs=values), member("f", xattrs=values))
        assert "d/secret" in stack.tree()
        names = os.listxattr(folder / "layer-1" / "f") + os.listxattr(folder / "layer-1" / "d")
        assert not [name for name in names if "overlay" in name]

    # Apply: dialects of tar

    @holds("The tars are those of v7, ustar, GNU and pax, sparse files among them.")
    @pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_names_are_read(self, apply: Apply, overlay: Stack, format: int) -> None:
        folder = "/".join(["directory"] * 14)
        entries = [member(f"{folder}/name", b"data", time=None), symlink("l", "t" * 90)]
        if format != tarfile.USTAR_FORMAT:
            entries += [member("n" * 200, b"x", time=None), symlink("m", "/t" * 150), hard_link("h", "n" * 200)]
        for info, _ in entries:
            info.mtime, info.pax_headers = 5, {}
        apply(overlay, data=tar(*entries, format=format))
        tree = overlay.tree()
        assert tree[f"{folder}/name"][5] == 5 * 10**9
        if format != tarfile.USTAR_FORMAT:
            assert tree["m"][2] == "/t" * 150
            assert tree["h"] == tree["n" * 200]

    @holds("The tars are those of v7, ustar, GNU and pax, sparse files among them.")
    def test_large_numbers_are_read_in_base_256(self, apply: Apply, overlay: Stack) -> None:
        info, data = member("a", b"x", owner=(3_000_000_000, 2_500_000), time=None)
        info.mtime = -5
        apply(overlay, data=tar((info, data), format=tarfile.GNU_FORMAT))
        assert overlay.tree()["a"][1] == (3_000_000_000, 2_500_000)
        assert overlay.tree()["a"][5] == -5 * 10**9

    @holds("The tars are those of v7, ustar, GNU and pax, sparse files among them.")
    def test_large_numbers_are_read_from_pax(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member("a", b"x", owner=(3_000_000_000, 2_500_000)))
        assert overlay.tree()["a"][1] == (3_000_000_000, 2_500_000)

    @holds("Names are bytes and relative to the root.")
    def test_names_are_bytes(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member("ümlaut", b"1"), member("not-utf8-\udcff", b"2"), symlink("l", "\udcfe"))
        assert {"ümlaut", "not-utf8-\udcff"} <= overlay.tree().keys()
        assert overlay.tree()["l"][2] == "\udcfe"

    @holds("The tars are those of v7, ustar, GNU and pax, sparse files among them.")
    def test_a_global_header_is_for_all_that_follow(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", time=None), member("b", time=3), pax={"mtime": "9.5", "comment": "x"})
        apply(overlay, data=data)
        assert overlay.tree()["a"][5] == 9_500_000_000
        assert overlay.tree()["b"][5] == 3

    @holds("The tars are those of v7, ustar, GNU and pax, sparse files among them.")
    def test_a_v7_header_with_a_slash_is_a_directory(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, data=block(b"d/", kind=b"\0") + block(b"d/f", 1, kind=b"\0") + padded(b"x") + bytes(1024))
        assert overlay.tree()["d"][0] == "drw-r--r--"

    @holds("The tars are those of v7, ustar, GNU and pax, sparse files among them.")
    def test_sparse_files_of_gnus_old_format(self, apply: Apply, overlay: Stack) -> None:
        places = [(0, 512), (1 << 20, 512)] + [((2 + i) << 20, 1) for i in range(30)]
        data = bytes(range(256)) * 4 + bytes(range(30))
        first = b"".join(b"%011o\0%011o\0" % place for place in places[:4])
        tail = b"ustar  \0".ljust(386 - 257, b"\0") + first + b"\1" + b"%011o\0" % (40 << 20)
        more = b"".join(b"%011o\0%011o\0" % place for place in places[4:25]) + b"\1"
        last = b"".join(b"%011o\0%011o\0" % place for place in places[25:])
        blocks = block(b"s", len(data), b"S", tail=tail) + more.ljust(512, b"\0") + last.ljust(512, b"\0")
        apply(overlay, data=blocks + padded(data) + bytes(1024))
        self._check_sparse(overlay, places, data, 40 << 20)

    @holds("The tars are those of v7, ustar, GNU and pax, sparse files among them.")
    @pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
    def test_sparse_files_of_pax(self, apply: Apply, overlay: Stack, version: str) -> None:
        places = [(4096, 512), (1 << 20, 100)]
        data = bytes(range(256)) * 2 + bytes(100)
        stored, records = data, [("GNU.sparse.size", f"{2 << 20}"), ("GNU.sparse.name", "s")]
        if version == "0.0":
            records = [("GNU.sparse.size", f"{2 << 20}"), ("path", "s")]
            for offset, length in places:
                records += [("GNU.sparse.offset", str(offset)), ("GNU.sparse.numbytes", str(length))]
        elif version == "0.1":
            records.append(("GNU.sparse.map", ",".join(f"{offset},{length}" for offset, length in places)))
        else:
            records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "s")]
            records.append(("GNU.sparse.realsize", f"{2 << 20}"))
            stored = padded(b"2\n" + b"".join(b"%d\n%d\n" % place for place in places)) + data
        header = pax_header(records)
        apply(overlay, data=header + block(b"GNUSparseFile.0/s", len(stored)) + padded(stored) + bytes(1024))
        self._check_sparse(overlay, places, data, 2 << 20)

    @staticmethod
    def _check_sparse(stack: Stack, places: list[tuple[int, int]], data: bytes, size: int) -> None:
        with mounts.temporary(stack.mounts()) as root, open(f"{root}/s", "rb") as file:
            status = os.fstat(file.fileno())
            assert status.st_size == size
            assert status.st_blocks * 512 < size // 2
            expected = bytearray(size)
            for offset, length in places:
                expected[offset : offset + length], data = data[:length], data[length:]
            assert file.read() == expected
