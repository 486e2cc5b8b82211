"""What a program at an address serves and what it can do, found by asking; nothing that is there is changed."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from plugin_sdk import content, diff, errors, handshake, mounts, oci, plugin, snapshots
from plugin_sdk.conformance.layers import member, tar, zstd
from plugin_sdk.conformance.shelf import MISSING, Shelf
from plugin_sdk.conformance.snapshot_rig import Subject
from plugin_sdk.release import VERSION
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content as wire_content
from plugin_sdk.wire import diff as wire_diff
from plugin_sdk.wire import handshake as wire_handshake
from plugin_sdk.wire import rpc, transport
from plugin_sdk.wire import snapshots as wire_snapshots

TYPES = {"snapshot": plugin.SNAPSHOTTER, "content": plugin.CONTENT, "diff": plugin.DIFFER}
"""Types as plugins.toml has them, and their long names."""

_LARGE = 4 << 20  # bytes, against which what a file system needs for itself is little
_CHILD = "child"


def served(channel: rpc.Channel, scope: Scope, name: str) -> tuple[str, ...]:
    """The types that the program says it serves in the handshake, or that answer a call that changes nothing.

    Raises Unavailable or DeadlineExceeded when nobody answers, FailedPrecondition when the program speaks another API
    than this release, InvalidArgument when it has no snapshotter ``name``."""
    try:
        description = wire_handshake.Proxy(channel, scope).describe(VERSION, name)
    except (transport.Lost, errors.DeadlineExceeded):
        raise
    except errors.Error:
        return tuple(type for type in TYPES if serves(channel, scope, type, name))
    if not description.api.overlaps(handshake.API):
        raise errors.FailedPrecondition(
            f"the program speaks version {description.api} of the plugin API, this release {handshake.API}"
        )
    return tuple(type for type, kind in TYPES.items() if kind in description.kinds)


def serves(channel: rpc.Channel, scope: Scope, type: str, name: str) -> bool:
    """Whether one type answers. Raises as ``served``."""
    asks: dict[str, Callable[[], object]] = {
        "snapshot": lambda: wire_snapshots.Proxy(channel, scope, name).stat(f"missing-{secrets.token_hex(8)}"),
        "content": lambda: wire_content.Proxy(channel, scope).info(MISSING),
        "diff": lambda: wire_diff.Proxy(channel, scope).apply(
            oci.Descriptor(oci.LAYER, MISSING, 1), [], wire_content.Proxy(channel, scope)
        ),
    }
    try:
        asks[type]()
    except errors.Unimplemented:
        return False
    except (transport.Lost, errors.DeadlineExceeded):
        raise
    except errors.InvalidArgument as err:
        if type == "snapshot":
            raise errors.InvalidArgument(f'no snapshotter is named "{name}" there: {err.message}') from err
    except errors.Error:
        pass
    return True


def cleans_up(snapshotter: snapshots.Snapshotter) -> bool:
    """Whether ``cleanup`` is there."""
    return not _unimplemented(snapshotter.cleanup)


def keeps_holes(snapshotter: snapshots.Snapshotter) -> bool:
    """Whether a hole in a parent's file is one in its child's. Needs root."""

    def write(file: BinaryIO) -> None:
        file.truncate(_LARGE)

    def look(subject: Subject, root: Path) -> bool:
        return (root / "file").stat().st_blocks * 512 < _LARGE // 2

    return _of_a_child(snapshotter, write, look)


def shares(snapshotter: snapshots.Snapshotter) -> bool:
    """Whether a child does not count its parent's files. Needs root."""

    def write(file: BinaryIO) -> None:
        file.write(os.urandom(_LARGE))

    def look(subject: Subject, root: Path) -> bool:
        return subject.usage(_CHILD).size < _LARGE // 2

    return _of_a_child(snapshotter, write, look)


def _of_a_child(
    snapshotter: snapshots.Snapshotter, write: Callable[[BinaryIO], object], look: Callable[[Subject, Path], bool]
) -> bool:
    """What ``look`` says of a child of a layer with one file; True when it cannot be made, for the checks to tell."""
    subject = Subject(snapshotter)
    try:
        with mounts.temporary(subject.prepare("key")) as root, Path(root, "file").open("wb") as file:
            write(file)
        subject.commit("layer", "key")
        with mounts.temporary(subject.prepare(_CHILD, "layer")) as root:
            return look(subject, Path(root))
    except (errors.Error, OSError):
        return True
    finally:
        subject.tidy()


def keeps_labels(store: Shelf) -> bool:
    """Whether blobs have labels."""
    try:
        digest = store.put(store.data())
        return not _unimplemented(lambda: store.update(content.Info(digest, 0, labels={"a": "b"})))
    finally:
        store.clear()


def inflates_zstd(differ: diff.Differ, store: Shelf) -> bool:
    """Whether layers may be compressed with zstd. Needs root."""
    data = zstd(tar(member("a", os.urandom(16))))
    return not isinstance(_applied(differ, store, oci.LAYER_ZSTD, data), errors.Unimplemented)


def reads(differ: diff.Differ, store: Shelf) -> bool:
    """Whether this is the store whose blobs the differ finds. Needs root."""
    data = tar(member("a", os.urandom(16)))
    return not isinstance(_applied(differ, store, oci.LAYER, data), errors.NotFound)


def _applied(differ: diff.Differ, store: Shelf, media_type: str, data: bytes) -> errors.Error | None:
    """What it raises for a layer that is unpacked into a directory of ours, and removed."""
    with tempfile.TemporaryDirectory(prefix="corten-check-") as folder:
        try:
            layer = oci.Descriptor(media_type, store.put(data), len(data))
            differ.apply(layer, [mounts.Mount("bind", folder, "", ("rbind", "rw"))], store)
        except errors.Error as err:
            return err
        finally:
            store.clear()
    return None


def _unimplemented(ask: Callable[[], object]) -> bool:
    """Other failures are for the checks to find."""
    try:
        ask()
    except errors.Unimplemented:
        return True
    except errors.Error:
        pass
    return False
