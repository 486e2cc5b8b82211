"""From a descriptor to a tar: inflating, both digests, what is damaged."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import threading

import pytest

from plugin_sdk import errors
from plugins_builtin.diff import streams

DATA = os.urandom(700_000) + bytes(3_000_000) + os.urandom(123)


@pytest.fixture(params=["site", "bare"])
def codecs(request):
    codecs = streams.Codecs([])
    if request.param == "bare":
        codecs.igzip = codecs.isal = codecs.zstd = None
    return codecs


def source_of(blob, compression, codecs, limit=1 << 40):
    with tempfile.TemporaryFile() as file:
        file.write(blob)
        file.flush()
        return streams.Source(os.dup(file.fileno()), codecs, compression, "sha256", limit)


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("compression", ["gzip", "detect"])
def test_gzip_with_several_members_is_one_stream(codecs, compression):
    blob = gzip.compress(DATA[:1_000_000]) + gzip.compress(DATA[1_000_000:]) + bytes(512)
    source = source_of(blob, compression, codecs)
    assert b"".join(source.pieces(len(DATA))) == DATA
    source.finish()
    assert (source.tar.digest(), source.tar.size) == (digest_of(DATA), len(DATA))
    assert (source.blob.digest(), source.blob.size) == (digest_of(blob), len(blob))


def test_a_pipe_is_read_to_its_end(codecs):
    ours, theirs = os.pipe()
    source = streams.Source(ours, codecs, "", "sha256", 1 << 40)
    thread = threading.Thread(target=write, args=(theirs, DATA))
    thread.start()
    assert source.take(10) == DATA[:10]
    source.skip(100)
    assert source.position == 110
    source.finish()
    assert source.blob.digest() == source.tar.digest() == digest_of(DATA)
    thread.join()
    os.close(ours)


def write(fd, data):
    with open(fd, "wb") as file:
        file.write(data)


@pytest.mark.parametrize("cut", [5, 20, 1000, -1])
def test_a_cut_off_stream_is_an_error_but_its_digest_is_known(codecs, cut):
    blob = gzip.compress(DATA)[:cut]
    source = source_of(blob, "gzip", codecs)
    with pytest.raises(errors.InvalidArgument, match="gzip stream"):
        list(source.pieces(len(DATA) + 1))
    assert source.abandon() == digest_of(blob)


def test_an_abandoned_source_knows_its_digest(codecs):
    blob = gzip.compress(DATA * 10, 1)
    source = source_of(blob, "gzip", codecs)
    assert source.take(1) == DATA[:1]
    assert source.abandon() == digest_of(blob)


def test_a_tar_above_the_limit_is_refused(codecs):
    source = source_of(gzip.compress(DATA), "gzip", codecs, limit=1_000_000)
    with pytest.raises(errors.ResourceExhausted, match="1000000 bytes"):
        list(source.pieces(len(DATA)))


def test_zstd_needs_its_codec():
    codecs = streams.Codecs([])
    codecs.zstd = None
    with pytest.raises(errors.Unimplemented, match="zstd"):
        list(source_of(b"x", "zstd", codecs).pieces(1))
    with pytest.raises(errors.Unimplemented, match="zstd"):
        codecs.deflate("zstd")


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_what_is_deflated_is_inflated(compression):
    codecs = streams.Codecs([])
    deflate = codecs.deflate(compression)
    blob = b"".join([deflate.compress(DATA[:5]), deflate.compress(DATA[5:]), deflate.flush()])
    assert b"".join(codecs.inflate(compression, iter([blob]))) == DATA


def test_the_same_data_make_the_same_gzip(codecs):
    first, second = codecs.deflate("gzip"), codecs.deflate("gzip")
    assert first.compress(DATA) + first.flush() == second.compress(DATA) + second.flush()
