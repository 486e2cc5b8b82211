"""Runtime specs: what a container's process gets, as the OCI runtime specification's config.json.

A spec is a plain JSON object. ``default_spec`` makes one with namespaces of its own, the usual file systems and few
capabilities; the other functions answer a changed copy::

    spec = specs.default_spec("default", "web")
    spec = specs.spec_from_image_config(spec, config, args=["-v"], user="www-data", rootfs=Path("/mnt/web"))
    spec = specs.with_mount(spec, "/srv", "/data", ["rbind", "ro"])
    data = json.dumps(spec).encode()

Source: the OCI runtime specification 1.0, config.md and config-linux.md.
"""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plugin_sdk import errors
from plugin_sdk.oci import ImageConfig

Spec = dict[str, Any]

TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS_TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process"

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
]
"""By number, as in capabilities(7)."""

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
NAMESPACES = ("pid", "ipc", "uts", "mount", "network")
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_MOUNTS: tuple[tuple[str, str, str, str], ...] = (
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/run", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
)
_MAX_LINKS = 40
_PERIOD = 100_000  # microseconds of the scheduler's accounting
_OWN_FOLDERS = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})


def default_spec(namespace: str, id: str, *, hostname: str = "") -> Spec:
    """A spec without arguments; the cgroup is ``/NAMESPACE/ID``, all devices but the usual ones are denied."""
    spec: Spec = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "capabilities": _capabilities(DEFAULT_CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "mounts": [_mount(*row) for row in _MOUNTS],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "cgroupsPath": f"/{namespace}/{id}",
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READONLY_PATHS),
        },
    }
    if hostname:
        spec["hostname"] = hostname
    return spec


def spec_from_image_config(
    spec: Spec,
    config: ImageConfig,
    *,
    args: Sequence[str] = (),
    env: Sequence[str] = (),
    user: str = "",
    cwd: str = "",
    terminal: bool = False,
    rootfs: Path | None = None,
) -> Spec:
    """What the image says, each part overridden by the argument if there is one; ``args`` replace the command, not the
    entrypoint.

    ``rootfs`` is the container's tree, for users and groups by name. Raises InvalidArgument for a name that is not in
    its /etc/passwd or /etc/group, or without rootfs, and when there is nothing to run.
    """
    spec = copy.deepcopy(spec)
    process = spec["process"]
    process["args"] = [*config.entrypoint, *(args or config.command)]
    if not process["args"]:
        raise errors.InvalidArgument("no arguments are given, and the image has no command")
    process["env"] = merged_env([f"PATH={DEFAULT_PATH}", *(["TERM=xterm"] if terminal else [])], config.env, env)
    process["cwd"] = cwd or config.working_dir or "/"
    process["user"] = resolve_user(user or config.user or "0", rootfs)
    if terminal:
        process["terminal"] = True
    return spec


def merged_env(*lists: Sequence[str]) -> list[str]:
    """``KEY=VALUE`` texts, the later replace the earlier at their place; a ``KEY`` alone removes it."""
    found: dict[str, str] = {}
    for text in (text for texts in lists for text in texts):
        key, assigned, _ = text.partition("=")
        if assigned:
            found[key] = text
        else:
            found.pop(key, None)
    return list(found.values())


def with_mount(spec: Spec, source: str, destination: str, options: Sequence[str], type: str = "bind") -> Spec:
    spec = copy.deepcopy(spec)
    spec.setdefault("mounts", []).append(_mount(destination, type, source, ",".join(options)))
    return spec


def with_host_network(spec: Spec) -> Spec:
    """The host's network, with its hosts file and resolver."""
    spec = copy.deepcopy(spec)
    spec["linux"]["namespaces"] = [item for item in spec["linux"]["namespaces"] if item["type"] != "network"]
    for path in ("/etc/hosts", "/etc/resolv.conf"):
        spec = with_mount(spec, path, path, ["rbind", "ro"])
    return spec


def with_capabilities(spec: Spec, names: Sequence[str]) -> Spec:
    spec = copy.deepcopy(spec)
    spec["process"]["capabilities"] = _capabilities(names)
    return spec


def with_all_capabilities(spec: Spec) -> Spec:
    """All that this process holds: an engine refuses to give away others."""
    return with_capabilities(spec, held_capabilities())


def read_only(spec: Spec) -> Spec:
    spec = copy.deepcopy(spec)
    spec["root"]["readonly"] = True
    return spec


def with_memory_limit(spec: Spec, limit: int) -> Spec:
    """``limit`` in bytes."""
    spec = copy.deepcopy(spec)
    spec["linux"].setdefault("resources", {}).setdefault("memory", {})["limit"] = limit
    return spec


def with_cpus(spec: Spec, cpus: float) -> Spec:
    """The time of so many processors; 1.5 is one and a half. Raises InvalidArgument for less than a thousandth."""
    if cpus < 0.001:
        raise errors.InvalidArgument(f"cpus {cpus}: must be at least 0.001")
    spec = copy.deepcopy(spec)
    limits = {"period": _PERIOD, "quota": round(cpus * _PERIOD)}
    spec["linux"].setdefault("resources", {}).setdefault("cpu", {}).update(limits)
    return spec


def with_pids_limit(spec: Spec, limit: int) -> Spec:
    """At most so many processes and threads."""
    spec = copy.deepcopy(spec)
    spec["linux"].setdefault("resources", {})["pids"] = {"limit": limit}
    return spec


def with_device(spec: Spec, path: str) -> Spec:
    """A device node of this machine, at the same path, to read, write and make. Raises NotFound; InvalidArgument for
    what is no device."""
    try:
        node = os.stat(path)
    except OSError as err:
        raise errors.NotFound(f'device "{path}": {err.strerror}') from err
    kind = "c" if stat.S_ISCHR(node.st_mode) else "b" if stat.S_ISBLK(node.st_mode) else ""
    if not kind:
        raise errors.InvalidArgument(f'device "{path}": is none')
    numbers = {"type": kind, "major": os.major(node.st_rdev), "minor": os.minor(node.st_rdev)}
    made = {"path": path, **numbers, "fileMode": stat.S_IMODE(node.st_mode), "uid": node.st_uid, "gid": node.st_gid}
    spec = copy.deepcopy(spec)
    spec["linux"].setdefault("devices", []).append(made)
    spec["linux"].setdefault("resources", {}).setdefault("devices", []).append(
        {"allow": True, **numbers, "access": "rwm"}
    )
    return spec


def privileged(spec: Spec) -> Spec:
    """All capabilities that this process holds, all devices of the machine, and nothing hidden or read-only in /proc
    and /sys."""
    spec = with_all_capabilities(spec)
    for path in _device_nodes("/dev"):
        spec = with_device(spec, path)
    spec["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []
    spec["process"]["noNewPrivileges"] = False
    for mount in spec["mounts"]:
        if mount["type"] in ("sysfs", "cgroup"):
            mount["options"] = ["rw" if option == "ro" else option for option in mount["options"]]
    return spec


def _device_nodes(folder: str) -> list[str]:
    """Not those that a container has of its own: terminals, shared memory, queues."""
    found: list[str] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_symlink():
            continue
        if entry.is_dir():
            found += [] if entry.name in _OWN_FOLDERS else _device_nodes(entry.path)
        elif entry.name != "console" and stat.S_IFMT(entry.stat().st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
            found.append(entry.path)
    return found


def held_capabilities() -> list[str]:
    """Those in this process's permitted and bounding sets (proc(5), status)."""
    masks = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    held = int(masks["CapPrm"], 16) & int(masks["CapBnd"], 16)
    return [name for number, name in enumerate(CAPABILITIES) if held >> number & 1]


def _capabilities(names: Sequence[str]) -> dict[str, list[str]]:
    return {kind: list(names) for kind in ("bounding", "effective", "permitted")}


def _mount(destination: str, type: str, source: str, options: str) -> dict[str, Any]:
    return {"destination": destination, "type": type, "source": source, "options": options.split(",")}


# -- users -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Account:
    """A line of passwd(5) or group(5); ``members`` are empty in the first, ``gid`` is 0 in the second."""

    name: str
    id: int
    gid: int = 0
    members: tuple[str, ...] = ()


def resolve_user(text: str, rootfs: Path | None) -> dict[str, Any]:
    """The spec's user for ``USER[:GROUP]``, names or numbers.

    Without a group it is that of passwd(5), or 0 for a number not listed there; a user that is listed also gets the
    groups that list it. Raises InvalidArgument for an unknown name.
    """
    user, with_group, group = text.partition(":")
    account = _find(user, _passwd(rootfs), "user")
    groups = _group(rootfs)
    gid = _find(group, groups, "group").id if with_group and group else account.gid
    found: dict[str, Any] = {"uid": account.id, "gid": gid}
    extra = sorted({item.id for item in groups if account.name in item.members and item.id != gid})
    if extra and not with_group:
        found["additionalGids"] = extra
    return found


def _find(text: str, accounts: Sequence[_Account], kind: str) -> _Account:
    number = int(text) if text.isascii() and text.isdigit() else None
    for account in accounts:
        if account.name == text or account.id == number:
            return account
    if number is None:
        raise errors.InvalidArgument(f'{kind} "{text}": no such {kind} in the image')
    if number > 0xFFFFFFFE:
        raise errors.InvalidArgument(f'{kind} "{text}": out of range')
    return _Account("", number)


def _passwd(rootfs: Path | None) -> list[_Account]:
    rows = _rows(rootfs, "etc/passwd", 4)
    return [_Account(row[0], int(row[2]), int(row[3])) for row in rows if row[2].isdigit() and row[3].isdigit()]


def _group(rootfs: Path | None) -> list[_Account]:
    rows = _rows(rootfs, "etc/group", 4)
    return [
        _Account(row[0], int(row[2]), 0, tuple(filter(None, row[3].split(",")))) for row in rows if row[2].isdigit()
    ]


def _rows(rootfs: Path | None, path: str, least: int) -> list[list[str]]:
    if rootfs is None:
        return []
    try:
        text = resolve_in(rootfs, path).read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [row for line in text.splitlines() if len(row := line.split(":")) >= least]


def resolve_in(root: Path, path: str) -> Path:
    """``path`` below ``root`` as a process sees it whose root that is: symbolic links and ``..`` do not lead out.

    Only for a tree that nobody changes meanwhile. Raises InvalidArgument for more than 40 links.
    """
    todo = [part for part in path.split("/") if part]
    found: list[str] = []
    links = 0
    while todo:
        part = todo.pop(0)
        if part in (".", ".."):
            del found[len(found) - (part == "..") :]
            continue
        place = root.joinpath(*found, part)
        if not place.is_symlink():
            found.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise errors.InvalidArgument(f'path "{path}": too many symbolic links')
        target = os.readlink(place)
        found = [] if target.startswith("/") else found
        todo = [step for step in target.split("/") if step] + todo
    return root.joinpath(*found)
