"""A proxy plugin that does not answer harms those who use it, for a bounded time, and nobody else; what it does too
late does no harm."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from plugin_sdk import content, errors, snapshots
from tests import pace, proxied
from tests.proxied import Host, until

pytestmark = pytest.mark.root

TIMEOUT = pace.scaled(0.3)  # seconds, of the calls of most plugins here
STREAM = pace.scaled(0.5)  # likewise, of each message of the content store's
NEVER = {"wait": 1000}
LATE = {"wait": 3 * TIMEOUT}  # the work is done, after the deadline
HEAD = 'disabled_plugins = ["io.containerd.content.v1.content"]\n'
DATA = b"some bytes"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def host(scratch: Path) -> Iterator[Host]:
    with proxied.hosting(scratch / "b", HEAD, start=False) as host:
        host.moody("shelf", kind="content", timeout=f"{STREAM}s")
        host.start()
        host.moody("quiet", timeout=f"{TIMEOUT}s")
        host.wait_for("quiet")
        host.wait_for("shelf")
        yield host


@pytest.fixture
def quiet(host: Host) -> snapshots.Snapshotter:
    """Of a plugin that does not answer within its timeout, if so ordered."""
    return host.snapshotter("quiet")


def renew(host: Host) -> None:
    """Another program of ``quiet``, which knows nothing of the calls of before."""
    host.order("quiet")
    host.withdraw("quiet")
    host.wait_for("quiet", "")
    host.moody("quiet", timeout=f"{TIMEOUT}s")
    host.wait_for("quiet")
    until(lambda: host.held("quiet") == host.shown("quiet"))


def took(work: Callable[[], object]) -> tuple[float, errors.Error | None]:
    begun = time.monotonic()
    try:
        work()
    except errors.Error as err:
        return time.monotonic() - begun, err
    return time.monotonic() - begun, None


# --- deadlines


def test_every_call_to_a_snapshotter_has_a_deadline(host: Host, quiet: snapshots.Snapshotter) -> None:
    for key in ("a", "b", "c"):
        quiet.prepare(key)
    label = snapshots.Info("c", snapshots.Kind.ACTIVE, labels={"containerd.io/snapshot/color": "blue"})
    calls: dict[str, Callable[[], object]] = {
        "Prepare": lambda: quiet.prepare("new"),
        "View": lambda: quiet.view("seen"),
        "Mounts": lambda: quiet.mounts("a"),
        "Usage": lambda: quiet.usage("a"),
        "Commit": lambda: quiet.commit("layer", "b"),
        "Update": lambda: quiet.update(label, ["labels"]),
        "Cleanup": quiet.cleanup,
    }
    for method, call in calls.items():
        host.order("quiet", **{method: NEVER})
        seconds, err = took(call)
        assert isinstance(err, (errors.Unavailable, errors.DeadlineExceeded)), (method, err)
        assert f'snapshotter "quiet" has not answered {method} within {TIMEOUT} s' in err.message
        assert seconds >= TIMEOUT and pace.within(seconds, TIMEOUT + 1)
        host.order("quiet")
        quiet.mounts("a")  # answered, so the breaker stays closed
    assert pace.within(seconds_of(lambda: quiet.remove("c")), TIMEOUT)  # only the reaper waits for it
    renew(host)


def seconds_of(work: Callable[[], object]) -> float:
    seconds, err = took(work)
    assert err is None, err
    return seconds


def test_each_message_of_a_stream_has_a_deadline(host: Host) -> None:
    store = host.connection.view("default").content
    with store.writer("read", len(DATA), DIGEST) as writer:
        writer.write(DATA)
        writer.commit(len(DATA), DIGEST)
    reader = store.reader(DIGEST)
    for method, call in {"Read": lambda: reader.read_at(0, 5), "Write": lambda: store.writer("new")}.items():
        host.order("shelf", **{method: NEVER})
        seconds, err = took(call)
        assert isinstance(err, (errors.Unavailable, errors.DeadlineExceeded)), (method, err)
        assert f'content store "shelf" has not answered {method} within {STREAM} s' in err.message
        assert seconds >= STREAM and pace.within(seconds, STREAM + 1.5)
    host.order("shelf")
    assert reader.read_at(0, 5) == DATA[:5]


# --- the breaker


def test_after_five_calls_without_an_answer_calls_fail_at_once_until_a_probe_is_answered(
    host: Host, quiet: snapshots.Snapshotter
) -> None:
    quiet.prepare("there")
    host.order("quiet", Prepare=NEVER, Stat=NEVER, Mounts=NEVER)  # by Stat it is probed
    for number in range(5):
        seconds, err = took(lambda number=number: quiet.prepare(f"key-{number}"))  # type: ignore[misc]
        assert isinstance(err, errors.Unavailable)
        assert seconds >= TIMEOUT and pace.within(seconds, TIMEOUT + 1)
    info = host.wait_for("quiet", "degraded", timeout=1)
    known = r"it does not answer, calls fail at once: .*; attempt (\d+), again in \d+\.\d s$"
    assert re.search(known, info.error)
    for call in (lambda: quiet.prepare("key"), lambda: quiet.mounts("there")):
        seconds, err = took(call)
        assert isinstance(err, errors.Unavailable)
        assert pace.within(seconds, TIMEOUT)
        assert re.match('snapshotter "quiet" is degraded: ' + known, err.message), err.message
    host.order("quiet")
    host.wait_for("quiet", timeout=10)
    assert len(quiet.mounts("there")) == 1
    renew(host)


def test_a_program_that_answers_nothing_for_its_timeout_is_started_again(host: Host) -> None:
    host.moody("still", timeout="1s")
    host.wait_for("still")
    pid = host.pid("still")
    host.order("still", Describe=NEVER)
    host.wait_for("still", "degraded", timeout=5)
    until(lambda: host.said("still': backoff: its program has not answered for 1 s and is ended"), 10)
    host.order("still")
    host.wait_for("still", timeout=10)
    assert host.pid("still") != pid
    assert not os.path.exists(f"/proc/{pid}")
    host.withdraw("still")


def test_a_plugin_that_never_answers_does_not_slow_another(host: Host) -> None:
    host.moody("hangs", timeout="60s", drain="0s")
    host.moody("swift")
    for name in ("hangs", "swift"):
        host.wait_for(name)
    host.order("hangs", Prepare=NEVER)
    swift, hangs = host.snapshotter("swift"), host.snapshotter("hangs")

    def work(name: str) -> float:
        begun = time.monotonic()
        for number in range(50):
            swift.prepare(f"{name}-{number}")
        return time.monotonic() - begun

    alone = work("alone")
    with ThreadPoolExecutor(100) as threads:
        waiting = [threads.submit(took, lambda n=n: hangs.prepare(f"key-{n}")) for n in range(100)]  # type: ignore[misc]
        until(lambda: len(host.calls("hangs")) == 16)  # all its threads wait
        assert pace.within(work("beside"), 3 * alone + 0.5)
        assert pace.within(seconds_of(lambda: host.snapshotter("native").prepare("native")), 1)
        assert host.shown("hangs") == set()
        assert not any(each.done() for each in waiting)
        host.withdraw("hangs")
        host.withdraw("swift")
        ended = [type(each.result(60)[1]) for each in waiting]
        assert ended.count(errors.Unavailable) >= 16  # those that ran
        assert set(ended) <= {errors.Unavailable, errors.InvalidArgument}  # the others find no such plugin


# --- what comes too late


def late(host: Host, name: str, method: str, calls: list[Callable[[], object]]) -> None:
    """None of the calls is answered in time, and all are done."""
    before = len(host.calls(name))
    host.order(name, **{method: LATE})
    with ThreadPoolExecutor(len(calls)) as threads:
        for _, err in threads.map(took, calls):
            assert isinstance(err, errors.Unavailable), err
    assert sum(call["method"] == method for call in host.calls(name)[before:]) >= len(calls)
    host.order(name)


def settled(host: Host, name: str) -> set[str]:
    """What is there once daemon and program agree, and the late effects have come."""
    time.sleep(LATE["wait"])
    until(lambda: host.held(name) == host.shown(name), 20)
    host.wait_for(name)
    return host.shown(name)


def test_a_snapshot_that_is_made_too_late_is_removed(host: Host, quiet: snapshots.Snapshotter) -> None:
    quiet.prepare("kept")
    before = host.shown("quiet")
    late(host, "quiet", "Prepare", [lambda n=n: quiet.prepare(f"late-{n}") for n in range(4)])  # type: ignore[misc]
    assert settled(host, "quiet") == before
    quiet.prepare("late-0")
    assert settled(host, "quiet") == {*before, "late-0"}


def test_a_commit_that_comes_too_late_is_a_commit(host: Host, quiet: snapshots.Snapshotter) -> None:
    for number in range(4):
        [mount] = quiet.prepare(f"open-{number}")
        Path(mount.source, "file").write_text("written")
    late(host, "quiet", "Commit", [lambda n=n: quiet.commit(f"closed-{n}", f"open-{n}") for n in range(4)])  # type: ignore[misc]
    names = {f"closed-{number}" for number in range(4)}
    assert {key for key in settled(host, "quiet") if key.startswith(("open", "closed"))} == names
    for name in names:
        [mount] = quiet.view(f"view-{name}", name)
        assert Path(mount.source, "file").read_text() == "written"


def test_a_removal_that_comes_too_late_is_one(host: Host, quiet: snapshots.Snapshotter) -> None:
    for number in range(4):
        quiet.prepare(f"gone-{number}")
    before = len(host.calls("quiet"))
    host.order("quiet", Remove=LATE)
    for number in range(4):
        quiet.remove(f"gone-{number}")
    quiet.prepare("gone-0")  # the key is free at once, and the late removal is of another
    until(lambda: sum(call["method"] == "Remove" for call in host.calls("quiet")[before:]) >= 4)
    host.order("quiet")
    assert {key for key in settled(host, "quiet") if key.startswith("gone")} == {"gone-0"}
    assert len(quiet.mounts("gone-0")) == 1


def test_what_takes_effect_after_the_daemon_was_killed_does_no_harm(host: Host) -> None:
    host.declare("outside", timeout="10s")
    with host.program("outside"):
        host.wait_for("outside")
        outside = host.snapshotter("outside")
        for key in ("kept", "closing", "leaving"):
            outside.prepare(key)
        late = {"wait": pace.scaled(2)}
        host.order("outside", Prepare=late, Commit=late, Remove=late)
        outside.remove("leaving")
        calls = [lambda: outside.prepare("coming"), lambda: outside.commit("closed", "closing")]
        with ThreadPoolExecutor(2) as threads:
            running = [threads.submit(took, call) for call in calls]
            until(lambda: {"Prepare", "Commit", "Remove"} == {call["method"] for call in host.calls("outside")[-3:]})
            host.daemon.kill()
            assert all(isinstance(each.result(60)[1], errors.Unavailable) for each in running)
        host.order("outside")
        assert host.held("outside") == {"kept", "closing", "leaving"}  # nothing has been done yet
        host.start()
        host.wait_for("outside")
        until(lambda: "closing" not in host.held("outside"))
        time.sleep(late["wait"])
        until(lambda: host.held("outside") == host.shown("outside"), 20)
        assert host.shown("outside") - {"coming"} == {"kept", "closed"}  # which is there if it was done before the look
    host.withdraw("outside")
    host.wait_for("outside", "")


# --- headers


def test_every_call_bears_the_namespace_and_none_the_lease(host: Host, quiet: snapshots.Snapshotter) -> None:
    begun = {name: len(host.calls(name)) for name in ("quiet", "shelf")}
    view = host.connection.view("elsewhere")
    lease = view.leases.create("held").id
    leased = host.connection.view("elsewhere", lease)
    use_snapshots(leased.snapshotter("quiet"))
    use_content(leased.content)
    view.leases.delete(lease, sync=True)
    with_effect = {"Prepare", "View", "Mounts", "Usage", "Commit", "Update", "Cleanup", "Remove"}
    with_effect |= {"Write", "Read", "Status", "Delete", "Abort"}

    def calls() -> list[dict[str, Any]]:
        return [call for name in begun for call in host.calls(name)[begun[name] :]]

    until(lambda: with_effect <= {call["method"] for call in calls()})
    headers = [call["headers"] for call in calls()]
    assert headers == [{"containerd-namespace": "elsewhere"}] * len(headers)
    for name in begun:
        described = json.loads((host.root(name) / "described.json").read_text())
        assert described["headers"] == {"containerd-namespace": "corten"}


def use_snapshots(made: snapshots.Snapshotter) -> None:
    made.prepare("key")
    made.mounts("key")
    made.usage("key")
    made.update(snapshots.Info("key", snapshots.Kind.ACTIVE, labels={"containerd.io/snapshot/x": "y"}), ["labels"])
    made.commit("layer", "key")
    made.view("view", "layer")
    made.remove("view")
    made.cleanup()


def use_content(store: content.Store) -> None:
    data = os.urandom(100)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    with store.writer("ref", len(data), digest) as writer:
        writer.write(data)
        assert store.status("ref").offset == len(data)
        writer.commit(len(data), digest)
    with store.reader(digest) as reader:
        assert reader.read_at(0, len(data)) == data
    with store.writer("given up") as writer:
        writer.write(data)
    store.abort("given up")
    store.delete(digest)
