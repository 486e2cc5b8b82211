import errno
import os
import subprocess
import sys

import pytest

from plugin_sdk import errors, mounts

root = pytest.mark.root


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "target"
    path.mkdir()
    yield path
    mounts.unmount_below(path, mounts.MNT_DETACH)


def options_of(path):
    with open("/proc/self/mountinfo") as file:
        lines = [line.split() for line in file if line.split()[4] == os.path.realpath(path)]
    return set(lines[-1][5].split(","))


def propagation_of(path):
    with open("/proc/self/mountinfo") as file:
        line = next(line for line in file if line.split()[4] == os.path.realpath(path))
    return line.split(" - ")[0].split()[6:]


def bind(source, *options):
    return mounts.Mount("bind", str(source), "", ("rbind", *options))


def make_layers(folder, count):
    for number in range(count):
        layer = folder / str(number) / "fs"
        layer.mkdir(parents=True)
        (layer / f"file-{number}").write_text(str(number))
        (layer / "shared").write_text(str(number))
    return [str(folder / str(number) / "fs") for number in reversed(range(count))]


def test_options_become_flags_and_data():
    parsed = mounts.parse_options(["ro", "nosuid", "rw", "lowerdir=a:b", "index=off", "defaults"])
    assert parsed.flags == mounts.MS_NOSUID
    assert parsed.data == ("lowerdir=a:b", "index=off")


def test_options_of_propagation_are_kept_apart():
    parsed = mounts.parse_options(["rbind", "rslave"])
    assert parsed.flags == mounts.MS_BIND | mounts.MS_REC
    assert parsed.propagation == mounts.MS_SLAVE | mounts.MS_REC


def test_options_meant_for_programs_are_dropped():
    parsed = mounts.parse_options(["X-containerd.mkdir.path=/a", "x-systemd.automount", "userxattr", "loop"])
    assert parsed.data == ("userxattr",)
    assert parsed.loop


@root
def test_bind_shows_the_source(tmp_path, target):
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("hello")
    mounts.mount(bind(source), target)
    assert (target / "file").read_text() == "hello"
    mounts.unmount(target)
    assert list(target.iterdir()) == []


@root
def test_bind_read_only_refuses_writes_and_leaves_the_source_writable(tmp_path, target):
    source = tmp_path / "source"
    source.mkdir()
    mounts.mount(bind(source, "ro"), target)
    with pytest.raises(OSError, match="Read-only"):
        (target / "file").write_text("")
    (source / "file").write_text("")


@root
def test_bind_keeps_the_flags_of_its_source(tmp_path, target):
    source = tmp_path / "source"
    source.mkdir()
    mounts.mount(mounts.Mount("tmpfs", "tmpfs", "", ("nosuid", "nodev")), source)
    try:
        mounts.mount(bind(source, "ro"), target)
        assert {"ro", "nosuid", "nodev"} <= options_of(target)
        mounts.unmount(target)
        mounts.mount(bind(source, "ro", "suid"), target)
        assert "nosuid" not in options_of(target)
    finally:
        mounts.unmount_below(target)
        mounts.unmount(source)


@root
def test_propagation_is_set_after_the_mount(tmp_path, target):
    mounts.mount(bind(tmp_path, "shared"), target)
    assert any(field.startswith("shared:") for field in propagation_of(target))
    mounts.mount(mounts.Mount("", "none", "", ("remount", "bind", "private")), target)
    assert propagation_of(target) == ["-"] or not propagation_of(target)


@root
def test_remount_changes_flags(target):
    mounts.mount(mounts.Mount("tmpfs", "tmpfs", "", ("size=64k",)), target)
    mounts.mount(mounts.Mount("tmpfs", "tmpfs", "", ("remount", "ro", "noexec")), target)
    assert {"ro", "noexec"} <= options_of(target)


@root
def test_remount_of_a_bind_changes_the_bind_only(tmp_path, target):
    source = tmp_path / "source"
    source.mkdir()
    mounts.mount(bind(source), target)
    mounts.mount(mounts.Mount("none", "none", "", ("remount", "bind", "ro")), target)
    assert "ro" in options_of(target)
    (source / "file").write_text("")


@root
def test_mount_inside_of_the_target(target):
    (target / "sub").mkdir()
    mounts.mount(mounts.Mount("tmpfs", "tmpfs", "/sub"), target)
    assert os.path.ismount(target / "sub")


@root
def test_mount_target_does_not_lead_out(tmp_path, target):
    (target / "link").symlink_to(tmp_path)
    with pytest.raises(errors.InvalidArgument, match="leads out"):
        mounts.mount(mounts.Mount("tmpfs", "tmpfs", "link"), target)


@root
def test_overlay_shows_lower_and_upper(tmp_path, target):
    lowers = make_layers(tmp_path, 2)
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = (f"workdir={tmp_path}/work", f"upperdir={tmp_path}/upper", "lowerdir=" + ":".join(lowers))
    mounts.mount(mounts.Mount("overlay", "overlay", "", ("index=off", *options)), target)
    assert (target / "shared").read_text() == "1"
    (target / "new").write_text("new")
    assert (tmp_path / "upper" / "new").read_text() == "new"


@root
@pytest.mark.parametrize("one_by_one", [True, False], ids=["one by one", "from their folder"])
def test_overlay_of_300_layers(tmp_path, target, monkeypatch, one_by_one):
    def refuse(*args):
        raise OSError(errno.ENOSYS, "no fsopen here")

    if not one_by_one:
        monkeypatch.setattr(mounts, "_overlay_by_parts", refuse)
    before = os.getcwd()
    lowers = make_layers(tmp_path, 300)
    mounts.mount(mounts.Mount("overlay", "overlay", "", ("ro", "lowerdir=" + ":".join(lowers))), target)
    assert [(target / f"file-{n}").read_text() for n in range(300)] == [str(n) for n in range(300)]
    assert (target / "shared").read_text() == "299"
    assert "ro" in options_of(target)
    assert os.getcwd() == before


@root
def test_overlay_of_many_layers_is_writable(tmp_path, target):
    lowers = make_layers(tmp_path, 200)
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    options = (f"workdir={tmp_path}/work", f"upperdir={tmp_path}/upper", "lowerdir=" + ":".join(lowers), "index=off")
    mounts.mount(mounts.Mount("overlay", "overlay", "", options), target)
    (target / "file-7").unlink()
    assert not (target / "file-7").exists()
    assert (tmp_path / "0" / "fs" / "file-0").exists()


@root
def test_overlay_takes_a_comma_in_a_path(tmp_path, target):
    lowers = make_layers(tmp_path / "a,b", 2)
    mounts.mount(mounts.Mount("overlay", "overlay", "", ("lowerdir=" + ":".join(lowers),)), target)
    assert (target / "shared").read_text() == "1"


@root
def test_overlay_of_long_paths(tmp_path, target):
    lowers = make_layers(tmp_path / ("x" * 200) / ("y" * 200), 30)
    mounts.mount(mounts.Mount("overlay", "overlay", "", ("lowerdir=" + ":".join(lowers),)), target)
    assert (target / "shared").read_text() == "29"


@root
def test_loop_mounts_a_file_and_frees_the_device(tmp_path, target):
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    mounts.mount(mounts.Mount("ext4", str(image), "", ("loop", "noatime")), target)
    assert (target / "lost+found").is_dir()
    mounts.unmount(target)
    busy = subprocess.run(["losetup", "-j", str(image)], check=True, capture_output=True)
    assert busy.stdout == b""


@root
def test_mount_all_undoes_what_came_before_a_failure(tmp_path, target):
    wrong = bind(tmp_path / "missing")
    with pytest.raises(errors.FailedPrecondition, match="missing"):
        mounts.mount_all([mounts.Mount("tmpfs", "tmpfs"), wrong], target)
    assert not os.path.ismount(target)


@root
def test_temporary_leaves_nothing(tmp_path):
    with mounts.temporary([mounts.Mount("tmpfs", "tmpfs")], tmp_path) as path:
        assert os.path.ismount(path)
    assert list(tmp_path.iterdir()) == []


@root
def test_temporary_leaves_nothing_when_the_mount_fails(tmp_path):
    with pytest.raises(errors.FailedPrecondition), mounts.temporary([bind(tmp_path / "missing")], tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@root
def test_unmount_names_what_is_not_a_mount_point(target):
    with pytest.raises(errors.InvalidArgument, match="not a mount point"):
        mounts.unmount(target)
    with pytest.raises(errors.NotFound, match="not found"):
        mounts.unmount(target / "missing")


@root
def test_unmount_all_takes_off_every_layer_and_accepts_none(target):
    for _ in range(3):
        mounts.mount(mounts.Mount("tmpfs", "tmpfs"), target)
    mounts.unmount_all(target)
    assert not os.path.ismount(target)
    mounts.unmount_all(target)
    mounts.unmount_all(target / "missing")


@root
def test_unmount_all_says_that_somebody_uses_it(target):
    mounts.mount(mounts.Mount("tmpfs", "tmpfs"), target)
    with (target / "open").open("w"), pytest.raises(errors.FailedPrecondition, match="busy"):
        mounts.unmount_all(target, patience=0.05)
    mounts.unmount_all(target)


@root
def test_unmount_below_reaches_inner_mounts_with_odd_names(target):
    mounts.mount(mounts.Mount("tmpfs", "tmpfs"), target)
    inner = target / "a b\\c"
    inner.mkdir()
    mounts.mount(mounts.Mount("tmpfs", "tmpfs"), inner)
    mounts.unmount_below(target)
    assert not os.path.ismount(target)


@root
@pytest.mark.parametrize(
    ("one", "error"),
    [
        (mounts.Mount("nosuchfs", "none"), errors.FailedPrecondition),
        (mounts.Mount("tmpfs", "tmpfs", "", ("size=wrong",)), errors.InvalidArgument),
        (mounts.Mount("overlay", "overlay", "", ("lowerdir=/missing",)), errors.FailedPrecondition),
    ],
)
def test_a_refusal_names_source_and_target(target, one, error):
    with pytest.raises(error, match=str(target)) as caught:
        mounts.mount(one, target)
    assert one.source in str(caught.value)


def test_read_only_turns_the_upper_directory_into_a_lower_one():
    overlay = mounts.Mount("overlay", "overlay", "", ("index=off", "workdir=/w", "upperdir=/u", "lowerdir=/b:/a"))
    assert mounts.read_only([overlay])[0].options == ("index=off", "lowerdir=/u:/b:/a", "ro")
    assert mounts.read_only([bind("/a", "rw")])[0].options == ("rbind", "ro")


def test_the_module_needs_the_standard_library_only():
    code = "import sys; sys.path.append(sys.argv[1]); import plugin_sdk.mounts; print('grpc' in sys.modules)"
    project = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, project], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
