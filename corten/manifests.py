"""What an image is made of, as far as its content is there: index, manifest, config, layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from plugin_sdk import content, errors, oci, platforms
from plugin_sdk.oci import Descriptor
from plugin_sdk.platforms import Platform


@dataclass(frozen=True, slots=True)
class Chosen:
    """One platform's manifest of an image; ``target`` points to it."""

    target: Descriptor
    manifest: oci.Manifest


def read(store: content.Store, blob: Descriptor) -> bytes:
    with store.reader(blob.digest) as reader:
        return reader.read_at(0, reader.size)


def choose(store: content.Store, target: Descriptor, platform: Platform | None = None) -> Chosen:
    """The best manifest for ``platform``, this machine's own if None, whose content is there.

    Raises NotFound when none fits or its blob is missing, InvalidArgument for what is neither index nor manifest.
    """
    wanted = platform or platforms.host()
    while oci.is_index(target.media_type):
        fitting = oci.candidates(oci.parse_index(read(store, target)), wanted)
        target = next((each.descriptor for each in fitting if _has(store, each.descriptor)), fitting[0].descriptor)
    if not oci.is_manifest(target.media_type):
        raise errors.InvalidArgument(f"{target.digest} is neither an index nor a manifest: {target.media_type}")
    return Chosen(target, oci.parse_manifest(read(store, target)))


def config(store: content.Store, chosen: Chosen) -> oci.ImageConfig:
    """Raises InvalidArgument for an artifact, which has none."""
    of = chosen.manifest.config
    if not oci.is_config(of.media_type):
        raise errors.InvalidArgument(f"{chosen.target.digest} is no container image: its config is {of.media_type}")
    return oci.parse_config(read(store, of))


def available(store: content.Store, target: Descriptor) -> list[Platform]:
    """The platforms of an image whose manifests are there."""
    found: list[Platform] = []
    for entry in _manifests(store, target, None, set()):
        if entry.platform is not None:
            found.append(platforms.normalize(entry.platform))
            continue
        chosen = Chosen(entry.descriptor, oci.parse_manifest(read(store, entry.descriptor)))
        if oci.is_config(chosen.manifest.config.media_type) and _has(store, chosen.manifest.config):
            found.append(platforms.normalize(config(store, chosen).platform))
    return found


def _manifests(
    store: content.Store, target: Descriptor, platform: Platform | None, seen: set[str]
) -> Iterator[oci.Entry]:
    if target.digest in seen or not _has(store, target):
        return
    seen.add(target.digest)
    if oci.is_manifest(target.media_type):
        yield oci.Entry(target, platform)
    elif oci.is_index(target.media_type):
        for entry in oci.parse_index(read(store, target)).entries:
            yield from _manifests(store, entry.descriptor, entry.platform, seen)


def walk(store: content.Store, target: Descriptor) -> Iterator[Descriptor]:
    """The blobs of an image that are there, each once, what refers to others first."""
    todo, seen = [target], set()
    while todo:
        blob = todo.pop()
        if blob.digest in seen or not _has(store, blob):
            continue
        seen.add(blob.digest)
        yield blob
        if oci.is_index(blob.media_type) or oci.is_manifest(blob.media_type):
            todo += reversed(oci.children(blob.media_type, read(store, blob)))


def _has(store: content.Store, blob: Descriptor) -> bool:
    try:
        store.info(blob.digest)
    except errors.NotFound:
        return False
    return True
