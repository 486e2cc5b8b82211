"""Diff: a layer becomes files, and the difference of two trees becomes a layer.

Words. A **differ** is an **applier** and a **comparer**. It reads and writes blobs through the content store that
each call names, and files through mounts. A **diff ID** is the digest of the uncompressed tar.

One use from start to end::

    layer = differ.apply(descriptor, snapshotter.prepare("extract-1", parent), view.content)
    assert layer.digest == diff_id_from_the_image_config
    blob = differ.compare(lower_mounts, upper_mounts, view.content, media_type=oci.LAYER_GZIP)

Blobs. ``apply`` reads the blob to its very end. What follows the archive is part of the diff ID. gzip and zstd are
inflated, also in several members or frames. Docker's plain types may hide either. The tars are those of v7, ustar, GNU
and pax, sparse files among them. A tar may lack its final blocks. After an error some of the files may be in the mount:
the caller throws that snapshot away.

Entries. A file gets data, mode, owner, extended attributes and the time to the nanosecond. So does a directory, also
when entries follow that change it. Symbolic links, devices and fifos are made as they are. Hard links share one file,
also with a file of a lower layer. Attributes of overlayfs are not taken from a layer. Names are bytes and relative to
the root. Missing parents are made with mode 0755, and those that exist stay as they are. Of several entries of one name
the last wins. An entry replaces what is there, but a directory over a directory keeps what that holds. Symbolic links
on the way to a name are followed, as if the root were ``/``.

Whiteouts. ``.wh.NAME`` removes NAME of the layers below. ``.wh..wh..opq`` removes all that the layers below have in its
directory. What the layer itself has made stays. A device 0:0 is a whiteout too, as overlayfs writes it. Other names
with ``.wh..wh.`` are notes of aufs, and left out.

Safety. Nothing outside of the mount's root is touched, whatever the tar says. Whatever a layer says, the outcome is
files inside or one of the errors named here. When a call has ended, nothing is mounted that was not before.

Comparing. ``compare`` writes one blob, which makes ``upper`` of ``lower`` when it is applied there. Every kind of file
is written but sockets. What only ``lower`` has becomes a whiteout. A change of anything is seen: kind, mode, owner,
size, time, attributes, the target of a link. Where both times have no fraction, the content decides. Of identical trees
it makes a valid tar without entries. The same trees make the same blob. Entries stand in the order of their names, and
directories before what is in them. Both trees stay as they are. When ``compare`` raises, its ingest stays and can be
aborted.

All methods block and may be called from several threads. The blob's reader need not have a descriptor. While ``apply``
works it reads nothing (``read_at(0, 0)``) from the blob's reader now and then. When that raises, since the caller has
gone, ``apply`` gives up. An error of the store is raised as it is. Readers and writers are closed when the call ends.
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

        ``payloads`` (type URL and bytes by id) are for stream processors, and change nothing where there is none.
        ``sync`` asks for syncfs(2) before the answer. A media type that it does not know raises Unimplemented. A blob
        that is missing raises NotFound. A blob of another size than the descriptor's raises InvalidArgument. A
        malformed layer raises InvalidArgument that names the entry, if it is one. A layer that would leave the root
        raises InvalidArgument. A blob whose bytes are not those of its digest raises DataLoss. Mounts that cannot be
        mounted or written raise FailedPrecondition. A full disk raises ResourceExhausted.
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

        No mounts are an empty tree. An empty media type means OCI tar+gzip. An empty ref means one of the differ's
        choice, and a given ref begins again at 0. ``source_date_epoch`` (nanoseconds) bounds every time in the tar. The
        blob gets ``labels``, also when it existed already. If it is compressed, it gets the label
        ``containerd.io/uncompressed`` with its diff ID, too. A media type that it cannot write raises Unimplemented.
        """
        ...
