"""What differs between two trees."""

from __future__ import annotations

import os

import pytest

from plugin_sdk.conformance import layers
from plugins_builtin.diff import changes

WHEN = 1_700_000_000_000_000_001


@pytest.fixture
def trees(tmp_path):
    lower = tmp_path / "lower"
    for name in ("d", "d/e", "f"):
        (lower / name).mkdir(parents=True)
    for name in ("a", "d/b", "d/e/c", "f/g"):
        (lower / name).write_text(name)
        os.utime(lower / name, ns=(WHEN, WHEN))
    os.link(lower / "f/g", lower / "f/h")
    layers.copy(lower, tmp_path / "upper")
    return lower, tmp_path / "upper"


def found(trees):
    result = changes.between(*(os.fsencode(tree) for tree in trees))
    return [("-" if change.status is None else "+") + change.path.decode() for change in result]


def test_copies_are_the_same(trees):
    assert found(trees) == []


def test_parents_come_with_what_changed(trees):
    (trees[1] / "d/e/c").write_text("more than before")
    assert found(trees) == ["+d", "+d/e", "+d/e/c"]


def test_what_is_gone_is_told_once_for_a_whole_directory(trees):
    (trees[1] / "d/e/c").unlink()
    (trees[1] / "d/e").rmdir()
    assert found(trees) == ["+d", "-d/e"]


def test_the_root_is_told_when_it_changed_itself(trees):
    trees[1].chmod(0o700)
    assert found(trees) == ["+"]
    assert changes.between(*(os.fsencode(tree) for tree in trees), root=False) == []


def test_a_kind_that_changed_replaces(trees):
    (trees[1] / "d/b").unlink()
    (trees[1] / "d/b").mkdir()
    (trees[1] / "d/b/x").touch()
    assert found(trees) == ["+d", "+d/b", "+d/b/x"]


def test_one_changed_name_brings_all_names_of_its_file(trees):
    os.link(trees[1] / "f/g", trees[1] / "a2")
    assert found(trees) == ["+a2", "+f", "+f/g", "+f/h"]


def test_names_that_no_longer_share_a_file_have_changed(trees):
    (trees[1] / "f/h").unlink()
    (trees[1] / "f/h").write_text("f/g")
    os.utime(trees[1] / "f/h", ns=(WHEN, WHEN))
    assert found(trees) == ["+f", "+f/h"]


def test_names_that_now_share_a_file_have_changed(trees):
    for tree, link in ((trees[0], False), (trees[1], True)):
        (tree / "x").write_text("same")
        if link:
            os.link(tree / "x", tree / "y")
        else:
            (tree / "y").write_text("same")
        for name in ("x", "y"):
            os.utime(tree / name, ns=(WHEN, WHEN))
    assert found(trees) == ["+x", "+y"]


def test_a_removed_name_of_a_file_is_only_removed(trees):
    (trees[1] / "f/h").unlink()
    assert found(trees) == ["+f", "-f/h"]
