"""Which image records an import makes: the names that the caller gives, and those that the archive gives.

A name that is no prefix is for the whole archive: its record points to the index of it. A prefix is for each image, as
``transfer.Name`` tells. These are the rules of containerd's ``ImageReference``, with which its ``ctr`` names images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from plugin_sdk import oci, transfer
from plugin_sdk.distribution.archive import layout
from plugin_sdk.images import Image
from plugin_sdk.oci import Descriptor


def of_archive(store: transfer.ImageStore, index: Descriptor) -> list[Image]:
    """Records for the index."""
    names = [store.name] if store.name else []
    for extra in store.extra:
        if not extra.is_prefix:
            names.append(f"{extra.name}@{index.digest}" if extra.add_digest else extra.name)
    return _records(store, names, index)


def of_image(store: transfer.ImageStore, target: Descriptor) -> list[Image]:
    """Records for an image of the index, whose annotations tell how it is called there."""
    return _records(store, list(_names(store.extra, target)), target)


def _records(store: transfer.ImageStore, names: Sequence[str], target: Descriptor) -> list[Image]:
    return [Image(name, target, store.labels) for name in dict.fromkeys(names)]


def _names(extra: Sequence[transfer.Name], target: Descriptor) -> Iterator[str]:
    for prefix in extra:
        if not prefix.is_prefix:
            continue
        name = _name(prefix, target.annotations)
        if name:
            yield name
        if prefix.add_digest and not (name and prefix.skip_named_digest):
            yield f"{prefix.name}@{target.digest}"


def _name(prefix: transfer.Name, annotations: Mapping[str, str]) -> str:
    """The image's name under this prefix; "" for none."""
    if whole := annotations.get(layout.IMAGE_NAME):
        return whole if _is_whole(whole) and _fits(prefix, whole) else ""
    tag = annotations.get(oci.REF_NAME, "")
    if not tag or not _is_whole(tag):
        return f"{prefix.name}:{tag}" if tag else ""
    return tag if _fits(prefix, tag) else ""


def _is_whole(name: str) -> bool:
    """Or else a tag."""
    return any(mark in name for mark in "/:@")


def _fits(prefix: transfer.Name, name: str) -> bool:
    if prefix.allow_overwrite:
        return True
    return name.startswith(prefix.name) and name[len(prefix.name) :][:1] in ("", "/", ":", "@")
