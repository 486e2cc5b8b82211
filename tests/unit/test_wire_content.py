import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugin_sdk import content, errors
from plugin_sdk.api.services.content.v1 import content_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content as wire
from plugin_sdk.wire import rpc
from plugins_builtin.content import local

Write = Callable[..., list[content_pb2.WriteContentResponse]]

DATA = b"0123456789"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> content.Store:
    return local.Store(tmp_path / "content")


@pytest.fixture
def stub(serve, store: content.Store) -> rpc.Stub:
    return rpc.Stub(serve(wire.Servicer(lambda call: store)), wire.SERVICE, Scope("default"))


@pytest.fixture
def write(stub: rpc.Stub) -> Write:
    """Sends the requests one after the other and answers all responses."""

    def send(*requests: dict) -> list[content_pb2.WriteContentResponse]:
        messages = (content_pb2.WriteContentRequest(**each) for each in requests)
        with stub.stream("Write", messages, content_pb2.WriteContentResponse) as answers:
            return list(answers)

    return send


def read(stub: rpc.Stub, **request: object) -> list[content_pb2.ReadContentResponse]:
    messages = [content_pb2.ReadContentRequest(**request)]
    with stub.stream("Read", messages, content_pb2.ReadContentResponse) as answers:
        return list(answers)


def put(store: content.Store, data: bytes = DATA) -> str:
    with store.writer("put") as writer:
        writer.write(data)
        return writer.commit()


# Write


def test_each_message_gets_one_answer(write: Write, store: content.Store) -> None:
    answers = write(
        {"action": wire.STAT, "ref": "r", "total": 10},
        {"action": wire.WRITE, "data": DATA[:4]},
        {"action": wire.WRITE, "offset": 4, "data": DATA[4:]},
        {"action": wire.COMMIT, "offset": 10, "expected": DIGEST},
    )
    assert [(each.action, each.offset) for each in answers] == [(0, 0), (1, 4), (1, 10), (2, 10)]
    assert answers[0].total == 10
    assert answers[0].HasField("started_at")
    assert answers[1].digest == "sha256:" + hashlib.sha256(DATA[:4]).hexdigest()
    assert answers[3].digest == DIGEST
    assert store.info(DIGEST).size == 10


def test_the_first_message_must_bear_a_ref(write: Write) -> None:
    with pytest.raises(errors.InvalidArgument, match="first message must have a reference"):
        write({"action": wire.WRITE, "data": DATA})


def test_one_message_may_open_write_and_commit(write: Write, store: content.Store) -> None:
    write({"action": wire.COMMIT, "ref": "r", "data": DATA, "expected": DIGEST, "total": 10})
    assert store.info(DIGEST).size == 10


def test_writing_elsewhere_is_out_of_range_and_keeps_the_ingest(write: Write, store: content.Store) -> None:
    with pytest.raises(errors.OutOfRange, match="write @3 must occur at current offset 4"):
        write({"action": wire.WRITE, "ref": "r", "data": DATA[:4]}, {"action": wire.WRITE, "offset": 3, "data": b"x"})
    assert store.status("r").offset == 4


def test_writing_at_zero_begins_again(write: Write, store: content.Store) -> None:
    write({"action": wire.WRITE, "ref": "r", "data": b"wrong"}, {"action": wire.WRITE, "data": DATA})
    assert store.status("r").offset == 10
    answers = write({"action": wire.STAT, "ref": "r"}, {"action": wire.COMMIT, "offset": 10})
    assert answers[0].offset == 10
    assert answers[1].digest == DIGEST


def test_a_wrong_size_or_digest_at_commit_keeps_the_ingest(write: Write, store: content.Store) -> None:
    for wrong in ({"total": 9}, {"expected": "sha256:" + "0" * 64}):
        with pytest.raises(errors.FailedPrecondition):
            write({"action": wire.WRITE, "ref": "r", "data": DATA}, {"action": wire.COMMIT, "offset": 10, **wrong})
        assert store.status("r").offset == 10


def test_an_expected_blob_that_exists_is_said_at_once(write: Write, store: content.Store) -> None:
    put(store)
    with pytest.raises(errors.AlreadyExists):
        write({"action": wire.STAT, "ref": "r", "expected": DIGEST})
    assert store.list_statuses() == []


def test_a_ref_that_another_stream_holds_is_unavailable(stub: rpc.Stub, write: Write) -> None:
    go = threading.Event()

    def requests() -> Iterator[content_pb2.WriteContentRequest]:
        yield content_pb2.WriteContentRequest(action=wire.WRITE, ref="r", data=b"x")
        go.wait(10)

    with stub.stream("Write", requests(), content_pb2.WriteContentResponse) as answers:
        assert next(answers).offset == 1
        with pytest.raises(errors.Unavailable):
            write({"action": wire.STAT, "ref": "r"})
        go.set()
        assert list(answers) == []
    assert write({"action": wire.STAT, "ref": "r"})[0].offset == 1


def test_a_client_that_goes_away_lets_go_of_its_ref(stub: rpc.Stub, write: Write) -> None:
    go = threading.Event()

    def requests() -> Iterator[content_pb2.WriteContentRequest]:
        yield content_pb2.WriteContentRequest(action=wire.WRITE, ref="r", data=b"x")
        go.wait(10)

    with stub.stream("Write", requests(), content_pb2.WriteContentResponse) as answers:
        next(answers)
    go.set()
    for _ in range(100):
        try:
            assert write({"action": wire.STAT, "ref": "r"})[0].offset == 1
            return
        except errors.Unavailable:
            threading.Event().wait(0.02)
    pytest.fail("the ref is still held")


def test_labels_come_with_the_commit(serve) -> None:
    seen = {}

    class Writer:
        def status(self):
            return content.Status("r", 0)

        def commit(self, size, expected, labels):
            seen.update(size=size, expected=expected, labels=labels)
            return DIGEST

        def close(self):
            pass

    class Store:
        def writer(self, ref, total, expected):
            return Writer()

    stub = rpc.Stub(serve(wire.Servicer(lambda call: Store())), wire.SERVICE, Scope("default"))
    request = content_pb2.WriteContentRequest(action=wire.COMMIT, ref="r", labels={"a/b.c": "d"}, total=5)
    with stub.stream("Write", [request], content_pb2.WriteContentResponse) as answers:
        assert [each.digest for each in answers] == [DIGEST]
    assert seen == {"size": 5, "expected": "", "labels": {"a/b.c": "d"}}


# Read


def test_read_answers_the_part_asked_for(stub: rpc.Stub, store: content.Store) -> None:
    digest = put(store)
    for request, wanted in [
        ({}, DATA),
        ({"offset": 3}, DATA[3:]),
        ({"size": 4}, DATA[:4]),
        ({"offset": 3, "size": 4}, DATA[3:7]),
        ({"offset": 8, "size": 100}, DATA[8:]),
        ({"offset": 10}, b""),
        ({"size": -1}, DATA),
    ]:
        assert b"".join(each.data for each in read(stub, digest=digest, **request)) == wanted, request


def test_read_past_the_end_is_out_of_range(stub: rpc.Stub, store: content.Store) -> None:
    with pytest.raises(errors.OutOfRange):
        read(stub, digest=put(store), offset=11)


def test_read_of_a_large_blob_comes_in_chunks_with_offsets(stub: rpc.Stub, store: content.Store) -> None:
    data = b"x" * (2 * wire.READ_CHUNK + 5)
    answers = read(stub, digest=put(store, data))
    assert [each.offset for each in answers] == [0, wire.READ_CHUNK, 2 * wire.READ_CHUNK]
    assert b"".join(each.data for each in answers) == data


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 1 << 40])
@pytest.mark.parametrize("data", [b"", b"x", b"y" * 127, b"z" * 128, b"w" * 70000])
def test_a_chunk_is_encoded_as_protobuf_does(offset: int, data: bytes) -> None:
    assert content_pb2.ReadContentResponse.FromString(wire.encode_chunk(offset, data)) == (
        content_pb2.ReadContentResponse(offset=offset, data=data)
    )


def test_one_who_goes_while_the_writer_is_opened_leaves_none_open(serve) -> None:
    begun, go, closed = threading.Event(), threading.Event(), threading.Event()

    class Store:
        def writer(self, ref, total, expected):
            begun.set()
            go.wait(10)
            return self

        def status(self):
            return content.Status("r", 0)

        def digest(self):
            return DIGEST

        def close(self):
            closed.set()

    stub = rpc.Stub(serve(wire.Servicer(lambda call: Store())), wire.SERVICE, Scope("default"))
    request = content_pb2.WriteContentRequest(ref="r")
    with stub.stream("Write", [request], content_pb2.WriteContentResponse):
        assert begun.wait(60)
    threading.Event().wait(0.1)  # until the server knows that the caller is gone
    go.set()
    assert closed.wait(60)


# Lists


def test_list_streams_batches(serve) -> None:
    class Store:
        def walk(self, filters):
            assert filters == ["size>0"]
            return iter([content.Info(f"sha256:{number}", number) for number in range(250)])

    stub = rpc.Stub(serve(wire.Servicer(lambda call: Store())), wire.SERVICE, Scope("default"))
    request = content_pb2.ListContentRequest(filters=["size>0"])
    with stub.stream("List", [request], content_pb2.ListContentResponse) as answers:
        assert [len(answer.info) for answer in answers] == [100, 100, 50]
