"""What to do next, by what went wrong: a command to type, or where to look."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plugin_sdk import errors


@dataclass(frozen=True, slots=True)
class Rule:
    """For errors of this kind whose message the pattern finds; ``says`` is given the match."""

    kind: type[errors.Error]
    pattern: str
    says: Callable[[re.Match[str]], str]


def _always(text: str) -> Callable[[re.Match[str]], str]:
    return lambda _: text


def _by_name(text: str) -> Callable[[re.Match[str]], str]:
    """``{}`` in the text is the first group of the pattern."""
    return lambda found: text.format(found[1])


_NO_DAEMON = "Is the daemon running? Start it as root with `cortend`, or name the socket of another one with --address."
_LOG_IN = "Give --user NAME, which asks for the password, or log in once with `docker login`."

RULES: Sequence[Rule] = (
    Rule(
        errors.Unavailable, r"does not answer: Permission denied", _always("The socket is root's: try `sudo corten …`.")
    ),
    Rule(errors.Unavailable, r"does not answer", _always(_NO_DAEMON)),
    Rule(
        errors.NotFound,
        r'^image "([^"]+)": not found',
        _by_name("Fetch it with `corten pull {}`; `corten images` lists what is there."),
    ),
    Rule(
        errors.NotFound,
        r"no match for platform",
        _always("Fetch it for that platform with `corten pull --platform OS/ARCHITECTURE`."),
    ),
    Rule(
        errors.NotFound,
        r"(?:container|task) .*not found|no running task",
        _always("`corten ps -a` lists what is there."),
    ),
    Rule(
        errors.NotFound,
        r"(?:content|blob).*sha\d+:[0-9a-f]+.*not found",
        _always("Fetch the image again with `corten pull`."),
    ),
    Rule(
        errors.NotFound,
        r"snapshot .*not found",
        _always("`corten snapshots` lists what is there; `corten image unpack` makes an image's."),
    ),
    Rule(errors.NotFound, r"process already finished", _always("`corten ps -a` shows what still runs.")),
    Rule(
        errors.AlreadyExists,
        r'^container "([^"]+)"',
        _by_name("Remove it with `corten rm {}`, or choose another --name."),
    ),
    Rule(errors.InvalidArgument, r"snapshotter not loaded", _always("`corten plugins` lists those that are there.")),
    Rule(errors.Unauthenticated, r"", _always(_LOG_IN)),
    Rule(errors.PermissionDenied, r"registry|https?://|401|403", _always(_LOG_IN)),
    Rule(
        errors.FailedPrecondition,
        r'container "([^"]+)" is running',
        _by_name("Stop it with `corten stop {}`, or remove it with `corten rm -f`."),
    ),
    Rule(
        errors.FailedPrecondition,
        r'^namespace "([^"]+)"',
        _by_name("See what is in it with `corten -n {} images`, `ps -a`, `snapshots` and `content`."),
    ),
    Rule(
        errors.Unimplemented,
        r"transfer",
        _always("The daemon has no transfer service: `corten plugins` lists what it has."),
    ),
    Rule(
        errors.ResourceExhausted,
        r"No space left|disk",
        _always("Remove what is not needed: `corten image rm`, `corten rm`."),
    ),
)


def next_step(err: errors.Error) -> str:
    """Empty when there is nothing to say."""
    for rule in RULES:
        if isinstance(err, rule.kind) and (found := re.search(rule.pattern, err.message)):
            return rule.says(found)
    return ""
