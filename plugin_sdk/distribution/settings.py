"""How transfers of this process behave towards registries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plugin_sdk import transfer


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are seconds, sizes bytes, rates bytes a second.

    ``config_path`` has folders of host files, joined by ``:``. ``auth`` has credentials by host; ``docker_config`` is
    the path of Docker's ``config.json``, "" where Docker looks for it; a credential helper has ``helper_timeout``. A
    host may be silent for ``timeout``. What fails is repeated ``retries`` times, after ``backoff`` and then twice as
    long each time, at most ``longest_wait``. A download that is slower than ``min_rate`` over ``rate_window`` goes on
    at another host, if there is one. Blobs larger than ``parallel_from``, from a host that gives less than
    ``parallel_below``, come in ``parallel_parts`` parts of ``part_size`` at once, of which ``buffers`` bytes may wait
    in the whole process, as may ``max_downloads`` and ``max_uploads`` be under way. Uploads are in pieces of
    ``chunk_size``, 0 for one. A manifest may have ``manifest_limit``.
    """

    config_path: str = ""
    auth: Mapping[str, transfer.Credentials] = field(default_factory=dict, repr=False)
    docker_config: str = ""
    helper_timeout: float = 30.0
    timeout: float = 30.0
    dial_timeout: float = 30.0
    retries: int = 5
    backoff: float = 0.25
    longest_wait: float = 60.0
    min_rate: int = 16 << 10
    rate_window: float = 15.0
    part_size: int = 4 << 20
    parallel_parts: int = 4
    parallel_from: int = 16 << 20
    parallel_below: int = 64 << 20
    buffers: int = 32 << 20
    max_downloads: int = 6
    max_uploads: int = 6
    chunk_size: int = 0
    manifest_limit: int = 8 << 20
