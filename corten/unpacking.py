"""Unpack: the layers of an image become snapshots, each named by its chain ID."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from plugin_sdk import content, daemon, errors, oci, snapshots
from plugin_sdk.layer_context import LayerContext

SNAPSHOT_LABEL = "containerd.io/gc.ref.snapshot."


@dataclass(frozen=True, slots=True)
class Source:
    """Of what the layers are: what a snapshotter that fetches them by itself needs to know. ``digest`` is that of the
    manifest."""

    reference: str
    digest: str
    manifest: oci.Manifest


def unpack(view: daemon.View, snapshotter: str, source: Source, diff_ids: Sequence[str]) -> str:
    """Makes what is missing and returns the chain ID of the whole.

    Raises InvalidArgument when config and layers do not fit, DataLoss when a layer has another diff ID than the config
    says.
    """
    config, layers = source.manifest.config, source.manifest.layers
    if len(diff_ids) != len(layers):
        raise errors.InvalidArgument(
            f"image config {config.digest} lists {len(diff_ids)} layers and the manifest {len(layers)}"
        )
    storage = view.snapshotter(snapshotter)
    parent = chain = ""
    for number, chain in enumerate(oci.chain_ids(diff_ids)):
        if not _exists(storage, chain):
            above = tuple(layer.digest for layer in layers[number:])
            context = LayerContext(chain, parent, source.reference, source.digest, layers[number], above)
            _unpack_layer(view, storage, context, diff_ids[number])
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


def _unpack_layer(view: daemon.View, storage: snapshots.Snapshotter, context: LayerContext, diff_id: str) -> None:
    layer, chain = context.layer, context.target
    assert layer is not None
    key = f"extract-{time.time_ns() % 10**9}-{secrets.token_urlsafe(3)} {chain}"
    try:
        mounts = storage.prepare(key, context.parent, context.labels())
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
