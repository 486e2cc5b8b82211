"""``corten``, the command, and the library under it."""

from __future__ import annotations

import itertools
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import corten
from benchmarks import daemons
from corten import importing
from plugin_sdk import daemon, errors
from scripts import images
from tests import sides

pytestmark = pytest.mark.root
IMAGE = "docker.io/library/busybox:latest"
TYPING = "tty; read x; echo $x"
NUMBERS = itertools.count(1)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def namespace() -> str:
    return f"{sides.prefix('n')}{next(NUMBERS)}"


@pytest.fixture
def command(corten_daemon: daemons.Daemon, namespace: str) -> Iterator[Run]:
    """Runs the command in a namespace of the test's own, which is emptied at the end."""
    environment = {**os.environ, "CORTEN_ADDRESS": corten_daemon.address, "CORTEN_NAMESPACE": namespace}

    def run(*arguments: str, stdin: str | None = "", **more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "corten.cli", *arguments]
        return subprocess.run(
            line, input=stdin, capture_output=True, text=True, timeout=60, env={**environment, **more}
        )

    yield run
    empty(corten_daemon, namespace)


def empty(target: daemons.Daemon, namespace: str) -> None:
    for noun, remove in (("tasks", ["rm", "-f"]), ("containers", ["rm"]), ("images", ["rm"])):
        for name in target.ctr(noun, "ls", "-q", namespace=namespace).stdout.decode().split():
            target.ctr(noun, *remove, name, namespace=namespace)
    for row in reversed(target.ctr("snapshots", "ls", namespace=namespace).stdout.decode().splitlines()[1:]):
        target.ctr("snapshots", "rm", row.split()[0], namespace=namespace)


@pytest.fixture
def imported(command: Run, busybox: Path) -> Run:
    assert command("images", "import", str(busybox)).stdout == f"{IMAGE}\n"
    return command


@pytest.fixture
def connection(corten_daemon: daemons.Daemon) -> Iterator[daemon.Daemon]:
    with corten.connect(corten_daemon.address) as connection:
        yield connection


# --- what it shows


def test_version_tells_both(command: Run) -> None:
    shown = command("version").stdout
    assert "Client:" in shown
    assert shown.count("Version:  0.1.0") == 2


def test_plugins_are_listed(command: Run) -> None:
    rows = command("plugins").stdout.splitlines()
    assert rows[0].split() == ["TYPE", "ID", "PLATFORMS", "STATUS"]
    assert any(row.split() == ["io.containerd.differ.v1", "walking", "linux/amd64", "ok"] for row in rows)


def test_help_needs_no_daemon_and_little(command: Run) -> None:
    line = [sys.executable, "-X", "importtime", "-m", "corten.cli", "run", "--help"]
    shown = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "--rm" in shown.stdout
    for heavy in ("grpc", "google.protobuf", "asyncio"):
        assert f" {heavy}\n" not in shown.stderr


# --- import


@pytest.mark.parametrize("name", ["oci-gzip", "oci-zstd", "oci-none", "docker", "docker-gzip"])
def test_every_format_is_imported_and_unpacked(
    command: Run, corten_daemon: daemons.Daemon, namespace: str, archives: dict[str, Path], name: str
) -> None:
    done = command("images", "import", str(archives[name]))
    assert (done.returncode, done.stdout) == (0, f"example.test/{name}:1\n")
    shown = command("run", "--rm", f"example.test/{name}:1", "a", "sh", "-c", "cat /data/first /etc/motd; ls /old")
    assert shown.stdout == "changed\nhello\nc\n"
    leases = corten_daemon.ctr("leases", "ls", "-q", namespace=namespace)
    assert leases.stdout == b""


def test_a_directory_is_imported_twice(command: Run, busybox: Path, tmp_path: Path) -> None:
    extract(busybox, tmp_path / "layout")
    for _ in range(2):
        assert command("images", "import", str(tmp_path / "layout")).stdout == f"{IMAGE}\n"


def test_what_ctr_imports_can_be_run(
    command: Run, corten_daemon: daemons.Daemon, namespace: str, busybox: Path
) -> None:
    corten_daemon.ctr("images", "import", "--no-unpack", str(busybox), namespace=namespace, check=True)
    assert command("run", "--rm", IMAGE, "a", "echo", "hi").stdout == "hi\n"


def test_an_import_keeps_what_the_image_needs(
    imported: Run, connection: daemon.Daemon, corten_daemon: daemons.Daemon, namespace: str
) -> None:
    view = connection.view(namespace)
    target = view.images.get(IMAGE).target
    labels = view.content.info(target.digest).labels
    config = labels["containerd.io/gc.ref.content.config"]
    assert "containerd.io/gc.ref.content.l.0" in labels
    chain = view.content.info(config).labels["containerd.io/gc.ref.snapshot.overlayfs"]
    assert view.snapshotter("overlayfs").stat(chain).name == chain


def extract(archive: Path, directory: Path) -> None:
    directory.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", directory], check=True)


def damaged(path: Path) -> Path:
    """One byte of its layer is changed; the layer is new, since blobs that are there are not read again."""
    layer = images.tar([images.Entry("file", os.urandom(50_000))])
    files = images.oci_files([layer], "bad:1", "none")
    [name] = [name for name, data in files.items() if data == layer]
    files[name] = layer[:5000] + bytes([layer[5000] ^ 1]) + layer[5001:]
    return images.write_archive(path, files)


def test_a_damaged_blob_is_refused_by_digest_and_nothing_half_made_stays(
    command: Run, connection: daemon.Daemon, namespace: str, tmp_path: Path
) -> None:
    done = command("images", "import", str(damaged(tmp_path / "bad.tar")))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: blob sha256:")
    view = connection.view(namespace)
    assert not view.images.list()
    assert not view.content.list_statuses()
    assert not list(view.snapshotter("overlayfs").walk())
    assert not view.leases.list()


def test_a_wrong_diff_id_is_refused(
    command: Run, connection: daemon.Daemon, namespace: str, layers: list[bytes], tmp_path: Path
) -> None:
    path = images.write_archive(tmp_path / "bad.tar", docker_archive(layers[0], "sha256:" + "0" * 64))
    done = command("images", "import", str(path))
    assert done.returncode == 1
    assert "has the diff ID sha256:" in done.stderr
    assert not list(connection.view(namespace).snapshotter("overlayfs").walk())


def docker_archive(layer: bytes, diff_id: str) -> dict[str, bytes]:
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    manifest = [{"Config": "c.json", "RepoTags": ["bad:1"], "Layers": ["l.tar"]}]
    return {"manifest.json": json.dumps(manifest).encode(), "c.json": json.dumps(config).encode(), "l.tar": layer}


# --- run


def test_the_exit_code_is_passed_on(imported: Run) -> None:
    assert imported("run", "--rm", IMAGE, "a", "sh", "-c", "exit 7").returncode == 7


def test_output_and_errors_come_apart_and_whole(imported: Run) -> None:
    done = imported("run", "--rm", IMAGE, "a", "sh", "-c", "seq 20000; echo bad >&2")
    assert done.stdout == "".join(f"{n}\n" for n in range(1, 20001))
    assert done.stderr == "bad\n"


def test_input_reaches_its_end(imported: Run) -> None:
    text = "line\n" * 50_000
    assert imported("run", "--rm", IMAGE, "a", "cat", stdin=text).stdout == text


def test_the_options_have_their_effect(imported: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside\n")
    script = "echo $COLOR; id -u; id -g; pwd; cat /mnt/x; touch /no 2>/dev/null || echo read-only"
    options = ["-e", "COLOR=blue", "-u", "7:8", "-w", "/tmp", "--mount", f"src={tmp_path}/file,dst=/mnt/x,options=ro"]
    done = imported("run", "--rm", "--read-only", *options, IMAGE, "a", "sh", "-c", script)
    assert done.stdout.split("\n")[:-1] == ["blue", "7", "8", "/tmp", "from outside", "read-only"]


def test_the_hosts_network_can_be_used(imported: Run) -> None:
    own = os.readlink("/proc/self/ns/net")
    assert imported("run", "--rm", "--net-host", IMAGE, "a", "readlink", "/proc/self/ns/net").stdout.strip() == own
    assert imported("run", "--rm", IMAGE, "a", "readlink", "/proc/self/ns/net").stdout.strip() != own


def test_a_native_snapshot_can_be_used(imported: Run) -> None:
    assert imported("run", "--rm", "--snapshotter", "native", IMAGE, "a", "echo", "hi").stdout == "hi\n"


def test_a_terminal_is_one(corten_daemon: daemons.Daemon, imported: Run, namespace: str) -> None:
    parent, child = pty.openpty()
    flags = ["--address", corten_daemon.address, "--namespace", namespace]
    line = [
        sys.executable,
        "-m",
        "corten.cli",
        *flags,
        "run",
        "--rm",
        "-t",
        IMAGE,
        "a",
        "sh",
        "-c",
        "tty; read x; echo $x",
    ]
    with subprocess.Popen(line, stdin=child, stdout=child, stderr=child, start_new_session=True) as process:
        os.close(child)
        os.write(parent, b"typed\r")
        shown = b""
        while process.poll() is None or b"typed\r\ntyped" not in shown:
            try:
                shown += os.read(parent, 1000)
            except OSError:
                break
        assert process.wait(20) == 0
    os.close(parent)
    assert b"/dev/pts/0" in shown
    assert shown.rstrip().endswith(b"typed")


def test_a_detached_container_is_listed_until_it_is_removed(
    imported: Run, corten_daemon: daemons.Daemon, namespace: str
) -> None:
    assert imported("run", "-d", IMAGE, "a", "sleep", "100").returncode == 0
    [row] = imported("ps").stdout.splitlines()[1:]
    assert row.split()[:3] == ["a", IMAGE, "io.containerd.runc.v2"]
    assert row.split()[4] == "running"
    corten_daemon.ctr("tasks", "kill", "-s", "9", "a", namespace=namespace, check=True)
    until = time.monotonic() + 10
    while "stopped" not in imported("ps").stdout:
        assert time.monotonic() < until
    assert imported("ps", "-q").stdout == "a\n"


def test_a_signal_is_passed_on(imported: Run, corten_daemon: daemons.Daemon, namespace: str) -> None:
    script = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    flags = ["--address", corten_daemon.address, "--namespace", namespace]
    line = [sys.executable, "-m", "corten.cli", *flags, "run", "--rm", IMAGE, "a", "sh", "-c", script]
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "got it\n"
        assert process.wait(20) == 3


def test_a_reader_that_leaves_does_not_stop_the_task(
    imported: Run, corten_daemon: daemons.Daemon, namespace: str
) -> None:
    flags = ["--address", corten_daemon.address, "--namespace", namespace]
    script = "seq 100000; exit 3"
    line = [sys.executable, "-m", "corten.cli", *flags, "run", "--rm", IMAGE, "a", "sh", "-c", script]
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 3


def test_a_run_leaves_nothing_behind(imported: Run, connection: daemon.Daemon, namespace: str) -> None:
    assert imported("run", "--rm", IMAGE, "a", "true").returncode == 0
    view = connection.view(namespace)
    assert not view.containers.list()
    assert not view.tasks.list()
    assert len(list(view.snapshotter("overlayfs").walk())) == 1
    assert not view.leases.list()


# --- wrong input


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["run", "no.such/image:1", "a"], 1, 'image "no.such/image:1": not found'),
        (["run", IMAGE, "a", "no-such-program"], 1, "no-such-program"),
        (["run", IMAGE, "bad/id"], 1, "bad/id"),
        (["run", "-u", "nobody9", IMAGE, "a"], 1, 'user "nobody9"'),
        (["run", "--mount", "size=3", IMAGE, "a"], 1, 'unknown key "size"'),
        (["run", "--mount", "src=/x", IMAGE, "a"], 1, "has no destination"),
        (["run", "--snapshotter", "zfs", IMAGE, "a"], 1, "snapshotter not loaded: zfs"),
        (["run", "--runtime", "io.none.v1", IMAGE, "a"], 1, "io.none.v1"),
        (["run", "-d", "--rm", IMAGE, "a"], 2, "--detach goes neither with"),
        (["images", "import", "/no/such/file"], 1, "/no/such/file: not found"),
        (["images", "import", "/etc/passwd"], 1, "/etc/passwd is no tar archive"),
        (["--address", "/no/such.sock", "ps"], 1, "/no/such.sock"),
        (["--namespace", "bad/name", "ps"], 1, "bad/name"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_wrong_input_gets_one_sentence_and_leaves_nothing(
    imported: Run, connection: daemon.Daemon, namespace: str, arguments: list[str], code: int, reason: str
) -> None:
    done = imported(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert reason in last
    view = connection.view(namespace)
    assert not view.containers.list()
    assert len(list(view.snapshotter("overlayfs").walk())) == 1
    assert not view.leases.list()


def test_an_id_that_is_taken_is_told_and_kept(imported: Run, connection: daemon.Daemon, namespace: str) -> None:
    assert imported("run", "-d", IMAGE, "a", "sleep", "100").returncode == 0
    done = imported("run", IMAGE, "a", "true")
    assert done.returncode == 1
    assert "already exists" in done.stderr
    assert connection.view(namespace).tasks.get("a").status.name == "RUNNING"


# --- the library


def test_the_library_imports_what_it_is_told(
    connection: daemon.Daemon, namespace: str, busybox: Path, command: Run
) -> None:
    said: list[str] = []
    options = importing.Options(unpack=False)
    [image] = importing.import_images(connection, namespace, busybox, options, said.append)
    assert image.name == IMAGE
    assert said == [f"importing {IMAGE}"]
    assert not list(connection.view(namespace).snapshotter("overlayfs").walk())


def test_an_archive_without_names_takes_the_given_one(
    connection: daemon.Daemon, namespace: str, busybox: Path, tmp_path: Path, command: Run
) -> None:
    extract(busybox, tmp_path / "layout")
    index = json.loads((tmp_path / "layout/index.json").read_text())
    for each in index["manifests"]:
        each.pop("annotations", None)
    (tmp_path / "layout/index.json").write_text(json.dumps(index))
    options = importing.Options(name="mine:3")
    [image] = importing.import_images(connection, namespace, tmp_path / "layout", options, lambda _: None)
    assert image.name == "docker.io/library/mine:3"


def test_nobody_at_the_address_is_unavailable(tmp_path: Path) -> None:
    with corten.connect(f"{tmp_path}/none.sock") as connection, pytest.raises(errors.Unavailable, match=r"none\.sock"):
        connection.plugins()
