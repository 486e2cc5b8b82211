"""Import into the kernel's own store: archives of every kind, in every order, and what is none."""

from __future__ import annotations

import gzip
import itertools
import random
import tarfile
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import zstandard

from plugin_sdk import daemon, errors, oci, platforms, tar_headers, tars, transfer
from plugin_sdk.distribution import engine, importing
from plugin_sdk.distribution.archive import archives, layout
from plugin_sdk.distribution.job import Job
from tests import archived, kernels
from tests.archived import Forward, Image

pytestmark = pytest.mark.root
NAME = "example.test/app:1"
ANY = transfer.Name("import", is_prefix=True, allow_overwrite=True)
AMD64, ARM64 = platforms.parse("linux/amd64"), platforms.parse("linux/arm64")
NUMBERS = itertools.count(1)
LABEL = "containerd.io/gc.ref.content."


@pytest.fixture(scope="module")
def kernel(scratch: Path) -> Iterator[daemon.Daemon]:
    (scratch / "importing").mkdir()
    with kernels.running(scratch / "importing") as made:
        yield made


@pytest.fixture
def namespace() -> str:
    return f"import-{next(NUMBERS)}"


@pytest.fixture
def view(kernel: daemon.Daemon, namespace: str) -> daemon.View:
    return kernel.view(namespace)


class Importer:
    """Imports into a namespace of the test's own."""

    def __init__(self, kernel: daemon.Daemon, namespace: str) -> None:
        self.steps: list[transfer.Progress] = []
        self.job = Job(kernel, namespace, progress=self.steps.append)

    def __call__(
        self, files: Mapping[str, bytes | tarfile.TarInfo] | bytes, *names: transfer.Name, **more: object
    ) -> list[str]:
        data = files if isinstance(files, bytes) else archived.tar(files)
        compress = bool(more.pop("force_compress", False))
        store = transfer.ImageStore(str(more.pop("name", "")), extra=names or (ANY,), **more)  # type: ignore[arg-type]
        stream = transfer.ImportStream(Forward(data, piece=max(700, len(data) // 500)), force_compress=compress)
        return list(importing.import_stream(self.job, stream, store))


@pytest.fixture
def import_(kernel: daemon.Daemon, namespace: str) -> Importer:
    return Importer(kernel, namespace)


@pytest.fixture(scope="module")
def app() -> Image:
    return archived.image({"a": b"first" * 500}, {"b": b"second"}, name=NAME)


def content(view: daemon.View) -> dict[str, dict[str, str]]:
    """Labels by digest."""
    return {info.digest: dict(info.labels) for info in view.content.walk()}


def read(view: daemon.View, digest: str) -> bytes:
    with view.content.reader(digest) as reader:
        return reader.read_at(0, reader.size)


def assert_nothing_is_left(view: daemon.View) -> None:
    """But blobs that nothing keeps: no lease, no label of another one."""
    assert not view.images.list()
    assert not view.content.list_statuses()
    assert not view.leases.list()
    assert not list(view.snapshotter("overlayfs").walk())


# --- layouts


@pytest.mark.parametrize("order", ["index first", "index last", "shuffled"])
def test_a_layout_is_imported_in_whatever_order_it_comes(
    import_: Importer, view: daemon.View, app: Image, order: str
) -> None:
    files = archived.layout(app)
    names = sorted(files, key=lambda name: name.startswith("blobs"), reverse=order != "index first")
    if order == "shuffled":
        random.Random(7).shuffle(names)
    assert import_({name: files[name] for name in names}) == [NAME]
    record = view.images.get(NAME)
    assert record.target.digest == app.digest
    assert record.target.annotations == layout.named(NAME)
    manifest = oci.parse_manifest(read(view, app.digest))
    assert [read(view, layer.digest) for layer in manifest.layers] == [app.blobs[of.digest] for of in manifest.layers]


def test_labels_lead_from_the_index_to_the_layers(import_: Importer, view: daemon.View, app: Image) -> None:
    files = archived.layout(app)
    import_(files)
    manifest = oci.parse_manifest(app.blobs[app.digest])
    config, (first, second) = manifest.config.digest, [layer.digest for layer in manifest.layers]
    assert content(view) == {
        oci.digest_of(files["index.json"]): {f"{LABEL}m.0": app.digest},
        app.digest: {f"{LABEL}config": config, f"{LABEL}l.0": first, f"{LABEL}l.1": second},
        config: {},
        first: {},
        second: {},
    }
    assert not view.leases.list()
    assert not view.content.list_statuses()


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_compressed_archive_is_inflated(import_: Importer, app: Image, pack: object) -> None:
    data = archived.tar(archived.layout(app))
    both = pack(data[:3000]) + pack(data[3000:])  # type: ignore[operator]
    assert import_(both) == [NAME]


def test_names_may_begin_with_a_dot_and_folders_have_members(import_: Importer, app: Image) -> None:
    files: dict[str, bytes | tarfile.TarInfo] = {"./blobs": archived.link("./blobs", "", tarfile.DIRTYPE)}
    assert import_(files | {f"./{name}": data for name, data in archived.layout(app).items()}) == [NAME]


def test_an_archive_is_read_in_pieces(kernel: daemon.Daemon, namespace: str) -> None:
    big = archived.image({"big": random.Random(1).randbytes(3 << 20)}, name=NAME)
    file = Forward(archived.tar(archived.layout(big)), piece=1 << 30)
    importing.import_stream(Job(kernel, namespace), transfer.ImportStream(file), transfer.ImageStore("", extra=[ANY]))
    assert file.asked <= archives.CHUNK


def test_a_second_import_writes_nothing_and_changes_the_record(
    import_: Importer, view: daemon.View, app: Image
) -> None:
    import_(archived.layout(app), labels={"a": "b"})
    before = content(view)
    import_.steps.clear()
    assert import_(archived.layout(app), labels={"c": "d"}) == [NAME]
    assert view.images.get(NAME).labels == {"c": "d"}
    assert content(view) == before
    assert {step.event for step in import_.steps if step.total} == {"already exists"}


def test_blobs_of_another_namespace_are_not_written_again(
    import_: Importer, kernel: daemon.Daemon, view: daemon.View, namespace: str, app: Image
) -> None:
    import_(archived.layout(app))
    assert Importer(kernel, f"{namespace}-b")(archived.layout(app)) == [NAME]
    assert content(kernel.view(f"{namespace}-b")) == content(view)


def test_progress_rises_to_the_total_and_the_names_come_last(import_: Importer, app: Image) -> None:
    big = archived.image({"big": random.Random(1).randbytes(9 << 20)}, name=NAME)
    import_(archived.layout(big))
    assert [import_.steps[0].event, import_.steps[-1].event] == ["Importing", "Completed import"]
    assert [step.name for step in import_.steps if step.event == "saved"] == [NAME]
    by_name: dict[str, list[transfer.Progress]] = {}
    for step in import_.steps:
        if step.total:
            by_name.setdefault(step.name, []).append(step)
    assert any(len(steps) > 2 for steps in by_name.values())
    for steps in by_name.values():
        told = [step.progress for step in steps]
        assert told == sorted(told)
        assert told[-1] == steps[-1].total


# --- platforms


@pytest.fixture(scope="module")
def two() -> tuple[Image, Image, Image]:
    """An index of two platforms, and these."""
    amd, arm = archived.image({"a": b"amd"}), archived.image({"a": b"arm"}, architecture="arm64")
    return archived.index(amd, arm, name=NAME), amd, arm


def without(whole: Image, part: Image, *, keep: str = "") -> dict[str, bytes]:
    """A layout that lacks the blobs of a part."""
    left_out = {layout.blob(digest) for digest in part.blobs if digest != keep}
    return {name: data for name, data in archived.layout(whole).items() if name not in left_out}


def test_what_is_missing_of_other_platforms_is_not_needed(
    import_: Importer, view: daemon.View, two: tuple[Image, Image, Image]
) -> None:
    whole, amd, arm = two
    assert import_(without(whole, arm), platforms=[AMD64]) == [NAME]
    labels = view.content.info(whole.digest).labels
    assert labels == {f"{LABEL}m.0": amd.digest, f"{LABEL}m.1": arm.digest}


@pytest.mark.parametrize("wanted", [[], [ARM64], [AMD64, ARM64]], ids=["all", "it", "both"])
def test_what_is_missing_of_a_wanted_platform_is_named(
    import_: Importer, view: daemon.View, two: tuple[Image, Image, Image], wanted: list[platforms.Platform]
) -> None:
    whole, _, arm = two
    config = oci.parse_manifest(arm.blobs[arm.digest]).config.digest
    files = archived.layout(whole)
    del files[layout.blob(config)]
    with pytest.raises(errors.NotFound, match=f"{NAME}: blob {config} is missing"):
        import_(files, platforms=wanted)
    assert_nothing_is_left(view)


def test_all_metadata_of_other_platforms_is_needed_but_not_their_layers(
    import_: Importer, view: daemon.View, two: tuple[Image, Image, Image]
) -> None:
    whole, _, arm = two
    manifest = oci.parse_manifest(arm.blobs[arm.digest])
    files = archived.layout(whole)
    del files[layout.blob(manifest.layers[0].digest)]
    assert import_(files, platforms=[AMD64], all_metadata=True) == [NAME]
    assert f"{LABEL}config" in view.content.info(arm.digest).labels


def test_an_image_for_another_machine_alone_is_not_found(import_: Importer, view: daemon.View, app: Image) -> None:
    with pytest.raises(errors.NotFound, match="no image for linux/arm64"):
        import_(archived.layout(app), platforms=[ARM64])
    assert_nothing_is_left(view)


def test_an_index_without_a_wanted_platform_is_not_found(import_: Importer, two: tuple[Image, Image, Image]) -> None:
    with pytest.raises(errors.NotFound, match="linux/riscv64"):
        import_(archived.layout(two[0]), platforms=[platforms.parse("linux/riscv64")])


def test_images_are_limited_to_the_best_platforms(import_: Importer, two: tuple[Image, Image, Image]) -> None:
    whole, amd, _ = two
    assert import_(without(whole, amd), platforms=[ARM64, AMD64], manifest_limit=1) == [NAME]


# --- names


def prefix(name: str, **how: bool) -> transfer.Name:
    return transfer.Name(name, is_prefix=True, **how)


@pytest.mark.parametrize(
    ("annotations", "asked", "made"),
    [
        ({layout.IMAGE_NAME: "a.io/b:c"}, prefix("x", allow_overwrite=True), ["a.io/b:c"]),
        ({layout.IMAGE_NAME: "a.io/b:c"}, prefix("a.io/b"), ["a.io/b:c"]),
        ({layout.IMAGE_NAME: "a.io/b:c"}, prefix("a.io"), ["a.io/b:c"]),
        ({layout.IMAGE_NAME: "a.io/bc:d"}, prefix("a.io/b"), []),
        ({layout.IMAGE_NAME: "bare"}, prefix("x", allow_overwrite=True), []),
        ({oci.REF_NAME: "a.io/b:c"}, prefix("x", allow_overwrite=True), ["a.io/b:c"]),
        ({oci.REF_NAME: "tag"}, prefix("a.io/b"), ["a.io/b:tag"]),
        ({oci.REF_NAME: "tag"}, prefix("a.io/b", add_digest=True), ["a.io/b:tag", "a.io/b@{}"]),
        ({oci.REF_NAME: "tag"}, prefix("a.io/b", add_digest=True, skip_named_digest=True), ["a.io/b:tag"]),
        ({}, prefix("a.io/b"), []),
        ({}, prefix("a.io/b", add_digest=True, skip_named_digest=True), ["a.io/b@{}"]),
    ],
)
def test_images_are_named_by_their_annotations_and_the_prefix(
    import_: Importer, view: daemon.View, annotations: dict[str, str], asked: transfer.Name, made: list[str]
) -> None:
    some = archived.image({"a": b"1"})
    some.entry["annotations"] = annotations
    names = [name.format(some.digest) for name in made]
    assert import_(archived.layout(some), asked) == names
    assert sorted(image.name for image in view.images.list()) == sorted(names)


def test_a_name_that_is_no_prefix_is_the_whole_archives(import_: Importer, view: daemon.View, app: Image) -> None:
    files = archived.layout(app)
    index = oci.digest_of(files["index.json"])
    made = import_(files, transfer.Name("all"), transfer.Name("at", add_digest=True), name="whole")
    assert made == ["whole", "all", f"at@{index}"]
    assert {view.images.get(name).target.digest for name in made} == {index}


def test_several_images_of_one_archive_share_their_layers(import_: Importer, view: daemon.View) -> None:
    one = archived.image({"a": b"1"}, name="a.io/one:1")
    other = archived.image({"a": b"1"}, {"b": b"2"}, name="a.io/other:1")
    assert import_(archived.layout(one, other)) == ["a.io/one:1", "a.io/other:1"]
    assert len(content(view)) == 1 + 2 + 2 + 2  # index.json, manifests, configs, layers


# --- what docker save writes


def test_a_docker_archive_gets_a_manifest_and_an_index(import_: Importer, view: daemon.View) -> None:
    some = archived.image({"a": b"1"}, {"b": b"2"}, gzip=False)
    assert import_(archived.saved(some, "busybox:1", "localhost:5000/x")) == [
        "docker.io/library/busybox:1",
        "localhost:5000/x:latest",
    ]
    target = view.images.get("localhost:5000/x:latest").target
    manifest = oci.parse_manifest(read(view, target.digest))
    assert (target.media_type, manifest.config.media_type) == (oci.DOCKER_MANIFEST, oci.DOCKER_CONFIG)
    assert [layer.media_type for layer in manifest.layers] == [oci.DOCKER_LAYER] * 2
    assert set(some.blobs) - set(content(view)) == {some.digest}


def test_json_is_written_as_go_writes_it() -> None:
    written = layout.encode({"a": "<&>ü\u2028", "b": "\ud800", "c": None})
    assert written == rb'{"a":"\u003c\u0026\u003e' + "ü".encode() + rb'\u2028","b":"' + b'\xef\xbf\xbd","c":null}'


def test_layers_that_are_links_are_followed(import_: Importer, view: daemon.View) -> None:
    some = archived.image({"a": b"1"}, {"b": b"2"}, gzip=False)
    files = archived.saved(some, "x:1")
    moved: dict[str, bytes | tarfile.TarInfo] = {
        "first.tar": files.pop("0/layer.tar"),
        "second.tar": files.pop("1/layer.tar"),
        "0/layer.tar": archived.link("0/layer.tar", "../first.tar"),
        "1/layer.tar": archived.link("1/layer.tar", "second.tar", tarfile.LNKTYPE),
    }
    [name] = import_(moved | files)
    layers = oci.parse_manifest(read(view, view.images.get(name).target.digest)).layers
    assert {layer.digest for layer in layers} < set(some.blobs)


def test_an_archive_of_both_kinds_is_read_as_a_layout(import_: Importer, view: daemon.View, app: Image) -> None:
    files = archived.layout(app)
    both = files | {name: data for name, data in archived.saved(app, "x:1").items() if name == "manifest.json"}
    assert import_(both) == [NAME]
    assert view.images.get(NAME).target.digest == app.digest


def test_compressed_layers_are_recognised(import_: Importer, view: daemon.View) -> None:
    [name] = import_(archived.saved(archived.image({"a": b"1"}), "x:1"))
    [layer] = oci.parse_manifest(read(view, view.images.get(name).target.digest)).layers
    assert layer.media_type == oci.DOCKER_LAYER_GZIP


def test_layers_are_compressed_when_that_is_asked_for(import_: Importer, view: daemon.View) -> None:
    some = archived.image({"a": b"1" * 5000}, gzip=False)
    [plain] = oci.parse_manifest(some.blobs[some.digest]).layers
    for compress in (True, False):  # the second time it is known
        [name] = import_(archived.saved(some, "x:1"), force_compress=compress)
        [layer] = oci.parse_manifest(read(view, view.images.get(name).target.digest)).layers
        assert layer.media_type == oci.DOCKER_LAYER_GZIP
        assert oci.digest_of(gzip.decompress(read(view, layer.digest))) == plain.digest
        assert view.content.info(layer.digest).labels == {oci.UNCOMPRESSED_LABEL: plain.digest}


# --- what is no archive, or a bad one


def test_a_blob_with_other_bytes_than_its_name_says_is_data_loss(import_: Importer, view: daemon.View) -> None:
    some = archived.image({"damaged": b"of this one no other test makes the blobs"})
    files = archived.layout(some)
    [layer] = oci.parse_manifest(some.blobs[some.digest]).layers
    name = layout.blob(layer.digest)
    with pytest.raises(errors.DataLoss, match=f"blob {layer.digest} has other bytes in the archive"):
        import_({**files, name: files[name][:-1] + bytes([files[name][-1] ^ 1])})
    assert_nothing_is_left(view)


def index_of(*entries: object) -> dict[str, bytes]:
    return {"oci-layout": archived.VERSION, "index.json": layout.encode({"schemaVersion": 2, "manifests": entries})}


def line(media_type: str, digest: str = "sha256:" + "0" * 64, size: int = 3) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def half_a_character() -> dict[str, bytes]:
    files = index_of({**line(oci.MANIFEST), "annotations": {oci.REF_NAME: "HALF"}})
    return {**files, "index.json": files["index.json"].replace(b"HALF", rb"\ud800")}


DOCUMENTS = [
    ({"x": b"y"}, errors.InvalidArgument, "neither an OCI image layout nor what docker save writes"),
    ({"oci-layout": archived.VERSION}, errors.InvalidArgument, "no index.json"),
    ({"oci-layout": b"{}", "index.json": b"{}"}, errors.InvalidArgument, "says version 'None'"),
    ({"oci-layout": archived.VERSION, "index.json": b"{"}, errors.InvalidArgument, "not valid JSON"),
    (index_of(), errors.InvalidArgument, "holds no image"),
    (index_of(line("text/plain")), errors.InvalidArgument, "'text/plain' is neither an index nor a manifest"),
    (index_of(line(oci.MANIFEST)), errors.NotFound, "blob sha256:0+ is missing"),
    (index_of(line(oci.MANIFEST, "sha256:0")), errors.InvalidArgument, "digest"),
    (index_of(line(oci.MANIFEST, size=-1)), errors.InvalidArgument, "size"),
    (index_of(line(oci.MANIFEST, size=100 << 20)), errors.ResourceExhausted, "104857600 bytes"),
    ({"manifest.json": b"[{}]"}, errors.InvalidArgument, "is not what docker save writes"),
    ({"manifest.json": b"[" * 100_000}, errors.InvalidArgument, "is not what docker save writes"),
    ({"manifest.json": b'[{"Config":"c","Layers":[]}]'}, errors.InvalidArgument, "names 'c', which is not there"),
    ({"manifest.json": b"[]"}, errors.InvalidArgument, "holds no image"),
    ({"manifest.json": rb'[{"Config":"\ud800","Layers":[]}]'}, errors.InvalidArgument, "which is not there"),
    (half_a_character(), errors.InvalidArgument, "half of a character"),
]


@pytest.mark.parametrize(("files", "kind", "reason"), DOCUMENTS)
def test_a_bad_document_is_told(
    import_: Importer, view: daemon.View, files: dict[str, bytes], kind: type[errors.Error], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        import_(files)
    assert_nothing_is_left(view)


def test_an_index_that_refers_to_itself_is_refused(import_: Importer, view: daemon.View) -> None:
    """As far as that can be: in a circle one digest must be a lie, and the blob is then not the one that is named."""
    some = Image()
    inner = layout.index([line(oci.INDEX, size=10)])  # type: ignore[list-item]
    some.entry = some.put(inner, oci.INDEX)
    with pytest.raises(errors.NotFound, match="is missing"):
        import_(archived.layout(some))
    for _ in range(12):
        some.entry = some.put(layout.index([some.entry]), oci.INDEX)
    with pytest.raises(errors.InvalidArgument, match="nested deeper"):
        import_(archived.layout(some))
    assert_nothing_is_left(view)


def test_a_manifest_with_another_size_than_the_index_says_is_refused(import_: Importer, app: Image) -> None:
    files = archived.layout(app)
    entry = {**app.entry, "size": app.entry["size"] + 1}
    with pytest.raises(errors.InvalidArgument, match="its descriptor says"):
        import_({**files, "index.json": layout.index([entry])})


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["../x"], "leads out of the root"),
        (["a/../../x"], "leads out of the root"),
        (["/index.json"], "absolute name"),
        (["index.json", "./index.json"], '"index.json" twice'),
        (["a/layer.tar", "a/layer.tar"], '"a/layer.tar" twice'),
    ],
)
def test_names_that_nobody_writes_are_refused(
    import_: Importer, view: daemon.View, names: list[str], reason: str
) -> None:
    data = b"".join(tar_headers.format(tars.file(name.encode(), 512)) + b"x" * 512 for name in names)
    with pytest.raises(errors.InvalidArgument, match=reason):
        import_(data + tar_headers.END)
    assert_nothing_is_left(view)


def test_links_in_a_circle_lead_nowhere(import_: Importer) -> None:
    files = archived.saved(archived.image({"a": b"1"}), "x:1")
    del files["0/layer.tar"]
    circle = {"0/layer.tar": archived.link("0/layer.tar", "../b"), "b": archived.link("b", "0/layer.tar")}
    with pytest.raises(errors.InvalidArgument, match=r"names '0/layer\.tar', which is not there"):
        import_(files | circle)


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"", errors.InvalidArgument, "the archive is empty"),
        (b"x", errors.InvalidArgument, "the archive is no tar"),
        (b"x" * 5000, errors.InvalidArgument, "the archive is no tar"),
        (b"\x1f\x8b" + b"x" * 5000, errors.InvalidArgument, "no whole gzip file"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 5000, errors.InvalidArgument, "no whole zstd file"),
        (bytes(10240), errors.InvalidArgument, "neither an OCI image layout"),
        (tar_headers.format(tars.file(b"index.json", 100 << 20)), errors.ResourceExhausted, "104857600 bytes"),
        (tar_headers.format(tars.file(b"x" * 5000, 0)), errors.InvalidArgument, "too long"),
    ],
)
def test_what_is_no_archive_is_told(
    import_: Importer, view: daemon.View, data: bytes, kind: type[errors.Error], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        import_(data)
    assert_nothing_is_left(view)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_stream_that_ends_in_the_middle_leaves_nothing(
    import_: Importer, view: daemon.View, app: Image, pack: object, part: float
) -> None:
    files = archived.layout(app)
    noise = {"noise": random.Random(5).randbytes(30_000)}
    data = pack(archived.tar(noise | files | {"last": noise["noise"]}))  # type: ignore[operator]
    with pytest.raises(errors.InvalidArgument, match="the archive"):
        import_(data[: int(len(data) * part) // 512 * 512 + 100])  # not between two members
    assert_nothing_is_left(view)


def test_headers_without_end_are_refused(kernel: daemon.Daemon, namespace: str) -> None:
    one = tar_headers.format(archived_directory())
    stream = transfer.ImportStream(Forward(itertools.repeat(one * 1000), piece=1 << 20))
    with pytest.raises(errors.ResourceExhausted, match="too many members"):
        importing.import_stream(Job(kernel, namespace), stream, transfer.ImageStore("", extra=[ANY]))


def archived_directory() -> tars.Entry:
    entry = tars.file(b"folder/", 0)
    entry.type = tars.DIRECTORY
    return entry


def test_an_extended_header_without_end_is_refused(kernel: daemon.Daemon, namespace: str) -> None:
    header = tars.file(b"x", 1 << 30)
    header.type = b"x"
    stream = transfer.ImportStream(
        Forward(itertools.chain([tar_headers.format(header)], itertools.repeat(b"x" * 5000)))
    )
    with pytest.raises(errors.InvalidArgument, match="extended headers of a tar entry exceed"):
        importing.import_stream(Job(kernel, namespace), stream, transfer.ImageStore("", extra=[ANY]))


def test_who_has_gone_gets_no_image(kernel: daemon.Daemon, namespace: str, view: daemon.View, app: Image) -> None:
    looks = itertools.count()

    def check() -> None:
        if next(looks) > 20:
            raise errors.Canceled("the caller has gone")

    job = Job(kernel, namespace, check=check)
    with pytest.raises(errors.Canceled):
        importing.import_stream(
            job, transfer.ImportStream(Forward(archived.tar(archived.layout(app)))), transfer.ImageStore("x")
        )
    assert_nothing_is_left(view)


class Broken(Forward):
    def read(self, size: int = -1, /) -> bytes:
        if self.asked:
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_a_stream_that_cannot_be_read_is_unavailable(kernel: daemon.Daemon, namespace: str) -> None:
    with pytest.raises(errors.Unavailable, match="the archive cannot be read: Input/output error"):
        importing.import_stream(Job(kernel, namespace), transfer.ImportStream(Broken(b"x")), transfer.ImageStore("x"))


def test_a_lease_of_the_caller_keeps_what_was_made(kernel: daemon.Daemon, namespace: str, app: Image) -> None:
    view = kernel.view(namespace)
    view.leases.create("mine")
    stream = transfer.ImportStream(Forward(archived.tar(archived.layout(app))))
    assert importing.import_stream(Job(kernel, namespace, "mine"), stream, transfer.ImageStore("")) == []
    assert [lease.id for lease in view.leases.list()] == ["mine"]
    held = {resource.id for resource in view.leases.list_resources("mine") if resource.type == "content"}
    assert set(app.blobs) <= held


def test_memory_is_bounded_whatever_the_size_of_a_member(kernel: daemon.Daemon, namespace: str) -> None:
    size = 64 << 20
    data = itertools.chain(
        [tar_headers.format(tars.file(b"big", size))], itertools.repeat(bytes(1 << 16), size >> 16), [tar_headers.END]
    )
    tracemalloc.start()
    try:
        with pytest.raises(errors.InvalidArgument, match="neither"):
            importing.import_stream(
                Job(kernel, namespace), transfer.ImportStream(Forward(data, piece=1 << 20)), transfer.ImageStore("x")
            )
        assert tracemalloc.get_traced_memory()[1] < size // 2
    finally:
        tracemalloc.stop()


def test_an_image_that_cannot_be_unpacked_gets_no_record(
    kernel: daemon.Daemon, namespace: str, view: daemon.View
) -> None:
    some, other = archived.image({"a": b"1"}, gzip=False), archived.image({"b": b"2"}, gzip=False)
    files = archived.saved(some, "wrong:1") | {"0/layer.tar": archived.saved(other)["0/layer.tar"]}
    store = transfer.ImageStore("", extra=[ANY], unpacks=[transfer.Unpack()])
    with pytest.raises(errors.DataLoss, match=r"wrong:1.*has the diff ID"):
        engine.Engine(kernel, namespace).transfer(transfer.ImportStream(Forward(archived.tar(files))), store)
    assert_nothing_is_left(view)
    files = archived.saved(some, "right:1")
    engine.Engine(kernel, namespace).transfer(transfer.ImportStream(Forward(archived.tar(files))), store)
    assert [snapshot.name for snapshot in view.snapshotter("overlayfs").walk()] == [oci.digest_of(files["0/layer.tar"])]
