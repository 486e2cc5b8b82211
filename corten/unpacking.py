"""Unpack: the layers of an image become snapshots, each named by its chain ID."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from plugin_sdk import content, daemon, errors, oci, snapshots
from plugin_sdk.oci import Descriptor

SNAPSHOT_LABEL = "containerd.io/gc.ref.snapshot."


def unpack(view: daemon.View, snapshotter: str, manifest: oci.Manifest, diff_ids: Sequence[str]) -> str:
    """Makes what is missing and returns the chain ID of the whole.

    Raises InvalidArgument when config and layers do not fit, DataLoss when a layer has another diff ID than the config
    says.
    """
    config, layers = manifest.config, manifest.layers
    if len(diff_ids) != len(layers):
        raise errors.InvalidArgument(
            f"image config {config.digest} lists {len(diff_ids)} layers and the manifest {len(layers)}"
        )
    storage = view.snapshotter(snapshotter)
    parent = chain = ""
    for layer, diff_id, chain in zip(layers, diff_ids, oci.chain_ids(diff_ids), strict=True):
        if not _exists(storage, chain):
            _unpack_layer(view, storage, layer, diff_id, parent, chain)
        parent = chain
    if chain:
        labels = {SNAPSHOT_LABEL + snapshotter: chain}
        view.content.update(content.Info(config.digest, 0, labels=labels), [f"labels.{key}" for key in labels])
    return chain


def _exists(storage: snapshots.Snapshotter, name: str) -> bool:
    try:
        storage.stat(name)
    except errors.NotFound:
        return False
    return True


def _unpack_layer(
    view: daemon.View, storage: snapshots.Snapshotter, layer: Descriptor, diff_id: str, parent: str, chain: str
) -> None:
    key = f"extract-{time.time_ns() % 10**9}-{secrets.token_urlsafe(3)} {chain}"
    try:
        mounts = storage.prepare(key, parent, {snapshots.TARGET_LABEL: chain})
    except errors.AlreadyExists:
        if _exists(storage, chain):  # a remote snapshotter had it
            return
        raise
    try:
        made = view.differ().apply(layer, mounts, view.content)
        if made.digest != diff_id:
            raise errors.DataLoss(f"layer {layer.digest} has the diff ID {made.digest}, its config says {diff_id}")
        storage.commit(chain, key)
    except errors.AlreadyExists:
        storage.remove(key)  # another unpacked the same layer meanwhile
    except BaseException:
        _give_up(storage, key)
        raise


def _give_up(storage: snapshots.Snapshotter, key: str) -> None:
    try:
        storage.remove(key)
    except errors.Error:
        return  # the lease ends, and with it the key
