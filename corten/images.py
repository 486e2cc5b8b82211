"""Images of a namespace: their records, what they are made of, and how they come and go.

Where an image is asked for, its name or its record will do; the platform is this machine's own if none is given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Unpack

from corten import manifests, transfers
from corten.transfers import RegistryOptions
from plugin_sdk import errors, oci, transfer
from plugin_sdk.images import Image
from plugin_sdk.oci import Descriptor
from plugin_sdk.platforms import Platform, host
from plugin_sdk.transfer import ExportStream, ImageStore, ImportStream, Name, Registry, Report
from plugin_sdk.wire.images import Proxy

if TYPE_CHECKING:
    from corten.client import Client

__all__ = ["Image", "Images", "Usage"]

Named = str | Image


@dataclass(frozen=True, slots=True)
class Usage:
    """What an image takes, in bytes: its blobs, and the snapshots of its layers."""

    content: int
    snapshots: int

    @property
    def size(self) -> int:
        return self.content + self.snapshots


class Images(Proxy):
    """A ``plugin_sdk.images.Store``."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.channel, client.scope)
        self._client = client

    def __contains__(self, name: str) -> bool:
        try:
            self.get(name)
        except errors.NotFound:
            return False
        return True

    # --- what they are made of

    def target(self, image: Named, platform: Platform | None = None) -> Descriptor:
        """Of the platform's manifest. Raises NotFound when the image or its content is not there."""
        return self._chosen(image, platform).target

    def manifest(self, image: Named, platform: Platform | None = None) -> oci.Manifest:
        return self._chosen(image, platform).manifest

    def config(self, image: Named, platform: Platform | None = None) -> oci.ImageConfig:
        """Raises InvalidArgument for an artifact, which has none."""
        return manifests.config(self._client.content, self._chosen(image, platform))

    def platforms(self, image: Named) -> list[Platform]:
        """Those whose manifests are there."""
        return manifests.available(self._client.content, self._record(image).target)

    def usage(self, image: Named, snapshotter: str = "") -> Usage:
        """Of all platforms' blobs that are there, and of the snapshots of this machine's platform that are."""
        store = self._client.content
        blobs = sum(blob.size for blob in manifests.walk(store, self._record(image).target))
        storage = self._client.snapshotter(snapshotter)
        taken = 0
        for name in self._chain(image, None):
            try:
                taken += storage.usage(name).size
            except errors.NotFound:
                break
        return Usage(blobs, taken)

    def chain_id(self, image: Named, platform: Platform | None = None) -> str:
        """The name of the snapshot that holds the whole of the unpacked image; "" for one without layers."""
        return (self._chain(image, platform) or [""])[-1]

    def is_unpacked(self, image: Named, snapshotter: str = "", platform: Platform | None = None) -> bool:
        chain = self.chain_id(image, platform)
        return not chain or self._client.snapshotter(snapshotter).exists(chain)

    def unpack(
        self,
        image: Named,
        snapshotter: str = "",
        platform: Platform | None = None,
        *,
        progress: Report | None = None,
    ) -> str:
        """Makes snapshots of the layers, as far as they are missing, and answers the chain ID of the whole.

        Raises InvalidArgument when config and layers do not fit, DataLoss when a layer has another diff ID than the
        config says, NotFound for a blob that is missing.
        """
        from plugin_sdk.distribution import job, unpacking

        record = self._record(image)
        wanted = [transfer.Unpack(platform, snapshotter or self._client.default("snapshotter"))]
        settings = unpacking.Settings(single_pass=False)
        work = job.Job(
            self._client, self._client.scope.namespace, self._client.scope.lease, progress, self._client.check()
        )
        with work.leased() as view:
            chains = unpacking.unpack(work, view, record.target, wanted, record.name, settings)
        if not chains:
            raise errors.NotFound(f"{record.name}: nothing of it that is here is for {platform or host()}")
        return chains[0]

    def _record(self, image: Named) -> Image:
        return image if isinstance(image, Image) else self.get(image)

    def _chosen(self, image: Named, platform: Platform | None) -> manifests.Chosen:
        return manifests.choose(self._client.content, self._record(image).target, platform)

    def _chain(self, image: Named, platform: Platform | None) -> list[str]:
        return oci.chain_ids(self.config(image, platform).diff_ids)

    # --- coming and going

    def pull(
        self,
        reference: str | Registry,
        *,
        name: str = "",
        platforms: Sequence[Platform] = (),
        all_platforms: bool = False,
        unpack: bool = True,
        snapshotter: str = "",
        labels: Mapping[str, str] | None = None,
        progress: Report | None = None,
        **options: Unpack[RegistryOptions],
    ) -> Image:
        """Fetches the image ``reference`` and records it as ``name``, or as ``reference``.

        A reference is full, such as ``docker.io/library/busybox:latest``. Content is fetched for ``platforms`` (this
        machine's if there are none) or all, and unpacked unless ``unpack`` is False. ``progress`` is told each step.
        Raises as ``plugin_sdk.transfer.Transferrer`` says.
        """
        source = transfers.registry(reference, options)
        wanted = () if all_platforms else platforms or [host()]
        unpacks = self._unpacks(platforms, snapshotter) if unpack else []
        store = ImageStore(name or source.reference, labels or {}, wanted, unpacks=unpacks)
        self._client.transfer.transfer(source, store, progress)
        return self.get(store.name)

    def push(
        self,
        image: Named,
        reference: str | Registry = "",
        *,
        platforms: Sequence[Platform] = (),
        progress: Report | None = None,
        **options: Unpack[RegistryOptions],
    ) -> None:
        """Sends the image to where ``reference`` or its own name says: all platforms, or ``platforms``.

        Raises NotFound when some of that is neither here nor at the registry.
        """
        name = image if isinstance(image, str) else image.name
        target = transfers.registry(reference or name, options)
        self._client.transfer.transfer(ImageStore(name, platforms=platforms), target, progress)

    def import_(
        self,
        archive: BinaryIO | Path | str,
        *,
        name: str = "",
        names: Sequence[Name] = (),
        platforms: Sequence[Platform] = (),
        all_platforms: bool = False,
        unpack: bool = True,
        snapshotter: str = "",
        labels: Mapping[str, str] | None = None,
        compress: bool = False,
        progress: Report | None = None,
    ) -> Sequence[Image]:
        """Reads an archive, an OCI image layout or what ``docker save`` writes: an open file, a path, or a folder with
        a layout.

        Images get the names that the archive gives them, as ``names`` says (``plugin_sdk.transfer.Name``): without any
        all are taken, and a bare tag becomes ``import-DATE:TAG``. ``name`` is one more, for all that the archive holds.
        Taken is what is for ``platforms``, this machine's, or all, and unpacked unless ``unpack`` is False.
        ``compress`` stores uncompressed layers as gzip. Raises InvalidArgument for a malformed archive, NotFound for a
        blob that it lacks.
        """
        wanted = () if all_platforms else platforms or [host()]
        unpacks = self._unpacks(platforms, snapshotter) if unpack else []
        store = ImageStore(name, labels or {}, wanted, extra=names or [_dated()], unpacks=unpacks)
        with _source(archive) as file:
            made = self._client.transfer.transfer(ImportStream(file, force_compress=compress), store, progress)
        return [self.get(each) for each in made]

    def export(
        self,
        images: Named | Sequence[Named],
        archive: BinaryIO | Path | str,
        *,
        platforms: Sequence[Platform] = (),
        all_platforms: bool = False,
        docker: bool = True,
        foreign: bool = True,
        progress: Report | None = None,
    ) -> None:
        """Writes images as one archive, an OCI image layout as tar, into an open file or to a path.

        Of ``platforms``, this machine's, or all. Without ``docker`` it has no ``manifest.json``, which ``docker load``
        wants; without ``foreign`` no layers that may not be distributed.
        """
        several = [images] if isinstance(images, (str, Image)) else images
        first, *others = [each if isinstance(each, str) else each.name for each in several]
        store = ImageStore(first, extra=[Name(each) for each in others])
        with _target(archive) as file:
            stream = ExportStream(
                file,
                platforms=platforms,
                all_platforms=all_platforms,
                skip_compatibility_manifest=not docker,
                skip_non_distributable=not foreign,
            )
            self._client.transfer.transfer(store, stream, progress)

    def _unpacks(self, platforms: Sequence[Platform], snapshotter: str) -> list[transfer.Unpack]:
        name = snapshotter or self._client.default("snapshotter")
        wanted: Sequence[Platform | None] = platforms or [None]
        return [transfer.Unpack(platform, name) for platform in wanted]

    # --- names

    def tag(self, image: Named, name: str, *, force: bool = False) -> Image:
        """A further name for the same target, with the same labels. Raises AlreadyExists unless ``force``."""
        record = self._record(image)
        made = Image(name, record.target, record.labels)
        try:
            return self.create(made)
        except errors.AlreadyExists:
            if not force:
                raise
            return self.update(made, ["target", "labels"])


def _source(archive: BinaryIO | Path | str) -> AbstractContextManager[BinaryIO]:
    from plugin_sdk.distribution.archive import directories

    return directories.opened(Path(archive)) if isinstance(archive, (str, Path)) else contextlib.nullcontext(archive)


def _target(archive: BinaryIO | Path | str) -> AbstractContextManager[BinaryIO]:
    return open(archive, "wb") if isinstance(archive, (str, Path)) else contextlib.nullcontext(archive)


def _dated() -> Name:
    return Name(f"import-{datetime.now(UTC):%Y-%m-%d}", is_prefix=True, allow_overwrite=True)
