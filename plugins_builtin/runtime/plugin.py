"""Registers the runtime ``io.containerd.runc.v2``."""

from __future__ import annotations

from dataclasses import dataclass

from plugin_sdk import plugin


@dataclass(frozen=True, slots=True)
class Config:
    """``engine``: name or path of the OCI program, unless the container's options name one; empty means runc, or crun
    where only that is installed. ``relay``: copy all output, for systems whose security module keeps containers from
    writing to the client's FIFOs. ``systemd_cgroup``: let systemd make the cgroups."""

    engine: str = ""
    relay: bool = False
    systemd_cgroup: bool = False


def create(context: plugin.PluginContext) -> object:
    from plugins_builtin.runtime.runc import Runc

    config = context.config if isinstance(context.config, Config) else Config()
    sockets = context.state.parent / "s"
    return Runc(context.state, sockets, context.workers, config, context.log)


@plugin.hookimpl
def register_runtimes() -> list[plugin.Registration]:
    return [plugin.Registration(plugin.RUNTIME, "io.containerd.runc.v2", create, config=Config)]
