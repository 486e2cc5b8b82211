"""Handshake: what a plugin's program says of itself when the daemon connects, before its first call.

The service is ``corten.plugin.v1.Plugin``, and ``plugin_sdk.serve`` adds it to every program. A program without it is
a plain proxy of containerd's and works: then only what its table in plugins.toml says is known of it. Where both speak,
what the program says is true, and a key typed by hand that contradicts it is reported.

A version of the API is one number. It grows when a program that keeps the old rules would no longer work, and never
for something new that may be left out. Each side names the versions it speaks, and they need one in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Range:
    """Versions of the API, both ends included. Its text is ``1`` or ``1 to 3``."""

    lowest: int
    highest: int

    def overlaps(self, other: Range) -> bool:
        """Whether there is a version that both speak; an empty range has none."""
        return max(self.lowest, other.lowest) <= min(self.highest, other.highest)

    def __str__(self) -> str:
        return str(self.lowest) if self.lowest == self.highest else f"{self.lowest} to {self.highest}"


API = Range(1, 1)
"""What this release speaks, on either side."""


@dataclass(frozen=True, slots=True)
class Description:
    """``version`` is the program's own; ``kinds`` are long names such as ``io.containerd.snapshotter.v1``,
    ``platforms`` texts such as ``linux/amd64``. ``instance`` is random and new at each start of the program: two
    answers that differ in it come from two processes."""

    api: Range = API
    version: str = ""
    kinds: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
    instance: str = ""
