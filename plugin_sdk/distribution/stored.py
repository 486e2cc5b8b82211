"""Blobs of an image that are to be in the content store."""

from __future__ import annotations

from plugin_sdk import content, errors
from plugin_sdk.oci import Descriptor

JSON = 16 << 20  # bytes of an index, a manifest or a config


def require(store: content.Store, of: Descriptor, name: str) -> None:
    """Raises NotFound when the blob is not there, InvalidArgument when it has another size; ``name`` is the image's."""
    try:
        size = store.info(of.digest).size
    except errors.NotFound:
        raise errors.NotFound(f"{name}: blob {of.digest} is missing: not found") from None
    if size != of.size:
        raise errors.InvalidArgument(f"{name}: blob {of.digest} has {size} bytes, its descriptor says {of.size}")


def read(store: content.Store, of: Descriptor, name: str) -> bytes:
    """An index, a manifest or a config, as ``require``. Raises ResourceExhausted for one that is too large."""
    if of.size > JSON:
        raise errors.ResourceExhausted(f"{name}: blob {of.digest} has {of.size} bytes, more than {JSON}")
    require(store, of, name)
    with store.reader(of.digest) as reader:
        return reader.read_at(0, of.size)
