"""The suite for differs: every sentence of ``plugin_sdk.diff`` has a test. It needs root, since it mounts.

An implementation subclasses it and gives a ``differ`` and the content ``store`` that this differ is handed::

    class TestMine(conformance.DiffSuite):
        @pytest.fixture
        def store(self, tmp_path):
            return Store(tmp_path)

        @pytest.fixture
        def differ(self):
            return Mine()

Each test of ``apply`` runs on a plain directory, on an overlay, and on an overlay that was written to before.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import random
import shutil
import stat
import struct
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin_sdk import content, diff, errors, mounts, oci
from plugin_sdk.conformance import layers
from plugin_sdk.conformance.content import digest_of, get, put
from plugin_sdk.conformance.layers import WHEN, Stack, block, directory, hard_link, member, padded, symlink, tar
from plugin_sdk.oci import Descriptor

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""net_raw, permitted and effective, as security.capability holds it (linux/capability.h)."""

Apply = Callable[..., Descriptor]


@pytest.mark.root
class DiffSuite:
    @pytest.fixture
    def store(self) -> content.Store:
        raise NotImplementedError("a subclass gives the store")

    @pytest.fixture
    def differ(self) -> diff.Differ:
        raise NotImplementedError("a subclass gives the differ")

    @pytest.fixture
    def supports_zstd(self) -> bool:
        return True

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        """On tmpfs where there is one: it is faster, and overlayfs takes it for an upper directory."""
        path = Path(tempfile.mkdtemp(prefix="corten-diff-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        yield path
        shutil.rmtree(path)

    @pytest.fixture(params=["plain", "overlay", "through"])
    def stack(self, folder: Path, request: pytest.FixtureRequest) -> Stack:
        return Stack(folder, request.param)

    @pytest.fixture
    def overlay(self, folder: Path) -> Stack:
        return Stack(folder, "overlay")

    @pytest.fixture
    def apply(self, differ: diff.Differ, store: content.Store) -> Apply:
        def apply(stack: Stack, *members: layers.Member, data: bytes = b"", media_type: str = oci.LAYER) -> Descriptor:
            data = data or tar(*members)
            digest = digest_of(data)
            with contextlib.suppress(errors.AlreadyExists):
                put(store, data, digest)
            return differ.apply(Descriptor(media_type, digest, len(data)), stack.push(), store)

        return apply

    # Apply: the answer

    def test_apply_answers_the_descriptor_of_the_uncompressed_tar(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", b"data"))
        blob = gzip.compress(data)
        assert apply(overlay, data=blob, media_type=oci.LAYER_GZIP) == Descriptor(oci.LAYER, digest_of(data), len(data))

    @pytest.mark.parametrize(
        "media_type", [oci.LAYER_GZIP, oci.FOREIGN_LAYER_GZIP, oci.DOCKER_LAYER_GZIP, oci.DOCKER_FOREIGN_LAYER_GZIP]
    )
    def test_gzip_is_inflated(self, apply: Apply, overlay: Stack, media_type: str) -> None:
        data = tar(member("a", b"data" * 1000))
        assert apply(overlay, data=gzip.compress(data), media_type=media_type).digest == digest_of(data)
        assert "a" in overlay.tree()

    @pytest.mark.parametrize("media_type", [oci.LAYER_ZSTD, oci.FOREIGN_LAYER_ZSTD, oci.DOCKER_LAYER_ZSTD])
    def test_zstd_is_inflated(self, apply: Apply, overlay: Stack, media_type: str, supports_zstd: bool) -> None:
        data = tar(member("a", b"data" * 1000))
        if not supports_zstd:
            with pytest.raises(errors.Unimplemented):
                apply(overlay, data=zstd(data), media_type=media_type)
            return
        assert apply(overlay, data=zstd(data), media_type=media_type).digest == digest_of(data)
        assert "a" in overlay.tree()

    @pytest.mark.parametrize("media_type", [oci.DOCKER_LAYER, oci.DOCKER_FOREIGN_LAYER])
    @pytest.mark.parametrize("wrap", [bytes, gzip.compress, lambda data: zstd(data)], ids=["tar", "gzip", "zstd"])
    def test_dockers_plain_type_may_hide_a_compression(
        self, apply: Apply, overlay: Stack, media_type: str, wrap: Callable[[bytes], bytes]
    ) -> None:
        data = tar(member("a", b"data"))
        assert apply(overlay, data=wrap(data), media_type=media_type).digest == digest_of(data)

    def test_members_of_a_gzip_stream_are_one_layer(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", b"data" * 1000))
        blob = gzip.compress(data[:700]) + gzip.compress(b"") + gzip.compress(data[700:])
        assert apply(overlay, data=blob, media_type=oci.LAYER_GZIP).digest == digest_of(data)

    def test_frames_of_a_zstd_stream_are_one_layer(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", b"data" * 1000))
        skippable = struct.pack("<II", 0x184D2A50, 3) + b"abc"
        blob = zstd(data[:700]) + skippable + zstd(data[700:])
        assert apply(overlay, data=blob, media_type=oci.LAYER_ZSTD).digest == digest_of(data)

    def test_what_follows_the_archive_is_part_of_the_diff_id(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", b"data")) + os.urandom(3_000_000) + b"odd"
        assert apply(overlay, data=data) == Descriptor(oci.LAYER, digest_of(data), len(data))

    def test_a_tar_without_its_final_blocks_is_whole(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", b"data"))[:2048]
        assert apply(overlay, data=data).digest == digest_of(data)
        assert "a" in overlay.tree()

    def test_a_tar_without_entries_changes_nothing(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"data"))
        before = stack.tree()
        apply(stack)
        assert stack.tree() == before

    def test_sync_is_accepted(self, differ: diff.Differ, store: content.Store, overlay: Stack) -> None:
        data = tar(member("a", b"data"))
        layer = Descriptor(oci.LAYER, put(store, data), len(data))
        assert differ.apply(layer, overlay.push(), store, sync=True).digest == digest_of(data)

    def test_two_layers_are_unpacked_at_once(self, differ: diff.Differ, store: content.Store, folder: Path) -> None:
        answers: dict[int, Descriptor] = {}

        def unpack(number: int) -> None:
            place = folder / str(number)
            place.mkdir()
            answers[number] = differ.apply(found[number], Stack(place, "overlay").push(), store)

        tars = [tar(*(member(f"{n}-{i}", os.urandom(1000)) for i in range(200))) for n in range(4)]
        found = [Descriptor(oci.LAYER, put(store, data), len(data)) for data in tars]
        threads = [threading.Thread(target=unpack, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answers[number].digest for number in range(4)] == [digest_of(data) for data in tars]

    # Apply: kinds of entries

    def test_a_file_has_data_mode_owner_and_time(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"data", mode=0o640, owner=(1000, 2000)))
        assert stack.tree()["a"] == ("-rw-r-----", (1000, 2000), hashlib.sha256(b"data").hexdigest(), "a", (), WHEN)

    def test_large_files_are_written_whole(self, apply: Apply, overlay: Stack) -> None:
        data = os.urandom(5_000_001)
        apply(overlay, member("a", b"x"), member("b", data), member("c", b"y"))
        assert overlay.tree()["b"][2] == hashlib.sha256(data).hexdigest()

    @pytest.mark.parametrize("time", [0, 1, -1_500_000_000, 1_700_000_000_999_999_999, 4_300_000_000 * 10**9])
    def test_times_are_kept_to_the_nanosecond(self, apply: Apply, overlay: Stack, time: int) -> None:
        text = ("-" if time < 0 else "") + f"{abs(time) // 10**9}.{abs(time) % 10**9:09}"
        apply(overlay, member("a", time=None, pax={"mtime": text}))
        assert overlay.tree()["a"][5] == time

    def test_a_directory_keeps_its_time_when_entries_follow(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), directory("d/e", time=7), member("d/e/f"), member("d/g"))
        apply(stack, member("d/e/h"))
        with mounts.temporary(stack.mounts()) as root:
            assert os.stat(f"{root}/d").st_mtime_ns == WHEN
            assert os.stat(f"{root}/d/e").st_mtime_ns == 7

    def test_a_symbolic_link_keeps_target_owner_and_time(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("l", kind=tarfile.SYMTYPE, mode=0o777, link="/no/../where", owner=(5, 6)))
        assert stack.tree()["l"] == ("lrwxrwxrwx", (5, 6), "/no/../where", "l", (), WHEN)

    def test_hard_links_share_one_file(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"data"), hard_link("d/b", "a"), hard_link("c", "./d/b"))
        tree = stack.tree()
        assert tree["a"] == tree["d/b"] == tree["c"]

    def test_a_hard_link_to_a_file_of_a_lower_layer_shares_it(self, apply: Apply, stack: Stack) -> None:
        original = member("d/a", b"data", owner=(7, 8), mode=0o4755)
        apply(stack, directory("d"), original, symlink("d/l", "target"))
        apply(stack, hard_link("e/b", "d/a", owner=(7, 8), mode=0o4755), hard_link("m", "/d/l"))
        tree = stack.tree()
        assert tree["e/b"] == tree["d/a"]
        assert tree["m"] == tree["d/l"]
        assert tree["d/a"][:3] == ("-rwsr-xr-x", (7, 8), hashlib.sha256(b"data").hexdigest())

    def test_the_header_of_a_hard_link_is_for_its_file_too(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"data", owner=(1, 1), xattrs={"trusted.a": b"1"}))
        last = hard_link("b", "a", owner=(2, 3), mode=0o6711, time=77, xattrs={"trusted.a": b"2"})
        apply(stack, last)
        digest = hashlib.sha256(b"data").hexdigest()
        expected = ("-rws--s--x", (2, 3), digest, "a", (("trusted.a", b"2"),), 77)
        assert stack.tree()["a"] == stack.tree()["b"] == expected

    def test_a_hard_link_to_a_symbolic_link_is_not_followed(self, apply: Apply, stack: Stack) -> None:
        apply(stack, symlink("l", "/etc/passwd"), hard_link("m", "l"))
        assert stack.tree()["m"][0] == "lrwxrwxrwx"

    def test_devices_and_fifos_are_made(self, apply: Apply, stack: Stack) -> None:
        apply(
            stack,
            member("null", kind=tarfile.CHRTYPE, mode=0o666, device=(1, 3)),
            member("dev/loop", kind=tarfile.BLKTYPE, mode=0o660, device=(7, 300), owner=(0, 6)),
            member("fifo", kind=tarfile.FIFOTYPE, mode=0o600, owner=(3, 4)),
        )
        tree = stack.tree()
        assert tree["null"][:3] == ("crw-rw-rw-", (0, 0), "1:3")
        assert tree["dev/loop"][:3] == ("brw-rw----", (0, 6), "7:300")
        assert tree["fifo"] == ("prw-------", (3, 4), "0:0", "fifo", (), WHEN)

    @pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711, 0o1644])
    @pytest.mark.parametrize("owner", [(0, 0), (1000, 1000)])
    def test_special_bits_survive_the_owner(
        self, apply: Apply, overlay: Stack, mode: int, owner: tuple[int, int]
    ) -> None:
        apply(overlay, member("a", b"x", mode=mode, owner=owner), directory("d", mode=mode | 0o1000, owner=owner))
        assert overlay.tree()["a"][:2] == (stat.filemode(stat.S_IFREG | mode), owner)
        assert overlay.tree()["d"][:2] == (stat.filemode(stat.S_IFDIR | mode | 0o1000), owner)

    def test_a_setgid_directory_gives_nothing_to_its_entries(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d", 0o2775, owner=(0, 50)))
        apply(stack, directory("d/e"), member("d/f"), symlink("d/l", "x"), member("d/p", kind=tarfile.FIFOTYPE))
        tree = stack.tree()
        assert tree["d/e"][:2] == ("drwxr-xr-x", (0, 0))
        assert {tree[name][1] for name in ("d/f", "d/l", "d/p")} == {(0, 0)}

    def test_extended_attributes_are_set(self, apply: Apply, stack: Stack) -> None:
        values = {"trusted.one": b"1", "trusted.binary": b"\0\xff=\n", "security.two": b""}
        apply(stack, directory("d", xattrs=values), member("d/f", xattrs=values), symlink("d/l", "x"))
        apply(stack, directory("d", xattrs={"trusted.one": b"2"}))
        tree = stack.tree()
        assert tree["d"][4] == (("trusted.one", b"2"),)
        assert dict(tree["d/f"][4]) == values  # type: ignore[call-overload]

    def test_attributes_as_libarchive_writes_them_are_set(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member("f", pax={"LIBARCHIVE.xattr.trusted.a%3db": "AAH/"}))
        assert overlay.tree()["f"][4] == (("trusted.a=b", b"\0\1\xff"),)

    def test_capabilities_survive_the_owner(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("ping", b"x", owner=(1, 1), mode=0o755, xattrs={"security.capability": CAPABILITY}))
        assert stack.tree()["ping"][4] == (("security.capability", CAPABILITY),)

    def test_words_of_overlayfs_are_not_taken_from_a_layer(self, apply: Apply, folder: Path) -> None:
        stack = Stack(folder, "overlay")
        apply(stack, directory("d"), member("d/secret"))
        values = {"trusted.overlay.opaque": b"y", "trusted.overlay.redirect": b"/", "trusted.overlay.metacopy": b""}
        apply(stack, directory("d", xattrs=values), member("f", xattrs=values))
        assert "d/secret" in stack.tree()
        names = os.listxattr(folder / "layer-1" / "f") + os.listxattr(folder / "layer-1" / "d")
        assert not [name for name in names if "overlay" in name]

    # Apply: dialects of tar

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

    def test_large_numbers_are_read_in_base_256(self, apply: Apply, overlay: Stack) -> None:
        info, data = member("a", b"x", owner=(3_000_000_000, 2_500_000), time=None)
        info.mtime = -5
        apply(overlay, data=tar((info, data), format=tarfile.GNU_FORMAT))
        assert overlay.tree()["a"][1] == (3_000_000_000, 2_500_000)
        assert overlay.tree()["a"][5] == -5 * 10**9

    def test_large_numbers_are_read_from_pax(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member("a", b"x", owner=(3_000_000_000, 2_500_000)))
        assert overlay.tree()["a"][1] == (3_000_000_000, 2_500_000)

    def test_names_are_bytes(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("ümlaut", b"1"), member("not-utf8-\udcff", b"2"), symlink("l", "\udcfe"))
        assert {"ümlaut", "not-utf8-\udcff"} <= stack.tree().keys()
        assert stack.tree()["l"][2] == "\udcfe"

    def test_a_global_header_is_for_all_that_follow(self, apply: Apply, overlay: Stack) -> None:
        data = tar(member("a", time=None), member("b", time=3), pax={"mtime": "9.5", "comment": "x"})
        apply(overlay, data=data)
        assert overlay.tree()["a"][5] == 9_500_000_000
        assert overlay.tree()["b"][5] == 3

    def test_a_v7_header_with_a_slash_is_a_directory(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, data=block(b"d/", kind=b"\0") + block(b"d/f", 1, kind=b"\0") + padded(b"x") + bytes(1024))
        assert overlay.tree()["d"][0] == "drw-r--r--"

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

    # Apply: names and what was there before

    @pytest.mark.parametrize("name", ["/a/b", "./a//b", "a/./b", "a/c/../b", "//a/b"])
    def test_names_are_relative_to_the_root(self, apply: Apply, stack: Stack, name: str) -> None:
        apply(stack, member(name, b"x"))
        assert "a/b" in stack.tree()

    def test_the_root_itself_gets_its_entry(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("./", mode=0o700, owner=(1, 2)), member("a"))
        assert stack.tree()["."][:2] == ("drwx------", (1, 2))

    def test_missing_parents_are_made(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("x/y/z", b"x"))
        assert stack.tree()["x/y"][:2] == ("drwxr-xr-x", (0, 0))

    def test_parents_of_lower_layers_keep_what_they_are(self, apply: Apply, stack: Stack) -> None:
        made = directory("d", 0o2751, owner=(1, 2), xattrs={"trusted.a": b"b"})
        apply(stack, made, directory("d/e", 0o700), member("d/e/f"))
        before = stack.tree()
        apply(stack, member("d/e/g"), member("d/h"))
        after = stack.tree()
        assert {path: after[path] for path in before} == before
        assert {"d/e/g", "d/h"} <= after.keys()

    def test_a_directory_over_a_directory_keeps_its_entries(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), member("d/a"))
        apply(stack, directory("d", 0o700), member("d/b"))
        assert stack.tree()["d"][0] == "drwx------"
        assert {"d/a", "d/b"} <= stack.tree().keys()

    def test_files_replace_files_without_changing_their_links(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"old"), hard_link("b", "a"))
        apply(stack, member("a", b"new"))
        assert stack.tree()["a"][2] == hashlib.sha256(b"new").hexdigest()
        assert stack.tree()["b"][2] == hashlib.sha256(b"old").hexdigest()

    def test_a_file_replaces_a_directory(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), directory("d/e"), member("d/e/f"))
        apply(stack, member("d", b"x"))
        assert set(stack.tree()) == {".", "d"}

    def test_a_directory_replaces_a_file(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("d", b"x"), symlink("l", "d"))
        apply(stack, directory("d"), member("d/e"), directory("l"), member("l/f"))
        assert stack.tree()["l"][0] == "drwxr-xr-x"
        assert {"d/e", "l/f"} <= stack.tree().keys()

    def test_a_directory_that_was_a_file_shows_nothing_of_below(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), member("d/old"))
        apply(stack, member("d", b"x"), directory("d"), member("d/new"))
        assert set(stack.tree()) == {".", "d", "d/new"}

    @pytest.mark.parametrize(
        "last", [member("x", b"2"), symlink("x", "y"), directory("x"), member("x", kind=tarfile.FIFOTYPE)]
    )
    @pytest.mark.parametrize(
        "first",
        [member("x", b"1"), symlink("x", "/"), directory("x"), member("x", kind=tarfile.CHRTYPE, device=(1, 3))],
    )
    def test_the_last_of_several_entries_wins(
        self, apply: Apply, overlay: Stack, first: layers.Member, last: layers.Member
    ) -> None:
        apply(overlay, first, last)
        assert overlay.tree()["x"][0][:1] == {"0": "-", "2": "l", "5": "d", "6": "p"}[last[0].type.decode()]  # type: ignore[index]

    def test_entries_go_through_links_of_the_same_layer(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("usr"), directory("usr/lib"), symlink("lib", "usr/lib"), member("lib/a"))
        assert stack.tree()["usr/lib/a"][0] == "-rw-r--r--"
        assert stack.tree()["lib"][0] == "lrwxrwxrwx"

    def test_entries_go_through_links_of_lower_layers(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("usr"), directory("usr/lib", 0o711), member("usr/lib/a"), symlink("lib", "/usr/lib"))
        apply(stack, directory("srv"), symlink("srv/l", "../lib"), member("srv/l/b"), member("lib/c"))
        assert {"usr/lib/a", "usr/lib/b", "usr/lib/c"} <= stack.tree().keys()
        assert stack.tree()["usr/lib"][0] == "drwx--x--x"

    def test_a_replaced_link_is_followed_no_more(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("a"), directory("b"), symlink("l", "a"), member("l/1"))
        apply(stack, member("l/2"), symlink("l", "b"), member("l/3"), directory("l"), member("l/4"))
        assert {"a/1", "a/2", "b/3", "l/4"} <= stack.tree().keys()

    def test_a_link_to_nothing_leads_to_new_directories(self, apply: Apply, stack: Stack) -> None:
        apply(stack, symlink("l", "new/place"), member("l/a"))
        assert "new/place/a" in stack.tree()

    # Apply: whiteouts

    def test_a_whiteout_removes_what_is_below(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a"), directory("d"), directory("d/e"), member("d/e/f"), symlink("l", "a"), member("b"))
        apply(stack, member(".wh.a"), member("d/.wh.e"), member(".wh.l"))
        assert set(stack.tree()) == {".", "b", "d"}

    def test_a_whiteout_of_nothing_does_nothing(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), member("d/a"))
        before = stack.tree()
        apply(stack, member(".wh.x"), member("d/.wh.y"), member("no/such/.wh.z"), member("no/.wh..wh..opq"))
        assert stack.tree() == before
        with mounts.temporary(stack.mounts()) as root:
            assert os.listdir(f"{root}/d") == ["a"]

    def test_a_whiteout_does_not_remove_what_its_own_layer_has(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"old"), directory("d"), member("d/old"))
        apply(stack, member("a", b"new"), directory("d"), member("d/new"), member(".wh.a"), member(".wh.d"))
        assert set(stack.tree()) == {".", "a", "d", "d/new"}

    def test_a_name_may_come_back_after_its_whiteout(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"old"), directory("d"), member("d/old"))
        apply(stack, member(".wh.a"), member(".wh.d"), member("a", b"new"), directory("d"), member("d/new"))
        tree = stack.tree()
        assert set(tree) == {".", "a", "d", "d/new"}
        assert tree["a"][2] == hashlib.sha256(b"new").hexdigest()

    def test_missing_parents_come_back_empty_after_a_whiteout(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d", 0o700), directory("d/e"), member("d/e/old"))
        apply(stack, member(".wh.d"), member("d/e/new"))
        assert set(stack.tree()) == {".", "d", "d/e", "d/e/new"}
        assert stack.tree()["d"][0] == "drwxr-xr-x"

    def test_a_file_of_a_lower_layer_can_come_back_in_a_third(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), member("d/a"), member("d/b"))
        apply(stack, member(".wh.d"))
        apply(stack, directory("d"), member("d/c"))
        assert set(stack.tree()) == {".", "d", "d/c"}

    @pytest.mark.parametrize("first", [True, False])
    def test_an_opaque_directory_shows_only_its_own_layer(self, apply: Apply, stack: Stack, first: bool) -> None:
        apply(
            stack, directory("d"), member("d/a"), directory("d/e"), member("d/e/b"), directory("d/f"), member("d/f/c")
        )
        new = [directory("d/e"), member("d/e/new"), member("d/n")]
        opaque = member("d/.wh..wh..opq")
        apply(stack, directory("d", 0o711), *([opaque, *new] if first else [*new, opaque]))
        tree = stack.tree()
        assert set(tree) == {".", "d", "d/e", "d/e/new", "d/n"}
        assert tree["d"][0] == "drwx--x--x"

    def test_an_opaque_directory_needs_no_entry_of_its_own(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d", 0o700), member("d/a"))
        apply(stack, member("d/.wh..wh..opq"))
        assert set(stack.tree()) == {".", "d"}
        assert stack.tree()["d"][0] == "drwx------"

    def test_the_root_can_be_opaque(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), member("d/a"), member("b"))
        apply(stack, member(".wh..wh..opq"), member("c"))
        assert set(stack.tree()) == {".", "c"}

    def test_whiteouts_go_through_links(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("usr"), directory("usr/lib"), member("usr/lib/a"), symlink("lib", "usr/lib"))
        apply(stack, member("lib/.wh.a"))
        assert set(stack.tree()) == {".", "usr", "usr/lib", "lib"}

    def test_a_hidden_file_is_no_target_of_a_hard_link(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a"))
        with pytest.raises(errors.InvalidArgument, match='"b"'):
            apply(stack, member(".wh.a"), hard_link("b", "a"))

    def test_a_whiteout_as_overlayfs_writes_it_is_one(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a"), directory("d"), member("d/b"))
        whiteout = member("a", kind=tarfile.CHRTYPE, device=(0, 0))
        apply(stack, whiteout, member("d", kind=tarfile.CHRTYPE, device=(0, 0)))
        assert set(stack.tree()) == {"."}

    def test_notes_of_aufs_are_left_out(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member(".wh..wh.aufs"), directory(".wh..wh.plnk", 0o700), member("a"))
        assert set(stack.tree()) == {".", "a"}

    # Apply: what must fail

    def test_an_unknown_media_type_is_unimplemented(self, apply: Apply, overlay: Stack) -> None:
        for media_type in ("text/plain", "", oci.LAYER_GZIP + "+encrypted", oci.MANIFEST):
            with pytest.raises(errors.Unimplemented):
                apply(overlay, member("a"), media_type=media_type)

    def test_a_missing_blob_is_not_found(self, differ: diff.Differ, store: content.Store, overlay: Stack) -> None:
        with pytest.raises(errors.NotFound):
            differ.apply(Descriptor(oci.LAYER, digest_of(b"nothing"), 7), overlay.push(), store)

    def test_a_wrong_size_is_an_invalid_argument(
        self, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        digest = put(store, tar(member("a")))
        with pytest.raises(errors.InvalidArgument, match=digest):
            differ.apply(Descriptor(oci.LAYER, digest, 5), overlay.push(), store)

    @pytest.mark.parametrize(
        "name", ["../evil", "/../evil", "a/../../evil", "..", "../.wh.evil", "../../../../../../evil"]
    )
    def test_names_that_climb_out_are_refused(self, apply: Apply, folder: Path, stack: Stack, name: str) -> None:
        with pytest.raises(errors.InvalidArgument, match=r"evil|\.\."):
            apply(stack, member("a"), member(name, b"evil"))
        assert not list(folder.rglob("*evil*"))

    @pytest.mark.parametrize("target", ["../../../../../../../../../..", "/", "../.."])
    def test_links_that_climb_out_end_at_the_root(self, apply: Apply, folder: Path, stack: Stack, target: str) -> None:
        outside = folder / "outside"
        outside.mkdir()
        apply(stack, symlink("d/l", f"{target}{outside}"), member("d/l/evil", b"evil"), member("d/l/.wh.x"))
        assert not list(outside.iterdir())
        assert f"{outside}/evil".lstrip("/") in stack.tree()

    def test_a_link_in_place_of_a_parent_stays_inside(self, apply: Apply, folder: Path, stack: Stack) -> None:
        (folder / "outside").mkdir()
        (folder / "outside" / "kept").touch()
        up = "../" * 20 + str(folder).lstrip("/")
        apply(stack, directory("d"), symlink("d/x", up), member("d/x/outside/evil"), member("d/x/outside/.wh.kept"))
        apply(stack, member("d/x/outside/.wh..wh..opq"))
        assert [path.name for path in (folder / "outside").iterdir()] == ["kept"]

    @pytest.mark.parametrize("target", ["../../../etc/passwd", "/etc/passwd", "no/such", "d", "", "/"])
    def test_hard_links_to_what_is_not_inside_are_refused(self, apply: Apply, stack: Stack, target: str) -> None:
        with pytest.raises(errors.InvalidArgument, match=r"evil|etc/passwd"):
            apply(stack, directory("d"), hard_link("evil", target))
        assert "evil" not in stack.tree()

    def test_a_hard_link_through_a_link_stays_inside(self, apply: Apply, folder: Path, stack: Stack) -> None:
        (folder / "secret").write_text("secret")
        with pytest.raises(errors.InvalidArgument, match="evil"):
            apply(stack, symlink("l", str(folder)), hard_link("evil", "l/secret"))

    def test_circles_of_links_are_refused(self, apply: Apply, stack: Stack) -> None:
        with pytest.raises(errors.InvalidArgument, match="x/f"):
            apply(stack, symlink("x", "y"), symlink("y", "x"), member("x/f"))

    @pytest.mark.parametrize("name", [".wh.", "d/.wh..", "d/.wh..."])
    def test_whiteouts_of_no_name_are_refused(self, apply: Apply, stack: Stack, name: str) -> None:
        with pytest.raises(errors.InvalidArgument, match="whiteout"):
            apply(stack, directory("d"), member(name))

    @pytest.mark.parametrize("entry", [member("f/x"), directory("f/x"), symlink("f/x/y", "z")])
    def test_a_file_on_the_way_is_refused(self, apply: Apply, stack: Stack, entry: layers.Member) -> None:
        with pytest.raises(errors.InvalidArgument, match='"f"'):
            apply(stack, member("f"), entry)

    @pytest.mark.parametrize("name", ["n" * 256, "d/" * 2100 + "x"])
    def test_too_long_names_are_refused(self, apply: Apply, stack: Stack, name: str) -> None:
        with pytest.raises(errors.InvalidArgument, match="long"):
            apply(stack, member(name))

    def test_something_else_in_place_of_the_root_is_refused(self, apply: Apply, stack: Stack) -> None:
        for entry in (member("."), symlink("/", "x"), hard_link(".", "a")):
            with pytest.raises(errors.InvalidArgument):
                apply(stack, member("a"), entry)

    @pytest.mark.parametrize("kind", [b"V", b"M", b"D", b"Z"])
    def test_unknown_types_are_refused(self, apply: Apply, overlay: Stack, kind: bytes) -> None:
        with pytest.raises(errors.InvalidArgument, match='"odd"'):
            apply(overlay, data=block(b"odd", kind=kind) + bytes(1024))

    @pytest.mark.parametrize("length", [1, 511, 513, 700, 1025, 2000])
    def test_a_tar_that_is_cut_off_is_refused(self, apply: Apply, overlay: Stack, length: int) -> None:
        data = tar(member("a", b"x" * 600), member("b", b"y" * 600))
        with pytest.raises(errors.InvalidArgument):
            apply(overlay, data=data[:length])

    def test_a_compressed_stream_that_is_cut_off_is_refused(self, apply: Apply, overlay: Stack) -> None:
        data = tar(*(member(str(i), os.urandom(3000)) for i in range(200)))
        for media_type, blob in ((oci.LAYER_GZIP, gzip.compress(data)), (oci.LAYER_ZSTD, zstd(data))):
            for length in (5, 1000, len(blob) // 2):
                with pytest.raises(errors.InvalidArgument):
                    apply(overlay, data=blob[:length], media_type=media_type)

    def test_a_gzip_stream_without_its_checksum_is_refused(self, apply: Apply, overlay: Stack) -> None:
        blob = gzip.compress(tar(member("a")))
        for damaged in (blob[:-8], blob[:-4], blob[:-8] + bytes(8), blob + b"trailing"):
            with pytest.raises(errors.InvalidArgument, match="gzip"):
                apply(overlay, data=damaged, media_type=oci.LAYER_GZIP)

    @pytest.mark.parametrize("media_type", [oci.LAYER_GZIP, oci.LAYER_ZSTD])
    def test_what_is_not_compressed_is_refused(self, apply: Apply, overlay: Stack, media_type: str) -> None:
        with pytest.raises(errors.InvalidArgument, match=media_type[-4:]):
            apply(overlay, member("a"), media_type=media_type)

    def test_a_wrong_checksum_is_refused(self, apply: Apply, overlay: Stack) -> None:
        data = bytearray(tar(member("a", time=None), format=tarfile.USTAR_FORMAT))
        data[0] += 1
        with pytest.raises(errors.InvalidArgument, match="checksum"):
            apply(overlay, data=bytes(data))

    @pytest.mark.parametrize(
        "record",
        [b"30 path=x\n", b"x path=x\n", b"9 pathx\n", b"0 a=\n", b"11 mtime=x\n", b"9 uid=x\n", b"10 size=-5\n"],
    )
    def test_malformed_extended_headers_are_refused(self, apply: Apply, overlay: Stack, record: bytes) -> None:
        data = block(b"h", len(record), b"x") + padded(record) + block(b"a") + bytes(1024)
        with pytest.raises(errors.InvalidArgument, match="header"):
            apply(overlay, data=data)

    def test_endless_extended_headers_are_refused(self, apply: Apply, overlay: Stack) -> None:
        with pytest.raises(errors.InvalidArgument, match="exceed"):
            apply(overlay, data=block(b"h", 1 << 32, b"x") + bytes(4096))
        with pytest.raises(errors.InvalidArgument, match="exceed"):
            apply(overlay, data=(block(b"h", 512, b"L") + bytes(512)) * 2000)

    @pytest.mark.parametrize("places", ["5,5,0,5", "0,5,3,5", "0,9", "0,5,99999999,5", "0,5,7"])
    def test_impossible_sparse_files_are_refused(self, apply: Apply, overlay: Stack, places: str) -> None:
        header = pax_header([("GNU.sparse.size", "20"), ("GNU.sparse.map", places)])
        with pytest.raises(errors.InvalidArgument, match="sparse"):
            apply(overlay, data=header + block(b"s", 10) + padded(bytes(10)) + bytes(1024))

    @pytest.mark.parametrize("seed", range(6))
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

    # Compare

    def test_identical_trees_make_an_empty_tar(
        self, apply: Apply, differ: diff.Differ, store: content.Store, stack: Stack
    ) -> None:
        apply(stack, directory("d"), member("d/a", b"x"), hard_link("b", "d/a"), symlink("l", "a"))
        layer = differ.compare(stack.view(1), stack.view(1), store, media_type=oci.LAYER)
        assert layers.names(get(store, layer.digest)) == []

    def test_an_empty_media_type_means_gzip(self, differ: diff.Differ, store: content.Store, overlay: Stack) -> None:
        overlay.push()
        layer = differ.compare([], overlay.mounts(), store)
        assert layer.media_type == oci.LAYER_GZIP
        assert layers.names(gzip.decompress(get(store, layer.digest))) == []

    @pytest.mark.parametrize("media_type", [oci.LAYER, oci.LAYER_GZIP, oci.LAYER_ZSTD])
    def test_the_blob_gets_the_labels_and_its_diff_id(
        self, apply: Apply, differ: diff.Differ, store: content.Store, stack: Stack, media_type: str
    ) -> None:
        apply(stack, member("a", b"data" * 10000))
        layer = differ.compare([], stack.mounts(), store, media_type=media_type, labels={"x": "y"})
        info = store.info(layer.digest)
        assert (layer.media_type, layer.size) == (media_type, info.size)
        diff_id = differ.apply(layer, stack.push(), store).digest
        uncompressed = {oci.UNCOMPRESSED_LABEL: diff_id} if media_type != oci.LAYER else {}
        assert info.labels == {"x": "y", **uncompressed}

    def test_a_blob_that_exists_gets_the_labels_too(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, member("a", b"data"))
        first = differ.compare([], overlay.mounts(), store, labels={"a": "1", "b": "1"})
        assert differ.compare([], overlay.mounts(), store, labels={"b": "2", "c": "2"}) == first
        labels = dict(store.info(first.digest).labels)
        assert labels.pop(oci.UNCOMPRESSED_LABEL).startswith("sha256:")
        assert labels == {"a": "1", "b": "2", "c": "2"}

    def test_a_given_ref_begins_again(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, member("a", b"data"))
        with store.writer("mine") as writer:
            writer.write(b"left over")
        layer = differ.compare([], overlay.mounts(), store, media_type=oci.LAYER, ref="mine")
        assert layers.names(get(store, layer.digest)) == ["a"]
        with pytest.raises(errors.NotFound):
            store.status("mine")

    def test_a_failed_compare_leaves_an_ingest_that_can_be_aborted(
        self, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        overlay.push()
        with overlay.writable() as root:
            (root / ".wh.odd").touch()
        with pytest.raises(errors.InvalidArgument, match=r"wh\.odd"):
            differ.compare([], overlay.mounts(), store, ref="mine")
        store.abort("mine")

    @pytest.mark.parametrize("media_type", ["text/plain", oci.DOCKER_LAYER_GZIP, oci.LAYER_GZIP + "+encrypted"])
    def test_other_media_types_are_not_written(
        self, differ: diff.Differ, store: content.Store, overlay: Stack, media_type: str
    ) -> None:
        overlay.push()
        with pytest.raises(errors.Unimplemented):
            differ.compare([], overlay.mounts(), store, media_type=media_type)

    def test_the_same_trees_make_the_same_blob(
        self, apply: Apply, differ: diff.Differ, store: content.Store, stack: Stack
    ) -> None:
        apply(stack, member("a"), member("b"))
        apply(stack, member(".wh.a"), member("d/c", b"x", xattrs={"trusted.b": b"1", "trusted.a": b"2"}))
        first = differ.compare(stack.view(1), stack.mounts(), store)
        assert differ.compare(stack.view(1), stack.view(2), store) == first

    def test_entries_stand_in_order_with_their_parents_before(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, directory("d"), directory("d/e"), member("d/e/f"), member("d/g"), directory("h"), member("z"))
        apply(overlay, member("d/e/f", b"new"), member("d/.wh.g"), member("h.txt"))
        layer = differ.compare(overlay.view(1), overlay.mounts(), store, media_type=oci.LAYER)
        assert layers.names(get(store, layer.digest)) == ["d", "d/e", "d/e/f", "d/.wh.g", "h.txt"]

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

    def test_a_link_to_a_file_of_the_lower_tree_brings_all_its_names(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, member("m", b"data"), member("other"))
        apply(overlay, hard_link("a", "m"))
        layer = differ.compare(overlay.view(1), overlay.mounts(), store, media_type=oci.LAYER)
        first, second = layers.members(get(store, layer.digest))
        assert (first.name, second.name, second.linkname) == ("a", "m", "a")

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

    def test_sockets_are_left_out(self, differ: diff.Differ, store: content.Store, overlay: Stack) -> None:
        overlay.push()
        with overlay.writable() as root:
            os.mknod(root / "s", stat.S_IFSOCK | 0o600)
            (root / "a").touch()
        layer = differ.compare([], overlay.mounts(), store, media_type=oci.LAYER)
        assert layers.names(get(store, layer.digest)) == ["a"]

    def test_an_epoch_bounds_every_time(
        self, apply: Apply, differ: diff.Differ, store: content.Store, overlay: Stack
    ) -> None:
        apply(overlay, directory("d"), member("d/gone"))
        apply(overlay, member("d/.wh.gone"), member("d/new"), member("d/old", time=3 * 10**9))
        layer = differ.compare(overlay.view(1), overlay.mounts(), store, media_type=oci.LAYER, source_date_epoch=10**18)
        times = {info.name: info.mtime for info in layers.members(get(store, layer.digest))}
        assert times == {"d": 10**9, "d/.wh.gone": 10**9, "d/new": 10**9, "d/old": 3}

    def test_both_trees_stay_as_they_are(
        self, apply: Apply, differ: diff.Differ, store: content.Store, stack: Stack, folder: Path
    ) -> None:
        apply(stack, directory("d"), member("d/a"))
        apply(stack, member("d/b"))
        before = [layers.scan(folder / "layer-0"), layers.scan(folder / "layer-1")]
        differ.compare(stack.view(1), stack.mounts(), store)
        assert [layers.scan(folder / "layer-0"), layers.scan(folder / "layer-1")] == before

    @pytest.mark.parametrize("seed", range(12))
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


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return bytes(zstandard.ZstdCompressor(write_checksum=True).compress(data))


def pax_header(records: list[tuple[str, str]]) -> bytes:
    data = b""
    for key, value in records:
        rest = f" {key}={value}\n".encode()
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        data += str(length).encode() + rest
    return block(b"header", len(data), b"x") + padded(data)


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
