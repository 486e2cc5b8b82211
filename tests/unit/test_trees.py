import os

import pytest

from plugin_sdk import errors, mounts, trees


def deep(path, levels):
    """A directory nested so deeply that no path reaches its bottom."""
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("directory", dir_fd=fd)
        below = os.open("directory", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with open("bottom", "w", opener=lambda name, flags: os.open(name, flags, dir_fd=fd)) as file:
        file.write("x")
    os.close(fd)


def test_usage_counts_blocks_and_inodes(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x" * 10_000)
    paths = [tmp_path, tmp_path / "folder", tmp_path / "folder" / "file"]
    size, inodes = trees.usage(tmp_path)
    assert inodes == 3
    assert size == sum(path.stat().st_blocks * 512 for path in paths)


def test_usage_counts_a_file_of_several_links_once(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    before = trees.usage(tmp_path)
    os.link(tmp_path / "file", tmp_path / "link")
    assert trees.usage(tmp_path) == before


def test_usage_counts_what_is_allocated(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert trees.usage(tmp_path)[0] < 1 << 20


def test_usage_does_not_follow_symlinks(tmp_path):
    (tmp_path / "link").symlink_to("/")
    assert trees.usage(tmp_path)[1] == 2


def test_usage_and_remove_reach_the_bottom_of_a_deep_tree(tmp_path):
    deep(tmp_path / "tree", 1500)
    assert trees.usage(tmp_path / "tree")[1] == 1502
    trees.remove(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_remove_takes_everything(tmp_path):
    tree = tmp_path / "tree"
    for number in range(50):
        (tree / f"{number}" / "a" / "b").mkdir(parents=True)
        (tree / f"{number}" / "a" / "file").write_text("")
    (tree / "link").symlink_to(tmp_path)
    (tree / "0" / "a" / "b").chmod(0)
    os.mkfifo(tree / "fifo")
    (tmp_path / "kept").write_text("")
    trees.remove(tree)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_remove_of_nothing_is_no_error(tmp_path):
    trees.remove(tmp_path / "missing")


@pytest.mark.root
@pytest.mark.parametrize("place", ["point", "folder/point", "folder/other/point"])
def test_remove_stops_at_what_is_mounted(tmp_path, place):
    tree = tmp_path / "tree"
    point = tree / place
    point.mkdir(parents=True)
    mounts.mount(mounts.Mount("tmpfs", "tmpfs"), point)
    (point / "file").write_text("")
    try:
        with pytest.raises(errors.FailedPrecondition, match="mounted"):
            trees.remove(tree)
        assert len(list(tree.rglob("file"))) == 1
    finally:
        mounts.unmount_below(tree)
