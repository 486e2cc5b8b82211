import io
import os
import signal
import threading

import pytest
from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty

from plugin_sdk import errors, oci, platforms, transfer
from plugin_sdk.api.services.transfer.v1 import transfer_pb2
from plugin_sdk.api.types.transfer import container_pb2, imagestore_pb2, importexport_pb2, registry_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, streaming, transfer_messages, transfer_session
from plugin_sdk.wire import transfer as wire
from plugin_sdk.wire.http2 import client
from plugin_sdk.wire.http2.server import Server

ARM = platforms.Platform("linux", "arm", "v7", "1.2", ("a", "b"))
REGISTRY = transfer.Registry("a.example/b:1", {"X-A": "b"}, "/etc/hosts.d", "http")
STORE = transfer.ImageStore(
    "a.example/b:1",
    {"color": "blue"},
    (ARM,),
    True,
    3,
    (transfer.Name("prefix", True, True, True, True),),
    (transfer.Unpack(ARM, "native"), transfer.Unpack()),
)
STEP = transfer.Progress("complete", "b", ("a",), 2, 2, oci.Descriptor(oci.MANIFEST, "sha256:" + "1" * 64, 7))


class Transferrer:
    """Notes what it is asked, and does what a test says."""

    def __init__(self):
        self.asked = []
        self.does = lambda source, destination, progress: ()
        self.ended = threading.Event()

    def transfer(self, source, destination, progress=None):
        self.asked.append((source, destination))
        try:
            return self.does(source, destination, progress)
        finally:
            self.ended.set()


@pytest.fixture
def server_kind():
    """The daemon's: no program of a plugin transfers."""
    return Server


@pytest.fixture
def transferrer():
    return Transferrer()


@pytest.fixture
def streams():
    return streaming.Streams()


@pytest.fixture
def channel(serve, transferrer, streams):
    def resolve(call):
        transferrer.scope = call.scope
        return transferrer

    return serve(wire.Servicer(resolve, streams), streaming.Servicer(streams))


@pytest.fixture
def proxy(channel):
    return wire.Proxy(channel, Scope("default", "lease-1"))


@pytest.fixture
def ask(channel):
    """Sends a request with bare messages."""

    def ask(source, destination, progress=""):
        options = transfer_pb2.TransferOptions(progress_stream=progress)
        ends = [any_pb2.Any(type_url=type_url, value=value) for type_url, value in (source, destination)]
        request = transfer_pb2.TransferRequest(source=ends[0], destination=ends[1], options=options)
        rpc.Stub(channel, wire.SERVICE, Scope("default")).unary("Transfer", request, Empty)

    return ask


def bare(message):
    return message.DESCRIPTOR.full_name, message.SerializeToString()


# --- values


def test_a_pair_comes_as_it_was_sent(proxy, transferrer):
    proxy.transfer(REGISTRY, STORE)
    proxy.transfer(STORE, REGISTRY)
    assert transferrer.asked == [(REGISTRY, STORE), (STORE, REGISTRY)]
    assert (transferrer.scope.namespace, transferrer.scope.lease) == ("default", "lease-1")


def test_options_of_archives_come_as_they_were_sent(proxy, transferrer):
    proxy.transfer(transfer.ImportStream(io.BytesIO(), "x/y", True), STORE)
    [(source, _)] = transferrer.asked
    assert (source.media_type, source.force_compress) == ("x/y", True)
    proxy.transfer(STORE, transfer.ExportStream(io.BytesIO(), "x/y", (ARM,), True, True, True))
    export = transferrer.asked[1][1]
    assert (export.media_type, export.platforms, export.all_platforms) == ("x/y", (ARM,), True)
    assert (export.skip_compatibility_manifest, export.skip_non_distributable) == (True, True)


@pytest.mark.parametrize("prefix", ["", "type.googleapis.com/"])
def test_type_urls_are_bare_and_read_with_a_prefix_too(ask, transferrer, prefix):
    name, value = bare(transfer_messages.store_message(STORE))
    assert name == "containerd.types.transfer.ImageStore"
    ask((prefix + name, value), (prefix + name, value))
    assert transferrer.asked == [(STORE, STORE)]


def test_a_platform_that_is_not_given_is_the_daemons_own():
    message = imagestore_pb2.ImageStore()
    message.unpacks.add().platform.SetInParent()
    assert transfer_messages.store(message).unpacks == (transfer.Unpack(),)


# --- names


@pytest.mark.parametrize(
    ("source", "destination", "names"),
    [
        (REGISTRY, STORE, ["saved:1", "saved:2"]),
        (STORE, REGISTRY, ["a.example/b:1", "prefix"]),
        (STORE, transfer.ImageStore("other:1"), ["other:1"]),
    ],
)
def test_names_are_those_that_were_saved_or_given(proxy, transferrer, source, destination, names):
    def save(source, destination, progress):
        for name in ("saved:1", "saved:2", "saved:1"):
            progress(transfer.Progress("saved", name))

    transferrer.does = save
    assert list(proxy.transfer(source, destination)) == names


# --- steps


def test_all_steps_are_told_before_the_end(proxy, transferrer):
    def tell(source, destination, progress):
        for number in range(500):
            progress(transfer.Progress("x", "y", progress=number))
        progress(STEP)

    transferrer.does = tell
    steps = []
    proxy.transfer(STORE, REGISTRY, steps.append)
    assert [step.progress for step in steps[:-1]] == list(range(500))
    assert steps[-1] == STEP


def test_no_steps_are_told_where_none_are_asked_for(ask, transferrer):
    def look(source, destination, progress):
        assert progress is None

    transferrer.does = look
    ask(bare(transfer_messages.store_message(STORE)), bare(transfer_messages.store_message(STORE)))


def test_a_stream_of_steps_that_nobody_reads_any_more_ends_nothing(proxy, transferrer, streams, channel, ask):
    stream = streaming.Proxy(channel, Scope("default")).open("progress")
    told = []

    def tell(source, destination, progress):
        served = streams.find("default", stream.id)
        stream.cancel()
        assert served.wait(10)
        progress(STEP)
        told.append(STEP)

    transferrer.does = tell
    store = bare(transfer_messages.store_message(STORE))
    ask(store, store, stream.id)
    assert told == [STEP]


def test_a_report_that_raises_ends_the_call(proxy, transferrer):
    def tell(source, destination, progress):
        while True:
            progress(STEP)
            transferrer.scope.check()

    class Enough(Exception):
        pass

    def report(step):
        raise Enough

    transferrer.does = tell
    with pytest.raises(Enough):
        proxy.transfer(STORE, REGISTRY, report)
    assert transferrer.ended.wait(10)


# --- credentials


@pytest.mark.parametrize(
    "found",
    [
        None,
        transfer.Credentials("user", "secret"),
        transfer.Credentials(refresh="token"),
        transfer.Credentials(header="Basic x"),
    ],
)
def test_the_caller_is_asked_for_credentials(proxy, transferrer, found):
    challenge = transfer.Challenge("a.example", "a.example/b:1", ("Bearer x", "Basic y"))
    asked, got = [], []

    def answer(challenge):
        asked.append(challenge)
        return found

    transferrer.does = lambda source, destination, progress: [got.append(source.ask(challenge)) for _ in range(2)]
    proxy.transfer(transfer.Registry("a.example/b:1", ask=answer), STORE)
    assert asked == [challenge, challenge]
    assert got == [found, found]


def test_an_empty_token_is_none():
    for kind in (registry_pb2.REFRESH, registry_pb2.HEADER, registry_pb2.NONE):
        assert transfer_messages.credentials(registry_pb2.AuthResponse(authType=kind)) is None


def test_a_caller_that_does_not_answer_any_more_has_no_credentials(proxy, transferrer, streams):
    got = []

    def go(source, destination, progress):
        next(stream for (_, id), stream in streams._open.items() if id.startswith("auth")).close()
        got.append(source.ask(transfer.Challenge("a.example", "a.example/b:1")))

    transferrer.does = go
    proxy.transfer(transfer.Registry("a.example/b:1", ask=lambda challenge: None), STORE)
    assert got == [None]


def test_an_answer_that_raises_ends_the_call(proxy, transferrer):
    class Enough(Exception):
        pass

    def answer(challenge):
        raise Enough

    def wants(source, destination, progress):
        source.ask(transfer.Challenge("a.example", "a.example/b:1"))
        transferrer.scope.check()

    transferrer.does = wants
    with pytest.raises(Enough):
        proxy.transfer(transfer.Registry("a.example/b:1", ask=answer), STORE)


# --- archives


@pytest.mark.parametrize("size", [0, 1, 100_000, 9_000_001])
def test_archives_go_both_ways(proxy, transferrer, size):
    def copy(source, destination, progress):
        while chunk := source.file.read(70_000):
            destination.file.write(chunk)

    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    transferrer.does = copy
    out = io.BytesIO()
    assert not proxy.transfer(transfer.ImportStream(io.BytesIO(data)), transfer.ExportStream(out))
    assert out.getvalue() == data


def test_an_archive_need_not_be_read_to_its_end(proxy, transferrer):
    transferrer.does = lambda source, destination, progress: source.file.read(10)
    proxy.transfer(transfer.ImportStream(io.BytesIO(bytes(20 << 20))), STORE)


def test_what_fails_writes_no_rest_of_an_archive(proxy, transferrer):
    def fail(source, destination, progress):
        destination.file.write(b"x" * 100)
        raise errors.DataLoss("a blob has changed")

    transferrer.does = fail
    out = io.BytesIO()
    with pytest.raises(errors.DataLoss, match="a blob has changed"):
        proxy.transfer(STORE, transfer.ExportStream(out))
    assert out.getvalue() == b""


class Broken(io.BytesIO):
    def read(self, size=-1):
        raise OSError(5, "broken")

    def write(self, data):
        raise OSError(28, "full")


def test_a_file_that_cannot_be_read_ends_the_call(proxy, transferrer):
    transferrer.does = lambda source, destination, progress: source.file.read(1)
    with pytest.raises(OSError, match="broken"):
        proxy.transfer(transfer.ImportStream(Broken()), STORE)


@pytest.mark.parametrize("make", [bytes, lambda: io.StringIO("text")], ids=["bytes", "text"])
def test_what_is_no_file_of_bytes_ends_the_call(proxy, transferrer, make):
    transferrer.does = lambda source, destination, progress: source.file.read(1)
    with pytest.raises((AttributeError, TypeError)):
        proxy.transfer(transfer.ImportStream(make()), STORE)


def test_a_file_that_cannot_be_written_ends_the_call(proxy, transferrer):
    transferrer.does = lambda source, destination, progress: destination.file.write(bytes(20 << 20))
    with pytest.raises(OSError, match="full"):
        proxy.transfer(STORE, transfer.ExportStream(Broken()))
    assert transferrer.ended.wait(10)


def test_an_export_of_containerd_ends_though_its_stream_does_not(proxy, transferrer, monkeypatch):
    monkeypatch.setattr(transfer_session, "_QUIET", 0.05)
    monkeypatch.setattr("plugin_sdk.wire.transfer_ends.Ends.finish", lambda ends: None)
    held = threading.Event()
    close = streaming.Served.close
    monkeypatch.setattr(
        streaming.Served, "close", lambda stream: held.set() if stream._id.startswith("export") else close(stream)
    )

    def export(source, destination, progress):
        destination.file.write(b"archive" + bytes(200_000))
        destination.file._send_down_to(0)

    transferrer.does = export
    out = io.BytesIO()
    proxy.transfer(STORE, transfer.ExportStream(out))
    assert out.getvalue() == b"archive" + bytes(200_000)
    assert held.is_set()


# --- the end


def test_the_work_ends_with_its_caller(channel, transferrer):
    begun = threading.Event()

    def work(source, destination, progress):
        begun.set()
        source.file.read(1)

    class Waits(io.BytesIO):
        def read(self, size=-1):
            assert begun.wait(10)
            scope.cancel()
            return b""

    transferrer.does = work
    scope = Scope("default")
    with pytest.raises(errors.Canceled):
        wire.Proxy(channel, scope).transfer(transfer.ImportStream(Waits()), STORE)
    assert transferrer.ended.wait(10)


@pytest.mark.parametrize("connect", [client.connect], ids=["http2"])  # grpc's own threads do not bear it each time
def test_the_work_ends_when_the_caller_is_interrupted(proxy, transferrer):
    def work(source, destination, progress):
        os.kill(os.getpid(), signal.SIGINT)
        source.ask(transfer.Challenge("a.example", "a.example/b:1"))  # which nobody answers
        gone = threading.Event()
        transferrer.scope.on_cancel(gone.set)
        assert gone.wait(10)
        transferrer.scope.check()

    over = threading.Event()

    def answer(challenge):
        over.wait(60)

    transferrer.does = work
    with pytest.raises(KeyboardInterrupt):
        proxy.transfer(transfer.Registry("a.example/b:1", ask=answer), STORE)
    assert transferrer.ended.wait(10)
    over.set()


def test_streams_are_gone_after_the_transfer(proxy, transferrer, streams):
    asking = transfer.Registry("a.example/b:1", ask=lambda challenge: None)
    proxy.transfer(asking, STORE, lambda step: None)
    proxy.transfer(transfer.ImportStream(io.BytesIO()), transfer.ExportStream(io.BytesIO()))
    until = threading.Event()
    for _ in range(1000):
        if not streams._open or until.wait(0.01):
            break
    assert streams._open == {}


def test_errors_are_told_as_they_are(proxy, transferrer):
    def fail(source, destination, progress):
        raise errors.Unauthenticated("a.example: who are you")

    transferrer.does = fail
    with pytest.raises(errors.Unauthenticated, match="who are you"):
        proxy.transfer(REGISTRY, STORE)


# --- what is refused

STORE_END = bare(imagestore_pb2.ImageStore(name="a"))
REGISTRY_END = bare(registry_pb2.OCIRegistry(reference="a.example/b:1"))


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (bare(container_pb2.ContainerPath(path="/x")), STORE_END),
        (STORE_END, ("example.Unknown", b"\xff")),
        (bare(importexport_pb2.ImageExportStream()), STORE_END),
        (STORE_END, bare(importexport_pb2.ImageImportStream())),
    ],
)
def test_an_unknown_end_is_unimplemented(ask, source, destination, transferrer):
    with pytest.raises(errors.Unimplemented, match="method Transfer not implemented for"):
        ask(source, destination)
    assert not transferrer.asked


@pytest.mark.parametrize("wrong", [("containerd.types.transfer.ImageStore", b"\xff"), ("", b"")])
def test_a_malformed_end_is_an_invalid_argument(ask, wrong):
    with pytest.raises(errors.InvalidArgument):
        ask(wrong, STORE_END)


def test_a_stream_that_is_not_there_is_not_found(ask):
    with pytest.raises(errors.NotFound, match="none"):
        ask(bare(importexport_pb2.ImageImportStream(stream="none")), STORE_END)
    with pytest.raises(errors.NotFound, match="none"):
        ask(STORE_END, STORE_END, "none")
    resolver = registry_pb2.RegistryResolver(auth_stream="none")
    with pytest.raises(errors.NotFound, match="none"):
        ask(bare(registry_pb2.OCIRegistry(reference="a.example/b:1", resolver=resolver)), STORE_END)
