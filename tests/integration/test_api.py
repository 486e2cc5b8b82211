"""RPCs that ``ctr`` does not call, and what it cannot ask for; on both daemons where containerd 1.6 has them."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, timestamp_pb2

from plugin_sdk.api.events import namespace_pb2
from plugin_sdk.api.services.ttrpc.events.v1 import events_pb2
from plugin_sdk.api.types import event_pb2
from plugin_sdk.scope import Scope
from plugin_sdk.wire import rpc, ttrpc
from scripts import images
from tests.calls import Answer, ask, message
from tests.sides import Both, Side

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
BUSYBOX = images.BUSYBOX


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def same(both: Both, name: str, *requests: dict[str, Any], **options: Any) -> Answer:
    answer: Answer = both.same(lambda side: ask(side, name, *requests, **options))
    return answer


def codes(both: Both, name: str, *requests: dict[str, Any], **options: Any) -> str:
    """Only the code has to be the same."""
    code: str = both.same(lambda side: ask(side, name, *requests, **options).code)
    return code


def test_containers_are_streamed(both: Both) -> None:
    for name in ("@one", "@two"):
        both.ctr("containers", "create", BUSYBOX, name, "/bin/true")
    listed = both.same(
        lambda side: [side.normalise(found["container"]["id"]) for found in ask(side, "Containers/ListStream").messages]
    )
    assert listed == ["@one", "@two"]


def test_an_ingest_is_shown_and_aborted(both: Both, fresh: str) -> None:
    write = {"action": 1, "ref": "mine", "offset": 0, "data": b"half"}
    assert codes(both, "Content/Write", write, namespace=fresh, timeout=60) == "OK"
    status = both.same(
        lambda side: ask(side, "Content/Status", {"ref": "mine"}, namespace=fresh).messages[0]["status"]["offset"]
    )
    assert status == 4
    assert codes(both, "Content/Status", {"ref": "mine"}, namespace=fresh + "other") == "NOT_FOUND"
    assert same(both, "Content/Abort", {"ref": "mine"}, namespace=fresh).code == "OK"
    assert codes(both, "Content/Status", {"ref": "mine"}, namespace=fresh) == "NOT_FOUND"
    assert codes(both, "Content/Abort", {"ref": "mine"}, namespace=fresh) == "NOT_FOUND"


@pytest.mark.parametrize(
    ("requests", "code"),
    [
        ([{"action": 0, "ref": ""}], "INVALID_ARGUMENT"),
        ([{"action": 1, "ref": "a", "offset": 7, "data": b"x"}], "OUT_OF_RANGE"),
        ([{"action": 2, "ref": "a", "data": b"x", "total": 5, "expected": digest(b"x")}], "FAILED_PRECONDITION"),
        ([{"action": 2, "ref": "a", "data": b"x", "expected": digest(b"y")}], "FAILED_PRECONDITION"),
    ],
    ids=["ref", "offset", "size", "digest"],
)
def test_a_wrong_write_gets_its_code(both: Both, fresh: str, requests: list[dict[str, Any]], code: str) -> None:
    assert codes(both, "Content/Write", *requests, namespace=fresh, timeout=60) == code


def test_content_is_read_in_ranges(both: Both, fresh: str) -> None:
    data = bytes(range(256)) * 20000
    both.ctr("content", "ingest", "ref", namespace=fresh, stdin=data)

    def read(side: Side, **fields: int) -> tuple[str, str, int]:
        answer = ask(side, "Content/Read", {"digest": digest(data), **fields}, namespace=fresh)
        found = b"".join(bytes.fromhex(one["data"]) for one in answer.messages if "data" in one)
        return answer.code, digest(found), len(found)

    assert both.same(lambda side: read(side))[2] == len(data)
    assert both.same(lambda side: read(side, offset=100, size=50))[2] == 50
    assert both.same(lambda side: read(side, offset=len(data) - 10, size=100))[2] == 10
    assert both.same(lambda side: read(side, offset=len(data) + 1))[0] == "OUT_OF_RANGE"


def test_content_of_another_namespace_is_made_visible_without_data(both: Both, fresh: str) -> None:
    data = b"shared by namespaces"
    both.ctr("content", "ingest", "ref", namespace=fresh, stdin=data)
    other = fresh + "other"
    opening = {"action": 0, "ref": "r", "total": len(data), "expected": digest(data)}
    commit = {**opening, "action": 2, "offset": len(data), "labels": {"a": "b"}}
    assert codes(both, "Content/Info", {"digest": digest(data)}, namespace=other) == "NOT_FOUND"
    assert codes(both, "Content/Write", opening, commit, namespace=other, timeout=60) == "OK"
    labels = both.same(
        lambda side: ask(side, "Content/Info", {"digest": digest(data)}, namespace=other).messages[0]["info"]["labels"]
    )
    assert labels == {"a": "b"}


def test_an_event_is_published_and_forwarded(both: Both) -> None:
    event = any_pb2.Any(type_url="containerd.events.NamespaceDelete")
    event.value = namespace_pb2.NamespaceDelete(name="published").SerializeToString()
    mark = both.mark()
    assert same(both, "Events/Publish", {"topic": "/test/published", "event": event}).code == "OK"
    now = timestamp_pb2.Timestamp(seconds=int(time.time()))
    envelope = {"topic": "/test/forwarded", "namespace": "elsewhere", "timestamp": now, "event": event}
    assert same(both, "Events/Forward", {"envelope": message("containerd.types.Envelope", **envelope)}).code == "OK"
    assert both.same_events(mark) == ["/test/published", "/test/forwarded"]
    for topic in ("", "/", "no-slash", "/a b/c", "//a"):
        assert codes(both, "Events/Publish", {"topic": topic, "event": event}) == "INVALID_ARGUMENT"
    for wrong in ({"namespace": ""}, {"topic": ""}, {"timestamp": timestamp_pb2.Timestamp()}):
        bad = message("containerd.types.Envelope", **{**envelope, **wrong})
        assert ask(both.corten, "Events/Forward", {"envelope": bad}).code == "INVALID_ARGUMENT"


def test_events_are_those_of_later_versions(both: Both, fresh: str) -> None:
    start = both.corten.recorder.flush()
    both.ctr("content", "ingest", "ref", namespace=fresh, stdin=b"told")
    both.ctr("snapshots", "prepare", "key", namespace=fresh)
    both.corten.recorder.flush()
    told = {event.topic: event.payload for event in both.corten.recorder.since(start)}
    assert told["/content/create"] == {"digest": digest(b"told"), "size": 4}
    assert told["/snapshot/prepare"] == {"key": "key", "snapshotter": "overlayfs"}


def test_an_event_is_forwarded_by_ttrpc(both: Both) -> None:
    event = any_pb2.Any(type_url="containerd.events.NamespaceDelete", value=b"")
    now = timestamp_pb2.Timestamp(seconds=int(time.time()))
    envelope = event_pb2.Envelope(timestamp=now, namespace="elsewhere", topic="/test/ttrpc", event=event)

    def forward(side: Side) -> None:
        channel = ttrpc.Channel(f"{side.daemon.address}.ttrpc")
        method = rpc.Method("Forward", events_pb2.ForwardRequest, message_type("google.protobuf.Empty"))
        request = events_pb2.ForwardRequest(envelope=envelope)
        try:
            channel.unary("containerd.services.events.ttrpc.v1.Events", method, request, Scope("default"))
        finally:
            channel.close()

    mark = both.mark()
    both.each(forward)
    assert both.same_events(mark) == ["/test/ttrpc"]


def message_type(name: str) -> Any:
    return type(message(name))


def test_the_daemon_is_healthy(both: Both) -> None:
    assert same(both, "Health/Check", namespace=None).messages == [{"status": 1}]
    assert codes(both, "Health/Check", {"service": "nobody"}, namespace=None) == "NOT_FOUND"


def test_health_is_watched_and_listed(corten: Side) -> None:
    for name in ("Health/Watch", "Health/List"):
        assert ask(corten, name, namespace=None, timeout=1).messages


def test_a_plugin_is_described(corten: Side) -> None:
    answer = ask(
        corten, "Introspection/PluginInfo", {"type": "io.containerd.snapshotter.v1", "id": "overlayfs"}, namespace=None
    )
    assert answer.code == "OK"
    assert answer.messages[0]["plugin"]["id"] == "overlayfs"


def test_a_lease_holds_resources(both: Both, fresh: str) -> None:
    both.ctr("leases", "create", "--id", "mine", namespace=fresh)
    for kind, name in (("content", digest(b"x")), ("snapshots/overlayfs", "a"), ("ingests", "r")):
        resource = {"id": "mine", "resource": {"id": name, "type": kind}}
        codes(both, "Leases/AddResource", resource, namespace=fresh)
    listed = same(both, "Leases/ListResources", {"id": "mine"}, namespace=fresh)
    assert len(listed.messages[0]["resources"]) == 3
    removed = {"id": "mine", "resource": {"id": "a", "type": "snapshots/overlayfs"}}
    same(both, "Leases/DeleteResource", removed, namespace=fresh)
    assert len(same(both, "Leases/ListResources", {"id": "mine"}, namespace=fresh).messages[0]["resources"]) == 2
    unknown = {"id": "mine", "resource": {"id": "a", "type": "nonsense"}}
    assert codes(both, "Leases/AddResource", unknown, namespace=fresh) == "UNIMPLEMENTED"
    assert codes(both, "Leases/ListResources", {"id": "missing"}, namespace=fresh) == "NOT_FOUND"


def test_what_is_made_under_a_lease_belongs_to_it(both: Both, fresh: str) -> None:
    both.ctr("leases", "create", "--id", "mine", namespace=fresh)
    write = {"action": 2, "ref": "r", "data": b"leased", "expected": digest(b"leased")}
    codes(both, "Content/Write", write, namespace=fresh, lease="mine", timeout=60)
    prepare = {"snapshotter": "overlayfs", "key": "a"}
    codes(both, "Snapshots/Prepare", prepare, namespace=fresh, lease="mine")
    codes(
        both, "Snapshots/Commit", {"snapshotter": "overlayfs", "key": "a", "name": "b"}, namespace=fresh, lease="mine"
    )

    def held(side: Side) -> list[str]:
        found = ask(side, "Leases/ListResources", {"id": "mine"}, namespace=fresh).messages[0]["resources"]
        return sorted(f"{one['type']} {one['id']}" for one in found)

    assert both.same(held) == [f"content {digest(b'leased')}", "snapshots/overlayfs b"]


def test_a_missing_lease_is_not_found(both: Both, fresh: str) -> None:
    code = codes(both, "Snapshots/Prepare", {"snapshotter": "overlayfs", "key": "a"}, namespace=fresh, lease="none")
    assert code == "NOT_FOUND"
    write = {"action": 2, "ref": "r", "data": b"unleased", "expected": digest(b"unleased")}
    assert codes(both, "Content/Write", write, namespace=fresh, lease="none", timeout=60) == "NOT_FOUND"


def test_a_missing_namespace_has_no_labels(both: Both) -> None:
    same(both, "Namespaces/Get", {"name": "absent"}, namespace=None)
    assert codes(both, "Namespaces/Delete", {"name": "@absent"}, namespace=None) == "NOT_FOUND"


def test_snapshots_are_cleaned_up(corten: Side, fresh: str) -> None:
    for snapshotter in ("overlayfs", "native"):
        assert ask(corten, "Snapshots/Cleanup", {"snapshotter": snapshotter}, namespace=fresh).code == "OK"


LISTS = [f"{noun}/List" for noun in ("Containers", "Content", "Images", "Leases", "Tasks")]


@pytest.mark.parametrize("name", [*LISTS, "Content/Status"])
def test_without_a_namespace_a_call_fails(both: Both, name: str) -> None:
    assert codes(both, name, namespace=None) == "FAILED_PRECONDITION"


@pytest.mark.parametrize(
    "name", ["Version/Version", "Introspection/Server", "Introspection/Plugins", "Namespaces/List"]
)
def test_some_calls_need_no_namespace(both: Both, name: str) -> None:
    assert codes(both, name, namespace=None) == "OK"


# What lacks a required field: the code that says so, the same in both unless containerd's is UNKNOWN, OK or a panic.
EMPTY = {
    **{f"Containers/{name}": "INVALID_ARGUMENT" for name in ("Create", "Update")},
    **{f"Containers/{name}": "NOT_FOUND" for name in ("Get",)},
    **{f"Content/{name}": "INVALID_ARGUMENT" for name in ("Info", "Update", "Delete", "Read")},
    **{f"Content/{name}": "NOT_FOUND" for name in ("Status", "Abort")},
    **{f"Images/{name}": "INVALID_ARGUMENT" for name in ("Create", "Update")},
    **{f"Images/{name}": "NOT_FOUND" for name in ("Get", "Delete")},
    "Namespaces/Create": "INVALID_ARGUMENT",
    **{f"Snapshots/{name}": "INVALID_ARGUMENT" for name in ("Prepare", "View", "Mounts", "Commit", "Remove")},
    **{f"Snapshots/{name}": "INVALID_ARGUMENT" for name in ("Stat", "Update", "Usage")},
    **{f"Tasks/{name}": "NOT_FOUND" for name in ("Create", "Start", "Get", "Kill", "Delete", "Update", "Wait")},
    **{f"Tasks/{name}": "NOT_FOUND" for name in ("ResizePty", "CloseIO", "Pause", "Resume", "ListPids")},
}
EMPTY_HERE = {
    "Containers/Delete": "NOT_FOUND",
    "Content/Write": "INVALID_ARGUMENT",
    "Diff/Apply": "UNIMPLEMENTED",
    "Leases/AddResource": "UNIMPLEMENTED",
    "Leases/Delete": "NOT_FOUND",
    "Namespaces/Delete": "INVALID_ARGUMENT",
    "Namespaces/Update": "INVALID_ARGUMENT",
    "Tasks/DeleteProcess": "INVALID_ARGUMENT",
    "Tasks/Exec": "INVALID_ARGUMENT",
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_request_gets_the_same_code(both: Both, name: str) -> None:
    assert codes(both, name, timeout=60) == EMPTY[name]


@pytest.mark.parametrize("name", EMPTY_HERE)
def test_an_empty_request_is_refused(corten: Side, name: str) -> None:
    if corten.name != "corten":
        pytest.skip("containerd answers otherwise, or ends")
    assert ask(corten, name).code == EMPTY_HERE[name]


def mask(*paths: str) -> Any:
    return message("google.protobuf.FieldMask", paths=paths)


@pytest.mark.parametrize(
    "paths",
    [(), ("labels",), ("labels.a.b/c",), ("labels.none",), ("target",), ("name",), ("labels.color", "target.digest")],
)
def test_field_masks_of_images(both: Both, fresh: str, paths: tuple[str, ...]) -> None:
    target = {"media_type": "application/x", "digest": digest(b"t"), "size": 3}
    image = {"name": "i", "labels": {"color": "blue", "a.b/c": "1"}, "target": target}
    codes(both, "Images/Create", {"image": image}, namespace=fresh)
    changed = {"name": "i", "labels": {"color": "red", "new": "2"}, "target": {**target, "size": 4}}
    request = {"image": changed, **({"update_mask": mask(*paths)} if paths else {})}
    codes(both, "Images/Update", request, namespace=fresh)

    def now(side: Side) -> Any:
        found = ask(side, "Images/Get", {"name": "i"}, namespace=fresh).messages[0]["image"]
        return found.get("labels"), found["target"]

    both.same(now)


def running(both: Both, name: str) -> None:
    both.ctr("run", "-d", BUSYBOX, name, "/bin/sleep", "600")


def test_the_limits_of_a_task_are_changed(both: Both) -> None:
    running(both, "@limits")
    resources = any_pb2.Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources")
    resources.value = b'{"memory": {"limit": 50331648}}'
    codes_ = both.same(
        lambda side: ask(side, "Tasks/Update", {"container_id": side.resolve("@limits"), "resources": resources}).code
    )
    assert codes_ == "OK"


def test_a_task_has_metrics(both: Both) -> None:
    running(both, "@metrics")

    def kinds(side: Side) -> Any:
        answer = ask(side, "Tasks/Metrics", {"filters": [f"id=={side.resolve('@metrics')}"]})
        return [(side.normalise(one["id"]), one["data"]["type_url"]) for one in answer.messages[0]["metrics"]]

    assert len(both.same(kinds)) == 1


def test_a_task_is_waited_for_before_its_start(both: Both) -> None:
    running(both, "@wait")

    def wait(side: Side) -> Any:
        name = side.resolve("@wait")
        with grpc.insecure_channel(f"unix://{side.daemon.address}"):
            early = ask(side, "Tasks/Wait", {"container_id": name}, timeout=0.5).code
            side.ctr("tasks", "kill", "-s", "KILL", name)
            found = ask(side, "Tasks/Wait", {"container_id": name})
            again = ask(side, "Tasks/Wait", {"container_id": name})
            state = ask(side, "Tasks/Get", {"container_id": name}).messages[0]["process"]
            assert again == found and state["exited_at"] == found.messages[0]["exited_at"]
            return early != "OK", found.messages[0]["exit_status"], state["status"], state["exit_status"]

    assert both.same(wait) == (True, 137, 3, 137)


def test_the_states_of_a_task_are_guarded(both: Both) -> None:
    running(both, "@guard")

    def walk(side: Side) -> list[str]:
        name = side.resolve("@guard")
        found = [str(ask(side, "Tasks/Start", {"container_id": name}).code != "OK")]
        found += [ask(side, "Tasks/Kill", {"container_id": name, "exec_id": "none", "signal": 9}).code]
        found += [ask(side, "Tasks/Start", {"container_id": name, "exec_id": "none"}).code]
        found += [ask(side, "Tasks/DeleteProcess", {"container_id": name, "exec_id": "none"}).code]
        found += [ask(side, "Tasks/Wait", {"container_id": name, "exec_id": "none"}).code]
        found += [(ask(side, "Tasks/Resume", {"container_id": name}).code != "OK" and "refused") or "OK"]
        ask(side, "Tasks/Kill", {"container_id": name, "signal": 9})
        ask(side, "Tasks/Wait", {"container_id": name})
        found += [ask(side, "Tasks/Kill", {"container_id": name, "signal": 9}).code]
        found += [ask(side, "Tasks/Exec", {"container_id": name, "exec_id": ""}).code]
        found += [ask(side, "Tasks/Delete", {"container_id": name}).code]
        found += [ask(side, "Tasks/Delete", {"container_id": name}).code]
        return found

    both.same(walk)
