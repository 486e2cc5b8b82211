"""Registers the runtime ``io.containerd.runc.v2``."""

from __future__ import annotations

from dataclasses import dataclass

from plugin_sdk import plugin


@dataclass(frozen=True, slots=True)
class Config:
    """How containers are run, where their own options do not say."""

    engine: str = plugin.setting("", "Name or path of the OCI program; empty: runc, or crun where only that is there.")
    relay: bool = plugin.setting(
        False, "Copy all output, where a security module keeps containers from writing to the client's FIFOs."
    )
    systemd_cgroup: bool = plugin.setting(False, "Let systemd make the cgroups.")


def create(context: plugin.PluginContext) -> object:
    from plugins_builtin.runtime.runc import Runc

    config = context.config if isinstance(context.config, Config) else Config()
    sockets = context.state.parent / "s"
    return Runc(context.state, sockets, context.workers, config, context.log)


@plugin.hookimpl
def register_runtimes() -> list[plugin.Registration]:
    return [plugin.Registration(plugin.RUNTIME, "io.containerd.runc.v2", create, config=Config)]
