"""What stands in an archive of images: the files of an OCI layout, and docker's ``manifest.json`` beside them.

::

    oci-layout              {"imageLayoutVersion": "1.0.0"}
    index.json              an index of the images; annotations name them
    blobs/ALGORITHM/HEX     every blob
    manifest.json           [{"Config": MEMBER, "RepoTags": [NAME], "Layers": [MEMBER]}], for ``docker load``

JSON is written as Go writes it, so that what is made of the same archive has the same digest everywhere. Sources: OCI
image specification 1.0, image-layout.md and annotations.md; Docker image specification v1.2, "Combined Image JSON +
Filesystem Changeset Format".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from plugin_sdk import errors, identifiers, oci
from plugin_sdk.oci import Descriptor
from plugin_sdk.platforms import Platform

LAYOUT, INDEX, SAVED = "oci-layout", "index.json", "manifest.json"
BLOBS = "blobs/"
VERSION = "1.0.0"
IMAGE_NAME = "io.containerd.image.name"
"""Annotation in an index: the whole name of an image."""

_ESCAPED = {"&": "\\u0026", "<": "\\u003c", ">": "\\u003e", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ESCAPES = re.compile("[&<>\u2028\u2029\ud800-\udfff]")
_NO_CHARACTER = "\ufffd"  # in the place of half a one


def encode(value: object) -> bytes:
    """JSON without spaces, as Go writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _ESCAPES.sub(lambda found: _ESCAPED.get(found[0], _NO_CHARACTER), text).encode()


def index(entries: Sequence[dict[str, Any]], media_type: str = "") -> bytes:
    """``media_type`` says what it is, which older writers left out."""
    return encode({"schemaVersion": 2, **({"mediaType": media_type} if media_type else {}), "manifests": list(entries)})


def entry(of: Descriptor, platform: Platform | None = None) -> dict[str, Any]:
    """A descriptor as JSON has it."""
    found: dict[str, Any] = {"mediaType": of.media_type, "digest": of.digest, "size": of.size}
    if of.annotations:
        found["annotations"] = dict(sorted(of.annotations.items()))
    if platform is not None:
        found["platform"] = {"architecture": platform.architecture, "os": platform.os, **_details(platform)}
    return found


def _details(platform: Platform) -> dict[str, Any]:
    details = {"os.version": platform.os_version, "os.features": list(platform.os_features)}
    return {key: value for key, value in {**details, "variant": platform.variant}.items() if value}


def blob(digest: str) -> str:
    """The member that holds a blob."""
    return BLOBS + digest.replace(":", "/", 1)


def digest_of(member: str) -> str:
    """The digest that a member claims by its name; "" for one that claims none."""
    algorithm, slash, digits = member.removeprefix(BLOBS).partition("/")
    if not member.startswith(BLOBS) or not slash:
        return ""
    try:
        identifiers.validate_digest(f"{algorithm}:{digits}")
    except errors.InvalidArgument:
        return ""
    return f"{algorithm}:{digits}"


def named(name: str, annotations: Mapping[str, str] | None = None) -> dict[str, str]:
    """Annotations by which an index calls an image ``name``, over those that it has."""
    return {**(annotations or {}), IMAGE_NAME: name, oci.REF_NAME: object_of(name)}


def object_of(name: str) -> str:
    """The tag of a reference, or ``@`` and its digest; the whole name when it is no reference."""
    host, slash, path = name.partition("/")
    _, colon, port = host.rpartition(":")
    if not host or (colon and not port.isdecimal()):
        return name
    found = re.search("[:@]", path) if slash else None
    return "" if found is None else path[found.start() :].removeprefix(":")


def check_version(data: bytes) -> None:
    """Of ``oci-layout``. Raises InvalidArgument for another version than 1.0.0."""
    version = oci.parse_json(data, LAYOUT).get("imageLayoutVersion")
    if version != VERSION:
        raise errors.InvalidArgument(f"{LAYOUT} says version {str(version)[:40]!r}, which is not {VERSION}")
