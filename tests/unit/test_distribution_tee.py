"""One download, two readers."""

import threading

import pytest

from plugin_sdk import errors, oci
from plugin_sdk.distribution import tee as tees

DATA = bytes(range(256)) * 4096


def made(check=lambda: None):
    tee = tees.Tee(oci.Descriptor(oci.LAYER, oci.digest_of(DATA), len(DATA)), check)
    tee.take(True)
    return tee


class Store:
    """Has one blob, of which it says so."""

    def reader(self, digest):
        return f"the store's {digest}"


def reading(tee):
    return tees.TeeStore(Store(), tee).reader(tee.descriptor.digest)


def whole(reader, size):
    found = b""
    while part := reader.read_at(len(found), size):
        found += part
    return found


@pytest.mark.parametrize("size", [1000, 4096, 1 << 20])
def test_the_reader_gets_what_was_put_whatever_sizes_it_asks_for(size):
    tee = made()
    for at in range(0, len(DATA), 4096):
        tee.put(DATA[at : at + 4096])
    tee.end()
    assert whole(reading(tee), size) == DATA


def test_an_empty_read_only_asks_whether_anybody_waits():
    def check():
        raise errors.Canceled("nobody")

    tee = made(check=check)
    tee.put(b"a")
    with pytest.raises(errors.Canceled):
        reading(tee).read_at(0, 0)


def test_who_downloads_waits_for_a_slow_reader():
    tee = made()
    done = []

    def download():
        for _ in range(40):
            tee.put(bytes(1 << 20))
            done.append(1)
        tee.end()

    thread = threading.Thread(target=download, daemon=True)
    reader = reading(tee)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert len(done) == tees.LIMIT >> 20
    assert len(whole(reader, 1 << 20)) == 40 << 20
    thread.join(60)
    assert len(done) == 40


def test_who_downloads_does_not_wait_for_a_reader_that_has_left():
    tee = made()
    reading(tee).close()
    for _ in range(40):
        tee.put(bytes(1 << 20))


def test_who_downloads_does_not_wait_for_ever_for_a_reader_that_never_comes(monkeypatch):
    monkeypatch.setattr(tees, "_PATIENCE", 0.2)
    tee = made()
    for _ in range(40):
        tee.put(bytes(1 << 20))
    assert reading(tee) == f"the store's {tee.descriptor.digest}"


def test_waiting_ends_when_nobody_wants_it():
    gone = threading.Event()

    def check():
        if gone.is_set():
            raise errors.Canceled("nobody")

    tee = made(check=check)
    reader = reading(tee)
    tee.put(b"a")
    assert reader.read_at(0, 10) == b"a"
    gone.set()
    with pytest.raises(errors.Canceled):
        reader.read_at(1, 10)


def test_who_downloads_does_not_hear_that_the_reader_is_not_wanted_any_more():
    def check():
        raise errors.Canceled("nobody")

    tee = made(check=check)
    reading(tee)
    for _ in range(40):
        tee.put(bytes(1 << 20))


def test_the_reader_hears_of_a_failure_after_what_came_before():
    tee = made()
    tee.put(b"abc")
    tee.end(errors.Unavailable("gone"))
    reader = reading(tee)
    assert reader.read_at(0, 10) == b"abc"
    with pytest.raises(errors.Unavailable, match=tee.descriptor.digest):
        reader.read_at(3, 10)
    assert tee.failed


def test_only_the_first_reader_gets_the_download():
    tee = made()
    reading(tee)
    assert reading(tee) == f"the store's {tee.descriptor.digest}"


def test_another_blob_is_the_stores():
    assert tees.TeeStore(Store(), made()).reader("sha256:1") == "the store's sha256:1"


def test_a_tee_that_came_too_late_is_not_read():
    tee = tees.Tee(oci.Descriptor(oci.LAYER, oci.digest_of(DATA), 1), lambda: None)
    tee.take(False)
    assert not tee.is_taken()
    assert reading(tee) == f"the store's {tee.descriptor.digest}"


def test_there_is_no_file_and_no_going_back():
    tee = made()
    reader = reading(tee)
    tee.put(b"abc")
    tee.put(b"def")
    assert (reader.read_at(0, 2), reader.read_at(2, 9), reader.read_at(3, 9)) == (b"ab", b"c", b"def")
    with pytest.raises(errors.Unimplemented):
        reader.fileno()
    with pytest.raises(errors.Unimplemented, match="from its beginning"):
        reader.read_at(0, 1)
    assert reader.size == len(DATA)
