"""Mounts: what to mount, and mount(2), umount2(2) and their relatives by ctypes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mount:
    """An instruction to mount, as containerd's API carries it: ``options`` are those of fstab(5)."""

    type: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()
