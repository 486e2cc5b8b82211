"""Archives as ``docker save`` has written them: they have no manifests, so that manifests and an index are made.

What is made of an archive has the digests that containerd makes of it, for the names are those of docker's media types
and the JSON is Go's. Source: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from plugin_sdk import errors, oci, platforms
from plugin_sdk.distribution import references, sentences, stored
from plugin_sdk.distribution.archive import layout
from plugin_sdk.distribution.archive.intake import Intake
from plugin_sdk.oci import Descriptor
from plugin_sdk.platforms import Platform


@dataclass(frozen=True, slots=True)
class Saved:
    """An image of ``manifest.json``; ``config`` and ``layers`` are members."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...] = ()


def parse(data: bytes) -> list[Saved]:
    """Raises InvalidArgument."""
    try:
        return [_saved(each) for each in json.loads(data)]
    except (ValueError, TypeError, KeyError, RecursionError) as err:
        raise errors.InvalidArgument(f"{layout.SAVED} of the archive is not what docker save writes") from err


def _saved(each: Any) -> Saved:
    found = Saved(each["Config"], tuple(each["Layers"] or ()), tuple(each.get("RepoTags") or ()))
    if not all(isinstance(text, str) for text in (found.config, *found.layers, *found.names)):
        raise TypeError
    return found


def make_index(data: bytes, find: Callable[[str], Descriptor], intake: Intake, *, compress: bool) -> bytes:
    """The index of the images of ``manifest.json``, whose manifests are stored. ``find`` answers what a member is."""
    entries: list[dict[str, Any]] = []
    for saved in parse(data):
        config = replace(find(saved.config), media_type=oci.DOCKER_CONFIG)
        layers = [_layer(find(name), intake, compress=compress) for name in saved.layers]
        document = {
            "schemaVersion": 2,
            "mediaType": oci.DOCKER_MANIFEST,
            "config": layout.entry(config),
            "layers": [layout.entry(layer) for layer in layers],
        }
        manifest = intake.put(layout.encode(document), oci.DOCKER_MANIFEST)
        with sentences.about(saved.config):
            platform = _platform(stored.read(intake.store, config))
        entries += [layout.entry(of, platform) for of in _called(manifest, saved.names)]
    return layout.index(entries)


def _called(manifest: Descriptor, names: tuple[str, ...]) -> Iterator[Descriptor]:
    """Once for each name, or once without."""
    if not names:
        yield manifest
    for name in names:
        yield replace(manifest, annotations=layout.named(references.familiar(name)))


def _layer(member: Descriptor, intake: Intake, *, compress: bool) -> Descriptor:
    """The member itself, or what holds the same in a compressed form already, or has to."""
    if known := intake.compressed(member.digest):
        return Descriptor(_media_type(intake.head(known)), known, intake.size(known))
    media_type = _media_type(intake.head(member.digest))
    if compress and media_type == oci.DOCKER_LAYER:
        return intake.compress(member)
    return replace(member, media_type=media_type)


def _media_type(head: bytes) -> str:
    return {"": oci.DOCKER_LAYER, "zstd": oci.DOCKER_LAYER_ZSTD}.get(
        oci.detect_compression(head), oci.DOCKER_LAYER_GZIP
    )


def _platform(config: bytes) -> Platform:
    """An image that tells no system is for this one."""
    found = oci.parse_config(config).platform
    return platforms.normalize(replace(found, os=found.os or platforms.host().os))
