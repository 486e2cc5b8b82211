"""Which engine, and how it is called: the client's options, else the plugin's configuration."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from plugin_sdk import errors, runtime
from plugin_sdk.api.types.runc.options import oci_pb2

if TYPE_CHECKING:
    from plugins_builtin.runtime.plugin import Config

_ENGINES = ("runc", "crun")
_OPTIONS = "containerd.runc.v1.Options"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Settings:
    """``command`` is the engine with its global options, ``flags`` those of its create. ``gate`` is where a task
    without hooks waits for its start, empty where only the engine knows."""

    command: Sequence[str]
    flags: Sequence[str] = ()
    gate: str = ""
    shim_cgroup: str = ""
    owner: tuple[int, int] | None = None


def settings(request: runtime.Create, config: Config, state: Path) -> Settings:
    """Raises NotFound for an engine that is not installed, InvalidArgument for options of another kind."""
    options = decode(request.options)
    engine = find(options.binary_name or config.engine)
    root = (Path(options.root) if options.root else state) / request.namespace
    command = [engine, "--root", str(root)]
    if options.systemd_cgroup or config.systemd_cgroup:
        command.append("--systemd-cgroup")
    flags = ["--no-pivot"] if options.no_pivot_root else []
    if options.no_new_keyring:
        flags.append("--no-new-keyring")
    owner = (options.io_uid, options.io_gid) if options.io_uid or options.io_gid else None
    direct = Path(engine).name == "runc" and not _parsed(request.spec).get("hooks")
    gate = str(root / request.id / "exec.fifo") if direct else ""
    return Settings(command, flags, gate, options.shim_cgroup, owner)


def decode(options: runtime.Any) -> oci_pb2.Options:
    decoded = oci_pb2.Options()
    if not options.value:
        return decoded
    if options.type_url.rpartition("/")[2] != _OPTIONS:
        raise errors.InvalidArgument(f'runtime options of type "{options.type_url}" are not {_OPTIONS}')
    try:
        decoded.ParseFromString(options.value)
    except DecodeError as err:
        raise errors.InvalidArgument(f"runtime options cannot be read: {err}") from err
    return decoded


def find(engine: str) -> str:
    """Absolute path of an engine by name or path; empty means the first of runc and crun that is installed."""
    for name in (engine,) if engine else _ENGINES:
        path = shutil.which(name) or shutil.which(name, path=_PATH)
        if path is not None:
            return str(Path(path).absolute())
    raise errors.NotFound(f'engine "{engine or _ENGINES[0]}" is not installed: not found')


def shares_pids(spec: bytes) -> bool:
    """Whether the end of init does not end the others: no linux pid namespace of its own."""
    try:
        listed = _parsed(spec).get("linux", {}).get("namespaces") or []
        return not any(each.get("type") == "pid" and not each.get("path") for each in listed)
    except AttributeError as err:
        raise errors.InvalidArgument(f"the container's spec cannot be read: {err}") from err


def _parsed(spec: bytes) -> dict[str, Any]:
    try:
        value = json.loads(spec)
    except ValueError as err:
        raise errors.InvalidArgument(f"the container's spec cannot be read: {err}") from err
    if not isinstance(value, dict):
        raise errors.InvalidArgument("the container's spec is not an object")
    return value
