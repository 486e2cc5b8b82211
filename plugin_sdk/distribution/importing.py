"""Import: an archive of images, read once from its beginning to its end, becomes content, snapshots and image records.

Each member becomes a blob while it is read, whatever comes first: the order within an archive is not fixed. Then the
index is walked: what is wanted must be there, and gets its labels. The records come last. What no record leads to goes
with the lease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from plugin_sdk import daemon, errors, oci, tars, transfer
from plugin_sdk.distribution import graph, pulling, sentences, stored
from plugin_sdk.distribution.archive import archives, layout, naming, saved
from plugin_sdk.distribution.archive.intake import Intake
from plugin_sdk.distribution.job import Job
from plugin_sdk.oci import Descriptor

_READ_WHOLE = (layout.LAYOUT, layout.INDEX, layout.SAVED)
_LINKS = 8  # from one to the next

Unpack = Callable[[daemon.View, Descriptor, str], None]
"""Unpacks an image, given by its index or manifest and what to call it in messages."""


def import_stream(
    job: Job, stream: transfer.ImportStream, store: transfer.ImageStore, unpack: Unpack | None = None
) -> Sequence[str]:
    """Answers the names of the records that were made.

    Raises InvalidArgument for what is no archive of images or a damaged one, DataLoss when a blob is not what its name
    says, NotFound when something that is wanted is missing, ResourceExhausted when a document or the number of members
    has no measure.
    """
    job.tell(transfer.Progress("Importing"))
    with job.leased() as view:
        intake = Intake(job, view)
        found = _read(job, stream, intake)
        index = _index(found, intake, compress=stream.force_compress)
        target, taken = _walk(index, intake, store)
        if unpack is not None:
            for image in taken:
                unpack(view, image, _called(image))
        records = naming.of_archive(store, target)
        for image in taken:
            records += naming.of_image(store, image)
        for record in records:
            pulling.record(view.images, record)
            job.tell(transfer.Progress("saved", record.name, descriptor=record.target))
    job.tell(transfer.Progress("Completed import"))
    return list(dict.fromkeys(record.name for record in records))


@dataclass(slots=True)
class _Found:
    """What was in the archive: the members that are read whole, blobs and links by their names."""

    texts: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, Descriptor] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Descriptor:
        """A blob that ``manifest.json`` names. Raises InvalidArgument."""
        member = tars.clean(name.encode("utf-8", "replace")).decode()
        for _ in range(_LINKS):
            if member in self.blobs:
                return self.blobs[member]
            member = self.links.get(member, "")
        raise errors.InvalidArgument(f"{layout.SAVED} of the archive names {name[:300]!r}, which is not there")


def _read(job: Job, stream: transfer.ImportStream, intake: Intake) -> _Found:
    found = _Found()
    archive = archives.Archive(stream.file, job.check)
    for member in archive:
        known = member.name in found.texts or member.name in found.blobs or member.name in found.links
        if known and not layout.digest_of(member.name):
            raise errors.InvalidArgument(f"the archive holds {tars.show(member.name.encode())} twice")
        if member.link:
            found.links[member.name] = member.link
        elif member.name in _READ_WHOLE:
            found.texts[member.name] = _whole(archive, member)
        else:
            found.blobs[member.name] = intake.take(member, archive.chunks())
    return found


def _whole(archive: archives.Archive, member: archives.Member) -> bytes:
    if member.size > stored.JSON:
        raise errors.ResourceExhausted(f"{member.name} of the archive has {member.size} bytes, more than {stored.JSON}")
    return b"".join(archive.chunks())


def _index(found: _Found, intake: Intake, *, compress: bool) -> bytes:
    """The layout's, where there is one: who writes both means the same with both."""
    if layout.LAYOUT in found.texts:
        layout.check_version(found.texts[layout.LAYOUT])
        if layout.INDEX not in found.texts:
            raise errors.InvalidArgument(f"the archive has {layout.LAYOUT}, but no {layout.INDEX}")
        return found.texts[layout.INDEX]
    if layout.SAVED in found.texts:
        return saved.make_index(found.texts[layout.SAVED], found.find, intake, compress=compress)
    raise errors.InvalidArgument("the archive holds neither an OCI image layout nor what docker save writes")


def _walk(index: bytes, intake: Intake, store: transfer.ImageStore) -> tuple[Descriptor, list[Descriptor]]:
    """The index, which is stored, and those of its images that are wanted, all of which is there and labelled."""
    entries = oci.parse_index(index).entries
    if not entries:
        raise errors.InvalidArgument("the archive holds no image")
    choice = graph.Choice(store.platforms, store.all_metadata, store.manifest_limit)
    taken = [entry.descriptor for entry in entries if choice.takes(entry.platform)]
    if not taken:
        raise errors.NotFound(f"the archive holds no image for {', '.join(map(str, store.platforms))}: not found")
    for image in taken:
        _check(image, intake, choice)
    target = Descriptor(oci.INDEX, oci.digest_of(index), len(index))
    intake.put(index, oci.INDEX, {label: of.digest for label, of in graph.children(target, index)})
    return target, taken


def _check(image: Descriptor, intake: Intake, choice: graph.Choice) -> None:
    name = _called(image)
    if not graph.has_children(image.media_type):
        raise errors.InvalidArgument(f"{name}: {image.media_type[:100]!r} is neither an index nor a manifest")
    with sentences.about(name):
        survey = graph.survey(image, lambda several: [stored.read(intake.store, of) for of in several], choice, name)
        for node in survey.nodes:
            if not graph.is_foreign(node.descriptor.media_type):
                stored.require(intake.store, node.descriptor)
                intake.label(node.descriptor.digest, node.labels)


def _called(image: Descriptor) -> str:
    return image.annotations.get(layout.IMAGE_NAME) or image.annotations.get(oci.REF_NAME) or image.digest
