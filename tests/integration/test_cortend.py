"""``cortend`` as a program: start, stop, crash, and what it says to wrong input."""

from __future__ import annotations

import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import corten
from benchmarks import daemons
from plugin_sdk import errors
from plugin_sdk.daemon import PluginInfo

pytestmark = pytest.mark.root
SNAPSHOTTER = "io.containerd.snapshotter.v1"

Start = Callable[..., daemons.Daemon]


@pytest.fixture
def directory(scratch: Path) -> Iterator[Path]:
    path = scratch / "own"
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """Starts another cortend, in ``directory``/d."""
    started: list[daemons.Daemon] = []

    def start(*arguments: str, **environment: str) -> daemons.Daemon:
        daemon = daemons.Daemon("corten", directory / "d", str(directory / "d" / "c.sock"), [], daemons._marked())
        places = ["--root", str(daemon.root), "--state", str(daemon.state), "--address", daemon.address]
        daemon.command = [sys.executable, "-m", "kernel", *places, *arguments]
        daemon.environment |= environment
        started.append(daemon)
        daemon.start()
        return daemon

    yield start
    for daemon in started:
        daemon.stop()


def cortend(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kernel", *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, **environment},
    )


def plugin(daemon: daemons.Daemon, id: str) -> PluginInfo:
    with corten.connect(daemon.address) as connection:
        [info] = [each for each in connection.plugins() if each.id.startswith(id)]
    return info


# --- start and stop


def test_it_serves_after_little_work(start: Start) -> None:
    """Clients expect an answer within 2 s. Processor time is measured, since tests share their machine."""
    daemon = start()
    with corten.connect(daemon.address) as connection:
        connection.version()
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    assert (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") < 2


def test_it_tells_the_service_manager(start: Start, directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        manager.settimeout(10)
        daemon = start(NOTIFY_SOCKET=str(directory / "notify"))
        assert manager.recv(100) == b"READY=1"
        assert daemon.terminate() == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_at_its_end_waits_fail_and_its_sockets_are_gone(start: Start) -> None:
    daemon = start()
    events = subprocess.Popen(daemon.argv("events"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for number in itertools.count():
        daemon.ctr("namespaces", "create", f"n{number}", check=True)
        if select.select([events.stdout], [], [], 0.2)[0]:  # it listens
            break
    assert daemon.terminate() == 0
    _, said = events.communicate(timeout=120)
    assert events.returncode == 1
    assert b"the daemon is stopping" in said
    assert not Path(daemon.address).exists()
    assert not Path(daemon.address + ".ttrpc").exists()
    assert "Traceback" not in daemon.log.read_text()


def test_it_starts_again_after_a_crash(start: Start) -> None:
    daemon = start()
    daemon.ctr("namespaces", "create", "kept", check=True)
    daemon.kill()
    daemon.start()
    assert b"kept" in daemon.ctr("namespaces", "ls", check=True).stdout
    assert not daemon.leftovers() or daemon.pid not in daemon.leftovers()


def test_the_spawner_ends_with_the_daemon(start: Start) -> None:
    daemon = start()
    assert daemon.leftovers()
    os.kill(daemon.pid, signal.SIGKILL)
    assert daemon.process is not None
    daemon.process.wait()
    until = time.monotonic() + 60
    while daemon.leftovers():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_its_uuid_stays(start: Start) -> None:
    daemon = start()
    first = daemon.ctr("version").stdout.decode().partition("UUID:")[2]
    daemon.terminate()
    daemon.start()
    assert daemon.ctr("version").stdout.decode().partition("UUID:")[2] == first
    assert first.strip()


# --- two daemons


def test_two_daemons_cannot_share_a_root(start: Start, directory: Path) -> None:
    daemon = start()
    other = cortend("--root", str(daemon.root), "--state", f"{directory}/s", "--address", f"{directory}/x.sock")
    assert other.returncode == 1
    assert other.stderr == f"Error: another cortend uses the directory {daemon.root}\n"


def test_two_daemons_cannot_share_a_state(start: Start, directory: Path) -> None:
    daemon = start()
    other = cortend("--root", f"{directory}/r", "--state", str(daemon.state), "--address", f"{directory}/x.sock")
    assert other.returncode == 1
    assert other.stderr == f"Error: another cortend uses the directory {daemon.state}\n"


def test_two_daemons_cannot_share_an_address(start: Start, directory: Path) -> None:
    daemon = start()
    other = cortend("--root", f"{directory}/r", "--state", f"{directory}/s", "--address", daemon.address)
    assert other.returncode == 1
    assert "another server listens on" in other.stderr.splitlines()[-1]
    daemon.ctr("version", check=True)


# --- wrong configuration


def test_without_the_rights_of_root_it_does_not_start(directory: Path) -> None:
    flags = ["--root", f"{directory}/r", "--state", f"{directory}/s", "--address", f"{directory}/x.sock"]
    program = "import os, runpy; os.geteuid = lambda: 1000; runpy.run_module('kernel', run_name='__main__')"
    said = subprocess.run([sys.executable, "-c", program, *flags], capture_output=True, text=True, timeout=180)
    assert said.returncode == 1
    assert said.stderr == "Error: cortend needs the rights of root: it mounts and makes containers\n"
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[grpc]\nadress = "/x"\n', ":2: unknown key 'adress' in [grpc]; did you mean 'address'?"),
        (f'[plugins."{SNAPSHOTTER}.overlayfs"]\nrot = "/x"\n', ":2: "),
        ("root = 3\n", ":1: 'root' must be a text, not 3"),
        ("version = = 3\n", "plugins.toml:1: Invalid value"),
    ],
)
def test_a_wrong_configuration_is_one_sentence_and_nothing_starts(directory: Path, text: str, reason: str) -> None:
    path = directory / "plugins.toml"
    path.write_text(text)
    flags = ["--root", f"{directory}/r", "--state", f"{directory}/s", "--address", f"{directory}/x.sock"]
    for command in ([], ["config", "check"]):
        said = cortend("--config", str(path), *(flags if "root = 3" not in text else flags[2:]), *command)
        assert said.returncode == 1
        line = said.stderr.splitlines()[-1]
        assert line.startswith("Error: ")
        assert str(path) in line
        assert reason in line
    assert not Path(f"{directory}/x.sock").exists()


def test_config_prints_what_can_be_read_again(directory: Path) -> None:
    path = directory / "plugins.toml"
    for command in ("default", "dump"):
        path.write_text(cortend("config", command).stdout)
        checked = cortend("--config", str(path), "config", "check")
        assert (checked.returncode, checked.stderr) == (0, "")
        assert checked.stdout == "the configuration can be used\n"


def test_a_wrong_table_of_a_proxy_plugin_is_shown_and_the_daemon_starts(start: Start, directory: Path) -> None:
    """The rest of them is in test_proxy_bad_input.py."""
    path = directory / "plugins.toml"
    path.write_text('[proxy_plugins.stars]\ntype = "snap"\naddress = "/run/stars.sock"\n')
    shown = plugin(start("--config", str(path)), "stars")
    assert (shown.kind, shown.state) == ("proxy_plugins", "refused")
    assert shown.error.startswith(f"{path}:2: proxy plugin 'stars' has the unknown type 'snap'; did you mean")
    checked = cortend("--config", str(path), "config", "check")
    assert (checked.returncode, checked.stdout) == (1, "")
    assert checked.stderr == f"error: {shown.error}\n"


def test_a_required_plugin_that_is_missing_stops_the_start(directory: Path) -> None:
    path = directory / "plugins.toml"
    path.write_text(f'required_plugins = ["{SNAPSHOTTER}.zfs"]\n')
    flags = ["--root", f"{directory}/r", "--state", f"{directory}/s", "--address", f"{directory}/x.sock"]
    said = cortend("--config", str(path), *flags)
    assert said.returncode == 1
    assert said.stderr.splitlines()[-1] == f"Error: the required plugin {SNAPSHOTTER}.zfs is not there"


# --- wrong plugins

PLUGIN = """
from plugin_sdk import plugin

@plugin.hookimpl
def register_snapshotters():
    {body}
"""


@pytest.fixture
def install(directory: Path) -> Callable[[str], str]:
    """An installed package ``corten_extra`` with this module; answers the PYTHONPATH to find it."""

    def install(text: str) -> str:
        site = directory / "site"
        folder = site / "corten_extra-1.0.dist-info"
        folder.mkdir(parents=True)
        (site / "corten_extra.py").write_text(text)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: corten-extra\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("[corten.plugins]\nextra = corten_extra\n")
        return f"{site}{os.pathsep}{Path(__file__).parents[2]}"

    return install


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise OSError('no luck')", "OSError: no luck"),
        (PLUGIN.format(body="raise OSError('no luck')"), "OSError: no luck"),
        (PLUGIN.format(body="return []").replace("snapshotters", "snapshoters"), "did it mean register_snapshotters?"),
    ],
)
def test_a_plugin_that_does_not_load_is_shown_and_the_others_go_on(
    start: Start, install: Callable[[str], str], text: str, reason: str
) -> None:
    daemon = start(PYTHONPATH=install(text))
    shown = plugin(daemon, "extra")
    assert reason in shown.error
    assert "corten_extra" in shown.id
    assert plugin(daemon, "overlayfs").error == ""
    assert reason in daemon.log.read_text()


def test_a_plugin_whose_object_cannot_be_made_is_shown_and_refused_by_name(
    start: Start, install: Callable[[str], str]
) -> None:
    body = "return [plugin.Registration(plugin.SNAPSHOTTER, 'stars', lambda context: 1 / 0)]"
    daemon = start(PYTHONPATH=install(PLUGIN.format(body=body)))
    assert plugin(daemon, "stars").error == "ZeroDivisionError: division by zero"
    with corten.connect(daemon.address) as connection:
        storage = connection.view("default").snapshotter("stars")
        with pytest.raises(errors.InvalidArgument, match="snapshotter not loaded: stars"):
            storage.prepare("key")


def test_an_installed_plugin_works_like_a_built_in(start: Start, install: Callable[[str], str]) -> None:
    body = """def create(context):
        from plugins_builtin.snapshots.native import Snapshotter
        return Snapshotter(context.root, context.workers)
    return [plugin.Registration(plugin.SNAPSHOTTER, "stars", create)]"""
    daemon = start(PYTHONPATH=install(PLUGIN.format(body=body)))
    made = daemon.ctr("snapshots", "--snapshotter", "stars", "prepare", "key", check=True)
    assert made.returncode == 0
    daemon.ctr("snapshots", "--snapshotter", "stars", "rm", "key", check=True)


def test_a_socket_of_nobody_is_replaced_and_another_file_is_not(start: Start, directory: Path) -> None:
    daemon = start()
    daemon.kill()
    assert Path(daemon.address).exists()
    daemon.start()
    daemon.terminate()
    Path(daemon.address).write_text("mine")
    with pytest.raises(RuntimeError, match="is there and is not a socket"):
        daemon.start()
    assert Path(daemon.address).read_text() == "mine"


def test_a_database_that_is_none_is_told_by_name(directory: Path) -> None:
    (directory / "r").mkdir()
    (directory / "r" / "metadata.db").write_text("no database" * 100)
    said = cortend("--root", f"{directory}/r", "--state", f"{directory}/s", "--address", f"{directory}/x.sock")
    assert said.returncode == 1
    [line] = said.stderr.splitlines()
    assert line.startswith(f"Error: metadata database {directory}/r/metadata.db cannot be opened: ")


# --- a plugin that hangs

HANGING = """
import pathlib, time
from plugin_sdk import plugin

@plugin.hookimpl
def register_snapshotters():
    def create(context):
        from plugins_builtin.snapshots.native import Snapshotter

        class Slow(Snapshotter):
            def prepare(self, key, parent="", labels=None):
                while not pathlib.Path({gate!r}).exists():
                    time.sleep(0.01)
                return super().prepare(key, parent, labels)

        return Slow(context.root, context.workers)
    return [plugin.Registration(plugin.SNAPSHOTTER, "slow", create)]
"""


def test_a_plugin_that_hangs_delays_only_those_who_name_it(
    start: Start, install: Callable[[str], str], directory: Path
) -> None:
    gate = directory / "gate"
    daemon = start(PYTHONPATH=install(HANGING.format(gate=str(gate))))
    with corten.connect(daemon.address) as connection, ThreadPoolExecutor(40) as threads:
        view = connection.view("default")

        def prepare(number: int) -> str:
            try:
                view.snapshotter("slow").prepare(f"key-{number}")
            except errors.ResourceExhausted as err:
                return err.message
            return "made"

        waiting = [threads.submit(prepare, number) for number in range(40)]
        while sum(each.done() for each in waiting) < 8:
            time.sleep(0.01)
        view.snapshotter("native").prepare("other")
        assert view.containers.list() == []
        assert list(view.snapshotter("slow").walk()) == []
        assert "degraded" in plugin(daemon, "slow").error
        gate.touch()
        ends = [each.result(120) for each in waiting]
        assert ends.count("made") == 32
        refused = {end for end in ends if end != "made"}
        assert refused == {f'"{SNAPSHOTTER}.slow" is busy: 16 calls run and 16 wait, try later'}
        assert len(list(view.snapshotter("slow").walk())) == 32
    assert plugin(daemon, "slow").error == ""


def test_a_plugin_that_hangs_does_not_keep_the_daemon_from_ending(
    start: Start, install: Callable[[str], str], directory: Path
) -> None:
    daemon = start(PYTHONPATH=install(HANGING.format(gate=str(directory / "gate"))))
    with corten.connect(daemon.address) as connection, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(connection.view("default").snapshotter("slow").prepare, "key")
        while b"default" not in daemon.ctr("namespaces", "ls").stdout:
            time.sleep(0.01)
        assert daemon.terminate(timeout=120) == 0
        with pytest.raises(errors.Unavailable):
            waiting.result(120)
    assert "Traceback" not in daemon.log.read_text()
    daemon.start()
    assert daemon.ctr("snapshots", "--snapshotter", "slow", "ls", check=True).stdout.count(b"\n") == 1
