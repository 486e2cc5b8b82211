"""What of the configuration is read when the daemon starts; what cannot be used raises InvalidArgument."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from plugin_sdk import errors, platforms
from plugin_sdk.platforms import Platform

if TYPE_CHECKING:
    from plugins_builtin.transfer.plugin import Auth, Config

_AT_LEAST_ONE = (
    "max_concurrent_downloads",
    "max_concurrent_uploaded_layers",
    "max_concurrent_unpacks",
    "timeout",
    "rate_window",
    "manifest_limit",
)
_LARGEST_PART = 8 << 20  # bytes; four of them come at once, and all wait in memory
_NOT_NEGATIVE = ("concurrent_layer_fetch_buffer", "upload_chunk", "retries", "min_rate")


def check(config: Config) -> None:
    """At the daemon's start, so that mistakes are seen then."""
    for key in _AT_LEAST_ONE:
        if getattr(config, key) < 1:
            raise errors.InvalidArgument(f"{key} must be at least 1, not {getattr(config, key)}")
    for key in _NOT_NEGATIVE:
        if getattr(config, key) < 0:
            raise errors.InvalidArgument(f"{key} must not be negative, but is {getattr(config, key)}")
    if config.concurrent_layer_fetch_buffer > _LARGEST_PART:
        raise errors.InvalidArgument(f"concurrent_layer_fetch_buffer must be at most {_LARGEST_PART}")
    for host, auth in config.auth.items():
        secret(host, auth)
    snapshotters(config)


def secret(host: str, auth: Auth) -> str:
    """What the file says, if there is one; in errors it is not told."""
    if not auth.file:
        return ""
    try:
        return Path(auth.file).read_text().strip()
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "is not text"
        raise errors.InvalidArgument(f'auth of "{host}": {auth.file}: {reason}') from None


def snapshotters(config: Config) -> Mapping[Platform, str]:
    """The default snapshotters by platform; the first entry of a platform counts."""
    found: dict[Platform, str] = {}
    for entry in config.unpack_config:
        if entry.snapshotter:
            platform = platforms.parse(entry.platform) if entry.platform else platforms.host()
            found.setdefault(platform, entry.snapshotter)
    return found
