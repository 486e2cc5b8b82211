"""Spec options: what a container's process gets, by keyword.

The same keywords are taken by ``client.containers.create``. What is not given is as the image's config says, or as
``plugin_sdk.specs.default_spec`` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from plugin_sdk import errors, specs
from plugin_sdk.oci import ImageConfig
from plugin_sdk.platforms import host
from plugin_sdk.specs import Spec


class SpecOptions(TypedDict, total=False):
    """args: replace the image's command, not its entrypoint
    entrypoint: replaces the image's, and its command with it
    env: ``KEY=VALUE`` texts, or a mapping; a ``KEY`` alone takes the image's away
    user: ``USER[:GROUP]``, names or numbers
    cwd: a folder within
    hostname: the container's id if not given
    terminal: whether it has one
    mounts: as in the spec's ``mounts``, or texts such as ``type=bind,src=/a,dst=/b,options=rbind:ro``
    read_only: whether it cannot write into its file system
    memory: at most so many bytes
    cpus: at most the time of so many processors, such as 1.5
    pids: at most so many processes
    host_network: whether it uses the network of the machine
    capabilities: these and no other, such as ``CAP_NET_ADMIN``
    add_capabilities, drop_capabilities: besides the default ones, or without them
    privileged: whether it has all capabilities and devices of the daemon's machine, and may write to /sys
    devices: paths of device nodes of the machine
    annotations: of the spec
    change: called last with the spec, answers the one to use
    """

    args: Sequence[str]
    entrypoint: Sequence[str]
    env: Sequence[str] | Mapping[str, str]
    user: str
    cwd: str
    hostname: str
    terminal: bool
    mounts: Sequence[Mapping[str, Any] | str]
    read_only: bool
    memory: int
    cpus: float
    pids: int
    host_network: bool
    capabilities: Sequence[str]
    add_capabilities: Sequence[str]
    drop_capabilities: Sequence[str]
    privileged: bool
    devices: Sequence[str]
    annotations: Mapping[str, str]
    change: Callable[[Spec], Spec]


def build(namespace: str, id: str, config: ImageConfig | None, options: SpecOptions, rootfs: Path | None) -> Spec:
    """``rootfs`` is the container's tree, where users by name are looked up. Raises InvalidArgument."""
    spec = specs.spec_from_image_config(
        specs.default_spec(namespace, id, hostname=options.get("hostname") or id[:64]),
        _entered(config or ImageConfig(host(), ()), options.get("entrypoint")),
        args=options.get("args", ()),
        env=variables(options.get("env", ())),
        user=options.get("user", ""),
        cwd=options.get("cwd", ""),
        terminal=options.get("terminal", False),
        rootfs=rootfs,
    )
    spec = _limited(_confined(spec, options), options)
    spec["mounts"] += [parse_mount(each) if isinstance(each, str) else dict(each) for each in options.get("mounts", ())]
    if annotations := options.get("annotations"):
        spec["annotations"] = dict(annotations)
    change = options.get("change")
    return change(spec) if change is not None else spec


def _entered(config: ImageConfig, entrypoint: Sequence[str] | None) -> ImageConfig:
    return config if entrypoint is None else replace(config, entrypoint=tuple(entrypoint), command=())


def variables(env: Sequence[str] | Mapping[str, str]) -> Sequence[str]:
    return [f"{key}={value}" for key, value in env.items()] if isinstance(env, Mapping) else env


def _confined(spec: Spec, options: SpecOptions) -> Spec:
    names = options.get("capabilities")
    if names is not None:
        spec = specs.with_capabilities(spec, names)
    if options.get("privileged"):
        spec = specs.privileged(spec)
    added, dropped = options.get("add_capabilities", ()), options.get("drop_capabilities", ())
    if added or dropped:
        held = spec["process"]["capabilities"]["bounding"]
        spec = specs.with_capabilities(spec, [name for name in dict.fromkeys([*held, *added]) if name not in dropped])
    if options.get("host_network"):
        spec = specs.with_host_network(spec)
    if options.get("read_only"):
        spec = specs.read_only(spec)
    for path in options.get("devices", ()):
        spec = specs.with_device(spec, path)
    return spec


def _limited(spec: Spec, options: SpecOptions) -> Spec:
    if memory := options.get("memory"):
        spec = specs.with_memory_limit(spec, memory)
    if cpus := options.get("cpus"):
        spec = specs.with_cpus(spec, cpus)
    if pids := options.get("pids"):
        spec = specs.with_pids_limit(spec, pids)
    return spec


def parse_mount(text: str) -> dict[str, Any]:
    """A mount of the spec, of ``type=bind,src=/a,dst=/b,options=rbind:ro``. Raises InvalidArgument for an unknown key
    or a missing destination."""
    keys = {"type": "type", "src": "source", "source": "source", "dst": "destination", "destination": "destination"}
    mount: dict[str, Any] = {"type": "bind", "source": "", "destination": "", "options": []}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key == "options":
            mount["options"] = value.split(":")
        elif key in keys:
            mount[keys[key]] = value
        else:
            raise errors.InvalidArgument(
                f'mount "{text}" has the unknown key "{key}"; known are type, src, dst, options'
            )
    if not mount["destination"]:
        raise errors.InvalidArgument(f'mount "{text}" has no destination (dst=…)')
    if mount["type"] == "bind" and not {"bind", "rbind"} & set(mount["options"]):
        mount["options"].append("rbind")
    return mount
