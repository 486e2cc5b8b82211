"""A task's cgroup: its processes, its figures, and the killing for want of memory. cgroups(7), both versions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from plugin_sdk import errors

_HOLD_ALL = ("pids", "devices", "memory", "cpu", "freezer", "")  # controllers whose cgroup names every process


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Folder by controller; "" is version 2. Controllers for which the process is in the root are left out."""

    folders: Mapping[str, str]

    @property
    def unified(self) -> bool:
        return "" in self.folders and len(self.folders) == 1

    def folder(self, controller: str) -> str | None:
        return self.folders.get("" if self.unified else controller)

    def pids(self) -> list[int]:
        """Of all processes, also those in cgroups beneath; of the linux pid namespace of the caller."""
        for controller in _HOLD_ALL:
            folder = self.folders.get(controller)
            if folder is not None and (found := list(_pids(folder))):
                return found
        return []

    def read(self, controller: str, name: str) -> str:
        """Empty when there is no such file."""
        folder = self.folder(controller)
        if folder is None:
            return ""
        try:
            with open(f"{folder}/{name}") as file:
                return file.read()
        except OSError:
            return ""

    def number(self, controller: str, name: str) -> int:
        """0 when there is none; ``max`` is 2⁶⁴ - 1."""
        text = self.read(controller, name).strip()
        return (1 << 64) - 1 if text == "max" else int(text or 0)

    def pairs(self, controller: str, name: str) -> dict[str, int]:
        """A file of lines ``key number``."""
        parts = (line.split() for line in self.read(controller, name).splitlines())
        return {part[0]: int(part[1]) for part in parts if len(part) == 2 and part[1].isdigit()}

    def oom_kills(self) -> int:
        name = "memory.events" if self.unified else "memory.oom_control"
        return self.pairs("memory", name).get("oom_kill", 0)


def of(pid: int) -> Cgroup:
    """The cgroup of a running process; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:
        return Cgroup({})
    points = _mount_points()
    folders = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            folder = _folder(points.get(controller), path)
            if folder is not None:
                folders[controller] = folder
    return Cgroup(folders)


def watch_oom(cgroup: Cgroup) -> tuple[int, int] | None:
    """A descriptor to poll, and a second one to keep open (or -1); None when there is nothing to watch.

    Version 1: an eventfd, which becomes readable. Version 2: ``memory.events``, which reports EPOLLPRI.
    """
    folder = cgroup.folder("memory")
    if folder is None:
        return None
    try:
        if cgroup.unified:
            return os.open(f"{folder}/memory.events", os.O_RDONLY | os.O_CLOEXEC), -1
        return _watch_version_1(folder)
    except OSError:
        return None


def join(path: str, pid: int) -> None:
    """Puts a process into the cgroup ``path`` of every hierarchy that has it. Raises NotFound when none has."""
    joined = False
    for point, root in set(_mount_points().values()):
        if root == "/" and os.path.exists(f"{point}/{path.strip('/')}/cgroup.procs"):
            with open(f"{point}/{path.strip('/')}/cgroup.procs", "w") as file:
                file.write(str(pid))
            joined = True
    if not joined:
        raise errors.NotFound(f"cgroup {path}: not found")


def _watch_version_1(folder: str) -> tuple[int, int]:
    control = os.open(f"{folder}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        with open(f"{folder}/cgroup.event_control", "w") as file:
            file.write(f"{event} {control}")
    except OSError:
        os.close(event)
        os.close(control)
        raise
    return event, control


def _pids(folder: str) -> Iterator[int]:
    for path, _, files in os.walk(folder):
        if "cgroup.procs" in files:
            try:
                with open(f"{path}/cgroup.procs") as file:
                    yield from map(int, file.read().split())
            except OSError:
                continue


def _mount_points() -> dict[str, tuple[str, str]]:
    """Controller → (mount point, root of the mount within the hierarchy); proc(5) ``mountinfo``."""
    points: dict[str, tuple[str, str]] = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split()[:3]
            _, _, _, root, point = before.split()[:5]
            if kind == "cgroup2":
                points.setdefault("", (point, root))
            elif kind == "cgroup":
                for option in options.split(","):
                    points.setdefault(option, (point, root))
    return points


def _folder(point: tuple[str, str] | None, path: str) -> str | None:
    if point is None or path == "/":
        return None
    mounted_at, root = point
    inside = path[len(root) :] if root != "/" and path.startswith(root) else path
    return mounted_at + inside if inside.strip("/") else None
