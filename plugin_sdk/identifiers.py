"""Identifiers, digests and labels: what names may look like.

An **identifier** names a namespace, a container, an exec or a part of a topic: runs of ASCII letters and digits, joined
by one of ``.``, ``_``, ``-``, at most 76 bytes. Lease ids, snapshot keys, refs of ingests and names of images are not
identifiers. Every function here answers None or raises InvalidArgument.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from plugin_sdk import errors

MAX_LENGTH = 76
MAX_LABEL = 4096
"""Bytes of a label's key and value together, in UTF-8."""

DIGEST_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
"""Hexadecimal digits by algorithm."""

_PATTERN = r"^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"
_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_DIGEST = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):([A-Za-z0-9=_-]+)")
_HEX = re.compile(r"[0-9a-f]+")
_SHOWN = 10


@functools.lru_cache(1024)  # each call names its namespace
def validate(identifier: str) -> None:
    if not identifier:
        raise errors.InvalidArgument("identifier must not be empty")
    if len(identifier) > MAX_LENGTH:
        raise errors.InvalidArgument(f'identifier "{identifier}" greater than maximum length ({MAX_LENGTH} characters)')
    if not _IDENTIFIER.fullmatch(identifier):
        raise errors.InvalidArgument(f'identifier "{identifier}" must match {_PATTERN}')


def validate_topic(topic: str) -> None:
    """A topic is ``/`` and identifiers joined by ``/``."""
    if not topic:
        raise errors.InvalidArgument("topic must not be empty")
    if not topic.startswith("/"):
        raise errors.InvalidArgument(f'topic "{topic}" must start with "/"')
    for part in topic[1:].split("/"):
        try:
            validate(part)
        except errors.InvalidArgument as err:
            raise errors.InvalidArgument(f'topic "{topic}": {err.message}') from err


def validate_digest(digest: str) -> None:
    """``ALGORITHM:HEX`` with sha256, sha384 or sha512 and as many lower-case digits as it has."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise errors.InvalidArgument(f'digest "{digest}": invalid checksum digest format')
    algorithm, digits = match.groups()
    if algorithm not in DIGEST_LENGTHS:
        raise errors.InvalidArgument(f'digest "{digest}": unsupported digest algorithm')
    if len(digits) != DIGEST_LENGTHS[algorithm]:
        raise errors.InvalidArgument(f'digest "{digest}": invalid checksum digest length')
    if not _HEX.fullmatch(digits):
        raise errors.InvalidArgument(f'digest "{digest}": invalid checksum digest format')


def validate_label(key: str, value: str) -> None:
    size = len(key.encode()) + len(value.encode())
    if size > MAX_LABEL:
        raise errors.InvalidArgument(
            f"label key and value greater than maximum size ({MAX_LABEL} bytes), key: {key[:_SHOWN]}"
        )


def validate_labels(labels: Mapping[str, str]) -> None:
    for key, value in labels.items():
        validate_label(key, value)
