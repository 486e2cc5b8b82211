"""Platforms: for which operating system and processor something is made.

A platform is written ``os/architecture`` or ``os/architecture/variant``, in Go's names: ``linux/amd64``,
``linux/arm/v7``. ``parse`` also reads other names of the same (``x86_64``, ``aarch64``, ``armhf``), and an operating
system or an architecture alone, which the machine's own completes. One machine can run several platforms:
``preferences`` lists them, best first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from plugin_sdk import errors

_PART = re.compile(r"[A-Za-z0-9_.-]+")
_SYSTEMS = frozenset({"android", "darwin", "freebsd", "illumos", "linux", "netbsd", "openbsd", "solaris", "windows"})
_SYSTEM_ALIASES = {"macos": "darwin"}
_ARCHITECTURES = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le"}
    | {"riscv64", "s390x", "wasm"}
)
_ALIASES = {
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
}
_ARM_VARIANTS = ("v8", "v7", "v6", "v5")
_AMD64_VARIANTS = ("v4", "v3", "v2")


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def normalize(platform: Platform) -> Platform:
    """The same in the usual names; a variant that goes without saying (arm64/v8, amd64/v1) is left out."""
    system = platform.os.lower()
    architecture, implied = _ALIASES.get(platform.architecture.lower(), (platform.architecture.lower(), ""))
    variant = platform.variant.lower() or implied
    if variant.isdigit():
        variant = f"v{variant}"
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    if architecture == "arm" and not variant:
        variant = "v7"
    return Platform(
        _SYSTEM_ALIASES.get(system, system), architecture, variant, platform.os_version, platform.os_features
    )


def host() -> Platform:
    machine = os.uname()
    return normalize(Platform(machine.sysname, machine.machine))


def parse(text: str) -> Platform:
    """Raises InvalidArgument for a malformed platform, or a single part that is neither system nor architecture."""
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in parts):
        raise errors.InvalidArgument(f'platform "{text}": must be os/architecture[/variant]')
    if len(parts) > 1:
        return normalize(Platform(parts[0], parts[1], parts[2] if len(parts) == 3 else ""))
    return _complete(text)


def _complete(text: str) -> Platform:
    here, given = host(), normalize(Platform(text, text))
    if given.os in _SYSTEMS:
        return Platform(given.os, here.architecture, here.variant)
    if given.architecture in _ARCHITECTURES:
        return Platform(here.os, given.architecture, given.variant)
    raise errors.InvalidArgument(f'platform "{text}": unknown operating system or architecture')


def require_known(platform: Platform) -> None:
    """Raises InvalidArgument for a system or an architecture that nobody knows."""
    known = platform.os in _SYSTEMS and platform.architecture in _ARCHITECTURES
    if not known:
        raise errors.InvalidArgument(f'platform "{platform}": unknown operating system or architecture')


def matches(wanted: Platform, offered: Platform) -> bool:
    """Whether both are the same platform; versions and features of the system are not compared."""
    return _key(wanted) == _key(offered)


def _key(platform: Platform) -> tuple[str, str, str]:
    platform = normalize(platform)
    return platform.os, platform.architecture, platform.variant


def preferences(platform: Platform) -> list[Platform]:
    """What a machine of this platform can run, best first, itself included."""
    own = normalize(platform)

    def like(architecture: str, variants: Sequence[str]) -> list[Platform]:
        return [Platform(own.os, architecture, variant) for variant in variants]

    if own.architecture == "amd64":
        return like("amd64", _lower(_AMD64_VARIANTS, own.variant)) + like("amd64", [""]) + like("386", [""])
    if own.architecture == "arm":
        return like("arm", _lower(_ARM_VARIANTS, own.variant))
    if own.architecture == "arm64":
        versions = [own.variant] if own.variant else []
        return like("arm64", [*versions, ""]) + like("arm", _ARM_VARIANTS)
    return [Platform(own.os, own.architecture, own.variant)]


def _lower(variants: Sequence[str], variant: str) -> Sequence[str]:
    """From ``variant`` on; none for the empty one, one that is not listed alone."""
    if variant in variants:
        return variants[variants.index(variant) :]
    return [variant] if variant else []


def rank(wanted: Platform, offered: Platform) -> int | None:
    """0 for the best match, more for a worse one, None when a machine of ``wanted`` cannot run ``offered``."""
    key = _key(offered)
    for place, candidate in enumerate(preferences(wanted)):
        if _key(candidate) == key:
            return place
    return None
