"""Export: images of the store become an OCI layout that ``docker load`` reads too, as a tar that is written forward.

The members stand in the order of their names, and nothing in them tells the time: the same images give the same bytes.
Each blob is verified while it is written. What is wanted is looked for before the first byte is written.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from plugin_sdk import content, errors, hashing, images, oci, platforms, tar_headers, tars, transfer
from plugin_sdk.distribution import graph, references, sentences, stored
from plugin_sdk.distribution.archive import layout
from plugin_sdk.distribution.job import Job
from plugin_sdk.oci import Descriptor

_CHUNK = 1 << 20
_TOLD = 4 << 20  # bytes between two reports of a blob
_SOURCE = "containerd.io/distribution.source."
_BLOB_MODE, _FILE_MODE, _DIRECTORY_MODE = 0o444, 0o644, 0o755
_DOCKERS_OWN = ("docker.io/library/", "docker.io/")


def export_stream(job: Job, image: transfer.ImageStore, stream: transfer.ExportStream) -> Sequence[str]:
    """Writes the image ``image.name`` and those that ``image.extra`` names; answers their names.

    Raises NotFound for an image or a blob that is not there, InvalidArgument for an image that is none, Unimplemented
    for a prefix of names, DataLoss for a blob whose bytes have changed.
    """
    job.tell(transfer.Progress("Exporting"))
    with job.leased() as view:
        plan = _Plan(view.content, stream)
        records = [view.images.get(name) for name in _names(image)]
        for record in records:
            plan.add(record)
        _Tar(job, view.content, stream.file).write(plan.members())
    job.tell(transfer.Progress("Completed export"))
    return [record.name for record in records]


def _names(image: transfer.ImageStore) -> list[str]:
    for extra in image.extra:
        if extra.is_prefix:
            raise errors.Unimplemented(f"{extra.name}: images are exported by their names, not by a prefix of them")
    names = [name for name in dict.fromkeys([image.name, *(extra.name for extra in image.extra)]) if name]
    if not names:
        raise errors.InvalidArgument("no image is named that is to be exported")
    return names


@dataclass(slots=True)
class _Docker:
    """A line of ``manifest.json``."""

    manifest: oci.Manifest
    names: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        layers = [layout.blob(layer.digest) for layer in self.manifest.layers]
        config = layout.blob(self.manifest.config.digest)
        return {"Config": config, "RepoTags": self.names or None, "Layers": layers or None}


class _Plan:
    """What is to be written: bytes, descriptors of blobs, or None for directories."""

    def __init__(self, store: content.Store, stream: transfer.ExportStream) -> None:
        self._store = store
        self._stream = stream
        self._wanted = graph.Choice(stream.platforms or [platforms.host()])
        self._blobs: dict[str, Descriptor] = {}
        self._entries: list[Descriptor] = []
        self._docker: dict[str, _Docker] = {}

    def add(self, record: images.Image) -> None:
        target, name = record.target, record.name
        if not graph.has_children(target.media_type):
            raise errors.InvalidArgument(f"{name}: {target.media_type[:100]!r} is neither an index nor a manifest")
        choice = graph.Choice() if self._stream.all_platforms else self._wanted
        with sentences.about(name):
            survey = graph.survey(target, lambda wanted: [stored.read(self._store, of) for of in wanted], choice, name)
            for node in survey.nodes:
                if self._stream.skip_non_distributable and graph.is_foreign(node.descriptor.media_type):
                    continue
                stored.require(self._store, node.descriptor)
                self._blobs[node.descriptor.digest] = node.descriptor
        annotations = {**target.annotations, **self._sources(target.digest)}
        self._entries.append(replace(target, annotations=layout.named(name, annotations)))
        for best in self._best(survey):
            line = self._docker.setdefault(best.descriptor.digest, _Docker(oci.parse_manifest(best.data)))
            line.names += _short(name)

    def _sources(self, digest: str) -> Mapping[str, str]:
        """Where an image was pulled from goes with it."""
        labels = self._store.info(digest).labels
        return {key: text for key, text in labels.items() if key.startswith(_SOURCE)}

    def _best(self, survey: graph.Survey) -> list[graph.Node]:
        """The manifest that ``docker load`` is to take, if there is one."""
        fitting = [node for node in survey.manifests if self._wanted.takes(node.platform)]
        return sorted(fitting, key=lambda node: self._wanted.place(node.platform))[:1]

    def members(self) -> dict[str, Descriptor | bytes | None]:
        """In the order in which they are written."""
        algorithms = {digest.partition(":")[0] for digest in self._blobs}
        found: dict[str, Descriptor | bytes | None] = {
            layout.BLOBS: None,
            **{f"{layout.BLOBS}{algorithm}/": None for algorithm in algorithms},
            **{layout.blob(digest): blob for digest, blob in self._blobs.items()},
            layout.LAYOUT: layout.encode({"imageLayoutVersion": layout.VERSION}),
            layout.INDEX: layout.index([layout.entry(of) for of in self._entries], oci.INDEX),
        }
        if self._docker and not self._stream.skip_compatibility_manifest:
            found[layout.SAVED] = layout.encode([line.as_json() for line in self._docker.values()])
        return dict(sorted(found.items()))


class _Tar:
    """Writes members."""

    def __init__(self, job: Job, store: content.Store, file: BinaryIO) -> None:
        self._job = job
        self._store = store
        self._file = file

    def write(self, members: Mapping[str, Descriptor | bytes | None]) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="digest") as pool:
            for name, member in members.items():
                if member is None:
                    self._send(tar_headers.format(_directory(name)))
                elif isinstance(member, bytes):
                    mode = _BLOB_MODE if name == layout.LAYOUT else _FILE_MODE
                    self._send(tar_headers.format(tars.file(name.encode(), len(member), mode)))
                    self._send(member + tar_headers.padding(len(member)))
                else:
                    self._blob(name, member, pool)
        self._send(tar_headers.END)

    def _blob(self, name: str, of: Descriptor, pool: Executor) -> None:
        self._send(tar_headers.format(tars.file(name.encode(), of.size, _BLOB_MODE)))
        digest = hashing.Digest(of.digest.partition(":")[0], pool)
        self._tell("exporting", of, 0)
        with self._store.reader(of.digest) as reader:
            for offset in range(0, of.size, _CHUNK):
                chunk = reader.read_at(offset, _CHUNK)
                digest.update(chunk)
                self._send(chunk)
                if offset and offset % _TOLD == 0:
                    self._tell("exporting", of, offset)
        if digest.text() != of.digest:
            raise errors.DataLoss(f"blob {of.digest} in the content store has the digest {digest.text()}")
        self._send(tar_headers.padding(of.size))
        self._tell("complete", of, of.size)

    def _send(self, data: bytes) -> None:
        self._job.check()
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except BrokenPipeError as err:
            raise errors.Canceled("nobody reads the archive any more") from err
        except OSError as err:
            kind = errors.ResourceExhausted if err.errno in (errno.ENOSPC, errno.EDQUOT) else errors.Unavailable
            raise kind(f"the archive cannot be written: {err.strerror or err}") from err

    def _tell(self, event: str, of: Descriptor, progress: int) -> None:
        self._job.tell(transfer.Progress(event, of.digest, progress=progress, total=of.size, descriptor=of))


def _directory(name: str) -> tars.Entry:
    entry = tars.file(name.encode(), 0, _DIRECTORY_MODE)
    entry.type = tars.DIRECTORY
    return entry


def _short(name: str) -> list[str]:
    """As docker shows it; docker cannot be told names that it does not allow."""
    try:
        full = references.familiar(name)
    except errors.InvalidArgument:
        return []
    prefix = next((prefix for prefix in _DOCKERS_OWN if full.startswith(prefix)), "")
    return [full.removeprefix(prefix)]
