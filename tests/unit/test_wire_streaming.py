import contextlib
import threading

import pytest

from plugin_sdk import errors, runtime
from plugin_sdk.api.types.transfer import streaming_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import byte_streams
from plugin_sdk.wire import streaming as wire
from plugin_sdk.wire.http2.server import Server

SCOPE = Scope("default")


@pytest.fixture
def server_kind():
    """The daemon's: no program of a plugin has streams."""
    return Server


MESSAGE = runtime.Any("example.Thing", b"\x00\xff")


@pytest.fixture
def streams():
    return wire.Streams()


@pytest.fixture
def channel(serve, streams):
    return serve(wire.Servicer(streams))


@pytest.fixture
def proxy(channel):
    return wire.Proxy(channel, SCOPE)


@pytest.fixture
def pair(proxy, streams):
    """The caller's side of a stream, and the daemon's."""
    with proxy.open("test") as mine:
        yield mine, streams.find("default", mine.id)


def test_a_stream_can_be_named_when_it_has_been_opened(pair):
    mine, theirs = pair
    assert mine.id.startswith("test-")
    assert isinstance(theirs, wire.Served)


def test_messages_go_both_ways_as_they_are(pair):
    mine, theirs = pair
    for _ in range(3):
        mine.send(MESSAGE)
        assert theirs.receive() == MESSAGE
        theirs.send(MESSAGE)
        assert mine.receive() == MESSAGE


def test_another_namespace_does_not_see_it(pair, streams):
    mine, _ = pair
    with pytest.raises(errors.NotFound, match=mine.id):
        streams.find("other", mine.id)


def test_an_id_that_is_open_is_refused(pair, channel):
    mine, _ = pair
    stub = wire.rpc.Stub(channel, wire.SERVICE, SCOPE)
    with pytest.raises(errors.AlreadyExists, match=mine.id):
        wire.ProxyStream(stub, mine.id)


@pytest.mark.parametrize("first", [MESSAGE, runtime.Any("containerd.services.streaming.v1.StreamInit", b"")])
def test_a_first_message_without_id_is_refused(channel, first):
    stub = wire.rpc.Stub(channel, wire.SERVICE, SCOPE)
    message = wire.any_pb2.Any(type_url=first.type_url, value=first.value)
    with pytest.raises(errors.InvalidArgument):
        next(stub.stream("Stream", iter([message]), wire.any_pb2.Any))


def test_a_stream_without_a_message_is_refused(channel):
    stub = wire.rpc.Stub(channel, wire.SERVICE, SCOPE)
    with pytest.raises(errors.InvalidArgument, match="first message"):
        next(stub.stream("Stream", iter([]), wire.any_pb2.Any))


def test_what_the_caller_has_sent_is_received_before_its_end(pair):
    mine, theirs = pair
    mine.send(MESSAGE)
    mine.close()
    assert theirs.receive() == MESSAGE
    assert theirs.receive() is None
    assert theirs.receive() is None
    theirs.send(MESSAGE)
    assert mine.receive() == MESSAGE


def test_what_the_daemon_has_sent_is_received_before_its_end(pair, streams):
    mine, theirs = pair
    theirs.send(MESSAGE)
    theirs.close()
    assert mine.receive() == MESSAGE
    assert mine.receive() is None
    assert theirs.wait(60)
    with pytest.raises(errors.NotFound):
        streams.find("default", mine.id)
    with pytest.raises(errors.Canceled):
        theirs.send(MESSAGE)


def test_a_thread_that_waits_is_told_when_the_caller_goes(pair):
    mine, theirs = pair
    threading.Timer(0.1, mine.cancel).start()
    with pytest.raises(errors.Canceled):
        theirs.receive()
    assert theirs.wait(60)


def test_a_thread_that_waits_is_told_when_the_stream_is_closed(pair):
    _, theirs = pair
    threading.Timer(0.1, theirs.close).start()
    with pytest.raises(errors.Canceled):
        theirs.receive()


def test_a_message_is_waited_for_so_long(pair):
    _, theirs = pair
    with pytest.raises(errors.DeadlineExceeded):
        theirs.receive(timeout=0.01)


def test_a_daemon_whose_caller_does_not_receive_waits(pair):
    mine, theirs = pair
    big, sent = runtime.Any("example.Thing", bytes(1 << 20)), []

    def send():
        for number in range(64):
            theirs.send(big)
            sent.append(number)

    sender = threading.Thread(target=send)
    sender.start()
    sender.join(0.5)
    assert sender.is_alive()
    for _ in range(64):
        assert mine.receive() == big
    sender.join(60)
    assert len(sent) == 64


def test_a_daemon_that_does_not_receive_takes_no_more_than_it_has_room_for(pair):
    mine, theirs = pair
    big = runtime.Any("example.Thing", bytes(1 << 20))
    in_thread(lambda: drain(mine))
    for _ in range(64):
        mine.send(big)
    assert theirs.receive() == big
    assert theirs._incoming.size < 32 << 20
    for _ in range(63):
        assert theirs.receive() == big


# --- bytes


def some(size):
    return bytes(range(256)) * (size // 256) + b"x" * (size % 256)


SIZES = [0, 1, 1000, byte_streams.WINDOW, byte_streams.WINDOW + 1, 10_000_001]


def in_thread(work):
    """What goes wrong because the test has ended first is nothing."""

    def run():
        with contextlib.suppress(errors.Error):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def written(make, stream, data, step):
    def write():
        writer = make(stream)
        for at in range(0, len(data), step):
            assert writer.write(data[at : at + step]) == len(data[at : at + step])
        writer.finish()
        drain(stream)

    return in_thread(write)


def drain(stream):
    """Until the other side has ended."""
    with contextlib.suppress(errors.Canceled):
        while stream.receive() is not None:
            pass


@pytest.mark.parametrize("size", SIZES)
def test_bytes_come_as_they_are_at_the_daemon(pair, size):
    mine, theirs = pair
    thread = written(byte_streams.Writer, mine, some(size), 70_000)
    assert byte_streams.reader(theirs).read() == some(size)
    theirs.close()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("size", SIZES)
def test_bytes_come_as_they_are_at_the_caller(pair, size):
    mine, theirs = pair
    thread = written(byte_streams.AckedWriter, theirs, some(size), 70_000)
    assert byte_streams.reader(mine).read() == some(size)
    thread.join(60)
    assert not thread.is_alive()


class Strict:
    """Receives as containerd does: 64 KiB of credit whenever less is left."""

    def __init__(self, stream):
        self.stream, self.left, self.sizes, self.data = stream, 0, [], bytearray()

    def read(self):
        while True:
            if self.left < byte_streams.WINDOW:
                self.stream.send(wire.pack(streaming_pb2.WindowUpdate(update=byte_streams.WINDOW)))
                self.left += byte_streams.WINDOW
            message = self.stream.receive()
            if message is None:
                return
            data = wire.unpack(message, streaming_pb2.Data).data
            self.left -= len(data)
            assert self.left >= 0
            self.sizes.append(len(data))
            self.data += data


@pytest.mark.parametrize("size", [*SIZES, 200_000, 250_000, 300_001])
def test_a_receiver_like_containerds_has_everything_when_the_writer_has_finished(pair, size):
    mine, theirs = pair
    strict = Strict(mine)
    thread = in_thread(strict.read)
    writer = byte_streams.AckedWriter(theirs)
    data = some(size)
    for at in range(0, size, 10_000):
        writer.write(data[at : at + 10_000])
    closed = threading.Event()
    theirs.close, close = closed.set, theirs.close
    writer.finish()
    assert closed.is_set()
    assert bytes(strict.data) == some(size)
    assert all(each <= byte_streams.CHUNK for each in strict.sizes[:-1])
    close()
    thread.join(60)


def test_a_receiver_that_gives_little_credit_gets_everything(pair, monkeypatch):
    monkeypatch.setattr(byte_streams, "_PATIENCE", 0.05)
    mine, theirs = pair
    thread = written(byte_streams.AckedWriter, theirs, some(1000), 1000)
    got = bytearray()
    while len(got) < 1000:
        mine.send(wire.pack(streaming_pb2.WindowUpdate(update=300)))
        got += wire.unpack(mine.receive(), streaming_pb2.Data).data
    assert bytes(got) == some(1000)
    assert mine.receive() is None
    thread.join(60)


def test_nothing_is_sent_without_credit(pair):
    mine, theirs = pair
    written(byte_streams.Writer, mine, some(10), 10)
    with pytest.raises(errors.DeadlineExceeded):
        theirs.receive(timeout=0.05)
    theirs.send(wire.pack(streaming_pb2.WindowUpdate(update=10)))
    assert wire.unpack(theirs.receive(), streaming_pb2.Data).data == some(10)


def test_a_writer_is_told_when_its_receiver_goes(pair):
    mine, theirs = pair
    mine.close()
    writer = byte_streams.AckedWriter(theirs)
    with pytest.raises(errors.Canceled):
        writer.write(some(1 << 20))


def test_what_is_no_data_is_refused(pair):
    mine, theirs = pair
    mine.send(MESSAGE)
    with pytest.raises(errors.InvalidArgument, match=r"example\.Thing"):
        byte_streams.reader(theirs).read(1)
