"""Export from the kernel's own store: what stands in the archive, what it is made of, and what cannot be exported."""

from __future__ import annotations

import errno
import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from plugin_sdk import content, daemon, errors, images, oci, platforms, transfer
from plugin_sdk.distribution import exporting, graph, importing
from plugin_sdk.distribution.archive import layout
from plugin_sdk.distribution.job import Job
from tests import archived, kernels
from tests.archived import Forward, Image

pytestmark = pytest.mark.root
NAME = "docker.io/library/app:1"
AMD64, ARM64 = platforms.parse("linux/amd64"), platforms.parse("linux/arm64")
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def kernel(scratch: Path) -> Iterator[daemon.Daemon]:
    (scratch / "exporting").mkdir()
    with kernels.running(scratch / "exporting") as made:
        yield made


@pytest.fixture
def job(kernel: daemon.Daemon) -> Job:
    """In a namespace of the test's own."""
    return Job(kernel, f"export-{next(NUMBERS)}")


@pytest.fixture
def view(job: Job) -> daemon.View:
    return job.daemon.view(job.namespace)


def stored(job: Job, *several: Image, files: dict[str, bytes] | None = None) -> list[str]:
    data = archived.tar(files or archived.layout(*several))
    name = transfer.Name("import", is_prefix=True, allow_overwrite=True)
    store = transfer.ImageStore("", extra=[name], platforms=[AMD64])
    return list(importing.import_stream(job, transfer.ImportStream(Forward(data, piece=1 << 16)), store))


class Pipe:
    """Takes what is written in small pieces, and nothing else can be done with it."""

    def __init__(self) -> None:
        self.data = io.BytesIO()

    def write(self, data: bytes | memoryview, /) -> int:
        return self.data.write(data[:9000])


def exported(job: Job, *names: str, **options: Any) -> bytes:
    pipe = Pipe()
    store = transfer.ImageStore(names[0], extra=[transfer.Name(name) for name in names[1:]])
    stream = transfer.ExportStream(cast(Any, pipe), **options)
    assert list(exporting.export_stream(job, store, stream)) == list(names)
    return pipe.data.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() if file else b"" for name, file in found.items()}


def test_an_archive_is_a_layout_that_docker_loads_too(job: Job) -> None:
    app = archived.image({"a": b"1" * 3_000_000}, {"b": b"2"}, gzip=False)
    stored(job, archived.called(app, NAME))
    found = members(exported(job, NAME))
    blobs = {layout.blob(digest): data for digest, data in app.blobs.items()}
    documents = {name: found.pop(name) for name in ("index.json", "oci-layout", "manifest.json")}
    assert found == {"blobs": b"", "blobs/sha256": b"", **blobs}
    entry = {**layout.entry(oci.Descriptor(oci.MANIFEST, app.digest, len(app.blobs[app.digest])))}
    entry["annotations"] = layout.named(NAME)
    assert json.loads(documents["index.json"]) == {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry]}
    assert documents["oci-layout"] == archived.VERSION
    manifest = oci.parse_manifest(app.blobs[app.digest])
    layers = [layout.blob(layer.digest) for layer in manifest.layers]
    line = {"Config": layout.blob(manifest.config.digest), "RepoTags": ["app:1"], "Layers": layers}
    assert json.loads(documents["manifest.json"]) == [line]


def test_members_stand_in_order_and_nothing_tells_the_time(job: Job) -> None:
    stored(job, archived.image({"a": b"1"}, name=NAME), archived.image({"b": b"2"}, name="a.io/other:1"))
    data = exported(job, NAME, "a.io/other:1")
    assert data == exported(job, NAME, "a.io/other:1")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = archive.getmembers()
    assert [member.name for member in found] == sorted(member.name for member in found)
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in found} == {(0, 0, 0, "")}


def test_what_is_exported_can_be_imported_and_is_the_same(job: Job, kernel: daemon.Daemon) -> None:
    names = stored(job, archived.image({"a": b"1"}, name=NAME), archived.image({"b": b"2"}, name="a.io/other:1"))
    other = Job(kernel, f"{job.namespace}-b")
    data = exported(job, *names)
    store = transfer.ImageStore("", extra=[transfer.Name("x", is_prefix=True, allow_overwrite=True)])
    assert list(importing.import_stream(other, transfer.ImportStream(Forward(data)), store)) == names
    assert exported(other, *names) == data


def test_docker_is_not_told_names_that_it_does_not_allow(job: Job, view: daemon.View) -> None:
    app = archived.image({"a": b"1"}, name=NAME)
    stored(job, app)
    target = view.images.get(NAME).target
    for name in ("No Name", "a.io/b@" + app.digest):
        view.images.create(images.Image(name, target))
    [line] = json.loads(members(exported(job, "No Name", "a.io/b@" + app.digest, NAME))["manifest.json"])
    assert line["RepoTags"] == ["a.io/b@" + app.digest, "app:1"]


def test_what_only_docker_needs_is_left_out_if_asked(job: Job) -> None:
    stored(job, archived.image({"a": b"1"}, name=NAME))
    found = members(exported(job, NAME, skip_compatibility_manifest=True))
    assert "manifest.json" not in found
    assert "index.json" in found


def test_the_place_where_an_image_came_from_goes_with_it(job: Job, view: daemon.View) -> None:
    app = archived.image({"a": b"1"}, name=NAME)
    stored(job, app)
    label = "containerd.io/distribution.source.a.io"
    view.content.update(content.Info(app.digest, 0, labels={label: "b/c"}), [f"labels.{label}"])
    [entry] = json.loads(members(exported(job, NAME))["index.json"])["manifests"]
    assert entry["annotations"] == {**layout.named(NAME), label: "b/c"}


# --- platforms


@pytest.fixture(scope="module")
def two() -> tuple[Image, Image, Image]:
    amd, arm = archived.image({"a": b"amd"}), archived.image({"a": b"arm"}, architecture="arm64")
    return archived.index(amd, arm, name=NAME), amd, arm


@pytest.mark.parametrize("wanted", [[AMD64], [ARM64], [AMD64, ARM64], [ARM64, AMD64]])
def test_the_wanted_platforms_are_written(
    job: Job, two: tuple[Image, Image, Image], wanted: list[platforms.Platform]
) -> None:
    whole, amd, arm = two
    stored(job, whole)
    found = members(exported(job, NAME, platforms=wanted))
    parts = [part for part, platform in ((amd, AMD64), (arm, ARM64)) if platform in wanted]
    blobs = {layout.blob(digest) for part in parts for digest in part.blobs}
    assert {name for name in found if name.count("/") == 2} == {layout.blob(whole.digest), *blobs}
    [line] = json.loads(found["manifest.json"])
    best = amd if wanted[0] == AMD64 else arm
    assert line["Config"] == layout.blob(oci.parse_manifest(best.blobs[best.digest]).config.digest)


def test_all_platforms_are_written_if_asked(job: Job, two: tuple[Image, Image, Image]) -> None:
    whole, _, _ = two
    stored(job, whole)
    found = members(exported(job, NAME, all_platforms=True))
    assert {name for name in found if name.count("/") == 2} == set(map(layout.blob, whole.blobs))


@pytest.mark.parametrize("options", [{"all_platforms": True}, {"platforms": [ARM64]}])
def test_what_is_missing_is_named_before_a_byte_is_written(
    job: Job, two: tuple[Image, Image, Image], options: dict[str, Any]
) -> None:
    whole, _, arm = two
    layer = oci.parse_manifest(arm.blobs[arm.digest]).layers[0].digest
    other = archived.image({"a": b"of no other test"}, architecture="arm64")
    layer = oci.parse_manifest(other.blobs[other.digest]).layers[0].digest
    whole = archived.index(two[1], other, name=NAME)
    files = archived.layout(whole)
    del files[layout.blob(layer)]
    stored(job, files=files)
    pipe = Pipe()
    with pytest.raises(errors.NotFound, match=f"{NAME}: blob {layer} is missing"):
        stream = transfer.ExportStream(cast(Any, pipe), **options)
        exporting.export_stream(job, transfer.ImageStore(NAME), stream)
    assert not pipe.data.getvalue()


def test_a_platform_that_an_image_is_not_for_is_not_found(job: Job, two: tuple[Image, Image, Image]) -> None:
    stored(job, two[0])
    with pytest.raises(errors.NotFound, match="linux/riscv64"):
        exported(job, NAME, platforms=[platforms.parse("linux/riscv64")])


def foreign() -> Image:
    made = Image()
    config = made.put(layout.encode({"architecture": "amd64", "os": "linux", "rootfs": {}}), oci.CONFIG)
    absent = {"mediaType": oci.FOREIGN_LAYER_GZIP, "digest": "sha256:" + "1" * 64, "size": 5}
    document = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": config, "layers": [absent]}
    made.entry = made.put(layout.encode(document), oci.MANIFEST)
    return archived.called(made, NAME)


def test_layers_that_are_not_to_be_distributed_are_left_out_if_asked(job: Job) -> None:
    stored(job, foreign())
    assert graph.is_foreign(oci.FOREIGN_LAYER_GZIP)
    assert layout.blob("sha256:" + "1" * 64) not in members(exported(job, NAME, skip_non_distributable=True))
    with pytest.raises(errors.NotFound, match=r"sha256:1+ is missing"):
        exported(job, NAME)


# --- what goes wrong


def test_no_image_and_a_prefix_of_images_are_refused(job: Job) -> None:
    stream = transfer.ExportStream(cast(Any, Pipe()))
    with pytest.raises(errors.InvalidArgument, match="no image is named"):
        exporting.export_stream(job, transfer.ImageStore(""), stream)
    with pytest.raises(errors.NotFound, match="absent"):
        exporting.export_stream(job, transfer.ImageStore("absent"), stream)
    with pytest.raises(errors.Unimplemented, match="not by a prefix"):
        exporting.export_stream(job, transfer.ImageStore("x", extra=[transfer.Name("y", is_prefix=True)]), stream)


def test_a_record_that_points_to_no_image_is_refused(job: Job, view: daemon.View) -> None:
    app = archived.image({"a": b"1"}, name=NAME)
    stored(job, app)
    view.images.create(images.Image("odd", oci.Descriptor("text/plain", app.digest, 3)))
    with pytest.raises(errors.InvalidArgument, match="odd: 'text/plain' is neither an index nor a manifest"):
        exported(job, "odd")


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, errors.ResourceExhausted), (errno.EPIPE, errors.Canceled), (errno.EIO, errors.Unavailable)],
)
def test_what_cannot_be_written_is_told_by_its_class(job: Job, code: int, kind: type[errors.Error]) -> None:
    class Full(Pipe):
        def write(self, data: bytes | memoryview, /) -> int:
            raise OSError(code, "cannot")

    stored(job, archived.image({"a": b"1"}, name=NAME))
    with pytest.raises(kind, match="archive"):
        exporting.export_stream(job, transfer.ImageStore(NAME), transfer.ExportStream(cast(Any, Full())))
    assert not job.daemon.view(job.namespace).leases.list()


def test_a_blob_whose_bytes_have_changed_is_data_loss(job: Job, scratch: Path) -> None:
    app = archived.image({"a": b"changed on disk, of no other test"}, name=NAME)
    stored(job, app)
    [layer] = oci.parse_manifest(app.blobs[app.digest]).layers
    [path] = (scratch / "exporting/root").rglob(layer.digest.removeprefix("sha256:"))
    path.chmod(0o600)
    path.write_bytes(bytes(layer.size))
    with pytest.raises(errors.DataLoss, match=f"blob {layer.digest}"):
        exported(job, NAME)


def test_who_has_gone_is_written_no_more(job: Job) -> None:
    stored(job, archived.image({"a": b"1"}, name=NAME))
    looks = itertools.count()

    def check() -> None:
        if next(looks) > 3:
            raise errors.Canceled("the caller has gone")

    gone = Job(job.daemon, job.namespace, check=check)
    with pytest.raises(errors.Canceled):
        exported(gone, NAME)


def test_progress_rises_to_the_total(job: Job) -> None:
    stored(job, archived.image({"a": bytes(9 << 20)}, name=NAME, gzip=False))
    steps: list[transfer.Progress] = []
    exported(Job(job.daemon, job.namespace, progress=steps.append), NAME)
    by_name: dict[str, list[transfer.Progress]] = {}
    for step in steps:
        if step.total:
            by_name.setdefault(step.name, []).append(step)
    assert len(by_name) == 3
    for told in by_name.values():
        assert [step.progress for step in told] == sorted(step.progress for step in told)
        assert (told[-1].event, told[-1].progress) == ("complete", told[-1].total)
    assert max(map(len, by_name.values())) > 2
