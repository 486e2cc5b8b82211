"""The suite for differs, second part: names, what was there before, and whiteouts."""

from __future__ import annotations

import hashlib
import os
import random
import tarfile
from pathlib import Path

import pytest

from plugin_sdk import errors, mounts
from plugin_sdk.conformance import layers
from plugin_sdk.conformance.layers import (
    Stack,
    directory,
    hard_link,
    member,
    symlink,
)
from plugin_sdk.conformance.rig import Apply, Rig
from plugin_sdk.conformance.sentences import holds


class StackSuite(Rig):
    # Apply: names and what was there before

    @holds("Names are bytes and relative to the root.")
    @pytest.mark.parametrize("name", ["/a/b", "./a//b", "a/./b", "a/c/../b", "//a/b"])
    def test_names_are_relative_to_the_root(self, apply: Apply, overlay: Stack, name: str) -> None:
        apply(overlay, member(name, b"x"))
        assert "a/b" in overlay.tree()

    @holds("So does a directory, also when entries follow that change it.")
    def test_the_root_itself_gets_its_entry(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, directory("./", mode=0o700, owner=(1, 2)), member("a"))
        assert overlay.tree()["."][:2] == ("drwx------", (1, 2))

    @holds("Missing parents are made with mode 0755, and those that exist stay as they are.")
    def test_missing_parents_are_made(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member("x/y/z", b"x"))
        assert overlay.tree()["x/y"][:2] == ("drwxr-xr-x", (0, 0))

    @holds("Missing parents are made with mode 0755, and those that exist stay as they are.")
    def test_parents_of_lower_layers_keep_what_they_are(self, apply: Apply, stack: Stack) -> None:
        made = directory("d", 0o2751, owner=(1, 2), xattrs={"trusted.a": b"b"})
        apply(stack, made, directory("d/e", 0o700), member("d/e/f"))
        before = stack.tree()
        apply(stack, member("d/e/g"), member("d/h"))
        after = stack.tree()
        assert {path: after[path] for path in before} == before
        assert {"d/e/g", "d/h"} <= after.keys()

    @holds("An entry replaces what is there, but a directory over a directory keeps what that holds.")
    def test_a_directory_over_a_directory_keeps_its_entries(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), member("d/a"))
        apply(stack, directory("d", 0o700), member("d/b"))
        assert stack.tree()["d"][0] == "drwx------"
        assert {"d/a", "d/b"} <= stack.tree().keys()

    @holds("An entry replaces what is there, but a directory over a directory keeps what that holds.")
    def test_files_replace_files_without_changing_their_links(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"old"), hard_link("b", "a"))
        apply(stack, member("a", b"new"))
        assert stack.tree()["a"][2] == hashlib.sha256(b"new").hexdigest()
        assert stack.tree()["b"][2] == hashlib.sha256(b"old").hexdigest()

    @holds("An entry replaces what is there, but a directory over a directory keeps what that holds.")
    def test_a_file_replaces_a_directory(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), directory("d/e"), member("d/e/f"))
        apply(stack, member("d", b"x"))
        assert set(stack.tree()) == {".", "d"}

    @holds("An entry replaces what is there, but a directory over a directory keeps what that holds.")
    def test_a_directory_replaces_a_file(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("d", b"x"), symlink("l", "d"))
        apply(stack, directory("d"), member("d/e"), directory("l"), member("l/f"))
        assert stack.tree()["l"][0] == "drwxr-xr-x"
        assert {"d/e", "l/f"} <= stack.tree().keys()

    @holds("An entry replaces what is there, but a directory over a directory keeps what that holds.")
    def test_a_directory_that_was_a_file_shows_nothing_of_below(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), member("d/old"))
        apply(stack, member("d", b"x"), directory("d"), member("d/new"))
        assert set(stack.tree()) == {".", "d", "d/new"}

    @holds("Of several entries of one name the last wins.")
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

    @holds("Symbolic links on the way to a name are followed, as if the root were ``/``.")
    def test_entries_go_through_links_of_the_same_layer(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, directory("usr"), directory("usr/lib"), symlink("lib", "usr/lib"), member("lib/a"))
        assert overlay.tree()["usr/lib/a"][0] == "-rw-r--r--"
        assert overlay.tree()["lib"][0] == "lrwxrwxrwx"

    @holds("Symbolic links on the way to a name are followed, as if the root were ``/``.")
    def test_entries_go_through_links_of_lower_layers(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("usr"), directory("usr/lib", 0o711), member("usr/lib/a"), symlink("lib", "/usr/lib"))
        apply(stack, directory("srv"), symlink("srv/l", "../lib"), member("srv/l/b"), member("lib/c"))
        assert {"usr/lib/a", "usr/lib/b", "usr/lib/c"} <= stack.tree().keys()
        assert stack.tree()["usr/lib"][0] == "drwx--x--x"

    @holds("Symbolic links on the way to a name are followed, as if the root were ``/``.")
    def test_a_replaced_link_is_followed_no_more(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("a"), directory("b"), symlink("l", "a"), member("l/1"))
        apply(stack, member("l/2"), symlink("l", "b"), member("l/3"), directory("l"), member("l/4"))
        assert {"a/1", "a/2", "b/3", "l/4"} <= stack.tree().keys()

    @holds("Symbolic links on the way to a name are followed, as if the root were ``/``.")
    def test_a_link_to_nothing_leads_to_new_directories(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, symlink("l", "new/place"), member("l/a"))
        assert "new/place/a" in overlay.tree()

    # Apply: whiteouts

    @holds("``.wh.NAME`` removes NAME of the layers below.")
    def test_a_whiteout_removes_what_is_below(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a"), directory("d"), directory("d/e"), member("d/e/f"), symlink("l", "a"), member("b"))
        apply(stack, member(".wh.a"), member("d/.wh.e"), member(".wh.l"))
        assert set(stack.tree()) == {".", "b", "d"}

    @holds("``.wh.NAME`` removes NAME of the layers below.")
    def test_a_whiteout_of_nothing_does_nothing(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), member("d/a"))
        before = stack.tree()
        apply(stack, member(".wh.x"), member("d/.wh.y"), member("no/such/.wh.z"), member("no/.wh..wh..opq"))
        assert stack.tree() == before
        with mounts.temporary(stack.mounts()) as root:
            assert os.listdir(f"{root}/d") == ["a"]

    @holds("What the layer itself has made stays.")
    def test_a_whiteout_does_not_remove_what_its_own_layer_has(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"old"), directory("d"), member("d/old"))
        apply(stack, member("a", b"new"), directory("d"), member("d/new"), member(".wh.a"), member(".wh.d"))
        assert set(stack.tree()) == {".", "a", "d", "d/new"}

    @holds("What the layer itself has made stays.")
    def test_a_name_may_come_back_after_its_whiteout(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a", b"old"), directory("d"), member("d/old"))
        apply(stack, member(".wh.a"), member(".wh.d"), member("a", b"new"), directory("d"), member("d/new"))
        tree = stack.tree()
        assert set(tree) == {".", "a", "d", "d/new"}
        assert tree["a"][2] == hashlib.sha256(b"new").hexdigest()

    @holds("Missing parents are made with mode 0755, and those that exist stay as they are.")
    def test_missing_parents_come_back_empty_after_a_whiteout(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d", 0o700), directory("d/e"), member("d/e/old"))
        apply(stack, member(".wh.d"), member("d/e/new"))
        assert set(stack.tree()) == {".", "d", "d/e", "d/e/new"}
        assert stack.tree()["d"][0] == "drwxr-xr-x"

    @holds("``.wh.NAME`` removes NAME of the layers below.")
    def test_a_file_of_a_lower_layer_can_come_back_in_a_third(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), member("d/a"), member("d/b"))
        apply(stack, member(".wh.d"))
        apply(stack, directory("d"), member("d/c"))
        assert set(stack.tree()) == {".", "d", "d/c"}

    @holds(
        "``.wh..wh..opq`` removes all that the layers below have in its directory.",
        "What the layer itself has made stays.",
    )
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

    @holds("``.wh..wh..opq`` removes all that the layers below have in its directory.")
    def test_an_opaque_directory_needs_no_entry_of_its_own(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d", 0o700), member("d/a"))
        apply(stack, member("d/.wh..wh..opq"))
        assert set(stack.tree()) == {".", "d"}
        assert stack.tree()["d"][0] == "drwx------"

    @holds("``.wh..wh..opq`` removes all that the layers below have in its directory.")
    def test_the_root_can_be_opaque(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("d"), member("d/a"), member("b"))
        apply(stack, member(".wh..wh..opq"), member("c"))
        assert set(stack.tree()) == {".", "c"}

    @holds("Symbolic links on the way to a name are followed, as if the root were ``/``.")
    def test_whiteouts_go_through_links(self, apply: Apply, stack: Stack) -> None:
        apply(stack, directory("usr"), directory("usr/lib"), member("usr/lib/a"), symlink("lib", "usr/lib"))
        apply(stack, member("lib/.wh.a"))
        assert set(stack.tree()) == {".", "usr", "usr/lib", "lib"}

    @holds("A malformed layer raises InvalidArgument that names the entry, if it is one.")
    def test_a_hidden_file_is_no_target_of_a_hard_link(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a"))
        with pytest.raises(errors.InvalidArgument, match='"b"'):
            apply(stack, member(".wh.a"), hard_link("b", "a"))

    @holds("A device 0:0 is a whiteout too, as overlayfs writes it.")
    def test_a_whiteout_as_overlayfs_writes_it_is_one(self, apply: Apply, stack: Stack) -> None:
        apply(stack, member("a"), directory("d"), member("d/b"))
        whiteout = member("a", kind=tarfile.CHRTYPE, device=(0, 0))
        apply(stack, whiteout, member("d", kind=tarfile.CHRTYPE, device=(0, 0)))
        assert set(stack.tree()) == {"."}

    @holds("Other names with ``.wh..wh.`` are notes of aufs, and left out.")
    def test_notes_of_aufs_are_left_out(self, apply: Apply, overlay: Stack) -> None:
        apply(overlay, member(".wh..wh.aufs"), directory(".wh..wh.plnk", 0o700), member("a"))
        assert set(overlay.tree()) == {".", "a"}

    @holds(
        "``.wh.NAME`` removes NAME of the layers below.",
        "An entry replaces what is there, but a directory over a directory keeps what that holds.",
    )
    @pytest.mark.parametrize("seed", range(6))
    def test_any_layers_look_the_same_on_any_stack(self, apply: Apply, folder: Path, seed: int) -> None:
        """What an upper directory gets is compared with what removing and overlayfs itself make of the same entries."""
        generator = random.Random(seed)
        stacks = [Stack(folder / kind, kind) for kind in ("plain", "overlay", "through")]
        for stack in stacks:
            (folder / stack.kind).mkdir()
        for _ in range(4):
            entries = [_any(generator) for _ in range(generator.randint(1, 12))]
            seen = [_outcome(apply, stack, entries) for stack in stacks]
            assert seen[0] == seen[1] == seen[2], [(info.name, info.type, info.linkname) for info, _ in entries]
            if isinstance(seen[0], str):
                return


def _outcome(apply: Apply, stack: Stack, entries: list[layers.Member]) -> layers.Tree | str:
    try:
        apply(stack, *entries)
    except errors.InvalidArgument as err:
        return err.message
    return stack.tree()


def _any(generator: random.Random) -> layers.Member:
    folders = [generator.choice("abc") for _ in range(generator.randint(1, 2))]
    base = generator.choice("abcxyzxyzxyz")
    name, kind = "/".join([*folders, base]), generator.randrange(9)
    owner, time = (generator.randrange(3), generator.randrange(3)), generator.randrange(1, 10**18)
    if kind < 2:
        return member(name, generator.randbytes(9), mode=generator.choice((0o644, 0o4755)), owner=owner, time=time)
    if kind < 4:
        return directory("/".join(folders), generator.choice((0o755, 0o2775, 0o700)), owner=owner, time=time)
    if kind == 4:
        return symlink(name, generator.choice(("a", "../a", "/b", "/a/b", "../../c", "c/a", "..", ".", "/")))
    if kind == 5:
        return member(name, kind=tarfile.FIFOTYPE, owner=owner, time=time)
    if kind == 6:
        return member(name, kind=tarfile.CHRTYPE, device=(0, 0))
    return member("/".join([*folders[: kind - 6], ".wh..wh..opq" if kind == 8 else f".wh.{base}"]))
