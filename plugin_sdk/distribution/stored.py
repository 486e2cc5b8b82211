"""Blobs that are to be in the content store already: whether they are, and have the size that their descriptor says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from plugin_sdk import content, errors
from plugin_sdk.oci import Descriptor

JSON = 16 << 20  # bytes of an index, a manifest or a config


def exists(store: content.Store, digest: str) -> bool:
    try:
        store.info(digest)
    except errors.NotFound:
        return False
    return True


def require(store: content.Store, of: Descriptor) -> None:
    """Raises NotFound when the blob is not there, InvalidArgument when it has another size."""
    with _named(of):
        _check(of, store.info(of.digest).size)


def read(store: content.Store, of: Descriptor) -> bytes:
    """A whole index, manifest or config, as ``require``. Raises ResourceExhausted for one that is too large."""
    if of.size > JSON:
        raise errors.ResourceExhausted(f"blob {of.digest} has {of.size} bytes, more than {JSON}")
    with _named(of), store.reader(of.digest) as reader:
        _check(of, reader.size)
        return reader.read_at(0, of.size)


def find(store: content.Store, of: Descriptor) -> bytes | None:
    """As ``read``, None for one that is not there."""
    try:
        return read(store, of)
    except errors.NotFound:
        return None


def _check(of: Descriptor, size: int) -> None:
    if size != of.size:
        raise errors.InvalidArgument(f"blob {of.digest} has {size} bytes, its descriptor says {of.size}")


@contextlib.contextmanager
def _named(of: Descriptor) -> Iterator[None]:
    try:
        yield
    except errors.NotFound:
        raise errors.NotFound(f"blob {of.digest} is missing: not found") from None
