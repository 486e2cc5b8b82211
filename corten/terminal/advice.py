"""What to do next, by what went wrong: a command to type, or where to look."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from plugin_sdk import errors


@dataclass(frozen=True, slots=True)
class Rule:
    """For errors of this kind whose message the pattern finds; ``says`` has ``{}`` for the pattern's group."""

    kind: type[errors.Error]
    pattern: str
    says: str


_NO_DAEMON = "Is the daemon running? Start it as root with `cortend`, or name the socket of another one with --address."
_NO_REGISTRY = (
    "Is the name right, and can the daemon's machine reach it? A hosts.toml (--hosts-dir) names mirrors, and "
    "--plain-http is for a registry without TLS."
)
_NO_TRUST = (
    "Name what its certificate is signed by in a hosts.toml: `ca = …`, in the daemon's folder or in --hosts-dir."
)
_LOG_IN = "Give --user NAME, which asks for the password, or log in once with `docker login`."

RULES: Sequence[Rule] = (
    Rule(errors.Unavailable, r"does not answer: Permission denied", "The socket is root's: try `sudo corten …`."),
    Rule(errors.Unavailable, r"does not answer", _NO_DAEMON),
    Rule(
        errors.NotFound,
        r'^image "([^"]+)": not found',
        "Fetch it with `corten pull {}`; `corten images` lists what is there.",
    ),
    Rule(errors.Error, r"certificate", _NO_TRUST),
    Rule(errors.Unavailable, r"cannot resolve image", _NO_REGISTRY),
    Rule(
        errors.NotFound,
        r"cannot resolve image",
        "Is the name right? Some registries say so, too, to those who have not logged in.",
    ),
    Rule(
        errors.NotFound,
        r"no match for platform",
        "Fetch it for that platform with `corten pull --platform OS/ARCHITECTURE`.",
    ),
    Rule(
        errors.NotFound,
        r"(?:container|task) .*not found|no running task",
        "`corten ps -a` lists what is there.",
    ),
    Rule(
        errors.NotFound,
        r"(?:content|blob).*sha\d+:[0-9a-f]+.*not found",
        "Fetch the image again with `corten pull`.",
    ),
    Rule(
        errors.NotFound,
        r"snapshot .*not found",
        "`corten snapshots` lists what is there; `corten image unpack` makes an image's.",
    ),
    Rule(errors.NotFound, r"process already finished", "`corten ps -a` shows what still runs."),
    Rule(
        errors.AlreadyExists,
        r'^container "([^"]+)"',
        "Remove it with `corten rm {}`, or choose another --name.",
    ),
    Rule(errors.InvalidArgument, r"snapshotter not loaded", "`corten plugins` lists those that are there."),
    Rule(errors.Unauthenticated, r"", _LOG_IN),
    Rule(errors.PermissionDenied, r"registry|https?://|401|403", _LOG_IN),
    Rule(
        errors.FailedPrecondition,
        r'container "([^"]+)" is running',
        "Stop it with `corten stop {}`, or remove it with `corten rm -f`.",
    ),
    Rule(
        errors.FailedPrecondition,
        r'^namespace "([^"]+)"',
        "See what is in it with `corten -n {} images`, `ps -a`, `snapshots` and `content`.",
    ),
    Rule(
        errors.Unimplemented,
        r"transfer",
        "The daemon has no transfer service: `corten plugins` lists what it has.",
    ),
    Rule(
        errors.ResourceExhausted,
        r"No space left|disk",
        "Remove what is not needed: `corten image rm`, `corten rm`.",
    ),
)


def next_step(err: errors.Error) -> str:
    """Empty when there is nothing to say."""
    for rule in RULES:
        if isinstance(err, rule.kind) and (found := re.search(rule.pattern, err.message)):
            return rule.says.format(*found.groups())
    return ""
