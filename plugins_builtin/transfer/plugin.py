"""Registers the services ``transfer`` and ``streaming``."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plugin_sdk import plugin


@dataclass(frozen=True, slots=True)
class Unpacks:
    """What images of one platform are unpacked with."""

    platform: str = plugin.setting("", "The platform, such as linux/amd64; empty: the machine's own.")
    snapshotter: str = plugin.setting("", "Its default snapshotter.")
    differ: str = plugin.setting("", "The differ; the one that can is found.", unneeded=True)
    config_type: str = plugin.setting("", "Media type of the configs this is for.", unneeded=True)
    layer_types: tuple[str, ...] = plugin.setting((), "Media types of the layers this is for.", unneeded=True)
    optional: bool = plugin.setting(False, "Whether it may be missing.", unneeded=True)


@dataclass(frozen=True, slots=True)
class Auth:
    """Credentials for one host."""

    username: str = plugin.setting("", "Name of the user.")
    password: str = plugin.setting("", "The user's password.", secret=True)
    identity_token: str = plugin.setting("", "A token to log in with, instead of name and password.", secret=True)
    header: str = plugin.setting("", "A whole Authorization header, instead of both.", secret=True)
    file: str = plugin.setting("", "A file that has the password, or the identity token where there is no username.")


@dataclass(frozen=True, slots=True)
class Config:
    """containerd's keys, then our own."""

    max_concurrent_downloads: int = plugin.setting(6, "Blobs that are downloaded at once, by all pulls.")
    max_concurrent_uploaded_layers: int = plugin.setting(6, "Blobs that are uploaded at once, by all pushes.")
    max_concurrent_unpacks: int = plugin.setting(4, "Layers that are unpacked at once, by all pulls and imports.")
    concurrent_layer_fetch_buffer: int = plugin.setting(
        0, "Bytes of one part of a large layer, at most 8 MiB; 0: 4 MiB."
    )
    check_platform_supported: bool = plugin.setting(
        False, "Whether only what unpack_config lists is unpacked.", unneeded=True
    )
    unpack_config: tuple[Unpacks, ...] = plugin.setting((), "Default snapshotters by platform; else overlayfs.")
    config_path: str = plugin.setting("", "Folders with a folder for each host that has hosts.toml, joined by a colon.")
    auth: Mapping[str, Auth] = plugin.setting({}, 'Credentials: one table a host, [….auth."HOST"].')
    docker_config: str = plugin.setting("", "Docker's config.json with credentials; empty: where Docker looks.")
    timeout: int = plugin.setting(30, "Seconds that a registry may be silent.")
    retries: int = plugin.setting(5, "How often what failed at a registry is tried again.")
    min_rate: int = plugin.setting(16 << 10, "Bytes a second; a slower download goes on at another host.")
    rate_window: int = plugin.setting(15, "Seconds over which a download is slower than that.")
    upload_chunk: int = plugin.setting(0, "Bytes of one piece of an upload; 0: each blob whole.")
    manifest_limit: int = plugin.setting(8 << 20, "Bytes that a manifest may have.")


@plugin.hookimpl
def register_services() -> Iterable[plugin.Registration]:
    @functools.cache
    def streams() -> Any:
        """Those that one service opens and the other finds."""
        from plugin_sdk.wire.streaming import Streams

        return Streams()

    def create_streaming(context: plugin.PluginContext) -> object:
        from plugin_sdk.wire.streaming import Servicer

        return Servicer(streams())

    def create_transfer(context: plugin.PluginContext) -> object:
        from plugins_builtin.transfer.service import Service

        return Service(context.daemon, context.config if isinstance(context.config, Config) else Config(), streams())

    streaming = plugin.Registration(
        plugin.SERVICE, "streaming", create_streaming, alias="io.containerd.streaming.v1.manager"
    )
    return [
        streaming,
        plugin.Registration(
            plugin.SERVICE,
            "transfer",
            create_transfer,
            requires=(streaming.name,),
            config=Config,
            alias="io.containerd.transfer.v1.local",
        ),
    ]
