"""The suite for transferrers, as far as no registry is needed: archives, tags, names, steps, and what is refused.

A subclass gives a ``view`` of a namespace that is empty; its snapshotters ``overlayfs`` and ``native`` and a differ are
used. ``transferrer`` is the view's unless the subclass gives another::

    class TestMine(transferring.TransferSuite):
        @pytest.fixture
        def view(self):
            with corten.connect(address) as client:
                yield client.view(f"suite-{uuid.uuid4().hex[:12]}")
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import pytest

from plugin_sdk import daemon, errors, oci, platforms, transfer
from plugin_sdk.conformance.sentences import holds

NAME = "suite.example/app:1"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(slots=True)
class Image:
    """A small image with bytes of its own: ``files`` of its OCI layout by name, and the digests of its parts."""

    marker: str = field(default_factory=lambda: uuid.uuid4().hex)
    files: dict[str, bytes] = field(default_factory=dict)
    tar: bytes = b""
    config: bytes = b""
    target: oci.Descriptor = field(init=False)
    layer: oci.Descriptor = field(init=False)

    def __post_init__(self) -> None:
        self.tar = tar({"marker": self.marker.encode(), "more": bytes(300_000)})
        own = platforms.host()
        platform = {"os": own.os, "architecture": own.architecture, "variant": own.variant}
        rootfs = {"type": "layers", "diff_ids": [digest(self.tar)]}
        self.config = json.dumps({**platform, "rootfs": rootfs, "config": {}}).encode()
        self.layer = self._blob(oci.LAYER_GZIP, gzip.compress(self.tar, mtime=0))
        config = self._blob(oci.CONFIG, self.config)
        manifest = {"mediaType": oci.MANIFEST, "config": entry(config), "layers": [entry(self.layer)]}
        self.target = self._blob(oci.MANIFEST, json.dumps({"schemaVersion": 2, **manifest}).encode())

    @property
    def digests(self) -> set[str]:
        return {self.layer.digest, digest(self.config), self.target.digest}

    def _blob(self, media_type: str, data: bytes) -> oci.Descriptor:
        self.files[f"blobs/sha256/{digest(data).removeprefix('sha256:')}"] = data
        return oci.Descriptor(media_type, digest(data), len(data))

    def archive(self, annotations: Mapping[str, str] | None = None) -> bytes:
        """An OCI layout of it, called ``NAME`` if nothing else is said."""
        named = {"io.containerd.image.name": NAME} if annotations is None else annotations
        index = {"schemaVersion": 2, "manifests": [{**entry(self.target), "annotations": named}]}
        return tar({**self.files, "index.json": json.dumps(index).encode(), "oci-layout": LAYOUT})

    def saved(self) -> bytes:
        """What docker save writes, with a layer that is not compressed."""
        listed = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
        return tar({"config.json": self.config, "layer.tar": self.tar, "manifest.json": json.dumps(listed).encode()})


def entry(of: oci.Descriptor) -> dict[str, Any]:
    return {"mediaType": of.media_type, "digest": of.digest, "size": of.size}


def tar(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def untar(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        return {name: file.read() for name, file in found.items() if file is not None}


class Reads:
    """A file that can be read, and nothing else; a little at a time."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 100_000) if size >= 0 else 100_000)


class Writes:
    """A file that can be written, and nothing else."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


def source(data: bytes, **options: Any) -> transfer.ImportStream:
    return transfer.ImportStream(cast(BinaryIO, Reads(data)), **options)


def names(name: str = "suite.example/app", **options: Any) -> transfer.ImageStore:
    return transfer.ImageStore("", extra=[transfer.Name(name, is_prefix=True, **options)])


class TransferSuite:
    @pytest.fixture
    def view(self) -> daemon.View:
        raise NotImplementedError("a subclass gives the view")

    @pytest.fixture
    def transferrer(self, view: daemon.View) -> transfer.Transferrer:
        return view.transfer

    @pytest.fixture
    def image(self) -> Image:
        return Image()

    @pytest.fixture
    def stored(self, transferrer: transfer.Transferrer, image: Image) -> Image:
        """One that is there as ``NAME``."""
        transferrer.transfer(source(image.archive()), names())
        return image

    # --- pairs

    @holds(
        "Byte stream → image store imports.",
        "An archive to read; ``file`` needs ``read`` only.",
        "Copies, and answers the names of the image records that it made or used.",
        "A transfer that returns has done its work: what it made is on disk, and the image records name it.",
    )
    def test_an_archive_is_imported(self, view: daemon.View, transferrer: transfer.Transferrer, image: Image) -> None:
        assert list(transferrer.transfer(source(image.archive()), names())) == [NAME]
        target = view.images.get(NAME).target
        assert (target.media_type, target.digest, target.size) == (oci.MANIFEST, image.target.digest, image.target.size)
        with view.content.reader(image.layer.digest) as reader:
            assert reader.read_at(0, reader.size) == gzip.compress(image.tar, mtime=0)
        labels = view.content.info(image.target.digest).labels
        assert set(labels.values()) == image.digests - {image.target.digest}
        assert not view.leases.list()

    @holds(
        "Image store → byte stream exports.",
        "An archive to write; ``file`` needs ``write`` only.",
        "As a source: the image ``name``.",
    )
    def test_an_image_is_exported(self, transferrer: transfer.Transferrer, stored: Image) -> None:
        out = Writes()
        target = transfer.ExportStream(cast(BinaryIO, out))
        assert list(transferrer.transfer(transfer.ImageStore(NAME), target)) == [NAME]
        files = untar(bytes(out.data))
        assert {name: data for name, data in files.items() if name in stored.files} == stored.files
        [exported] = json.loads(files["index.json"])["manifests"]
        assert exported["digest"] == stored.target.digest
        assert exported["annotations"]["io.containerd.image.name"] == NAME

    @holds("``skip_compatibility_manifest`` leaves out the ``manifest.json`` of ``docker load``.")
    def test_an_export_has_what_docker_reads_unless_it_is_not_wanted(
        self, transferrer: transfer.Transferrer, stored: Image
    ) -> None:
        for skipped in (False, True):
            out = Writes()
            target = transfer.ExportStream(cast(BinaryIO, out), skip_compatibility_manifest=skipped)
            transferrer.transfer(transfer.ImageStore(NAME), target)
            assert ("manifest.json" in untar(bytes(out.data))) is not skipped

    @holds("Image store → image store tags.")
    def test_an_image_is_tagged(self, view: daemon.View, transferrer: transfer.Transferrer, stored: Image) -> None:
        other = transfer.ImageStore("suite.example/other:2", {"color": "blue"})
        for _ in range(2):
            assert list(transferrer.transfer(transfer.ImageStore(NAME), other)) == ["suite.example/other:2"]
            assert view.images.get("suite.example/other:2").target == view.images.get(NAME).target
        assert view.images.get("suite.example/other:2").labels == {"color": "blue"}

    @holds("Byte stream → byte stream copies the bytes.")
    @pytest.mark.parametrize("size", [0, 1, 3_000_001])
    def test_bytes_are_copied(self, transferrer: transfer.Transferrer, size: int) -> None:
        data = (b"some bytes " * (size // 11 + 1))[:size]
        out = Writes()
        assert not transferrer.transfer(source(data), transfer.ExportStream(cast(BinaryIO, out)))
        assert bytes(out.data) == data

    @holds("Another pair raises Unimplemented.")
    def test_another_pair_is_refused(self, view: daemon.View, transferrer: transfer.Transferrer) -> None:
        registry = transfer.Registry(NAME)
        for wrong in (
            (registry, transfer.Registry("suite.example/other:1")),
            (registry, transfer.ExportStream(cast(BinaryIO, Writes()))),
            (source(b""), registry),
        ):
            with pytest.raises(errors.Unimplemented):
                transferrer.transfer(*wrong)
        assert not view.images.list()

    # --- outcome

    @holds("Layers are unpacked only for the entries of ``unpacks``.")
    def test_layers_are_unpacked_when_that_is_wanted(
        self, view: daemon.View, transferrer: transfer.Transferrer, image: Image
    ) -> None:
        transferrer.transfer(source(image.archive()), names())
        assert not list(view.snapshotter("native").walk())
        unpacks = [transfer.Unpack(platforms.host(), "native")]
        transferrer.transfer(source(image.archive()), transfer.ImageStore("", extra=names().extra, unpacks=unpacks))
        assert [info.name for info in view.snapshotter("native").walk()] == [digest(image.tar)]
        assert not list(view.snapshotter("overlayfs").walk())
        labels = view.content.info(digest(image.config)).labels
        assert labels["containerd.io/gc.ref.snapshot.native"] == digest(image.tar)

    @holds(
        "Snapshots of one platform's image are wanted; None and \"\" mean the daemon's own platform and its default "
        "snapshotter for that."
    )
    def test_the_daemons_own_platform_is_unpacked_into_its_default_snapshotter(
        self, view: daemon.View, transferrer: transfer.Transferrer, image: Image
    ) -> None:
        store = transfer.ImageStore("", extra=names().extra, unpacks=[transfer.Unpack()])
        transferrer.transfer(source(image.archive()), store)
        assert [info.name for info in view.snapshotter("overlayfs").walk()] == [digest(image.tar)]

    @holds(
        "A transfer that raises makes no image record: it leaves ingests, and blobs and snapshots that nothing names, "
        "at which the next one goes on.",
        "A lease keeps what it makes while it works.",
    )
    def test_what_fails_leaves_nothing(
        self, view: daemon.View, transferrer: transfer.Transferrer, image: Image
    ) -> None:
        changed = {name: data[:-1] + b"!" for name, data in image.files.items() if data == image.config}
        image.files |= changed
        with pytest.raises(errors.DataLoss):
            transferrer.transfer(source(image.archive()), names())
        assert not view.images.list()
        assert not view.leases.list()
        assert not list(view.content.list_statuses())

    @holds(
        "Raises Unimplemented for a pair that is not known, InvalidArgument for a malformed reference or manifest, "
        "NotFound for what is not there, Unauthenticated or PermissionDenied when the registry refuses, DataLoss when "
        "bytes are not those of their digest, ResourceExhausted for a full disk, a manifest over the limit or a "
        "registry that has had too many requests, Unavailable when no host of the registry can be reached.",
        "The sentence names image, host and blob.",
    )
    def test_what_is_wrong_is_named(self, transferrer: transfer.Transferrer) -> None:
        store, out = transfer.ImageStore(NAME), transfer.ExportStream(cast(BinaryIO, Writes()))
        for reference in ("", "app", "suite.example/UPPER:1", "suite.example/app:1:2"):
            with pytest.raises(errors.InvalidArgument):
                transferrer.transfer(transfer.Registry(reference), store)
        with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1/app:1.*127\.0\.0\.1:1"):
            transferrer.transfer(transfer.Registry("127.0.0.1:1/app:1", scheme="http"), store)
        with pytest.raises(errors.NotFound, match=NAME):
            transferrer.transfer(store, transfer.Registry("127.0.0.1:1/app:1", scheme="http"))
        for destination in (out, transfer.ImageStore("suite.example/other:2")):
            with pytest.raises(errors.NotFound, match=NAME):
                transferrer.transfer(store, destination)
        with pytest.raises(errors.InvalidArgument):
            transferrer.transfer(source(b"no archive" * 1000), names())

    # --- names

    @holds(
        'As a destination: the record to make, or none if "" (an import names its images by ``extra`` and by their '
        "annotations).",
        "A further image record to make of what is stored (``ImageReference`` of the wire).",
        "Without ``is_prefix`` the record points to all that the archive holds, by its index.",
    )
    def test_an_archive_is_stored_by_its_index(
        self, view: daemon.View, transferrer: transfer.Transferrer, image: Image
    ) -> None:
        store = transfer.ImageStore(
            "suite.example/all:1", {"color": "blue"}, extra=[transfer.Name("suite.example/b:1")]
        )
        made = list(transferrer.transfer(source(image.archive()), store))
        assert made == ["suite.example/all:1", "suite.example/b:1"]
        for name in made:
            assert view.images.get(name).target.media_type == oci.INDEX
        assert view.images.get(made[0]).labels == {"color": "blue"}

    @holds(
        "With ``is_prefix`` an image of the archive is stored if its name begins with ``name``, and one whose "
        "annotation is a bare tag becomes ``name:TAG``; with ``allow_overwrite`` it is stored too if its whole name "
        "begins otherwise."
    )
    def test_images_are_named_by_their_annotations_and_a_prefix(
        self, transferrer: transfer.Transferrer, image: Image
    ) -> None:
        for noted, store, made in (
            (None, names(), [NAME]),
            ({oci.REF_NAME: "7"}, names("suite.example/x"), ["suite.example/x:7"]),
            (None, names("import", allow_overwrite=True), [NAME]),
        ):
            assert list(transferrer.transfer(source(image.archive(noted)), store)) == made
        assert not transferrer.transfer(source(image.archive()), names("other.example/app"))

    @holds("``add_digest`` makes a record ``name@DIGEST`` too, unless ``skip_named_digest`` and there is one by name.")
    def test_images_are_named_by_their_digests(self, transferrer: transfer.Transferrer, image: Image) -> None:
        by_digest = f"suite.example/app@{image.target.digest}"
        made = transferrer.transfer(source(image.archive()), names(add_digest=True))
        assert sorted(made) == sorted([NAME, by_digest])
        skipping = names(add_digest=True, skip_named_digest=True)
        assert list(transferrer.transfer(source(image.archive()), skipping)) == [NAME]
        assert list(transferrer.transfer(source(image.archive({})), skipping)) == [by_digest]

    @holds("``force_compress`` stores uncompressed layers as gzip.")
    def test_a_saved_layer_is_compressed_when_that_is_wanted(
        self, view: daemon.View, transferrer: transfer.Transferrer, image: Image
    ) -> None:
        for compressed, media_type in ((False, oci.DOCKER_LAYER), (True, oci.DOCKER_LAYER_GZIP)):
            transferrer.transfer(source(image.saved(), force_compress=compressed), names())
            target = view.images.get(NAME).target
            with view.content.reader(target.digest) as reader:
                manifest = oci.parse_manifest(reader.read_at(0, reader.size))
            assert [layer.media_type for layer in manifest.layers] == [media_type]

    # --- steps

    @holds(
        "``event`` is a sentence for the whole (``name`` empty), or the state of the thing ``name``.",
        "``progress`` and ``total`` are bytes, 0 where unknown; of one name they never fall, and end equal.",
    )
    def test_steps_are_told(self, transferrer: transfer.Transferrer, image: Image) -> None:
        steps: list[transfer.Progress] = []
        transferrer.transfer(source(image.archive()), names(), steps.append)
        assert [step.event for step in steps if not step.name] == ["Importing", "Completed import"]
        assert NAME in {step.name for step in steps if step.event == "saved"}
        for name in {step.name for step in steps if step.name}:
            told = [(step.progress, step.total) for step in steps if step.name == name]
            assert told == sorted(told)
            assert told[-1][0] == told[-1][1]
        assert image.digests <= {step.name for step in steps}

    @holds("Is told of each step, from any thread, one call at a time; what it raises ends the transfer.")
    def test_a_report_that_raises_ends_the_transfer(
        self, view: daemon.View, transferrer: transfer.Transferrer, image: Image
    ) -> None:
        class Enough(Exception):
            pass

        def report(step: transfer.Progress) -> None:
            raise Enough

        with pytest.raises(Enough):
            transferrer.transfer(source(image.archive()), names(), report)

    @holds(
        "A transfer that raises makes no image record: it leaves ingests, and blobs and snapshots that nothing names, "
        "at which the next one goes on.",
        "A lease keeps what it makes while it works.",
    )
    def test_a_file_that_fails_ends_the_transfer(self, view: daemon.View, transferrer: transfer.Transferrer) -> None:
        class Broken(Exception):
            pass

        class Breaks(Reads):
            def read(self, size: int = -1) -> bytes:
                raise Broken

        broken = transfer.ImportStream(cast(BinaryIO, Breaks(b"")))
        for destination in (names(), transfer.ExportStream(cast(BinaryIO, Writes()))):
            with pytest.raises(Broken):
                transferrer.transfer(broken, destination)
        assert not view.images.list()
