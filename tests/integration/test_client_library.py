"""The client library against Corten and against Debian's containerd: what the examples of its page do not show."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import corten
from benchmarks import daemons
from corten import aio
from plugin_sdk import containers, errors, namespaces, runtime, specs, transfer
from plugin_sdk.platforms import host
from tests import clients, registry, registry_images, sides

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.engine]

IMAGE = "docker.io/library/busybox:latest"
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module", params=["corten", "containerd", "newest"])
def daemon(request: pytest.FixtureRequest) -> daemons.Daemon:
    if request.param == "newest":
        both: sides.Both = request.getfixturevalue("newest")
        return both.peer.daemon
    found: daemons.Daemon = request.getfixturevalue(f"{request.param}_daemon")
    return found


@pytest.fixture(scope="module")
def client(daemon: daemons.Daemon, busybox: Path) -> Iterator[corten.Client]:
    with clients.connected(daemon.address, f"{sides.prefix('l')}library") as made:
        made.images.import_(busybox)
        yield made


@pytest.fixture
def id() -> str:
    return f"{sides.prefix('l')}{next(NUMBERS)}"


# --- containers and tasks


def test_a_container_is_a_record_with_methods(client: corten.Client, id: str) -> None:
    container = client.containers.create(id, image=IMAGE, labels={"a": "b"})
    plain = containers.Container(**{name: getattr(container, name) for name in containers.Container.__slots__})
    assert container == plain == client.containers.get(id)
    assert plain == container
    changed = container.update(labels={"c": "d"}, spec={**container.load_spec(), "hostname": "other"})
    assert (changed.labels, changed.load_spec()["hostname"], changed.image) == ({"c": "d"}, "other", IMAGE)
    assert container.refresh() == changed != container
    with pytest.raises(errors.NotFound):
        container.task()
    container.delete()
    with pytest.raises(errors.NotFound, match=id):
        client.containers.get(id)
    assert not client.snapshotter().exists(id)


def test_what_cannot_be_made_leaves_no_snapshot(client: corten.Client, id: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="nobody-there"):
        client.containers.create(id, image=IMAGE, user="nobody-there")
    assert not client.snapshotter().exists(id)


def test_a_namespace_has_defaults(client: corten.Client, id: str) -> None:
    label = "containerd.io/defaults/snapshotter"
    name = client.scope.namespace
    client.namespaces.update(namespaces.Namespace(name, {label: "native"}), [f"labels.{label}"])
    try:
        container = client.containers.create(id, image=IMAGE, args=["true"])
        assert (container.snapshotter, container.runtime.name) == ("native", "io.containerd.runc.v2")
        assert client.images.is_unpacked(IMAGE, "native")
        container.delete()
    finally:
        client.namespaces.update(namespaces.Namespace(name), [f"labels.{label}"])


def test_another_client_attaches_to_a_task(client: corten.Client, id: str, tmp_path: Path) -> None:
    container = client.containers.create(id, image=IMAGE, args=["cat"])
    task = container.new_task(stdin=corten.PIPE, stdout=corten.PIPE, folder=tmp_path / "fifos")
    task.start()
    task.close()
    with container.task(stdin=corten.PIPE, stdout=corten.PIPE) as attached:
        assert attached.stdin is not None
        assert attached.stdout is not None
        attached.stdin.write(b"still there\n")
        assert attached.stdout.readline() == b"still there\n"
        attached.stdin.close()
        assert attached.wait(60).status == 0
    with pytest.raises(errors.NotFound):
        container.task()
    container.delete()


def test_output_goes_to_a_file_that_is_open(client: corten.Client, id: str, tmp_path: Path) -> None:
    container = client.containers.create(id, image=IMAGE, args=["sh", "-c", "cat; echo to stderr >&2"])
    (tmp_path / "in").write_text("from a file\n")
    with (
        (tmp_path / "out").open("wb") as out,
        (tmp_path / "in").open("rb") as given,
        container.new_task(stdin=given, stdout=out, stderr=out) as task,
    ):
        task.start()
        assert task.wait(60).status == 0
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["from a file", "to stderr"]
    container.delete()


def test_a_terminal_has_a_size(client: corten.Client, id: str) -> None:
    container = client.containers.create(id, image=IMAGE, args=["sh", "-c", "read x; stty size"], terminal=True)
    with container.new_task(stdin=corten.PIPE, stdout=corten.PIPE) as task:
        assert task.stdio.terminal
        task.start()
        task.resize(columns=91, rows=17)
        assert task.stdin is not None
        assert task.stdout is not None
        task.stdin.write(b"\n")
        assert b"17 91" in task.stdout.read()
    container.delete()


def test_a_task_is_paused_changed_and_killed(client: corten.Client, id: str) -> None:
    container = client.containers.create(id, image=IMAGE, args=["sleep", "600"], memory=64 << 20)
    with container.new_task() as task:
        pid = task.start()
        with pytest.raises(errors.DeadlineExceeded):
            task.wait(timeout=0.1)
        assert [process.pid for process in task.pids()] == [pid]
        task.pause()
        assert task.status() == runtime.Status.PAUSED
        task.resume()
        task.update({"memory": {"limit": 32 << 20, "swap": 32 << 20}})
        assert task.metrics().memory_limit == 32 << 20
        task.kill(9)
        assert task.wait(60).status == 137
        with pytest.raises(errors.NotFound):
            task.kill()
        assert task.delete().pid == pid
    container.delete()


INSIDE = """
id -u; id -g; pwd; echo $COLOR; hostname; cat /data/given; stat -c %t:%T /dev/fuller
touch /here 2>/dev/null || echo read-only
grep CapBnd /proc/self/status | cut -f 2
ls /sys/class/net | grep -cv '^lo$'
"""


def test_what_options_say_is_so_inside(client: corten.Client, id: str, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("of the machine\n")
    tmp_path.chmod(0o755)
    container = client.containers.create(
        id,
        image=IMAGE,
        args=["sh", "-c", INSIDE],
        user="1000:50",
        cwd="/bin",
        env={"COLOR": "blue"},
        hostname="inside",
        mounts=[f"src={tmp_path},dst=/data,options=rbind:ro"],
        read_only=True,
        capabilities=["CAP_KILL"],
        change=with_device,
    )
    with container.new_task(stdout=corten.PIPE, stderr=corten.PIPE) as task:
        task.start()
        assert task.stdout is not None
        said = task.stdout.read().decode().splitlines()
    assert said[:8] == ["1000", "50", "/bin", "blue", "inside", "of the machine", "1:7", "read-only"]
    assert [int(said[8], 16), said[9]] == [1 << 5, "0"]
    container.delete()


def with_device(spec: specs.Spec) -> specs.Spec:
    """The machine's full(4), under another name."""
    spec = specs.with_device(spec, "/dev/full")
    spec["linux"]["devices"][-1]["path"] = "/dev/fuller"
    return spec


def test_a_privileged_container_has_the_machine(client: corten.Client, id: str) -> None:
    held = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("CapPrm"))
    container = client.containers.create(
        id,
        image=IMAGE,
        args=["sh", "-c", "grep CapPrm /proc/self/status; ls /sys/class/net"],
        privileged=True,
        host_network=True,
    )
    with container.new_task(stdout=corten.PIPE) as task:
        task.start()
        assert task.stdout is not None
        first, *interfaces = task.stdout.read().decode().splitlines()
    assert first == held
    assert set(interfaces) == set(os.listdir("/sys/class/net"))
    container.delete()


def test_a_container_that_has_a_task_stays(client: corten.Client, id: str) -> None:
    container = client.containers.create(id, image=IMAGE, args=["sleep", "600"])
    with container.new_task(), pytest.raises(errors.FailedPrecondition, match="has a task, which is created"):
        container.delete()
    container.delete()


def test_a_context_ends_what_runs(client: corten.Client, id: str) -> None:
    container = client.containers.create(id, image=IMAGE, args=["sleep", "600"])
    with container.new_task() as task:
        pid = task.start()
        with task.exec(["sleep", "600"]) as process:
            process.start()
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{process.pid}").exists()
    container.delete()


# --- images


def test_images_go_into_an_archive_and_come_back(client: corten.Client) -> None:
    archive = io.BytesIO()
    client.images.tag(IMAGE, "example.test/other:1")
    client.images.export([IMAGE, "example.test/other:1"], archive)
    archive.seek(0)
    with clients.connected_beside(client, "-archive") as other:
        steps: list[transfer.Progress] = []
        made = other.images.import_(archive, unpack=False, labels={"a": "b"}, progress=steps.append)
        assert sorted(image.name for image in made) == [IMAGE, "example.test/other:1"]
        assert made[0].labels == {"a": "b"}
        assert steps
        assert other.images.platforms(IMAGE) == [host()]
        assert not other.images.is_unpacked(IMAGE)
        assert other.images.unpack(IMAGE) == other.images.chain_id(IMAGE)
        assert other.images.is_unpacked(IMAGE)
        usage = other.images.usage(IMAGE)
        assert usage.size == usage.content + usage.snapshots
        assert min(usage.content, usage.snapshots) > 500_000
    client.images.delete("example.test/other:1")


def test_a_name_that_is_taken_is_taken_by_force_only(client: corten.Client) -> None:
    client.images.tag(IMAGE, "taken")
    with pytest.raises(errors.AlreadyExists, match="taken"):
        client.images.tag(IMAGE, "taken")
    assert client.images.tag(IMAGE, "taken", force=True).target == client.images.get(IMAGE).target
    assert "taken" in client.images
    client.images.delete("taken")
    assert "taken" not in client.images


def test_a_name_that_is_no_reference_is_refused(client: corten.Client) -> None:
    with pytest.raises(errors.Error, match=r"No( |%20)Reference"):  # InvalidArgument; of containerd's Transfer, Unknown
        client.images.pull("localhost:1/No Reference:1")


def test_a_service_that_is_missing_is_named(client: corten.Client) -> None:
    from plugin_sdk.api.services.transfer.v1 import transfer_pb2
    from plugin_sdk.wire import rpc

    service = transfer_pb2.DESCRIPTOR.services_by_name["Transfer"]
    stub = rpc.Stub(client.channel, service, client.scope)
    with pytest.raises(errors.Error) as caught:
        stub.unary("Transfer", transfer_pb2.TransferRequest(), transfer_pb2.TransferRequest)
    missing = isinstance(caught.value, errors.Unimplemented) and service.full_name in caught.value.message
    assert missing == client.version().version.startswith("1.6")


def test_credentials_are_given_or_asked_for(client: corten.Client, registries: registry.Registries) -> None:
    registries.push(registry_images.simple("library-secret"), "library/secret:1")
    name = registries["basic"].reference("library/secret:1")
    writer = corten.Credentials("writer", registry.USERS["writer"])
    challenges: list[corten.Challenge] = []

    def ask(challenge: corten.Challenge) -> corten.Credentials:
        challenges.append(challenge)
        return writer

    with clients.connected_beside(client, "-secret") as other:
        with pytest.raises(errors.Error) as caught:
            other.images.pull(name, plain_http=True, credentials=corten.Credentials("writer", "wr0ng-secret"))
        assert "wr0ng-secret" not in caught.value.message
        image = other.images.pull(name, plain_http=True, credentials=ask, unpack=False)
        assert registries["basic"].host in {challenge.host for challenge in challenges}
        other.images.push(image, name.replace(":1", ":2"), plain_http=True, credentials=writer)
        assert other.images.pull(name.replace(":1", ":2"), plain_http=True, credentials=writer).target == image.target


def test_an_old_transfer_service_is_not_asked_for_what_it_does_not_know(
    later: sides.Both, registries: registry.Registries
) -> None:
    registries.push(registry_images.simple("library"), "library/old:1")
    name = registries["plain"].reference("library/old:1")
    with clients.connected(later.peer.daemon.address, f"{sides.prefix('l')}old") as old:
        assert old.version().version.startswith("1.7.")
        assert old.images.pull(name, plain_http=True).name == name
        assert old.images.is_unpacked(name)


# --- content


def test_content_is_read_and_written_as_files(client: corten.Client) -> None:
    data = os.urandom(3 << 20)
    with client.lease() as leased:
        blob = leased.content.put(io.BytesIO(data), {"a": "b"})
        assert leased.content.put(data, {"c": "d"}) == blob
        assert leased.content.info(blob.digest).labels == {"a": "b", "c": "d"}
        assert leased.content.read(blob.digest) == data
        with leased.content.open(blob.digest) as file:
            assert file.seek(-5, io.SEEK_END) == len(data) - 5
            assert file.read() == data[-5:]
            assert file.seek(1 << 20) == 1 << 20
            assert file.read(7) == data[1 << 20 :][:7]
        with pytest.raises(errors.FailedPrecondition):
            leased.content.put(b"other", expected=blob.digest)
        with leased.content.create("ref") as file:
            file.write(b"abc")
        with leased.content.create("ref") as file:
            assert file.tell() == 3
            file.truncate(0)
            file.write(b"xyz")
            assert file.commit().size == 3
        assert not leased.content.list_statuses()


# --- the connection


def test_many_threads_share_a_client(client: corten.Client) -> None:
    def work(number: int) -> int:
        with client.lease() as leased:
            data = bytes([number]) * (1 << 20)
            blob = leased.content.put(data)
            assert leased.content.read(blob.digest) == data
            return len(client.images.list())

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(work, range(24))) == {len(client.images.list())}


def test_large_answers_and_requests_go_through(client: corten.Client) -> None:
    labels = {f"label-{number}": "x" * 4000 for number in range(1000)}
    made = client.namespace(client.scope.namespace).leases.create("large", labels)
    assert made.labels == labels
    assert client.leases.get("large").labels == labels
    client.leases.delete("large")


def test_an_iteration_over_events_is_ended_by_another_thread(client: corten.Client) -> None:
    with client.events.subscribe() as heard:
        timer = threading.Timer(0.2, heard.close)
        timer.start()
        for _ in heard:
            pass
        timer.join()


@pytest.mark.parametrize("start", [daemons.start_corten, daemons.start_containerd])
def test_a_client_outlives_its_daemon(start: Callable[[Path], daemons.Daemon], tmp_path: Path, scratch: Path) -> None:
    daemon = start(scratch / f"again-{start.__name__[6:8]}")
    try:
        with corten.connect(daemon.address) as client, client.events.subscribe() as heard:
            before = client.version()
            daemon.terminate()
            with pytest.raises(errors.Unavailable):
                next(heard)
            with pytest.raises(errors.Unavailable):
                client.version()
            daemon.start()
            assert client.version() == before
            assert not client.images.list()
    finally:
        daemon.stop()


# --- asyncio


def test_tasks_run_side_by_side(client: corten.Client, daemon: daemons.Daemon) -> None:
    async def run(each: aio.Client, id: str) -> bytes:
        container = await each.containers.create(id, image=IMAGE, args=["sh", "-c", "read x; echo $x"])
        async with await container.new_task(stdin=corten.PIPE, stdout=corten.PIPE) as task:
            await task.start()
            assert task.stdin is not None
            assert task.stdout is not None
            await task.stdin.write(f"{id}\n".encode())
            said = await task.stdout.read()
            assert (await task.wait()).status == 0
        await container.delete()
        return said

    async def main() -> None:
        async with aio.connect(daemon.address, client.scope.namespace) as each:
            ids = [f"{sides.prefix('l')}aio{number}" for number in range(4)]
            said = await asyncio.gather(*(run(each, id) for id in ids))
            assert said == [f"{id}\n".encode() for id in ids]

    asyncio.run(main())


def test_a_wait_can_be_given_up(client: corten.Client, daemon: daemons.Daemon, id: str) -> None:
    async def main() -> None:
        async with aio.connect(daemon.address, client.scope.namespace) as each, each.lease() as leased:
            assert leased.scope.lease
            container = await leased.containers.create(id, image=IMAGE, args=["sleep", "600"])
            async with await container.new_task() as task:
                await task.start()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(task.wait(), 0.2)
                assert (await task.state()).status == runtime.Status.RUNNING
            await container.delete()

    before = threading.active_count()
    asyncio.run(main())
    deadline = time.monotonic() + 60
    while threading.active_count() > before:
        assert time.monotonic() < deadline, f"threads go on: {threading.enumerate()}"
        time.sleep(0.01)


def test_a_transfer_can_be_given_up(client: corten.Client, daemon: daemons.Daemon) -> None:
    begun = threading.Event()

    class Endless(io.RawIOBase):
        """An archive whose first member has a terabyte."""

        def __init__(self) -> None:
            member = tarfile.TarInfo("blobs/sha256/" + "0" * 64)
            member.size = 1 << 40
            self._rest = member.tobuf()

        def read(self, size: int = -1, /) -> bytes:
            if not self._rest:
                begun.set()
                return bytes(min(size, 1 << 16))
            taken, self._rest = self._rest[:size], self._rest[size:]
            return taken

    async def main() -> None:
        async with aio.connect(daemon.address, f"{client.scope.namespace}-given-up") as each:
            importing = asyncio.create_task(each.images.import_(Endless()))  # type: ignore[arg-type]
            await asyncio.to_thread(begun.wait)
            importing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await importing

    asyncio.run(main())


def test_events_are_iterated_asynchronously(client: corten.Client, daemon: daemons.Daemon) -> None:
    async def main() -> None:
        async with aio.connect(daemon.address, client.scope.namespace) as each:
            async with each.events.subscribe(['topic=="/library/test"']) as heard:
                event = runtime.Any("example", b"x")
                publishing = asyncio.create_task(_repeatedly(lambda: each.events.publish("/library/test", event)))
                assert (await anext(heard)).event == event
                publishing.cancel()
            assert IMAGE in [image.name for image in await each.images.list()]
            assert [info async for info in each.content.walk()]

    asyncio.run(main())


async def _repeatedly(publish: object) -> None:
    while True:
        await publish()  # type: ignore[operator]
        await asyncio.sleep(0.05)
