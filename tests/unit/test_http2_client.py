"""The client for plugins, before servers that say exactly what a test says. What it does with real ones is tested in
test_transport.py, and with containerd's in tests/integration."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hpack
import pytest

from plugin_sdk import errors
from plugin_sdk.api.services.content.v1 import content_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc
from plugin_sdk.wire.http2 import client, exchange, frames, headers
from plugin_sdk.wire.http2.assembly import Limits
from plugin_sdk.wire.http2.frames import DATA, GOAWAY, HEADERS, PING, PREFIX, RST_STREAM, SETTINGS, WINDOW_UPDATE
from plugin_sdk.wire.http2.reader import Reader
from tests import pace

SERVICE = content_pb2.DESCRIPTOR.services_by_name["Content"]
BEGIN = ((":status", "200"), ("content-type", "application/grpc"))
OK = (("grpc-status", "0"),)
END = frames.END_HEADERS | frames.END_STREAM
Frame = tuple[int, int, int, bytes]


class Peer:
    """One connection at the server."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.reader = Reader()
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.frames: list[Frame] = []
        self.headers: list[tuple[str, str]] = []
        self.sent = b""

    def greet(self, *settings: tuple[int, int]) -> None:
        self.send(frames.settings(dict(settings)))

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def next(self) -> Frame:
        """Raises EOFError when the client has closed."""
        while not self.frames:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self.frames += list(self.reader.feed(data))
        return self.frames.pop(0)

    def until(self, kind: int, flags: int = 0) -> Frame:
        """The next frame of this kind that has these flags; what comes before is looked at."""
        while True:
            frame = self.next()
            if frame[0] == HEADERS:
                self.headers = list(self.decoder.decode(frame[3]))
            if frame[0] == DATA:
                self.sent += frame[3]
            if frame[0] == kind and frame[1] & flags == flags:
                return frame

    def request(self) -> int:
        """The number of the next call that has ended at the client."""
        return self.until(DATA, frames.END_STREAM)[2]

    def block(self, stream: int, flags: int, *fields: tuple[str, str]) -> bytes:
        return frames.frame(HEADERS, flags, stream, self.encoder.encode(list(fields)))

    def answer(self, stream: int, digest: str = "") -> None:
        message = content_pb2.InfoResponse(info=content_pb2.Info(digest=digest)).SerializeToString()
        self.send(
            self.block(stream, frames.END_HEADERS, *BEGIN),
            frames.frame(DATA, 0, stream, PREFIX.pack(0, len(message)) + message),
            self.block(stream, END, *OK),
        )


Script = Callable[[Peer], None]


class Host:
    """Listens; ``scripts`` are for one connection each, in turn."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.connections = 0
        self.ended: list[BaseException | None] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.address)
        self._listening.listen(16)
        self._threads: list[threading.Thread] = []

    def serve(self, *scripts: Script) -> None:
        for script in scripts:
            thread = threading.Thread(target=self._serve, args=(script,))
            self._threads.append(thread)
        threading.Thread(target=lambda: [(each.start(), each.join()) for each in list(self._threads)]).start()

    def _serve(self, script: Script) -> None:
        with contextlib.suppress(OSError):
            connected, _ = self._listening.accept()
            self.connections += 1
            with connected:
                connected.settimeout(60)
                try:
                    script(Peer(connected))
                except (EOFError, OSError) as err:
                    self.ended.append(err)
                else:
                    self.ended.append(None)

    def wait(self) -> None:
        """Until all scripts have ended."""
        for thread in self._threads:
            while thread.ident is None:
                time.sleep(0.01)
            thread.join(60)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(60)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path / "peer.sock")
    yield host
    host.close()


@pytest.fixture
def channel(host: Host) -> Iterator[client.Channel]:
    channel = client.connect(host.address)
    yield channel
    channel.close()


def ask(channel: rpc.Channel, digest: str = "", timeout: float = 60, scope: Scope | None = None) -> str:
    scope = scope or Scope("default", deadline=time.monotonic() + timeout)
    stub = rpc.Stub(channel, SERVICE, scope)
    return stub.unary("Info", content_pb2.InfoRequest(digest=digest), content_pb2.InfoResponse).info.digest


def answering(*digests: str) -> Script:
    def script(peer: Peer) -> None:
        peer.greet()
        for digest in digests:
            peer.answer(peer.request(), digest)
        peer.next()

    return script


def after_request(*parts: Callable[[Peer, int], bytes]) -> Script:
    """Sends these when the first call has come; calls that come after it on the same connection go on."""

    def script(peer: Peer) -> None:
        peer.greet()
        number = peer.request()
        peer.send(*(part(peer, number) for part in parts))
        while True:
            peer.answer(peer.request(), "the next call goes on")

    return script


def test_calls_one_after_the_other_share_a_connection(host: Host, channel: client.Channel) -> None:
    host.serve(answering("a", "b", "c"))
    assert [ask(channel) for _ in range(3)] == ["a", "b", "c"]
    assert host.connections == 1


def test_a_request_has_its_own_headers_first(host: Host, channel: client.Channel) -> None:
    """RFC 9113, section 8.3: and Go's server resets a stream that has not."""
    seen: list[list[tuple[str, str]]] = []

    def script(peer: Peer) -> None:
        peer.greet()
        number = peer.request()
        seen.append(peer.headers)
        peer.answer(number)
        peer.next()

    host.serve(script)
    ask(channel, scope=Scope("moby", "lease", deadline=time.monotonic() + 5))
    names = [name for name, _ in seen[0]]
    assert names[:4] == [":method", ":scheme", ":authority", ":path"]
    assert not any(name.startswith(":") for name in names[4:])
    fields = dict(seen[0])
    assert fields[":path"] == "/containerd.services.content.v1.Content/Info"
    assert (fields["containerd-namespace"], fields["containerd-lease"], fields["te"]) == ("moby", "lease", "trailers")
    assert 4000 < int(fields["grpc-timeout"].removesuffix("m")) <= 5000


def test_headers_that_come_again_are_one_byte_each(host: Host, channel: client.Channel) -> None:
    blocks: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.greet()
        for _ in range(3):
            _, _, number, block = peer.until(HEADERS)
            blocks.append(block)
            peer.until(DATA, frames.END_STREAM)
            peer.answer(number, dict(peer.headers)["grpc-timeout"])
        peer.next()

    host.serve(script)
    deadline = time.monotonic() + 60
    assert {ask(channel, scope=Scope("moby", deadline=deadline)) for _ in range(3)} == {"60S"}
    assert len(blocks[0]) > 100
    assert len(blocks[1]) == len(blocks[2]) == 9
    assert min(blocks[1]) >= 0x80


def test_a_server_without_a_table_of_headers_is_understood(host: Host, channel: client.Channel) -> None:
    said: list[dict[str, str]] = []

    def script(peer: Peer) -> None:
        peer.greet((frames.HEADER_TABLE_SIZE, 0))
        for number in (1, 3, 5):
            peer.until(DATA, frames.END_STREAM)
            said.append(dict(peer.headers))
            peer.answer(number)
            peer.decoder.max_allowed_table_size = 0
        peer.next()

    host.serve(script)
    for _ in range(3):
        ask(channel, scope=Scope("moby"))
    assert said[0] == said[1] == said[2]


def test_headers_mean_the_same_however_many_were_said_before() -> None:
    encoder, decoder, chance = headers.Encoder(), hpack.Decoder(), random.Random(1)
    for _ in range(3000):
        fields = tuple((b"n%d" % chance.randrange(9), b"v" * chance.choice((0, 3, 90))) for _ in range(5))
        once = ((b"once", b"%d" % chance.randrange(10**9)),)
        block = encoder.encode(fields, once)
        assert tuple(decoder.decode(block, raw=True)) == (*fields, *once)
    many = headers.Encoder()
    decoder = hpack.Decoder()
    for number in range(300):
        fields = ((b":method", b"POST"), (b"name", b"%d" % number))
        for _ in range(2):
            assert tuple(decoder.decode(many.encode(fields), raw=True)) == fields


def test_an_idle_connection_that_the_server_has_closed_is_not_used(host: Host, channel: client.Channel) -> None:
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request(), "first")
        peer.socket.close()
        gone.set()

    host.serve(script, answering("second"))
    assert ask(channel) == "first"
    assert gone.wait(60)
    assert ask(channel) == "second"


def test_a_server_that_goes_away_gets_no_more_calls(host: Host, channel: client.Channel) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request(), "first")
        peer.send(frames.goaway(1, frames.Code.NO_ERROR))
        peer.next()

    host.serve(script, answering("second"))
    assert ask(channel) == "first"
    time.sleep(0.1)
    assert ask(channel) == "second"


def test_a_call_that_the_server_has_not_begun_is_lost(host: Host, channel: client.Channel) -> None:
    host.serve(after_request(lambda peer, number: frames.goaway(number - 1, frames.Code.NO_ERROR)))
    with pytest.raises(rpc.Lost, match="takes no more calls"):
        ask(channel)


def test_a_call_that_the_server_has_begun_is_finished_though_it_goes_away(host: Host, channel: client.Channel) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        number = peer.request()
        peer.send(frames.goaway(number, frames.Code.NO_ERROR))
        peer.answer(number, "finished")  # and closes at once

    host.serve(script)
    assert ask(channel) == "finished"


def test_a_server_that_ends_in_the_middle_is_lost_by_name(host: Host, channel: client.Channel) -> None:
    host.serve(lambda peer: (peer.greet(), peer.request(), None)[-1])
    with pytest.raises(rpc.Lost) as lost:
        ask(channel)
    assert lost.value.message == f'"{host.address}" does not answer: it has closed the connection'


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (lambda peer, n: frames.rst_stream(n, frames.Code.REFUSED_STREAM), rpc.Lost, "code 7"),
        (lambda peer, n: frames.rst_stream(n, frames.Code.CANCEL), errors.Canceled, "code 8"),
        (lambda peer, n: frames.rst_stream(n, frames.Code.INTERNAL_ERROR), errors.Internal, "code 2"),
        (lambda peer, n: peer.block(n, END, (":status", "503")), errors.Unavailable, "HTTP status 503"),
        (lambda peer, n: peer.block(n, END, (":status", "404")), errors.Unimplemented, "HTTP status 404"),
        (lambda peer, n: peer.block(n, END, (":status", "200"), ("content-type", "text/html")), errors.Unknown, "html"),
        (lambda peer, n: peer.block(n, END, *BEGIN), errors.Internal, "without a status"),
        (lambda peer, n: peer.block(n, END, *BEGIN, ("grpc-status", "x")), errors.Internal, "without a status"),
        (lambda peer, n: peer.block(n, END, *BEGIN, *OK), errors.Internal, "not one answer"),
        (
            lambda peer, n: peer.block(n, END, *BEGIN, ("grpc-status", "5"), ("grpc-message", "%C3%B6 100%25")),
            errors.NotFound,
            "^ö 100%$",
        ),
        (lambda peer, n: peer.block(n, END, *BEGIN, ("grpc-status", "99")), errors.Unknown, "^$"),
        (
            lambda peer, n: peer.block(n, 4, *BEGIN) + frames.frame(DATA, frames.END_STREAM, n),
            errors.Internal,
            "without a status",
        ),
        (
            lambda peer, n: (
                peer.block(n, 4, *BEGIN) + frames.frame(DATA, 0, n, b"\0\0\0\0\x09x") + peer.block(n, END, *OK)
            ),
            errors.Internal,
            "within a message",
        ),
        (
            lambda peer, n: peer.block(n, 4, *BEGIN) + frames.frame(DATA, 0, n, PREFIX.pack(0, 17 << 20)),
            errors.ResourceExhausted,
            "larger than max",
        ),
        (
            lambda peer, n: peer.block(n, 4, *BEGIN) + frames.frame(DATA, 0, n, PREFIX.pack(1, 3)),
            errors.Unimplemented,
            "compressed",
        ),
        (
            lambda peer, n: (
                peer.block(n, 4, *BEGIN) + frames.frame(DATA, 0, n, b"\0\0\0\0\x01\xff") + peer.block(n, END, *OK)
            ),
            errors.Internal,
            "deserializing",
        ),
        (lambda peer, n: b"\xff" * 9, rpc.Lost, "does not speak HTTP/2"),
        (
            lambda peer, n: frames.frame(HEADERS, END, n, b"\xff\xff\xff\xff\xff\xff"),
            rpc.Lost,
            "headers cannot be read",
        ),
        (lambda peer, n: frames.frame(WINDOW_UPDATE, 0, 0, b"x"), rpc.Lost, "malformed window update"),
    ],
)
def test_what_is_no_answer_is_an_error(
    host: Host, channel: client.Channel, said: Callable[[Peer, int], bytes], error: type[errors.Error], words: str
) -> None:
    host.serve(after_request(said), answering("the next call goes on"))
    with pytest.raises(error, match=words):
        ask(channel)
    assert ask(channel) == "the next call goes on"


def test_a_server_that_is_none_of_http2_is_lost(host: Host, channel: client.Channel) -> None:
    host.serve(lambda peer: peer.send(b"220 mail.example ESMTP\r\n"))
    with pytest.raises(rpc.Lost, match="does not speak HTTP/2"):
        ask(channel)


def test_a_silent_server_is_named_when_the_deadline_has_passed(host: Host, channel: client.Channel) -> None:
    host.serve(lambda peer: [peer.next() for _ in range(99)] and None, answering("later"))
    begin = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded) as late:
        ask(channel, timeout=0.2)
    took = time.monotonic() - begin
    assert took >= 0.2
    assert pace.within(took, 5)
    assert late.value.message == f'"{host.address}" does not answer: the call has timed out'
    assert ask(channel) == "later"


def test_what_fails_after_the_deadline_fails_of_it() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        connection = exchange.Connection(exchange.Socket(fileno=ours.detach()), "peer", Limits())
        for left, kind in ((60, errors.Canceled), (-1, errors.DeadlineExceeded)):
            call = exchange.Exchange(1, Limits(), time.monotonic() + left, 0)
            call.finish(errors.Canceled("the server has given up"))
            with pytest.raises(kind):
                connection.receive(call)
        connection.close()


def test_a_server_that_takes_no_connection_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as stack:
        listening.bind(path)
        listening.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.setblocking(False)
        waiting.connect(path)
        channel = client.connect(path)
        with pytest.raises(errors.DeadlineExceeded, match="connecting has timed out"):
            ask(channel, timeout=0.2)
        channel.close()


def test_a_request_waits_for_the_servers_windows(host: Host, channel: client.Channel) -> None:
    taken: list[int] = []

    def script(peer: Peer) -> None:
        peer.greet((frames.INITIAL_WINDOW_SIZE, 1000))
        number = peer.until(HEADERS)[2]
        size = 5 + len(content_pb2.InfoRequest(digest="x" * 200_000).SerializeToString())
        while len(peer.sent) < size:
            _, flags, _, payload = peer.until(DATA)
            taken.append(len(payload))
            if not flags & frames.END_STREAM:
                peer.send(frames.window_update(number, len(payload)), frames.window_update(0, len(payload)))
        peer.answer(number, str(len(peer.sent) - size))

    host.serve(answering_slowly(script))
    ask(channel, "warms")
    assert ask(channel, "x" * 200_000) == "0"
    assert max(taken) <= 1000


def answering_slowly(script: Script) -> Script:
    """A first call, after which the settings have been seen; then ``script`` on the same connection."""

    def both(peer: Peer) -> None:
        peer.greet((frames.INITIAL_WINDOW_SIZE, 1000))
        peer.answer(peer.request())
        peer.sent = b""
        script(peer)

    return both


def test_pings_are_answered_and_settings_acknowledged(host: Host, channel: client.Channel) -> None:
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.greet()
        number = peer.request()
        peer.send(frames.frame(PING, 0, 0, b"12345678"))
        seen.append(peer.until(PING, frames.ACK)[3])
        peer.send(frames.settings({frames.MAX_CONCURRENT_STREAMS: 5}))
        peer.until(SETTINGS, frames.ACK)
        peer.answer(number, "seen")

    host.serve(script)
    assert ask(channel) == "seen"
    assert seen == [b"12345678"]


def test_headers_in_many_pieces_and_early_hints_are_understood(host: Host, channel: client.Channel) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        number = peer.request()
        block = peer.encoder.encode([*BEGIN, ("x-long", "y" * 100)])
        peer.send(
            peer.block(number, frames.END_HEADERS, (":status", "103")),
            frames.frame(HEADERS, 0, number, block[:3]),
            frames.frame(frames.CONTINUATION, 0, number, block[3:9]),
            frames.frame(frames.CONTINUATION, frames.END_HEADERS, number, block[9:]),
        )
        message = content_pb2.InfoResponse(info=content_pb2.Info(digest="pieces")).SerializeToString()
        for byte in PREFIX.pack(0, len(message)) + message:
            peer.send(frames.frame(DATA, frames.PADDED, number, bytes((2, byte, 0, 0))))
        peer.send(peer.block(number, END, *OK))

    host.serve(script)
    assert ask(channel) == "pieces"


def test_a_call_that_is_cancelled_ends_at_the_server(host: Host, channel: client.Channel) -> None:
    host.serve(after_request())
    scope = Scope("default")
    threading.Timer(0.1, scope.cancel).start()
    with pytest.raises(errors.Canceled):
        ask(channel, scope=scope)
    host.wait()
    assert isinstance(host.ended[0], EOFError | ConnectionError)


def test_cancelling_late_does_not_harm_the_next_call(host: Host, channel: client.Channel) -> None:
    host.serve(answering("a", "b"))
    scope = Scope("default")
    assert ask(channel, scope=scope) == "a"
    scope.cancel()
    assert ask(channel) == "b"
    assert host.connections == 1


def test_closing_the_channel_ends_calls_that_run(host: Host, channel: client.Channel) -> None:
    host.serve(after_request())
    threading.Timer(0.1, channel.close).start()
    with pytest.raises(rpc.Lost, match="has been closed"):
        ask(channel)
    with pytest.raises(rpc.Lost, match="has been closed"):
        ask(channel)


def test_a_stream_that_cannot_begin_says_so_with_its_first_message(tmp_path: Path) -> None:
    channel = client.connect(str(tmp_path / "none.sock"))
    stub = rpc.Stub(channel, SERVICE, Scope("default"))
    answers = stub.stream("Read", [content_pb2.ReadContentRequest()], content_pb2.ReadContentResponse)
    with answers, pytest.raises(rpc.Lost, match="No such file"):
        next(answers)
    assert list(answers) == []


def test_a_stream_of_requests_stops_with_the_answer(host: Host, channel: client.Channel) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        number = peer.until(DATA)[2]
        peer.send(peer.block(number, END, *BEGIN, ("grpc-status", "9"), ("grpc-message", "enough")))
        with contextlib.suppress(EOFError):
            while True:
                peer.next()

    def requests() -> Iterator[content_pb2.WriteContentRequest]:
        while True:
            yield content_pb2.WriteContentRequest(data=b"x" * 1000)
            time.sleep(0.001)

    host.serve(script, answering("next"))
    stub = rpc.Stub(channel, SERVICE, Scope("default", deadline=time.monotonic() + 10))
    with (
        stub.stream("Write", requests(), content_pb2.WriteContentResponse) as answers,
        pytest.raises(errors.FailedPrecondition, match="enough"),
    ):
        next(answers)
    assert ask(channel) == "next"


def test_requests_that_fail_end_the_stream(host: Host, channel: client.Channel) -> None:
    def requests() -> Iterator[content_pb2.WriteContentRequest]:
        yield content_pb2.WriteContentRequest(data=b"x")
        raise errors.DataLoss("the source has gone")

    host.serve(lambda peer: (peer.greet(), peer.until(RST_STREAM), None)[-1])
    stub = rpc.Stub(channel, SERVICE, Scope("default", deadline=time.monotonic() + 10))
    with (
        stub.stream("Write", requests(), content_pb2.WriteContentResponse) as answers,
        pytest.raises(errors.DataLoss, match="the source has gone"),
    ):
        next(answers)


def test_calls_at_once_have_a_connection_each_and_share_them_later(host: Host, channel: client.Channel) -> None:
    together = threading.Barrier(4)

    def script(peer: Peer) -> None:
        peer.greet()
        for _ in range(2):
            number = peer.request()
            together.wait(60)
            peer.answer(number)
        peer.next()

    def serve() -> None:
        for _ in range(4):
            host._threads.append(threading.Thread(target=host._serve, args=(script,)))
            host._threads[-1].start()

    serve()
    with ThreadPoolExecutor(4) as threads:
        for _ in range(2):
            list(threads.map(lambda _: ask(channel), range(4)))
    assert host.connections == 4


def test_goaway_is_no_end_of_what_has_been_answered(host: Host, channel: client.Channel) -> None:
    """All in one segment: the answer, the farewell, the end."""

    def script(peer: Peer) -> None:
        peer.greet()
        number = peer.request()
        message = content_pb2.InfoResponse(info=content_pb2.Info(digest="last")).SerializeToString()
        peer.send(
            peer.block(number, frames.END_HEADERS, *BEGIN),
            frames.frame(DATA, 0, number, PREFIX.pack(0, len(message)) + message),
            peer.block(number, END, *OK),
            frames.frame(GOAWAY, 0, 0, bytes(8)),
        )

    host.serve(script)
    assert ask(channel) == "last"
