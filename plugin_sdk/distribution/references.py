"""References: what names an image at its registry.

``docker.io/library/busybox:1.36@sha256:…``: a host (with a port if it has one), a path, and a tag, a digest or both;
the digest then says what the image is, the tag is only remembered. Source: OCI distribution specification 1.1,
"Pulling manifests", and the grammar of references that Docker's tools use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from plugin_sdk import errors, identifiers

DEFAULT_HOST = "docker.io"

_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]+)?")
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LONGEST = 255  # host and path together
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Reference:
    """``host`` may have a port; ``tag`` or ``digest`` is empty where there is none. ``str`` is the full text."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        """Host and path."""
        return f"{self.host}/{self.path}"

    @property
    def object(self) -> str:
        """What a registry is asked for: the digest, else the tag."""
        return self.digest or self.tag


def parse(text: str) -> Reference:
    """A full reference, with its host and a tag or a digest. Raises InvalidArgument for anything else."""
    name, _, digest = text.partition("@")
    host, _, rest = name.partition("/")
    path, colon, tag = rest.partition(":")
    if "@" in text:
        try:
            identifiers.validate_digest(digest)
        except errors.InvalidArgument as err:
            raise _wrong(text, f"its {err.message}") from err
    if not _HOST.fullmatch(host) or not rest:
        raise _wrong(text, "it must begin with a registry's host and a slash, as docker.io/ does")
    if not _PATH.fullmatch(path):
        raise _wrong(text, "after the host it has lower-case letters, digits and single separators . _ - / only")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, "a tag has at most 128 letters, digits, underscores, points and dashes")
    if not tag and not digest:
        raise _wrong(text, "it has neither a tag nor a digest")
    if len(host) + 1 + len(path) > _LONGEST:
        raise _wrong(text, f"host and path have more than {_LONGEST} characters")
    return Reference(host, path, tag, digest)


def _wrong(text: str, why: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"{text[:_SHOWN]!r} is not the name of an image: {why}")


def familiar(text: str) -> str:
    """The full reference of what people type: ``busybox`` is ``docker.io/library/busybox:latest``.

    Raises InvalidArgument for what is no name.
    """
    host, slash, path = text.partition("/")
    if not slash or not (host == "localhost" or "." in host or ":" in host or host != host.lower()):
        host, path = DEFAULT_HOST, text
    if host == "index.docker.io":
        host = DEFAULT_HOST
    if host == DEFAULT_HOST and "/" not in path.partition("@")[0]:
        path = f"library/{path}"
    named = "@" in path or ":" in path
    return str(parse(f"{host}/{path}" if named else f"{host}/{path}:latest"))
