"""What the parts of the suite for differs stand on: the differ, its store, stacks of layers."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin_sdk import content, diff, errors, oci
from plugin_sdk.conformance import layers
from plugin_sdk.conformance.layers import (
    Stack,
    tar,
)
from plugin_sdk.conformance.shelf import digest_of, put
from plugin_sdk.oci import Descriptor

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""net_raw, permitted and effective, as security.capability holds it (linux/capability.h)."""

Apply = Callable[..., Descriptor]


def keep(store: content.Store, data: bytes) -> str:
    """The digest of a blob with these bytes, which may be there already."""
    digest = digest_of(data)
    with contextlib.suppress(errors.AlreadyExists):
        put(store, data, f"layer-{digest}")
    return digest


class Rig:
    """Fixtures that the parts of the suite share."""

    @pytest.fixture
    def store(self) -> content.Store:
        raise NotImplementedError("a subclass gives the store")

    @pytest.fixture
    def differ(self) -> diff.Differ:
        raise NotImplementedError("a subclass gives the differ")

    @pytest.fixture
    def supports_zstd(self) -> bool:
        return True

    @pytest.fixture
    def supports_store(self) -> bool:
        """The differ uses the store that a call names; at the far end of a socket it has one of its own."""
        return True

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        """On tmpfs where there is one: it is faster, and overlayfs takes it for an upper directory."""
        path = Path(tempfile.mkdtemp(prefix="corten-diff-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        yield path
        shutil.rmtree(path)

    @pytest.fixture(params=["plain", "overlay", "through"])
    def stack(self, folder: Path, request: pytest.FixtureRequest) -> Stack:
        return Stack(folder, request.param)

    @pytest.fixture
    def overlay(self, folder: Path) -> Stack:
        return Stack(folder, "overlay")

    @pytest.fixture
    def apply(self, differ: diff.Differ, store: content.Store) -> Apply:
        def apply(stack: Stack, *members: layers.Member, data: bytes = b"", media_type: str = oci.LAYER) -> Descriptor:
            data = data or tar(*members)
            return differ.apply(Descriptor(media_type, keep(store, data), len(data)), stack.push(), store)

        return apply
