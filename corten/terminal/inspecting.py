"""What the daemon knows of an image or a container, in one JSON document."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from corten import containers, manifests
from corten.containers import Container
from corten.terminal import tables
from plugin_sdk import errors
from plugin_sdk.images import Image
from plugin_sdk.platforms import Platform

if TYPE_CHECKING:
    from corten.client import Client


def image(client: Client, record: Image, platform: Platform | None = None) -> dict[str, Any]:
    """The record, and of the platform, this machine's if None: manifest and config as they stand in the content.

    ``manifest`` and ``config`` are null where that platform's content is not there."""
    shown: dict[str, Any] = {"kind": "image", **tables.plain(record), "platforms": [], "manifest": None, "config": None}
    try:
        shown["platforms"] = [str(each) for each in client.images.platforms(record)]
        chosen = manifests.choose(client.content, record.target, platform)
        shown["manifest"] = {"digest": chosen.target.digest, **_document(client, chosen.target)}
        shown["config"] = _document(client, chosen.manifest.config)
    except errors.NotFound:
        if platform is not None:
            raise
    return shown


def _document(client: Client, blob: Any) -> dict[str, Any]:
    try:
        found = json.loads(manifests.read(client.content, blob))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def container(client: Client, found: Container) -> dict[str, Any]:
    """The record with its spec, and its task, which is null without one."""
    shown = {"kind": "container", **tables.plain(containers.record(found))}
    shown["spec"] = shown["spec"]["value"]
    shown["task"] = None
    with contextlib.suppress(errors.NotFound):
        shown["task"] = tables.plain(client.tasks.get(found.id))
    return shown
