"""File systems in files, mounted through loop devices for as long as a test needs them.

    with loops.file_system() as folder:                        # btrfs, in memory
        Snapshotter(folder / "root")

Nothing is left when the context ends: no mount, no loop device (it frees itself with its last mount), no file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from plugin_sdk import mounts

_QUOTA_CONTROL, _QUOTA_WAIT = 0xC0109428, 0x942E  # BTRFS_IOC_QUOTA_CTL, BTRFS_IOC_QUOTA_RESCAN_WAIT
_ENABLE = 1


@contextlib.contextmanager
def file_system(kind: str = "btrfs", size: int = 2 << 30, parent: str = "/dev/shm") -> Iterator[Path]:
    """The mounted root of a new file system of ``size`` bytes, which takes memory for what is written only."""
    directory = Path(tempfile.mkdtemp(prefix="corten-loop-", dir=parent))
    image, target = directory / "image", directory / "m"
    try:
        target.mkdir()
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
        mounts.mount(mounts.Mount(kind, str(image), "", ("loop",)), target)
        yield target
    finally:
        with contextlib.suppress(FileNotFoundError):
            mounts.unmount_below(target, mounts.MNT_DETACH)
        shutil.rmtree(directory)


def enable_quota(folder: Path) -> None:
    """Makes a btrfs count what its subvolumes take."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _QUOTA_CONTROL, bytearray(struct.pack("=QQ", _ENABLE, 0)))
        fcntl.ioctl(fd, _QUOTA_WAIT)
    finally:
        os.close(fd)
