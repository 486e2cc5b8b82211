"""Transfer: copies that the daemon makes: pull, push, import, export, tag.

Words. A transfer goes from a **source** to a **destination**. A **registry** holds repositories of images, and a
**reference** names an image there. An **image store** is a namespace's images with their content and snapshots. A
**byte stream** is an image archive on its way: an OCI image layout, or what ``docker save`` writes, as a tar.

One use from start to end::

    registry = transfer.Registry("docker.io/library/busybox:latest")
    store = transfer.ImageStore("docker.io/library/busybox:latest", unpacks=[transfer.Unpack()])
    for name in view.transfer.transfer(registry, store, progress=print):
        print(name, view.images.get(name).target.digest)

Pairs. Registry → image store pulls. Image store → registry pushes. Byte stream → image store imports. Image store →
byte stream exports. Image store → image store tags. Byte stream → byte stream copies the bytes. Another pair raises
Unimplemented.

Outcome. A transfer that returns has done its work: what it made is on disk, and the image records name it. A transfer
that raises makes no image record: it leaves ingests, and blobs and snapshots that nothing names, at which the next one
goes on. A lease keeps what it makes while it works. Layers are unpacked only for the entries of ``unpacks``. When the
caller has gone, the transfer stops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from plugin_sdk.oci import Descriptor
from plugin_sdk.platforms import Platform


@dataclass(frozen=True, slots=True)
class Credentials:
    """For one registry host. ``header`` is a whole Authorization header; ``refresh`` an identity token, which is
    exchanged for a bearer token; else ``username`` and ``secret``. Never shown in a message or a log."""

    username: str = ""
    secret: str = field(default="", repr=False)
    refresh: str = field(default="", repr=False)
    header: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry's host wants to be told: its ``WWW-Authenticate`` headers, and what is asked of it."""

    host: str
    reference: str
    headers: Sequence[str] = ()


Ask = Callable[[Challenge], Credentials | None]
"""Answers credentials for a challenge; None when there are none."""


@dataclass(frozen=True, slots=True)
class Registry:
    """An image at its registry.

    ``headers`` are sent with each request to the registry. ``host_dir`` is a folder of hosts.toml files that is used
    instead of the daemon's own. ``scheme`` (``http`` or ``https``) is for hosts that no file describes. ``ask`` is
    called at a challenge, before the daemon's own sources of credentials.
    """

    reference: str
    headers: Mapping[str, str] = field(default_factory=dict)
    host_dir: str = ""
    scheme: str = ""
    ask: Ask | None = None


@dataclass(frozen=True, slots=True)
class Unpack:
    """Snapshots of one platform's image are wanted; None and "" mean the daemon's own platform and its default
    snapshotter for that."""

    platform: Platform | None = None
    snapshotter: str = ""


@dataclass(frozen=True, slots=True)
class Name:
    """A further image record to make of what is stored (``ImageReference`` of the wire).

    With ``is_prefix`` an image of the archive is stored if its name begins with ``name``, and one whose annotation is
    a bare tag becomes ``name:TAG``; with ``allow_overwrite`` it is stored too if its whole name begins otherwise.
    ``add_digest`` makes a record ``name@DIGEST`` too, unless ``skip_named_digest`` and there is one by name. Without
    ``is_prefix`` the record points to all that the archive holds, by its index.
    """

    name: str
    is_prefix: bool = False
    allow_overwrite: bool = False
    add_digest: bool = False
    skip_named_digest: bool = False


@dataclass(frozen=True, slots=True)
class ImageStore:
    """As a source: the image ``name``. As a destination: the record to make, or none if "" (an import names its images
    by ``extra`` and by their annotations).

    ``platforms`` are those whose content is wanted, all if empty. ``all_metadata`` wants the manifests and configs of
    the other platforms too. ``manifest_limit`` bounds how many platforms of an index are taken, the best ones first; 0
    means no bound.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    platforms: Sequence[Platform] = ()
    all_metadata: bool = False
    manifest_limit: int = 0
    extra: Sequence[Name] = ()
    unpacks: Sequence[Unpack] = ()


@dataclass(frozen=True, slots=True)
class ImportStream:
    """An archive to read; ``file`` needs ``read`` only. ``force_compress`` stores uncompressed layers as gzip."""

    file: BinaryIO
    media_type: str = ""
    force_compress: bool = False


@dataclass(frozen=True, slots=True)
class ExportStream:
    """An archive to write; ``file`` needs ``write`` only. Without ``platforms`` the daemon's own is written, or with
    ``all_platforms`` each. ``skip_compatibility_manifest`` leaves out the ``manifest.json`` of ``docker load``."""

    file: BinaryIO
    media_type: str = ""
    platforms: Sequence[Platform] = ()
    all_platforms: bool = False
    skip_compatibility_manifest: bool = False
    skip_non_distributable: bool = False


Source = Registry | ImageStore | ImportStream
Destination = Registry | ImageStore | ExportStream


@dataclass(frozen=True, slots=True)
class Progress:
    """A step. ``event`` is a sentence for the whole (``name`` empty), or the state of the thing ``name``.

    ``progress`` and ``total`` are bytes, 0 where unknown; of one name they never fall, and end equal. ``parents`` are
    the names of what refers to it.
    """

    event: str
    name: str = ""
    parents: Sequence[str] = ()
    progress: int = 0
    total: int = 0
    descriptor: Descriptor | None = None


Report = Callable[[Progress], None]
"""Is told of each step, from any thread, one call at a time; what it raises ends the transfer."""


class Transferrer(Protocol):
    def transfer(self, source: Source, destination: Destination, progress: Report | None = None) -> Sequence[str]:
        """Copies, and answers the names of the image records that it made or used.

        Raises Unimplemented for a pair that is not known, InvalidArgument for a malformed reference or manifest,
        NotFound for what is not there, Unauthenticated or PermissionDenied when the registry refuses, DataLoss when
        bytes are not those of their digest, ResourceExhausted for a full disk, a manifest over the limit or a registry
        that has had too many requests, Unavailable when no host of the registry can be reached. The sentence names
        image, host and blob.
        """
        ...
