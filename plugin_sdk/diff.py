"""Diff: a layer becomes files, and the difference of two trees becomes a layer.

Words. A **differ** is an **applier** and a **comparer**. It reads and writes blobs through the content store that
each call names, and files through mounts. A **diff ID** is the digest of the uncompressed tar.

One use from start to end::

    layer = differ.apply(descriptor, snapshotter.prepare("extract-1", parent), view.content)
    assert layer.digest == diff_id_from_the_image_config
    blob = differ.compare(lower_mounts, upper_mounts, view.content, media_type=oci.LAYER_GZIP)

``apply`` reads the blob to its very end, verifies it, and leaves files, or raises: then what it has written so far
stays in the mount, and the caller throws that snapshot away. Nothing outside of the mount's root is touched, whatever
the tar says. ``compare`` writes one blob with whiteouts for what only ``lower`` has; of identical trees it makes a
valid tar without entries. When ``compare`` raises, its ingest stays and can be aborted.

All methods block and may be called from several threads. While ``apply`` works it reads nothing (``read_at(0, 0)``)
from the blob's reader now and then, which raises when the caller has gone; then it gives up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from plugin_sdk.content import Store
from plugin_sdk.mounts import Mount
from plugin_sdk.oci import Descriptor


class Differ(Protocol):
    def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        content: Store,
        *,
        payloads: Mapping[str, tuple[str, bytes]] | None = None,
        sync: bool = False,
    ) -> Descriptor:
        """Unpacks the layer and answers the descriptor of its uncompressed tar: media type, diff ID, size.

        ``payloads`` (type URL and bytes by id) are for stream processors. ``sync`` asks for syncfs(2) before the
        answer. Raises Unimplemented for a media type that it does not know, NotFound for a missing blob,
        InvalidArgument for a malformed or hostile layer, DataLoss for a blob whose bytes are not those of its digest.
        """
        ...

    def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        content: Store,
        *,
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        source_date_epoch: int | None = None,
    ) -> Descriptor:
        """Writes the changes that make ``upper`` of ``lower`` and answers the descriptor of the blob.

        An empty media type means OCI tar+gzip, an empty ref one of the differ's choice; a given ref begins again at 0.
        ``source_date_epoch`` (nanoseconds) bounds every time in the tar. The blob gets ``labels`` and, if compressed,
        ``containerd.io/uncompressed`` with its diff ID, also when it existed already. Raises Unimplemented for a media
        type that it cannot write.
        """
        ...
