"""The fence: what a process behind it can still reach. Each case runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BEHIND = """
import errno, os, sys
from plugin_sdk import mounts
from plugins_builtin.diff import confine
folder, chroot = sys.argv[1], sys.argv[2] == "chroot"
outside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
tree = [mounts.Mount("bind", folder + "/in", "", ("rbind", "rw"))]
below = [mounts.Mount("bind", folder + "/below", "", ("rbind", "ro"))]
confine.stage(folder + "/stage", {"upper": tree, "lower": below})
upper, lower = (os.open(name, os.O_RDONLY | os.O_DIRECTORY) for name in ("upper", "lower"))
if not chroot:
    assert confine.fence([upper], [lower])

def denied(work):
    try:
        work()
    except OSError as err:
        return errno.errorcode[err.errno]
    return "done"

os.mkdir("made", dir_fd=upper)
os.rename("made", "d/moved", src_dir_fd=upper, dst_dir_fd=upper)
print(denied(lambda: os.listdir(lower)))
print(denied(lambda: os.mkdir("x", dir_fd=lower)))
print(denied(lambda: os.listdir("/")))
print(denied(lambda: os.open("etc/passwd", os.O_RDONLY, dir_fd=outside)))
print(denied(lambda: os.mkdir("/x")))
print(denied(lambda: os.link("f", "hard", src_dir_fd=lower, dst_dir_fd=upper)))
try:
    mounts.mount(mounts.Mount("tmpfs", "tmpfs"), "/upper/d")
    print("mounted")
except Exception as err:
    print(type(err).__name__)
"""


def behind(folder: Path, fence: str) -> list[str]:
    for name in ("in/d", "below", "stage"):
        (folder / name).mkdir(parents=True)
    (folder / "below" / "f").touch()
    command = [sys.executable, "-c", BEHIND, str(folder), fence]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.root
def test_the_fence_leaves_the_root_and_a_look_at_what_is_below(tmp_path):
    found = behind(tmp_path, "landlock")
    assert found == ["done", "EROFS", "EACCES", "EACCES", "EACCES", "EXDEV", "PermissionDenied"]
    assert (tmp_path / "in/d/moved").is_dir()


@pytest.mark.root
def test_without_the_fence_the_chroot_alone_is_weaker(tmp_path):
    """So the test above shows the fence and not something else."""
    assert behind(tmp_path, "chroot")[2:5] == ["done", "done", "done"]


@pytest.mark.root
def test_nothing_of_the_stage_is_seen_outside(tmp_path):
    behind(tmp_path, "landlock")
    assert list((tmp_path / "stage").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
