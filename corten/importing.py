"""Import: an image archive becomes content, image records and snapshots."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from corten import archives, unpacking
from plugin_sdk import content, daemon, errors, images, leases, oci, platforms
from plugin_sdk.oci import Descriptor

CHUNK = 1 << 20
PATIENCE = 60.0  # seconds
CONTENT_LABEL = "containerd.io/gc.ref.content."


@dataclass(frozen=True, slots=True)
class Options:
    """``name`` stands for images that the archive does not name; ``unpack`` makes snapshots of this machine's
    platform."""

    name: str = ""
    snapshotter: str = "overlayfs"
    unpack: bool = True
    all_platforms: bool = False


def import_images(
    connection: daemon.Daemon, namespace: str, path: Path, options: Options, say: Callable[[str], None]
) -> list[images.Image]:
    """Imports all images of the archive. Raises InvalidArgument for a malformed one, NotFound for a missing blob."""
    made = []
    with archives.Archive(path) as archive, leased(connection, namespace) as view:
        for found in archive.images:
            name = found.name or archives.familiar(options.name or "import-" + datetime.now(UTC).strftime("%Y-%m-%d"))
            say(f"importing {name}")
            transfer = _Transfer(archive, view, options, name)
            transfer.store(found.root)
            made.append(_record(view, images.Image(name, _plain(found.root))))
            if options.unpack:
                transfer.unpack(say)
    if not made:
        raise errors.InvalidArgument(f"{path} holds no image")
    return made


@contextmanager
def leased(connection: daemon.Daemon, namespace: str) -> Iterator[daemon.View]:
    """A view under a lease of its own: what is made is kept until the end, when only what is referred to stays."""
    lease = f"import-{time.time_ns()}-{secrets.token_hex(4)}"
    expires = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")
    manager = connection.view(namespace).leases
    manager.create(lease, {leases.EXPIRE_LABEL: expires})
    try:
        yield connection.view(namespace, lease)
    finally:
        manager.delete(lease)


class _Transfer:
    def __init__(self, archive: archives.Archive, view: daemon.View, options: Options, reference: str) -> None:
        self._archive = archive
        self._view = view
        self._options = options
        self._reference = reference
        self._images: list[unpacking.Source] = []

    def store(self, root: Descriptor) -> None:
        """The children of a blob go first, so that a blob that is there has all it refers to."""
        data = self._archive.read(root)
        if oci.is_index(root.media_type):
            children = [entry.descriptor for entry in oci.parse_index(data).entries]
            for child in filter(self._wanted, children):
                self.store(child)
            self._copy(root, {f"{CONTENT_LABEL}m.{number}": child.digest for number, child in enumerate(children)})
        elif oci.is_manifest(root.media_type):
            self._store_image(root, oci.parse_manifest(data))
        else:
            raise errors.InvalidArgument(f"{root.digest} is neither an index nor a manifest: {root.media_type}")

    def _store_image(self, root: Descriptor, manifest: oci.Manifest) -> None:
        for blob in (manifest.config, *manifest.layers):
            self._copy(blob, {})
        labels = {f"{CONTENT_LABEL}l.{number}": layer.digest for number, layer in enumerate(manifest.layers)}
        self._copy(root, {f"{CONTENT_LABEL}config": manifest.config.digest, **labels})
        self._images.append(unpacking.Source(self._reference, root.digest, manifest))

    def _wanted(self, child: Descriptor) -> bool:
        if self._archive.has(child.digest):
            return True
        if self._options.all_platforms:
            self._archive.blob(child)
        return False

    def _copy(self, blob: Descriptor, labels: Mapping[str, str]) -> None:
        source = self._archive.blob(blob)
        store = self._view.content
        try:
            with _writer(store, blob) as writer:
                with source.open() as file:
                    if done := writer.status().offset:
                        file.seek(min(done, blob.size))
                    while done < blob.size and (chunk := file.read(CHUNK)):
                        done += writer.write(chunk)
                writer.commit(blob.size, blob.digest, labels)
        except errors.AlreadyExists:
            if labels:
                store.update(content.Info(blob.digest, 0, labels=labels), [f"labels.{key}" for key in labels])
        except errors.FailedPrecondition as err:
            store.abort(f"import-{blob.digest}")
            raise errors.InvalidArgument(f"blob {blob.digest} of the archive is damaged: {err.message}") from err

    def unpack(self, say: Callable[[str], None]) -> None:
        for image in self._images:
            manifest = image.manifest
            if not oci.is_config(manifest.config.media_type):
                continue
            config = oci.parse_config(self._archive.read(manifest.config))
            if not config.platform.architecture or platforms.rank(platforms.host(), config.platform) is not None:
                unpacking.unpack(self._view, self._options.snapshotter, image, config.diff_ids)
                say(f"unpacked {len(manifest.layers)} layers into {self._options.snapshotter}")


def _writer(store: content.Store, blob: Descriptor) -> content.Writer:
    """Waits while another import writes the same blob."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return store.writer(f"import-{blob.digest}", blob.size, blob.digest)
        except errors.Unavailable as err:
            if "locked" not in err.message or time.monotonic() > end:
                raise
        time.sleep(0.05)


def _plain(of: Descriptor) -> Descriptor:
    return oci.Descriptor(of.media_type, of.digest, of.size)


def _record(view: daemon.View, image: images.Image) -> images.Image:
    try:
        return view.images.create(image)
    except errors.AlreadyExists:
        return view.images.update(image, ["target"])
