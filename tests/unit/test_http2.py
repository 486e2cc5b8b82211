"""The daemon's edge, spoken to frame by frame. What it does for a real client is tested in test_transport.py."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hpack
import pytest

from plugin_sdk import errors
from plugin_sdk.api.services.content.v1 import content_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, transport
from plugin_sdk.wire.http2 import frames
from plugin_sdk.wire.http2.connection import MAX_STREAMS
from plugin_sdk.wire.http2.frames import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
)
from plugin_sdk.wire.http2.server import Server
from plugin_sdk.wire.http2.stream import WINDOW
from tests import pace
from tests.serving import running

SERVICE = content_pb2.DESCRIPTOR.services_by_name["Content"]
INFO, READ, WRITE = (f"/{SERVICE.full_name}/{name}" for name in ("Info", "Read", "Write"))
BIG = b"x" * 300_000

Frame = tuple[int, int, int, bytes]


class Content:
    """Info echoes, Read sends much, Write answers each message; what happens is written down."""

    service = SERVICE.full_name

    def __init__(self) -> None:
        handlers: dict[str, Any] = {"Info": self.info, "Read": self.read, "Write": self.write}
        self.methods = rpc.served(SERVICE, handlers, namespaced=False)
        self.canceled = threading.Event()
        self.go_on = threading.Event()
        self.taken = 0
        self.running = 0

    async def info(self, request: content_pb2.InfoRequest, call: rpc.Call) -> content_pb2.InfoResponse:
        if request.digest == "sleep":
            await self.sleep(call)
        if request.digest == "big":
            return content_pb2.InfoResponse(info=content_pb2.Info(digest=BIG.decode()))
        if request.digest == "too big":
            return content_pb2.InfoResponse(info=content_pb2.Info(digest="x" * (16 << 20)))
        if request.digest == "fail":
            raise errors.NotFound(call.headers.get("words", "no"))
        if request.digest == "cancel itself":
            raise asyncio.CancelledError
        return content_pb2.InfoResponse(info=content_pb2.Info(digest=request.digest))

    async def sleep(self, call: rpc.Call) -> None:
        call.scope.on_cancel(self.canceled.set)
        self.running += 1
        await asyncio.sleep(60)

    async def read(self, request: Any, call: rpc.Call) -> AsyncIterator[bytes]:
        if request.digest == "nothing":
            return
        if request.digest == "sleep":
            await self.sleep(call)
        while request.digest == "endless":
            yield b""
        for _ in range(3):
            yield content_pb2.ReadContentResponse(data=BIG).SerializeToString()

    async def write(self, requests: Any, call: rpc.Call) -> AsyncIterator[content_pb2.WriteContentResponse]:
        async for request in requests:
            self.taken += 1
            if request.ref == "end":
                return
            if request.ref == "wait":
                await asyncio.to_thread(self.go_on.wait, 10)
            yield content_pb2.WriteContentResponse(offset=len(request.data))


class Client:
    """A client that does exactly what a test says."""

    def __init__(self, path: str, *settings: tuple[int, int], greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.rest = b""
        if greet:
            self.send(frames.PREFACE + frames.settings(dict(settings)))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def block(self, path: str = INFO, **more: str) -> bytes:
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
        fields |= {"content-type": "application/grpc"} | {name.replace("_", "-"): text for name, text in more.items()}
        return self.encoder.encode([(name, text) for name, text in fields.items()])

    def open(self, stream: int, path: str = INFO, flags: int = frames.END_HEADERS, **more: str) -> None:
        self.send(frames.frame(HEADERS, flags, stream, self.block(path, **more)))

    def data(self, stream: int, payload: bytes, flags: int = frames.END_STREAM) -> None:
        self.send(frames.frame(DATA, flags, stream, payload))

    def ask(self, stream: int, digest: str = "d", **more: str) -> None:
        self.open(stream, **more)
        self.data(stream, ask(digest))

    def frame(self) -> Frame:
        """The next one. Raises EOFError when the server has closed."""
        header = self.exactly(frames.HEADER_SIZE)
        high, low, kind, flags, stream = frames.HEADER.unpack(header)
        return kind, flags, stream, self.exactly(high << 8 | low)

    def exactly(self, size: int) -> bytes:
        while len(self.rest) < size:
            part = self.socket.recv(1 << 20)
            if not part:
                raise EOFError
            self.rest += part
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def next(self, *kinds: int) -> Frame:
        """The next frame of one of these kinds."""
        while True:
            frame = self.frame()
            if frame[0] in kinds:
                return frame

    def answer(self) -> tuple[dict[str, str], bytes]:
        """Headers and trailers, and the data in between, of the one call that runs."""
        found: dict[str, str] = {}
        data = b""
        while True:
            kind, flags, _, payload = self.next(HEADERS, DATA, RST_STREAM, GOAWAY)
            assert kind in (HEADERS, DATA), (kind, payload)
            if kind == HEADERS:
                found |= dict(self.decoder.decode(payload))
            else:
                data += payload
            if flags & frames.END_STREAM:
                return found, data

    def farewell(self) -> int:
        """The code of a GOAWAY, after which the server closes."""
        _, _, _, payload = self.next(GOAWAY)
        with pytest.raises((EOFError, ConnectionResetError)):
            while True:
                self.frame()
        return int(struct.unpack(">I", payload[4:8])[0])

    def close(self) -> None:
        self.socket.close()


def message(value: Any) -> bytes:
    encoded = value if isinstance(value, bytes) else value.SerializeToString()
    return frames.PREFIX.pack(0, len(encoded)) + bytes(encoded)


def ask(digest: str = "d") -> bytes:
    return message(content_pb2.InfoRequest(digest=digest))


def piece(size: int, ref: str = "") -> bytes:
    return message(content_pb2.WriteContentRequest(ref=ref, data=b"x" * size))


def in_frames(stream: int, payload: bytes) -> bytes:
    starts = range(0, len(payload), frames.FRAME_SIZE)
    return b"".join(frames.frame(DATA, 0, stream, payload[at : at + frames.FRAME_SIZE]) for at in starts)


def eventually(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture
def content() -> Content:
    return Content()


@pytest.fixture
def path(tmp_path: Path, content: Content) -> Iterator[str]:
    path = f"{tmp_path}/s.sock"
    with ThreadPoolExecutor(4) as threads:

        async def start() -> Server:
            server = Server(lambda name: threads)
            server.mount(content)
            server.listen(path)
            await server.start()
            return server

        with running(start, lambda server: server.stop()):  # type: ignore[attr-defined]
            yield path


@pytest.fixture
def connect(path: str) -> Iterator[Callable[..., Client]]:
    with contextlib.ExitStack() as stack:

        def begin(*settings: tuple[int, int], greet: bool = True) -> Client:
            client = Client(path, *settings, greet=greet)
            stack.callback(client.close)
            return client

        yield begin


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    return connect()


Connect = Callable[..., Client]


# The connection


def test_the_server_greets_and_acknowledges_settings(client: Client) -> None:
    kind, flags, stream, payload = client.frame()
    values = dict(struct.iter_unpack(">HI", payload))
    assert (kind, flags, stream) == (SETTINGS, 0, 0)
    assert values[frames.INITIAL_WINDOW_SIZE] == WINDOW
    assert values[frames.MAX_CONCURRENT_STREAMS] == MAX_STREAMS
    assert client.next(SETTINGS)[1] == frames.ACK


def test_bytes_may_come_one_by_one(connect: Connect) -> None:
    client = connect(greet=False)
    data = frames.PREFACE + frames.settings({}) + frames.frame(HEADERS, frames.END_HEADERS, 1, client.block())
    for byte in data + frames.frame(DATA, frames.END_STREAM, 1, ask()):
        client.send(bytes((byte,)))
    assert client.answer()[0]["grpc-status"] == "0"


def test_what_is_not_http2_is_shown_the_door(connect: Connect) -> None:
    client = connect(greet=False)
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.farewell() == Code.PROTOCOL_ERROR


def test_settings_come_first(connect: Connect) -> None:
    client = connect(greet=False)
    client.send(frames.PREFACE + frames.frame(PING, 0, 0, bytes(8)))
    assert client.farewell() == Code.PROTOCOL_ERROR


def test_a_ping_is_answered_although_nothing_else_is_written(client: Client) -> None:
    client.send(frames.frame(PING, 0, 0, b"12345678"))
    assert client.next(PING) == (PING, frames.ACK, 0, b"12345678")


def test_an_answered_ping_is_not_answered_again(client: Client) -> None:
    client.send(frames.frame(PING, frames.ACK, 0, b"87654321") + frames.frame(PING, 0, 0, b"12345678"))
    assert client.next(PING)[3] == b"12345678"


def test_frames_of_unknown_kinds_and_priorities_are_ignored(client: Client) -> None:
    client.send(frames.frame(0x77, 0xFF, 3, b"?") + frames.frame(frames.PRIORITY, 0, 9, bytes(5)))
    client.ask(1)
    assert client.answer()[0]["grpc-status"] == "0"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (frames.HEADER.pack(64, 1, DATA, 0, 1), Code.FRAME_SIZE_ERROR),
        (frames.frame(DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
        (frames.frame(DATA, 0, 5, b"x"), Code.PROTOCOL_ERROR),
        (frames.frame(HEADERS, frames.END_HEADERS, 0, b"\x82"), Code.PROTOCOL_ERROR),
        (frames.frame(HEADERS, frames.END_HEADERS, 2, b"\x82"), Code.PROTOCOL_ERROR),
        (frames.frame(HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
        (frames.frame(HEADERS, frames.END_HEADERS, 1, b"\x80"), Code.COMPRESSION_ERROR),
        (frames.frame(HEADERS, frames.END_HEADERS, 1, b"\x82\x3f\xe1\x1f"), Code.COMPRESSION_ERROR),
        (frames.frame(HEADERS, frames.PADDED, 1, b""), Code.PROTOCOL_ERROR),
        (frames.frame(HEADERS, frames.PADDED, 1, b"\x05abc"), Code.PROTOCOL_ERROR),
        (frames.frame(HEADERS, frames.WITH_PRIORITY, 1, b"abc"), Code.FRAME_SIZE_ERROR),
        (frames.frame(CONTINUATION, 0, 1, b""), Code.PROTOCOL_ERROR),
        (frames.frame(HEADERS, 0, 1, b"") + frames.frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
        (frames.frame(HEADERS, 0, 1, b"") + frames.frame(CONTINUATION, 0, 3, b""), Code.PROTOCOL_ERROR),
        (frames.frame(HEADERS, 0, 1, b"") + frames.frame(CONTINUATION, 0, 1, b"") * 8000, Code.ENHANCE_YOUR_CALM),
        (frames.frame(frames.PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
        (frames.frame(frames.PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
        (frames.frame(RST_STREAM, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
        (frames.frame(RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
        (frames.frame(SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
        (frames.frame(SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
        (frames.frame(SETTINGS, frames.ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 31}), Code.FLOW_CONTROL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 16383}), Code.PROTOCOL_ERROR),
        (frames.settings({frames.MAX_FRAME_SIZE: 1 << 24}), Code.PROTOCOL_ERROR),
        (frames.settings({frames.ENABLE_PUSH: 2}), Code.PROTOCOL_ERROR),
        (frames.frame(frames.PUSH_PROMISE, 0, 1), Code.PROTOCOL_ERROR),
        (frames.frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
        (frames.frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (frames.frame(GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
        (frames.frame(WINDOW_UPDATE, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR),
        (frames.frame(WINDOW_UPDATE, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
        (frames.window_update(7, 1), Code.PROTOCOL_ERROR),
        (frames.window_update(0, (1 << 31) - 1), Code.FLOW_CONTROL_ERROR),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection_with_the_reason(client: Client, frame: bytes, code: int) -> None:
    client.send(frame)
    assert client.farewell() == code


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_end_a_connection_and_nothing_else(connect: Connect, content: Content, seed: int) -> None:
    random_ = random.Random(seed)
    client = connect()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.send(nonsense(random_, client))
        client.socket.shutdown(socket.SHUT_WR)
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            client.frame()
    other = connect()
    other.ask(1)
    assert other.answer()[0]["grpc-status"] == "0"


def nonsense(random_: random.Random, client: Client) -> bytes:
    """Frames of which most are malformed, or nothing like frames."""
    if random_.random() < 0.2:
        return random_.randbytes(random_.randrange(5000))
    out = []
    for _ in range(random_.randrange(1, 40)):
        kind, stream = random_.choice([*range(11), HEADERS, DATA]), random_.choice([0, 1, 3, 5, 2, 7])
        payload = random_.choice([b"", client.block(random_.choice([INFO, WRITE, "/x"])), ask(), random_.randbytes(9)])
        out.append(frames.frame(kind, random_.choice([0, 1, 4, 5, random_.randrange(256)]), stream, payload))
    return b"".join(out)


def test_one_who_asks_and_does_not_read_is_cut_off(client: Client) -> None:
    with pytest.raises((BrokenPipeError, ConnectionResetError, TimeoutError)):
        for _ in range(2000):
            client.send(frames.frame(PING, 0, 0, bytes(8)) * 1000)
    with pytest.raises((EOFError, ConnectionResetError)):
        while True:
            client.frame()


# Headers


def test_headers_may_come_in_pieces_padded_and_with_priority(client: Client) -> None:
    block = client.block()
    flags = frames.PADDED | frames.WITH_PRIORITY
    client.send(frames.frame(HEADERS, flags, 1, b"\x03" + bytes(5) + block[:7] + bytes(3)))
    client.send(frames.frame(CONTINUATION, 0, 1, block[7:9]) + frames.frame(CONTINUATION, 0, 1))
    client.send(frames.frame(CONTINUATION, frames.END_HEADERS, 1, block[9:]))
    client.data(1, b"\x04" + ask() + bytes(4), frames.PADDED | frames.END_STREAM)
    assert client.answer()[0]["grpc-status"] == "0"


def test_too_many_headers_end_the_connection(client: Client) -> None:
    block = client.block(x="y" * 100_000)
    parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    client.send(
        frames.frame(HEADERS, 0, 1, parts[0]) + b"".join(frames.frame(CONTINUATION, 0, 1, p) for p in parts[1:])
    )
    assert client.farewell() == Code.ENHANCE_YOUR_CALM


def test_a_small_block_that_means_many_headers_ends_the_connection(client: Client) -> None:
    client.encoder.encode([("x", "y" * 4000)])  # enters the table
    client.send(
        frames.frame(HEADERS, frames.END_HEADERS, 1, hpack.Encoder().encode([("x", "y" * 3900)]) + b"\xbe" * 50)
    )
    assert client.farewell() == Code.ENHANCE_YOUR_CALM


def test_unusual_metadata_is_tolerated(client: Client) -> None:
    client.open(1, user_agent="grpc-go/1.47.0", x_bin="AAEC", grpc_accept_encoding="identity,gzip", empty="")
    client.data(1, ask())
    assert client.answer()[0]["grpc-status"] == "0"


def test_the_answer_says_what_grpc_wants(client: Client) -> None:
    client.ask(1)
    found, data = client.answer()
    assert found == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}
    assert content_pb2.InfoResponse.FromString(data[frames.PREFIX_SIZE :]).info.digest == "d"


@pytest.mark.parametrize(
    ("called", "words"),
    [
        (f"/{SERVICE.full_name}/Nothing", f"unknown method Nothing for service {SERVICE.full_name}"),
        ("/a.B/C", "unknown service a.B"),
        ("nothing", 'malformed method name: "nothing"'),
        ("", 'malformed method name: ""'),
    ],
)
def test_an_unknown_path_is_unimplemented_in_grpcs_words(client: Client, called: str, words: str) -> None:
    client.open(1, called)
    found, data = client.answer()
    assert (found["grpc-status"], found["grpc-message"], data) == ("12", words, b"")
    assert client.next(RST_STREAM) == (RST_STREAM, 0, 1, bytes(4))  # what is still to come is not wanted


def test_an_error_before_the_first_message_is_one_frame(client: Client) -> None:
    client.ask(1, "fail", words="größe 100%\n")
    _, flags, _, payload = client.next(HEADERS)
    found = dict(client.decoder.decode(payload))
    assert flags == frames.END_HEADERS | frames.END_STREAM
    assert found["grpc-status"] == "5"
    assert found["grpc-message"] == "gr%C3%83%C2%B6%C3%83%C2%9Fe 100%25%0A"


def test_a_message_that_is_very_long_is_cut(client: Client) -> None:
    for stream, words in ((1, "a" * 9000), (3, "%" * 9000)):
        client.ask(stream, "fail", words=words)
        found, _ = client.answer()
        assert 7990 < len(found["grpc-message"]) <= 8000
        assert found["grpc-message"].replace("%25", "").replace("a", "") == ""


@pytest.mark.parametrize(("content_type", "fits"), [("application/grpc+proto", True), ("application/grpcx", False)])
def test_other_content_is_not_supported(client: Client, content_type: str, fits: bool) -> None:
    client.ask(1, content_type=content_type)
    found, _ = client.answer()
    assert found[":status"] == ("200" if fits else "415")


def test_only_post_is_allowed(client: Client) -> None:
    fields = [(":method", "GET"), (":path", INFO), ("content-type", "application/grpc")]
    client.send(frames.frame(HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, client.encoder.encode(fields)))
    assert client.answer()[0][":status"] == "405"


@pytest.mark.parametrize("text", ["", "S", "5", "123456789S", "-1S", "5x", "1.5S", "٣S"])
def test_a_malformed_timeout_is_refused(client: Client, text: str) -> None:
    client.ask(1, grpc_timeout=text)
    found, _ = client.answer()
    assert (found["grpc-status"], "malformed grpc-timeout" in found["grpc-message"]) == ("13", True)


@pytest.mark.parametrize("text", ["50m", "0n", "50000u"])
def test_a_deadline_ends_the_call(client: Client, content: Content, text: str) -> None:
    client.ask(1, "sleep", grpc_timeout=text)
    assert client.answer()[0]["grpc-status"] == "4"
    assert content.running == 0 or content.canceled.wait(60)


def test_a_deadline_passes_while_the_request_is_still_coming(client: Client) -> None:
    client.open(1, grpc_timeout="50m")
    assert client.answer()[0]["grpc-status"] == "4"


def test_a_deadline_that_is_far_away_does_no_harm(client: Client) -> None:
    client.ask(1, grpc_timeout="99999999H")
    assert client.answer()[0]["grpc-status"] == "0"


# Messages


def test_a_message_may_come_in_pieces(client: Client) -> None:
    client.open(1)
    data = ask("abc")
    for byte in data[:-1]:
        client.data(1, bytes((byte,)), 0)
    client.data(1, b"", 0)
    client.data(1, data[-1:])
    assert b"abc" in client.answer()[1]


def test_many_messages_may_come_in_one_frame(client: Client) -> None:
    client.open(1, WRITE)
    client.data(1, b"".join(map(piece, range(1, 100))))
    found, data = client.answer()
    assert found["grpc-status"] == "0"
    answers = b"".join(message(content_pb2.WriteContentResponse(offset=size)) for size in range(1, 100))
    assert data == answers


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 13),
        (ask() + ask(), 13),
        (ask()[:-1], 13),
        (b"\0", 13),
        (b"\1" + ask()[1:], 12),
        (b"\0\xff\xff\xff\xff", 8),
        (message(b"\xff"), 13),
    ],
)
def test_a_malformed_request_fails_its_call_only(client: Client, data: bytes, code: int) -> None:
    client.open(1)
    client.data(1, data)
    assert client.answer()[0]["grpc-status"] == str(code)
    client.ask(3)
    assert client.answer()[0]["grpc-status"] == "0"


def test_an_answer_that_is_too_large_is_refused(client: Client) -> None:
    client.ask(1, "too big")
    found, _ = client.answer()
    assert (found["grpc-status"], "larger than max" in found["grpc-message"]) == ("8", True)


def test_a_stream_without_messages_has_headers_and_trailers(client: Client) -> None:
    client.open(1, READ)
    client.data(1, message(content_pb2.ReadContentRequest(digest="nothing")))
    first, last = client.next(HEADERS), client.next(HEADERS)
    assert (first[1], last[1]) == (frames.END_HEADERS, frames.END_HEADERS | frames.END_STREAM)


def test_a_handler_that_cancels_itself_is_answered(client: Client) -> None:
    client.ask(1, "cancel itself")
    assert client.answer()[0]["grpc-status"] == "1"


def test_a_stream_without_end_lets_others_through(client: Client, connect: Connect, content: Content) -> None:
    client.send(frames.window_update(0, 1 << 30) + frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}))
    client.open(1, READ)
    client.data(1, message(content_pb2.ReadContentRequest(digest="endless")))
    reader = threading.Thread(target=read_all, args=(client,))
    reader.start()
    other = connect()
    other.ask(1)
    assert other.answer()[0]["grpc-status"] == "0"
    client.send(frames.rst_stream(1, Code.CANCEL))
    client.socket.shutdown(socket.SHUT_RDWR)
    reader.join()


def read_all(client: Client) -> None:
    with contextlib.suppress(OSError):
        while client.socket.recv(1 << 20):
            pass


def test_a_client_stream_that_ends_early_is_reset_without_error(client: Client) -> None:
    client.open(1, WRITE)
    client.data(1, piece(1, "end"), 0)
    assert client.answer()[0]["grpc-status"] == "0"
    assert client.next(RST_STREAM)[3] == bytes(4)
    client.data(1, piece(10_000))  # was on its way
    client.ask(3)
    assert client.answer()[0]["grpc-status"] == "0"


def test_trailers_of_the_client_end_its_stream(client: Client) -> None:
    client.open(1)
    client.data(1, ask(), 0)
    block = client.encoder.encode([("x", "y")])
    client.send(frames.frame(HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, block))
    assert client.answer()[0]["grpc-status"] == "0"


def test_a_stream_is_not_opened_twice(client: Client) -> None:
    client.ask(1)
    client.answer()
    client.open(1)
    assert client.farewell() == Code.PROTOCOL_ERROR


def test_data_after_the_end_resets_the_stream(client: Client) -> None:
    client.ask(1, "sleep")
    client.data(1, b"x")
    assert client.next(RST_STREAM)[2:] == (1, struct.pack(">I", Code.STREAM_CLOSED))


# Flow control


def test_an_answer_waits_for_the_windows(connect: Connect) -> None:
    client = connect((frames.INITIAL_WINDOW_SIZE, 10))
    client.ask(1, "big")
    assert len(client.next(DATA)[3]) == 10
    client.send(frames.window_update(1, 7))
    assert len(client.next(DATA)[3]) == 7
    client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 30}))
    assert len(client.next(DATA)[3]) == 20
    client.send(frames.window_update(1, 1_000_000) + frames.window_update(0, 1_000_000))
    found, data = client.answer()
    assert (found["grpc-status"], data[-1:]) == ("0", b"x")


def test_a_window_may_become_negative(connect: Connect) -> None:
    client = connect((frames.INITIAL_WINDOW_SIZE, 100))
    client.ask(1, "big")
    client.next(DATA)
    client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}) + frames.window_update(1, 99))
    client.send(frames.window_update(1, 5))
    assert len(client.next(DATA)[3]) == 4


def test_streams_share_the_window_of_the_connection(client: Client) -> None:
    for stream in (1, 3):
        client.ask(stream, "big")
    seen = {1: 0, 3: 0}
    while sum(seen.values()) < frames.DEFAULT_WINDOW:
        _, _, stream, payload = client.next(DATA)
        seen[stream] += len(payload)
    assert sum(seen.values()) == frames.DEFAULT_WINDOW
    client.send(frames.window_update(0, 1 << 20) + frames.window_update(1, 1 << 20) + frames.window_update(3, 1 << 20))
    ended = set()
    while len(ended) < 2:
        _, flags, stream, _ = client.next(DATA, HEADERS)
        ended |= {stream} if flags & frames.END_STREAM else set()


def test_a_small_answer_passes_one_that_waits(connect: Connect) -> None:
    client = connect((frames.INITIAL_WINDOW_SIZE, 1000))
    client.ask(1, "big")
    client.next(DATA)
    client.ask(3, "d")
    while True:
        _, flags, stream, _ = client.next(HEADERS, DATA)
        if flags & frames.END_STREAM:
            break
    assert stream == 3


def test_frames_are_as_large_as_the_client_takes(connect: Connect) -> None:
    wide = (frames.INITIAL_WINDOW_SIZE, 1 << 20)
    for settings, size in (((wide,), 16384), ((wide, (frames.MAX_FRAME_SIZE, 50_000)), 50_000)):
        client = connect(*settings)
        client.send(frames.window_update(0, 1 << 20))
        client.ask(1, "big")
        assert len(client.next(DATA)[3]) == size


def test_too_large_a_window_resets_the_stream(client: Client) -> None:
    client.ask(1, "sleep")
    client.send(frames.window_update(1, (1 << 31) - 1))
    assert client.next(RST_STREAM)[3] == struct.pack(">I", Code.FLOW_CONTROL_ERROR)
    client.ask(3, "sleep")
    client.send(frames.frame(WINDOW_UPDATE, 0, 3, bytes(4)))
    assert client.next(RST_STREAM)[3] == struct.pack(">I", Code.PROTOCOL_ERROR)


def test_a_client_that_sends_more_than_its_window_is_reset(client: Client, content: Content) -> None:
    client.open(1, WRITE)
    client.send(in_frames(1, piece(1, "wait") + piece(1) + piece(WINDOW)))
    assert client.next(RST_STREAM)[2:] == (1, struct.pack(">I", Code.FLOW_CONTROL_ERROR))
    content.go_on.set()


def test_a_handler_that_is_slow_holds_its_client_back(client: Client, content: Content) -> None:
    client.open(1, WRITE)
    first = piece(1, "wait")
    client.send(in_frames(1, first))
    eventually(lambda: content.taken == 1)
    rest = piece(100_000) * 9
    client.send(in_frames(1, rest))
    client.send(frames.frame(PING, 0, 0, bytes(8)))
    seen = []
    while (kind := client.frame()[0]) != PING:
        seen.append(kind)
    assert seen.count(WINDOW_UPDATE) == 1  # that of the connection at the beginning
    content.go_on.set()
    kind, _, stream, payload = client.next(WINDOW_UPDATE)
    assert (stream, struct.unpack(">I", payload)[0]) == (1, len(first) + len(rest))


def test_a_message_longer_than_the_window_is_let_in(client: Client) -> None:
    client.open(1, WRITE)
    data = in_frames(1, piece(3 * WINDOW))
    sender = threading.Thread(target=send_within_window, args=(client, 1, data))
    sender.start()
    answer = answer_with_updates(client)
    sender.join()
    assert answer == message(content_pb2.WriteContentResponse(offset=3 * WINDOW))


def send_within_window(client: Client, stream: int, data: bytes) -> None:
    """The socket holds what the server has not read: this relies on the server's own count of the window."""
    for start in range(0, len(data), WINDOW // 4):
        client.send(data[start : start + WINDOW // 4])
        time.sleep(0.02)  # the server gives the window back
    client.data(stream, b"")


def answer_with_updates(client: Client) -> bytes:
    updates, data = 0, b""
    while True:
        kind, flags, stream, payload = client.next(WINDOW_UPDATE, DATA, HEADERS, RST_STREAM)
        assert kind != RST_STREAM, payload
        updates += kind == WINDOW_UPDATE and stream == 1
        data += payload if kind == DATA else b""
        if flags & frames.END_STREAM and kind == HEADERS:
            assert updates >= 3
            return data


def test_a_large_stream_arrives_whole_although_nobody_reads_at_first(client: Client) -> None:
    client.send(frames.window_update(0, 1 << 24))
    client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 24}))
    client.open(1, READ)
    client.data(1, message(content_pb2.ReadContentRequest()))
    time.sleep(0.2)
    _, data = client.answer()
    assert data == message(content_pb2.ReadContentResponse(data=BIG)) * 3


# The end of calls


def test_a_reset_cancels_the_call_and_its_scope(client: Client, content: Content) -> None:
    client.ask(1, "sleep")
    eventually(lambda: content.running)
    client.send(frames.rst_stream(1, Code.CANCEL))
    assert content.canceled.wait(60)


@pytest.mark.parametrize("called", [INFO, READ])
def test_a_lost_connection_cancels_its_calls(client: Client, content: Content, called: str) -> None:
    client.open(1, called)
    client.data(1, ask("sleep"))
    eventually(lambda: content.running)
    client.close()
    assert content.canceled.wait(60)


def test_a_reset_call_counts_until_it_has_ended(client: Client, content: Content) -> None:
    """So a client cannot have more calls run than it may, by opening and resetting them."""
    opening = client.block()
    client.send(frames.frame(HEADERS, frames.END_HEADERS, 1, opening) + frames.rst_stream(1, Code.CANCEL))
    block = client.block()
    data = frames.frame(DATA, frames.END_STREAM, 0, ask("sleep"))
    out = bytearray()
    for stream in range(3, 2 * MAX_STREAMS + 5, 2):
        out += frames.frame(HEADERS, frames.END_HEADERS, stream, block)
        out += data[:5] + struct.pack(">I", stream) + data[9:]
    threading.Thread(target=client.send, args=(bytes(out),)).start()
    assert client.next(RST_STREAM)[3] == struct.pack(">I", Code.REFUSED_STREAM)


def test_many_quick_resets_do_no_harm(client: Client, content: Content) -> None:
    client.ask(1)
    block = client.block()
    for stream in range(3, 20_003, 2):
        client.send(
            frames.frame(HEADERS, frames.END_HEADERS, stream, block)
            + frames.frame(DATA, frames.END_STREAM, stream, ask("sleep"))
            + frames.rst_stream(stream, Code.CANCEL)
        )
    client.answer()
    client.ask(20_003)
    assert client.answer()[0]["grpc-status"] == "0"


def test_stopping_says_goodbye_waits_and_then_breaks_off(tmp_path: Path, content: Content) -> None:
    async def main() -> None:
        server = Server(lambda name: pytest.fail("no work here"))
        server.mount(content)
        server.listen(f"{tmp_path}/s.sock")
        await server.start()
        client = await asyncio.to_thread(Client, f"{tmp_path}/s.sock")
        idle = await asyncio.to_thread(Client, f"{tmp_path}/s.sock")
        await asyncio.to_thread(client.ask, 1, "sleep")
        while not content.running:
            await asyncio.sleep(0.01)
        begin = time.monotonic()
        stopping = asyncio.create_task(server.stop(0.3))
        _, _, _, payload = await asyncio.to_thread(client.next, GOAWAY)
        assert payload == struct.pack(">II", 1, Code.NO_ERROR)
        await asyncio.to_thread(client.ask, 3)  # too late: not seen
        found, _ = await asyncio.to_thread(client.answer)
        assert (found["grpc-status"], found["grpc-message"]) == ("14", "the server is stopping")
        await stopping
        took = time.monotonic() - begin
        assert took >= 0.3
        assert pace.within(took, 2)
        assert content.canceled.is_set()
        for each in (client, idle):
            with pytest.raises(EOFError):
                while True:
                    await asyncio.to_thread(each.frame)
            each.close()
        assert not list(tmp_path.iterdir())

    asyncio.run(main())


def test_stopping_does_not_wait_for_a_client_that_does_not_read(tmp_path: Path, content: Content) -> None:
    async def main() -> None:
        server = Server(lambda name: pytest.fail("no work here"))
        server.mount(content)
        server.listen(f"{tmp_path}/s.sock")
        await server.start()
        client = await asyncio.to_thread(Client, f"{tmp_path}/s.sock", (frames.INITIAL_WINDOW_SIZE, 1 << 24))
        client.send(frames.window_update(0, 1 << 24))
        client.open(1, READ)
        client.data(1, message(content_pb2.ReadContentRequest()))
        await asyncio.sleep(0.2)
        await asyncio.wait_for(server.stop(), 5)
        client.close()

    asyncio.run(main())


def test_an_address_that_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    server = Server(lambda name: pytest.fail("no work here"))
    with pytest.raises(errors.FailedPrecondition, match="nowhere"):
        server.listen(f"{tmp_path}/nowhere/s.sock")
    with pytest.raises(errors.FailedPrecondition, match=r"192\.0\.2\.1"):
        server.listen("tcp://192.0.2.1:1")
    with pytest.raises(errors.InvalidArgument, match="host"):
        server.listen("tcp://host")


def test_limits_of_messages_can_be_set(tmp_path: Path) -> None:
    content = Content()

    async def start() -> Server:
        server = Server(lambda name: pytest.fail("no work here"), max_receive=50, max_send=100)
        server.mount(content)
        server.listen(f"{tmp_path}/s.sock")
        await server.start()
        return server

    with running(start, lambda server: server.stop()):  # type: ignore[attr-defined]
        channel = transport.connect(f"{tmp_path}/s.sock")
        stub = rpc.Stub(channel, SERVICE, Scope("default"))
        for digest in ("x" * 60, "big"):
            with pytest.raises(errors.ResourceExhausted, match="larger than max"):
                stub.unary("Info", content_pb2.InfoRequest(digest=digest), content_pb2.InfoResponse)
        channel.close()
