"""Headers: read as written, by ourselves and by tarfile."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from plugin_sdk import errors, tar_headers, tars


def reader_of(data, **more):
    return tars.Reader(io.BytesIO(data).read, **more)


def entry_of(**values):
    entry = tars.Entry()
    entry.name, entry.type, entry.link = b"name", tars.REGULAR, b""
    entry.mode = entry.uid = entry.gid = entry.size = entry.mtime = entry.major = entry.minor = 0
    entry.xattrs = None
    for name, value in values.items():
        setattr(entry, name, value)
    return entry


ENTRIES = [
    {},
    {"name": b"n" * 100},
    {"name": b"n" * 101},
    {"name": b"d/" * 60 + b"n" * 90},
    {"name": b"d" * 160 + b"/" + b"n" * 50},
    {"name": "ümlaut".encode()},
    {"name": b"\xff\xfe"},
    {"name": b"dir/", "type": tars.DIRECTORY, "mode": 0o1777},
    {"type": tars.SYMLINK, "link": b"t" * 100},
    {"type": tars.SYMLINK, "link": b"t" * 101},
    {"type": tars.HARD_LINK, "link": "ü".encode()},
    {"uid": 0o7777777, "gid": 0o10000000},
    {"uid": 4294967294},
    {"mtime": 1},
    {"mtime": -1},
    {"mtime": -1_000_000_000},
    {"mtime": 1_700_000_000_123_456_789},
    {"mtime": 9_000_000_000_000_000_000},
    {"type": tars.CHARACTER, "major": 4095, "minor": 1048575},
    {"type": tars.FIFO, "mode": 0o6000},
    {"xattrs": {b"user.a": b"\0\n=", b"trusted.long": bytes(1000), b"security.empty": b""}},
    {"size": 1 << 40},
]


@pytest.mark.parametrize("values", ENTRIES)
def test_what_is_written_is_read(values):
    written = entry_of(**values)
    read = reader_of(tar_headers.format(written)).next()
    for name in ("name", "type", "link", "mode", "uid", "gid", "size", "mtime", "major", "minor"):
        assert getattr(read, name) == getattr(written, name), name
    assert (read.xattrs or {}) == (written.xattrs or {})


@pytest.mark.parametrize("values", ENTRIES)
def test_tarfile_reads_what_is_written(values):
    written = entry_of(**values)
    if written.size or b"\xff" in written.name:
        pytest.skip("tarfile wants the data, and text")
    with tarfile.open(fileobj=io.BytesIO(tar_headers.format(written) + tar_headers.END)) as tar:
        info = tar.next()
    assert info.name.encode() == written.name.rstrip(b"/")
    assert (info.uid, info.gid, info.linkname.encode()) == (written.uid, written.gid, written.link)
    assert abs(info.mtime - written.mtime / 1e9) < 1e-6 * max(1, abs(info.mtime))


@pytest.mark.parametrize("length", range(90, 130))
def test_the_length_of_a_record_counts_itself(length):
    entry = entry_of(xattrs={b"a": b"x" * (length - 20)})
    assert reader_of(tar_headers.format(entry)).next().xattrs == entry.xattrs


@pytest.mark.parametrize(
    ("text", "value"),
    [(b"1", 10**9), (b"1.5", 15 * 10**8), (b"-1.25", -125 * 10**7), (b"0.0000000019", 1), (b"-0.5", -5 * 10**8)],
)
def test_times_are_read_to_the_nanosecond(text, value):
    assert tars.nanoseconds(text) == value


@pytest.mark.parametrize("text", [b"", b"x", b"1.x", b"1.-5", b"--1a", b"9" * 30, b"1e5"])
def test_other_times_are_refused(text):
    with pytest.raises(errors.InvalidArgument):
        tars.nanoseconds(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   644 \0", 0o644),
        (b"644\0\xff\xff\xff\xff", 0o644),
        (bytes(8), 0),
        (b"\x80\0\0\0\0\0\1\0", 256),
        (b"\xff" * 8, -1),
        (b"\xff" * 7 + b"\xfe", -2),
    ],
)
def test_numbers_are_octal_or_base_256(field, value):
    assert tars.number(field) == value


@pytest.mark.parametrize("field", [b"8\0", b"x", b"-1", b"0x1", b"1 2", b"1_0", b"+7"])
def test_other_numbers_are_refused(field):
    with pytest.raises(errors.InvalidArgument):
        tars.number(field.ljust(8, b"\0"))


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        (b"a", b"a"),
        (b"a/", b"a"),
        (b"./a", b"a"),
        (b"/a", b"a"),
        (b"a/./b/../c", b"a/c"),
        (b".", b""),
        (b"...", b"..."),
    ],
)
def test_names_are_made_plain(name, clean):
    assert tars.clean(name) == clean


def test_a_checksum_of_signed_bytes_is_accepted():
    header = bytearray(tar_headers.format(entry_of(name=b"plain")))
    header[0:5] = b"\xff\xfe\xfd\xfc\xfb"
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:]) + 8 * 32
    header[148:156] = b"%06o\0 " % signed
    assert reader_of(bytes(header)).next().name == b"\xff\xfe\xfd\xfc\xfb"


@pytest.mark.parametrize("owner", [{"uid": 1 << 32}, {"gid": (1 << 32) - 1}])
def test_an_owner_that_cannot_be_is_refused(owner):
    with pytest.raises(errors.InvalidArgument, match="owner"):
        reader_of(tar_headers.format(entry_of(**owner))).next()


def test_zero_bytes_in_names_are_refused():
    for entry in (entry_of(name=b"a\0" + b"b" * 120), entry_of(type=tars.SYMLINK, link=b"a\0" + b"b" * 120)):
        with pytest.raises(errors.InvalidArgument, match="zero byte"):
            reader_of(tar_headers.format(entry)).next()


def test_any_bytes_are_entries_or_an_error():
    generator = random.Random(5)
    sound = b"".join(tar_headers.format(entry_of(**values)) for values in ENTRIES)
    for _ in range(2000):
        data = bytearray(sound)
        for _ in range(3):
            data[generator.randrange(len(data))] = generator.randrange(256)
        reader = reader_of(bytes(data[generator.randrange(0, len(data), 512) :]))
        try:
            while reader.next() is not None:
                pass
        except errors.InvalidArgument:
            pass
