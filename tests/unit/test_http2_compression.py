"""HPACK as clients write it: hpack's encoder, the examples of RFC 7541 (appendix C), and what is malformed."""

from __future__ import annotations

import random
import string

import hpack
import pytest

from plugin_sdk.wire.http2 import headers
from plugin_sdk.wire.http2.compression import Decoder
from plugin_sdk.wire.http2.frames import Code, ConnectionFailure

FIRST = {":method": "GET", ":scheme": "http", ":path": "/", ":authority": "www.example.com"}


@pytest.mark.parametrize(
    "blocks",
    [
        ["828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865"],
        ["828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf"],
    ],
    ids=["plain", "huffman"],
)
def test_the_examples_of_the_rfc_are_read(blocks: list[str]) -> None:
    decoder = Decoder()
    assert decoder.decode(bytes.fromhex(blocks[0])) == FIRST
    assert decoder.decode(bytes.fromhex(blocks[1])) == FIRST | {"cache-control": "no-cache"}


@pytest.mark.parametrize("seed", range(20))
def test_what_another_encoder_writes_is_read(seed: int) -> None:
    random_ = random.Random(seed)
    encoder, decoder = hpack.Encoder(), Decoder()
    names = ["te", ":path", *("".join(random_.choices(string.ascii_lowercase, k=6)) for _ in range(20))]
    for _ in range(100):
        if random_.random() < 0.1:
            encoder.header_table_size = random_.choice([0, 100, 500, 4096])
        fields = {name: text(random_) for name in random_.sample(names, random_.randrange(1, 9))}
        block = encoder.encode(fields.items(), huffman=random_.random() < 0.5)
        assert decoder.decode(block) == fields


def text(random_: random.Random) -> str:
    return "".join(random_.choices(string.printable, k=random_.choice([0, 1, 2, 5, 40, 300])))


def test_fields_that_must_not_be_indexed_are_read_and_forgotten() -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    assert decoder.decode(encoder.encode([("secret", "x", True), ("te", "y")])) == {"secret": "x", "te": "y"}
    assert decoder.decode(b"\xbe") == {"te": "y"}


def test_an_entry_larger_than_the_table_empties_it() -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    decoder.decode(encoder.encode([("a", "b")]))
    decoder.decode(encoder.encode([("large", "x" * 5000)]))
    with pytest.raises(ConnectionFailure):
        decoder.decode(b"\xbe")


def test_bytes_that_are_no_text_are_kept_one_by_one() -> None:
    assert Decoder().decode(b"\x40\x01a\x02\xff\xfe") == {"a": "\xff\xfe"}


@pytest.mark.parametrize(
    "block",
    ["80", "be", "7f", "40", "4001", "400161", "40016105", "ff", "ffffffffffff7f", "3fe21f", "8220", "4081ff00"],
)
def test_a_malformed_block_loses_the_connection(block: str) -> None:
    with pytest.raises(ConnectionFailure) as caught:
        Decoder().decode(bytes.fromhex(block))
    assert caught.value.code == Code.COMPRESSION_ERROR


@pytest.mark.parametrize("seed", range(50))
def test_random_blocks_are_read_or_refused(seed: int) -> None:
    random_ = random.Random(seed)
    for _ in range(50):
        decoder = Decoder()
        try:
            for _ in range(5):
                decoder.decode(random_.randbytes(random_.randrange(40)))
        except ConnectionFailure as err:
            assert err.code in (Code.COMPRESSION_ERROR, Code.ENHANCE_YOUR_CALM)


def test_a_block_that_is_repeated_means_the_same_until_the_table_changes() -> None:
    encoder, decoder = hpack.Encoder(), headers.Decoder()
    first = [(":method", "POST"), (":path", "/a"), ("x", "1")]
    decoder.decode(encoder.encode(first))
    block = encoder.encode(first)
    assert decoder.decode(block) is decoder.decode(block)
    decoder.decode(encoder.encode([(":path", "/b")]))
    assert decoder.decode(block).path == "/b"  # the same indices, of a table that has grown


def test_requests_are_shown_without_what_http2_needs() -> None:
    fields = {":method": "POST", ":scheme": "http", ":path": "/a/b", ":authority": "x", "te": "trailers"}
    request = headers.Decoder().decode(hpack.Encoder().encode(fields.items()))
    assert request == headers.Request("POST", "/a/b", {"te": "trailers"})
