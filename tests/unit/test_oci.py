import hashlib
import json
from typing import Any

import pytest

from plugin_sdk import errors, oci, platforms
from plugin_sdk.platforms import Platform

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


def descriptor(**changes: object) -> dict[str, Any]:
    return {"mediaType": oci.MANIFEST, "digest": DIGEST, "size": 7} | changes


def document(**values: object) -> bytes:
    return json.dumps({"schemaVersion": 2} | values).encode()


def test_a_chain_id_hashes_the_chain_below_and_the_diff_id() -> None:
    second = "sha256:" + hashlib.sha256(f"{DIGEST} {OTHER}".encode()).hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} {DIGEST}".encode()).hexdigest()
    assert oci.chain_ids([DIGEST, OTHER, DIGEST]) == [DIGEST, second, third]
    assert oci.chain_id([DIGEST, OTHER, DIGEST]) == third


def test_no_layers_have_no_chain_id() -> None:
    assert oci.chain_id([]) == ""
    assert oci.chain_ids([]) == []


def test_a_malformed_diff_id_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="sha256:x"):
        oci.chain_ids([DIGEST, "sha256:x"])


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        (oci.LAYER, ""),
        (oci.LAYER_GZIP, "gzip"),
        (oci.LAYER_ZSTD, "zstd"),
        (oci.FOREIGN_LAYER_GZIP, "gzip"),
        (oci.DOCKER_LAYER, "detect"),
        (oci.DOCKER_LAYER_GZIP, "gzip"),
        (oci.DOCKER_LAYER_ZSTD, "zstd"),
        (oci.DOCKER_FOREIGN_LAYER_GZIP, "gzip"),
    ],
)
def test_a_layer_tells_its_compression(media_type: str, expected: str) -> None:
    assert oci.is_layer(media_type)
    assert oci.compression(media_type) == expected


def test_what_is_not_a_layer_has_no_compression() -> None:
    assert not oci.is_layer(oci.MANIFEST)
    with pytest.raises(errors.Unimplemented, match="manifest"):
        oci.compression(oci.MANIFEST)


def test_compression_is_detected_by_magic() -> None:
    assert oci.detect_compression(b"\x1f\x8b\x08\0") == "gzip"
    assert oci.detect_compression(b"\x28\xb5\x2f\xfd") == "zstd"
    assert oci.detect_compression(b"etc/") == ""
    assert oci.detect_compression(b"") == ""


def test_a_manifest_is_parsed() -> None:
    config = descriptor(mediaType=oci.CONFIG)
    layer = descriptor(mediaType=oci.LAYER_GZIP, digest=OTHER, size=0, annotations={"a": "b"})
    manifest = oci.parse_manifest(document(config=config, layers=[layer], annotations={"c": "d"}))
    assert manifest.media_type == oci.MANIFEST
    assert manifest.config == oci.Descriptor(oci.CONFIG, DIGEST, 7)
    assert manifest.layers == (oci.Descriptor(oci.LAYER_GZIP, OTHER, 0, {"a": "b"}),)
    assert manifest.annotations == {"c": "d"}


def test_an_index_is_parsed() -> None:
    platform = {"os": "linux", "architecture": "arm", "variant": "v7", "os.features": ["x"]}
    index = oci.parse_index(
        document(mediaType=oci.DOCKER_INDEX, manifests=[descriptor(platform=platform), descriptor()])
    )
    assert index.media_type == oci.DOCKER_INDEX
    assert [entry.platform for entry in index.entries] == [Platform("linux", "arm", "v7", "", ("x",)), None]


def test_a_config_is_parsed() -> None:
    config = oci.parse_config(
        json.dumps(
            {
                "os": "linux",
                "architecture": "amd64",
                "created": "2026-01-01T00:00:00Z",
                "config": {
                    "User": "www",
                    "Env": ["A=b"],
                    "Entrypoint": ["/bin/x"],
                    "Cmd": None,
                    "WorkingDir": "/srv",
                    "Volumes": {"/data": {}},
                    "Labels": {"k": "v"},
                    "StopSignal": "SIGINT",
                },
                "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
            }
        ).encode()
    )
    assert config == oci.ImageConfig(
        Platform("linux", "amd64"),
        (DIGEST,),
        "www",
        ("A=b",),
        ("/bin/x",),
        (),
        "/srv",
        "SIGINT",
        ("/data",),
        {"k": "v"},
        "2026-01-01T00:00:00Z",
    )


def test_an_empty_config_is_parsed() -> None:
    assert oci.parse_config(b"{}").diff_ids == ()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff", "not valid JSON"),
        (rb'{"mediaType": "\ud800"}', "half of a character"),
        (b"[" * 100_000, "not valid JSON"),
        (document(layers=[]), "manifest.config: is missing"),
        (document(config=1), "manifest.config: must be an object"),
        (document(config=descriptor(), layers={}), "manifest.layers: must be a list"),
        (document(config=descriptor(), layers=["x"]), "manifest.layers: must be a list of objects"),
        (document(config=descriptor(digest="x")), "manifest.config: digest"),
        (document(config=descriptor(size=-1)), "manifest.config.size"),
        (document(config=descriptor(size="7")), "manifest.config.size"),
        (document(config=descriptor(size=True)), "manifest.config.size"),
        (document(config=descriptor(mediaType="")), "media type is missing"),
        (document(config=descriptor(mediaType=3)), "manifest.config.mediaType: must be a string"),
        (document(config=descriptor(), layers=[descriptor(), descriptor(digest="y")]), r"manifest.layers\[1\]"),
        (document(config=descriptor(), annotations={"a": 1}), "manifest.annotations.a"),
        (document(config=descriptor(), mediaType=oci.INDEX), "manifest.mediaType"),
        (document(config=descriptor(), manifests=[]), "manifest.manifests: does not belong"),
        (document(config=descriptor(), schemaVersion=1), "manifest.schemaVersion"),
    ],
)
def test_a_malformed_manifest_is_refused_with_the_name_of_the_field(data: bytes, reason: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=reason):
        oci.parse_manifest(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (document(), "index.manifests: is missing"),
        (document(manifests=[descriptor()], layers=[]), "index.layers: does not belong"),
        (document(manifests=[descriptor(platform="linux")]), r"index.manifests\[0\].platform"),
        (document(manifests=[descriptor(platform={"os.features": 3})]), "os.features"),
    ],
)
def test_a_malformed_index_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=reason):
        oci.parse_index(data)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"rootfs": {"diff_ids": ["x"]}}, "digest"),
        ({"rootfs": {"type": "blobs"}}, "config.rootfs.type"),
        ({"config": {"Env": [1]}}, "config.config.Env"),
        ({"config": []}, "config.config"),
    ],
)
def test_a_malformed_config_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=reason):
        oci.parse_config(json.dumps(values).encode())


def index_of(*names: str) -> oci.Index:
    entries = [
        oci.Entry(oci.Descriptor(oci.MANIFEST, DIGEST, place), platforms.parse(name) if name else None)
        for place, name in enumerate(names)
    ]
    return oci.Index(oci.INDEX, tuple(entries))


def test_the_best_match_comes_first() -> None:
    index = index_of("", "linux/386", "windows/amd64", "linux/amd64", "linux/amd64")
    found = oci.candidates(index, Platform("linux", "amd64"))
    assert [entry.descriptor.size for entry in found] == [3, 4, 1, 0]


def test_no_match_is_not_found_by_name() -> None:
    with pytest.raises(errors.NotFound, match="linux/s390x"):
        oci.candidates(index_of("linux/amd64"), Platform("linux", "s390x"))


def test_children_are_what_a_blob_points_to() -> None:
    manifest = document(config=descriptor(mediaType=oci.CONFIG), layers=[descriptor(digest=OTHER)])
    assert [child.digest for child in oci.children(oci.MANIFEST, manifest)] == [DIGEST, OTHER]
    assert [child.digest for child in oci.children(oci.INDEX, document(manifests=[descriptor()]))] == [DIGEST]
    assert oci.children(oci.LAYER, b"any") == []
