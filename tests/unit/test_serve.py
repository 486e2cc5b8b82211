"""Programs of plugins: real processes, called over their sockets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import corten
from plugin_sdk import content, errors, handshake, oci, plugin, serve
from plugin_sdk.scope import Scope
from plugin_sdk.wire import content as wire_content
from plugin_sdk.wire import diff as wire_diff
from plugin_sdk.wire import handshake as wire_handshake
from plugin_sdk.wire import health, rpc, transport
from plugin_sdk.wire import snapshots as wire_snapshots
from plugin_sdk.wire.http2.server import Server
from plugins_builtin.content import local
from tests import certificates, pace, programs
from tests.programs import Program
from tests.serving import running

PROGRAM = '''
"""A program of a plugin whose parts do what their keys say."""

import pathlib
import threading
import time
from dataclasses import dataclass

from plugin_sdk import errors, oci, plugin, serve
from plugins_builtin.content import local
from plugins_builtin.snapshots import native

TOGETHER = threading.Barrier(48)


@dataclass(frozen=True, slots=True)
class Config:
    fail: str = plugin.setting("", "How it cannot start.")
    layer_limit: int = plugin.setting(5, "Layers it takes, 100 % of them.")
    relay: bool = plugin.setting(True, "Whether it relays.")
    places: tuple[str, ...] = plugin.setting((), "Where.")


class Snapshotter(native.Snapshotter):
    def stat(self, key):
        if key == "defect":
            raise ZeroDivisionError("a defect")
        if key == "together":
            TOGETHER.wait(60)
        if key == "slow":
            print("slow begins", flush=True)
            time.sleep(1)
        return super().stat(key)

    def close(self):
        super().close()
        print("snapshotter closed", flush=True)


class Differ:
    def apply(self, descriptor, mounts, content, *, payloads=None, sync=False):
        with content.reader(descriptor.digest) as reader:
            if descriptor.media_type == "wait":
                print("differ waits", flush=True)
                try:
                    while True:
                        reader.read_at(0, 0)
                        time.sleep(0.02)
                except errors.Canceled:
                    print("differ gives up", flush=True)
                    raise
            return oci.Descriptor(reader.read_at(0, reader.size).decode(), descriptor.digest, reader.size)

    def compare(self, lower, upper, content, *, media_type="", ref="", labels=None, source_date_epoch=None):
        raise errors.Unimplemented("it only applies")


def snapshotter(options):
    print(options.config, flush=True)
    match options.config.fail:
        case "skip":
            raise plugin.SkipPlugin("there is no btrfs here")
        case "error":
            raise errors.FailedPrecondition("the disk is full")
        case "file":
            pathlib.Path("/none/there").mkdir()
    return Snapshotter(options.root / "snapshots")


class Unclosed(local.Store):
    def close(self):
        print("content closed", flush=True)


def store(options):
    if options.config.fail == "second":
        raise errors.FailedPrecondition("the second cannot")
    return Unclosed(options.root / "content")


if __name__ == "__main__":
    serve.main(
        "stars",
        snapshotter=snapshotter,
        content=store,
        differ=lambda options: Differ(),
        config=Config,
        version="1.2",
        capabilities=["remap-ids"],
        platforms=["linux/amd64"],
    )
'''
DATA = b"some bytes"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(programs.ROOT)}
Start = Callable[..., Program]


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """The command that runs it, without flags."""
    (tmp_path / "stars.py").write_text(PROGRAM)
    return programs.python(str(tmp_path / "stars.py"), "--root", str(tmp_path / "root"))


@pytest.fixture
def start(tmp_path: Path, program: list[str]) -> Iterator[Start]:
    """``start(*flags, **environment)`` on ``address``; returns when it serves."""
    with contextlib.ExitStack() as stack:

        def begin(*flags: str, wait: bool = True, **environment: str) -> Program:
            command = [*program, "--address", address(tmp_path), *flags]
            log = tmp_path / f"log{len(list(tmp_path.iterdir()))}"
            made = stack.enter_context(programs.started(command, log, {**ENVIRONMENT, **environment}))
            if wait:
                made.wait_to_say("serves io.containerd")
            return made

        yield begin


def address(folder: Path) -> str:
    return str(folder / "run" / "stars.sock")


@pytest.fixture
def channel(start: Start, tmp_path: Path) -> Iterator[transport.Channel]:
    start()
    made = transport.connect(address(tmp_path))
    yield made
    made.close()


def refused(program: list[str], *flags: str, **environment: str) -> tuple[int, str]:
    """Exit code and what it says on stderr."""
    done = subprocess.run(
        [*program, *flags], env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=180
    )
    return done.returncode, done.stderr


# What is served


def test_it_serves_its_contracts_the_handshake_and_health(channel: transport.Channel, tmp_path: Path) -> None:
    scope = Scope("default")
    snapshots = wire_snapshots.Proxy(channel, scope, "stars")
    snapshots.prepare("a")
    assert [info.name for info in snapshots.walk()] == ["a"]
    with wire_content.Proxy(channel, scope).writer("r") as writer:
        writer.write(DATA)
        assert writer.commit() == DIGEST
    said = wire_handshake.Proxy(channel, Scope("")).describe("0.2", "stars")
    kinds = (plugin.SNAPSHOTTER, plugin.CONTENT, plugin.DIFFER)
    exports = {"root": str(tmp_path / "root")}
    assert said == handshake.Description(
        handshake.API, "1.2", kinds, ("remap-ids",), ("linux/amd64",), exports, said.instance
    )
    assert len(said.instance) == 16
    services = [each.SERVICE.full_name for each in (wire_snapshots, wire_content, wire_diff, wire_handshake)]
    assert all(health.Proxy(channel, Scope("")).check(name) for name in ["", *services])


def test_a_call_needs_no_namespace_and_the_name_it_gives_is_ignored(channel: transport.Channel) -> None:
    """containerd's collector sends none; the name is the one that the caller has given it."""
    one, other = (wire_snapshots.Proxy(channel, Scope(""), name) for name in ("moons", ""))
    one.prepare("a")
    assert other.stat("a").name == "a"
    other.remove("a")
    assert list(wire_content.Proxy(channel, Scope("")).walk()) == []


def test_errors_travel_and_a_defect_is_logged(start: Start, tmp_path: Path) -> None:
    made = start()
    with contextlib.closing(transport.connect(address(tmp_path))) as channel:
        snapshots = wire_snapshots.Proxy(channel, Scope(""), "stars")
        with pytest.raises(errors.NotFound, match="snapshot none does not exist"):
            snapshots.stat("none")
        with pytest.raises(errors.Unknown, match="ZeroDivisionError: a defect"):
            snapshots.stat("defect")
    assert "Traceback" in made.said()


def test_it_answers_more_calls_at_once_than_the_daemon_makes(channel: transport.Channel) -> None:
    snapshots = wire_snapshots.Proxy(channel, Scope(""), "stars")
    with ThreadPoolExecutor(48) as pool:  # three kinds of plugin, sixteen calls each
        for future in [pool.submit(snapshots.stat, "together") for _ in range(48)]:
            with pytest.raises(errors.NotFound):
                future.result(60)


def test_a_call_has_a_deadline(channel: transport.Channel) -> None:
    snapshots = wire_snapshots.Proxy(channel, Scope("", deadline=time.monotonic() + 0.2), "stars")
    begin = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        snapshots.stat("slow")
    assert pace.within(time.monotonic() - begin, 0.9)


# Content for a differ


class Content:
    """A content API as the daemon's: only with a namespace; notes the headers."""

    def __init__(self, store: content.Store) -> None:
        self.headers: list[dict[str, str]] = []

        def resolve(call: rpc.Call) -> content.Store:
            self.headers.append(dict(call.headers))
            return store

        self.servicer = wire_content.Servicer(resolve)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[str, Content]]:
    """The address of one, and what came."""
    store = local.Store(tmp_path / "blobs")
    with store.writer("r") as writer:
        writer.write(DATA)
        writer.commit()
    served, place = Content(store), str(tmp_path / "daemon.sock")

    with ThreadPoolExecutor(8) as threads:

        async def begin() -> Server:
            server = Server(lambda name: threads)
            server.mount(served.servicer)
            server.listen(place)
            await server.start()
            return server

        with running(begin, lambda server: server.stop()):  # type: ignore[attr-defined]
            yield place, served


def differ(channel: transport.Channel, scope: Scope) -> wire_diff.Proxy:
    return wire_diff.Proxy(channel, scope)


NOWHERE = local.Store.__new__(local.Store)  # what a Proxy of a differ does not use


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_differ_reads_the_content_of_the_callers_namespace(
    start: Start, daemon: tuple[str, Content], tmp_path: Path, by: str
) -> None:
    place, served = daemon
    if by == "flag":
        start("--content", place)
    else:
        start(CORTEN_CONTENT_ADDRESS=place)
    with contextlib.closing(transport.connect(address(tmp_path))) as channel:
        scope = Scope("blue", "lease-1", time.monotonic() + 30)
        answer = differ(channel, scope).apply(oci.Descriptor("", DIGEST, 10), [], NOWHERE)
    assert answer.media_type == DATA.decode()
    assert {headers["containerd-namespace"] for headers in served.headers} == {"blue"}
    assert not [headers for headers in served.headers if "containerd-lease" in headers]
    assert all("grpc-timeout" in headers for headers in served.headers)


def test_a_differ_learns_that_its_caller_has_gone(start: Start, daemon: tuple[str, Content], tmp_path: Path) -> None:
    made = start("--content", daemon[0])
    with contextlib.closing(transport.connect(address(tmp_path))) as channel, ThreadPoolExecutor(1) as pool:
        scope = Scope("blue")
        future = pool.submit(differ(channel, scope).apply, oci.Descriptor("wait", DIGEST, 10), [], NOWHERE)
        made.wait_to_say("differ waits")
        scope.cancel()
        with pytest.raises(errors.Canceled):
            future.result(60)
    made.wait_to_say("differ gives up")


def test_a_differ_without_content_says_so(start: Start, tmp_path: Path) -> None:
    start("--content", str(tmp_path / "none.sock"))
    channel = transport.connect(address(tmp_path))
    with contextlib.closing(channel), pytest.raises(errors.Unavailable, match=r"none\.sock"):
        differ(channel, Scope("blue")).apply(oci.Descriptor("", DIGEST, 10), [], NOWHERE)


def test_content_is_the_daemons_by_default() -> None:
    assert serve.CONTENT_ADDRESS == corten.ADDRESS


# Its end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_nothing_is_left(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    made = start()
    made.process.send_signal(number)
    assert made.process.wait(60) == 0
    assert not Path(address(tmp_path)).exists()
    assert made.said().splitlines()[-2:] == ["snapshotter closed", "content closed"]


def test_a_call_that_runs_ends_with_its_answer(start: Start, tmp_path: Path) -> None:
    made = start()
    with contextlib.closing(transport.connect(address(tmp_path))) as channel, ThreadPoolExecutor(1) as pool:
        snapshots = wire_snapshots.Proxy(channel, Scope(""), "stars")
        snapshots.prepare("slow")
        future = pool.submit(snapshots.stat, "slow")
        made.wait_to_say("slow begins")
        assert made.terminate() == 0
        assert future.result(60).name == "slow"


def test_an_open_writer_is_told_and_its_ingest_can_be_resumed(start: Start, tmp_path: Path) -> None:
    made = start()
    with contextlib.closing(transport.connect(address(tmp_path))) as channel:
        store = wire_content.Proxy(channel, Scope(""))
        writer = store.writer("r")
        writer.write(DATA[:4])
        begin = time.monotonic()
        assert made.terminate() == 0
        assert pace.within(time.monotonic() - begin, serve.GRACE)
        with pytest.raises(errors.Unavailable):
            writer.write(DATA[4:])
    start()
    with contextlib.closing(transport.connect(address(tmp_path))) as channel:
        assert wire_content.Proxy(channel, Scope("")).status("r").offset == 4


# Its beginning


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((), "--address is missing: the path of the socket on which to serve"),
        (("--adress", "/x"), "unrecognized arguments: --adress /x"),
        (("--address", "http://x"), 'address "http://x": neither unix:///path nor tcp://host:port'),
        (("--address", "/" + "x" * 120), f'address "/{"x" * 120}": a unix socket\'s path has at most 107 bytes'),
        (("--address", "127.0.0.1:1"), 'address "127.0.0.1:1" is TCP, which needs TLS: certificate, key and CA'),
        (("--address", "127.0.0.1:1", "--tls-key", "k"), "--tls-cert, --tls-key and --tls-ca go together"),
        (
            ("--address", "/x", "--tls-key", "k", "--tls-cert", "c", "--tls-ca", "a"),
            'address "/x" is a socket, which has no TLS',
        ),
        (("--address", "/x", "--content", "http://y"), 'address "http://y": neither unix:///path nor tcp://host:port'),
        (("--address", "/x", "--layer-limit", "much"), "argument --layer-limit: invalid int value: 'much'"),
    ],
)
def test_wrong_use_is_one_sentence(program: list[str], flags: tuple[str, ...], sentence: str) -> None:
    assert refused(program, *flags) == (2, f"stars: {sentence}\n")


def test_a_wrong_level_is_one_sentence(program: list[str]) -> None:
    code, said = refused(program, "--address", "/x", "--log-level", "loud")
    assert code == 2
    assert re.fullmatch(r"stars: argument --log-level: invalid choice: 'loud' \(choose from .*\)\n", said)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("skip", "there is no btrfs here"),
        ("error", "the disk is full"),
        ("file", "/none/there: No such file or directory"),
        ("second", "the second cannot"),
    ],
)
def test_what_cannot_start_is_one_sentence(program: list[str], tmp_path: Path, how: str, sentence: str) -> None:
    assert refused(program, "--address", address(tmp_path), "--fail", how) == (1, f"stars: {sentence}\n")
    assert not Path(address(tmp_path)).exists()


def test_what_was_made_is_closed_when_the_rest_cannot_be(program: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*program, "--address", address(tmp_path), "--fail", "second"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "snapshotter closed"


def test_it_refuses_a_socket_where_another_lives_and_replaces_one_that_was_left(start: Start, tmp_path: Path) -> None:
    first = start()
    second = start("--root", str(tmp_path / "other"), wait=False)
    assert second.process.wait(60) == 1
    assert f'stars: another server listens on "{address(tmp_path)}"' in second.said()
    assert second.said().splitlines().count("snapshotter closed") == 1
    first.process.kill()
    first.process.wait()
    assert Path(address(tmp_path)).exists()
    start()
    assert programs.answers(address(tmp_path))


def test_its_socket_is_its_owners_alone(start: Start, tmp_path: Path) -> None:
    start()
    found = os.stat(address(tmp_path))
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, os.geteuid(), os.getegid())


def test_the_rights_of_its_socket_can_be_given(tmp_path: Path) -> None:
    text = f"from plugin_sdk import place, serve\nserve.serve(place.Place({address(tmp_path)!r}, gid=12, mode=0o660))\n"
    with programs.started(programs.python("-c", text), tmp_path / "log", ENVIRONMENT) as made:
        made.wait_for(address(tmp_path))
        found = os.stat(address(tmp_path))
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, 12)
        assert made.terminate() == 0


def test_the_address_comes_from_the_environment(program: list[str], tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "CORTEN_PLUGIN_ADDRESS": address(tmp_path)}
    with programs.started(program, tmp_path / "log", environment) as made:
        made.wait_for(address(tmp_path))
        assert made.terminate() == 0


def test_settings_are_flags(start: Start) -> None:
    made = start("--layer-limit", "7", "--no-relay", "--places", "a", "--places", "b")
    assert "Config(fail='', layer_limit=7, relay=False, places=('a', 'b'))" in made.said()


def test_settings_have_their_defaults_and_docs(start: Start, program: list[str]) -> None:
    assert "Config(fail='', layer_limit=5, relay=True, places=())" in start().said()
    done = subprocess.run([*program, "--help"], env=ENVIRONMENT, capture_output=True, text=True)
    assert "Layers it takes, 100 % of them." in done.stdout


def test_it_says_its_version(program: list[str]) -> None:
    done = subprocess.run([*program, "--version"], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "stars 1.2\n"


# Its service manager and its log


def test_systemd_is_told(tmp_path: Path, start: Start) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        made = start(NOTIFY_SOCKET=str(tmp_path / "notify"), JOURNAL_STREAM="8:1")
        assert manager.recv(100) == b"READY=1"
        assert made.terminate() == 0
        assert manager.recv(100) == b"STOPPING=1"
    assert "\n<6>corten.serve: stops\n" in made.said()


def test_a_line_of_the_log_has_a_time_unless_the_daemon_adds_it(start: Start, tmp_path: Path) -> None:
    words = f"info corten.serve: serves {plugin.SNAPSHOTTER}, {plugin.CONTENT}, {plugin.DIFFER} at {address(tmp_path)}"
    made = start()
    assert re.search(rf"^\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z {re.escape(words)}$", made.said(), re.MULTILINE)
    made.terminate()
    assert words in start(CORTEN_PLUGIN_NAME="stars").said().splitlines()


def test_it_says_who_uses_it_and_when_it_cannot_be_understood(start: Start, tmp_path: Path) -> None:
    made = start()
    with contextlib.closing(transport.connect(address(tmp_path))) as channel:
        wire_handshake.Proxy(channel, Scope("")).describe("0.2", "moons")
        made.wait_to_say("used by Corten 0.2 as moons")
        assert "speaks API" not in made.said()
        request = wire_handshake.plugin_pb2.DescribeRequest(api_lowest=2, api_highest=3, kernel_version="0.9", name="x")
        stub = rpc.Stub(channel, wire_handshake.SERVICE, Scope(""))
        stub.unary("Describe", request, wire_handshake.plugin_pb2.DescribeResponse)
        made.wait_to_say("Corten 0.9 speaks API 2 to 3, this program 1")


HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def handed_over(program: list[str], listener: socket.socket, log: Path) -> contextlib.AbstractContextManager[Program]:
    command = programs.python("-c", HAND_OVER, str(listener.fileno()), *program)
    return programs.started(command, log, ENVIRONMENT, pass_fds=[listener.fileno()])


def test_it_serves_on_a_socket_that_is_handed_over(program: list[str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "handed"))
        listener.listen()
        with handed_over(program, listener, tmp_path / "log") as made:
            made.wait_to_say(f"at {tmp_path}/handed")
            with contextlib.closing(transport.connect(str(tmp_path / "handed"))) as channel:
                assert health.Proxy(channel, Scope("")).check()
            assert made.terminate() == 0
    assert (tmp_path / "handed").exists()


def test_tcp_is_handed_over_with_tls_only(program: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, handed_over(program, listener, tmp_path / "log") as made:
        assert made.process.wait(60) == 1
        assert "stars: the service manager hands over TCP, which needs TLS: certificate, key and CA" in made.said()


# TLS


@pytest.fixture
def files(tmp_path: Path) -> certificates.Files:
    return certificates.make(tmp_path / "tls")


def secure(files: certificates.Files) -> list[str]:
    return ["--tls-cert", str(files.server), "--tls-key", str(files.server_key), "--tls-ca", str(files.ca)]


@pytest.fixture
def port(program: list[str], files: certificates.Files, tmp_path: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        free = int(found.getsockname()[1])
    command = [*program, "--address", f"tcp://127.0.0.1:{free}", *secure(files)]
    with programs.started(command, tmp_path / "log", ENVIRONMENT) as made:
        made.wait_to_say("serves io.containerd")
        yield free
        assert made.terminate() == 0


def test_tls_serves_those_who_have_a_certificate(port: int, files: certificates.Files) -> None:
    tls = transport.Tls(files.ca.read_bytes(), files.client.read_bytes(), files.client_key.read_bytes())
    with contextlib.closing(transport.connect(f"tcp://localhost:{port}", tls=tls)) as channel:
        with wire_content.Proxy(channel, Scope("")).writer("r") as writer:
            for _ in range(5):
                writer.write(b"x" * (3 << 20))
            assert writer.commit(15 << 20)
        assert wire_handshake.Proxy(channel, Scope("")).describe("0.2", "stars").version == "1.2"


@pytest.mark.parametrize("who", ["nobody", "stranger", "plain"])
def test_tls_refuses_those_who_have_none(port: int, files: certificates.Files, tmp_path: Path, who: str) -> None:
    other = certificates.make(tmp_path / "other")
    tls = {
        "nobody": transport.Tls(files.ca.read_bytes()),
        "stranger": transport.Tls(files.ca.read_bytes(), other.client.read_bytes(), other.client_key.read_bytes()),
        "plain": None,
    }[who]
    channel = transport.connect(f"tcp://localhost:{port}", tls=tls)
    with contextlib.closing(channel), pytest.raises(errors.Unavailable):
        health.Proxy(channel, Scope("", deadline=time.monotonic() + 10)).check()


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--tls-cert", "certificate /none with key .*: No such file or directory"),
        ("--tls-ca", "client CA /none cannot be used: No such file or directory"),
    ],
)
def test_a_file_of_tls_that_cannot_be_used_is_named(
    program: list[str], files: certificates.Files, flag: str, sentence: str
) -> None:
    code, said = refused(program, "--address", "localhost:1", *secure(files), flag, "/none")
    assert code == 1
    assert re.fullmatch(f"stars: {sentence}\n", said.splitlines(keepends=True)[-1])
