"""What a proxy plugin answers is looked at, and an answer to a repeated call is understood."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kernel.proxies import answers
from plugin_sdk import content, errors, snapshots
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor
from plugin_sdk.snapshots import Info, Kind, Usage
from plugin_sdk.wire.transport import Lost
from tests import scripted
from tests.recording import Recorder

NAME = 'snapshotter "s"'
DIGEST = scripted.digest_of(b"data")


class Repeats:
    def __init__(self, name: str, repeated: bool = False) -> None:
        self.repeated = repeated
        self._name = name

    def wrong(self, text: str) -> errors.Internal:
        return errors.Internal(f"{self._name} {text}")


def fence(root: str = "/var/s") -> answers.Fence:
    own = "/var/lib/corten/io.containerd.snapshotter.v1.s"
    return answers.Fence(root, ("/var/lib/corten", "/run/corten"), own)


def bind(source: str, *options: str) -> Mount:
    return Mount("bind", source, "", ("rbind", *options))


# --- mounts


@pytest.mark.parametrize(
    "mount",
    [
        bind("/var/s/1", "ro"),
        bind("/var/s"),
        Mount("overlay", "overlay", "", ("lowerdir=/var/s/1:/var/s/2", "upperdir=/var/s/3", "workdir=/var/s/w")),
        Mount("overlay", "overlay", "", (r"lowerdir=/var/s/a\:b:/var/s/c",)),
        Mount("btrfs", "/dev/loop7", "", ("subvolid=300",)),
        Mount("tmpfs", "tmpfs", "", ()),
        Mount("format/overlay", "overlay", "", ("lowerdir={{ mount 0 }}/fs",)),
    ],
)
def test_mounts_within_the_root_pass(mount: Mount) -> None:
    assert fence().wrong([mount]) == ""


@pytest.mark.parametrize(
    ("mount", "said"),
    [
        (bind("/etc"), "a mount of '/etc', which is outside of its root '/var/s'"),
        (bind("/var/s2"), "outside of its root"),
        (bind("/var/s/../lib"), "a mount of '/var/lib', which is outside"),
        (Mount("none", "/etc", "", ("bind",)), "outside of its root"),
        (Mount("overlay", "overlay", "", ("lowerdir=/var/s/1:/etc",)), "a mount of '/etc'"),
        (Mount("overlay", "overlay", "", ("lowerdir=/var/s/1", "upperdir=/home")), "a mount of '/home'"),
        (Mount("erofs", "/etc/passwd", "", ()), "a mount of '/etc/passwd'"),
        (bind("var/s"), "the relative path 'var/s'"),
        (bind(""), "the relative path ''"),
        (Mount("", "/var/s", "", ()), "a mount without a type"),
    ],
)
def test_mounts_outside_of_the_root_are_refused_by_name(mount: Mount, said: str) -> None:
    with pytest.raises(errors.Internal) as caught:
        checked(Recorder(mounts=[bind("/var/s/1"), mount])).mounts("key")
    assert caught.value.message.startswith(f"{NAME} answered with a mount ")
    assert said in caught.value.message


@pytest.mark.parametrize(
    "path", ["/var/lib/corten/io.containerd.content.v1.content/blobs", "/run/corten", "/var/lib/corten"]
)
@pytest.mark.parametrize("root", ["", "/var/lib", "/"])
def test_the_daemons_own_directories_are_refused_whatever_the_root(path: str, root: str) -> None:
    if root and not path.startswith(root):
        return
    wrong = fence(root).wrong([bind(path)])
    assert "the daemon's own directory" in wrong or "outside of its root" in wrong


def test_the_plugins_own_directory_among_them_passes() -> None:
    path = "/var/lib/corten/io.containerd.snapshotter.v1.s/snapshots/1"
    assert fence("").wrong([bind(path)]) == ""


# --- snapshots


class Snapshotter(scripted.Snapshotter):
    """Its mounts lie in /var/s."""

    def prepare(self, key: str, parent: str = "", labels: object = None) -> list[Mount]:
        super().prepare(key, parent)
        return self.mounts(key)

    def mounts(self, key: str) -> list[Mount]:
        super().mounts(key)
        return [bind(f"/var/s/{key}")]


def checked(inner: object, repeated: bool = False) -> answers.Snapshotter:
    return answers.Snapshotter(inner, Repeats(NAME, repeated), fence)  # type: ignore[arg-type]


@pytest.mark.parametrize("info", [Info("other", Kind.ACTIVE), Info("key", Kind.UNKNOWN)])
def test_an_answer_about_something_else_is_refused(info: Info) -> None:
    with pytest.raises(errors.Internal, match=r"snapshotter \"s\" answered with"):
        checked(Recorder(stat=info)).stat("key")
    with pytest.raises(errors.Internal, match="answered with"):
        checked(Recorder(update=info)).update(Info("key", Kind.UNKNOWN))


def test_what_cannot_be_a_value_is_told_of_the_plugin() -> None:
    class Garbage:
        def stat(self, key: str) -> Info:
            return Info(key, Kind(17))

    with pytest.raises(errors.Internal, match=r"snapshotter \"s\" gave an answer that cannot be read: 17"):
        checked(Garbage()).stat("key")


def test_a_negative_usage_is_refused() -> None:
    with pytest.raises(errors.Internal, match="negative usage"):
        checked(Recorder(usage=Usage(-1, 0))).usage("key")


def test_a_repeated_prepare_that_was_done_already_succeeds() -> None:
    inner = Snapshotter()
    inner.prepare("key")
    assert checked(inner, repeated=True).prepare("key") == [bind("/var/s/key")]


def test_a_prepare_that_was_not_repeated_says_that_the_key_exists() -> None:
    inner = Snapshotter()
    inner.prepare("key")
    with pytest.raises(errors.AlreadyExists):
        checked(inner).prepare("key")


def test_a_repeated_prepare_of_a_layer_that_is_there_says_so() -> None:
    class Has:
        def prepare(self, key: str, parent: str, labels: object) -> list[Mount]:
            raise errors.AlreadyExists("target")

        def stat(self, key: str) -> Info:
            raise errors.NotFound(key)

    with pytest.raises(errors.AlreadyExists, match="target"):
        checked(Has(), repeated=True).prepare("key", "", {snapshots.TARGET_LABEL: "chain"})


def test_a_repeated_commit_that_was_done_already_succeeds() -> None:
    inner = Snapshotter()
    inner.prepare("key")
    inner.commit("name", "key")
    checked(inner, repeated=True).commit("name", "key")
    with pytest.raises(errors.NotFound):
        checked(inner, repeated=True).commit("another", "key")
    with pytest.raises(errors.AlreadyExists):
        checked(inner).commit("name", "key")


def test_a_repeated_removal_that_was_done_already_succeeds() -> None:
    checked(Snapshotter(), repeated=True).remove("key")
    with pytest.raises(errors.NotFound):
        checked(Snapshotter()).remove("key")


# --- content


def store(inner: object, repeated: bool = False) -> answers.Store:
    return answers.Store(inner, Repeats('content store "c"', repeated))  # type: ignore[arg-type]


@pytest.mark.parametrize("info", [content.Info("sha256:" + "0" * 64, 1), content.Info(DIGEST, -1)])
def test_a_blob_that_was_not_asked_for_is_refused(info: content.Info) -> None:
    with pytest.raises(errors.Internal, match=r"content store \"c\" answered with"):
        store(Recorder(info=info)).info(DIGEST)


@pytest.mark.parametrize("status", [content.Status("other", 0), content.Status("ref", -1)])
def test_an_ingest_that_was_not_asked_for_is_refused(status: content.Status) -> None:
    with pytest.raises(errors.Internal, match="answered with ingest"):
        store(Recorder(status=status)).status("ref")


def test_a_repeated_deletion_that_was_done_already_succeeds() -> None:
    store(scripted.Store(), repeated=True).delete(DIGEST)
    store(scripted.Store(), repeated=True).abort("ref")
    with pytest.raises(errors.NotFound):
        store(scripted.Store()).delete(DIGEST)


def test_a_piece_that_was_cut_off_is_read_again() -> None:
    class Reader:
        size, left = 4, 1

        def read_at(self, offset: int, size: int) -> bytes:
            if self.left:
                self.left -= 1
                raise Lost("gone")
            return b"data"

    assert answers.Reader(Reader()).read_at(0, 4) == b"data"  # type: ignore[arg-type]


# --- diff


def differ(inner: object) -> answers.Differ:
    return answers.Differ(inner, Repeats('differ "d"'))  # type: ignore[arg-type]


@pytest.mark.parametrize("digest", ["", "sha256:1", "nothing"])
def test_a_layer_without_a_digest_is_refused(digest: str) -> None:
    layer = Descriptor("m", digest, 1)
    with pytest.raises(errors.Internal, match=r"differ \"d\" answered with a layer without a digest"):
        differ(Recorder(apply=layer)).apply(layer, [], scripted.Store())
    with pytest.raises(errors.Internal, match="without a digest"):
        differ(Recorder(compare=layer)).compare([], [], scripted.Store())


class Taken:
    """Content that has the blob, as a program has written it; ``opened`` are the arguments of writer."""

    def __init__(self) -> None:
        self.opened: list[Sequence[object]] = []

    def writer(self, ref: str, total: int, expected: str) -> content.Writer:
        self.opened.append((total, expected))
        raise errors.AlreadyExists(expected)


def test_what_a_program_has_written_is_opened_for_the_caller() -> None:
    store = Taken()
    layer = Descriptor("m", DIGEST, 4)
    assert differ(Recorder(compare=layer)).compare([], [], store) == layer  # type: ignore[arg-type]
    assert store.opened == [(4, DIGEST)]
