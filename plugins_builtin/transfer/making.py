"""Makes an engine for each transfer; what all of them share is made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugin_sdk import daemon, transfer
from plugin_sdk.distribution import engine, registry, unpacking
from plugin_sdk.scope import Scope
from plugins_builtin.transfer import settings

if TYPE_CHECKING:
    from plugins_builtin.transfer.plugin import Auth, Config


class Engines:
    def __init__(self, offered: daemon.Daemon, config: Config) -> None:
        self._daemon = offered
        self._snapshotters = settings.snapshotters(config)
        self._unpacking = unpacking.Settings(
            at_once=max(config.max_concurrent_downloads, config.max_concurrent_uploaded_layers),
            shared=unpacking.Shared(config.max_concurrent_unpacks),
        )
        self._registries = registry.Registries(of_registries(config))

    def make(self, scope: Scope) -> engine.Engine:
        return engine.Engine(
            self._daemon,
            scope.namespace,
            scope.lease,
            self._registries,
            self._unpacking,
            scope.check,
            self._snapshotters,
        )

    def close(self) -> None:
        self._registries.close()


def of_registries(config: Config) -> registry.Settings:
    defaults = registry.Settings()
    return registry.Settings(
        config_path=config.config_path,
        auth={host: credentials(host, auth) for host, auth in config.auth.items()},
        docker_config=config.docker_config,
        timeout=config.timeout,
        retries=config.retries,
        min_rate=config.min_rate,
        rate_window=config.rate_window,
        part_size=config.concurrent_layer_fetch_buffer or defaults.part_size,
        max_downloads=config.max_concurrent_downloads,
        max_uploads=config.max_concurrent_uploaded_layers,
        chunk_size=config.upload_chunk,
        manifest_limit=config.manifest_limit,
    )


def credentials(host: str, auth: Auth) -> transfer.Credentials:
    if auth.header:
        return transfer.Credentials(header=auth.header)
    secret = settings.secret(host, auth)
    if auth.username:
        return transfer.Credentials(auth.username, auth.password or secret)
    return transfer.Credentials(refresh=auth.identity_token or secret)
