"""Images of a namespace: their records, what they are made of, and how they come and go.

Where an image is asked for, its name or its record will do; the platform is this machine's own if none is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from corten import manifests, unpacking
from plugin_sdk import errors, oci
from plugin_sdk.images import Image
from plugin_sdk.oci import Descriptor
from plugin_sdk.platforms import Platform
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

    def unpack(self, image: Named, snapshotter: str = "", platform: Platform | None = None) -> str:
        """Makes snapshots of the layers, as far as they are missing, and answers the chain ID of the whole.

        Raises InvalidArgument when config and layers do not fit, DataLoss when a layer has another diff ID than the
        config says, NotFound for a blob that is missing.
        """
        record, chosen = self._record(image), self._chosen(image, platform)
        source = unpacking.Source(record.name, chosen.target.digest, chosen.manifest)
        with self._client.leased() as client:
            diff_ids = manifests.config(client.content, chosen).diff_ids
            return unpacking.unpack(client, snapshotter or client.default("snapshotter"), source, diff_ids)

    def _record(self, image: Named) -> Image:
        return image if isinstance(image, Image) else self.get(image)

    def _chosen(self, image: Named, platform: Platform | None) -> manifests.Chosen:
        return manifests.choose(self._client.content, self._record(image).target, platform)

    def _chain(self, image: Named, platform: Platform | None) -> list[str]:
        return oci.chain_ids(self.config(image, platform).diff_ids)

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
