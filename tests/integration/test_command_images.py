"""``corten images``, ``image``, ``inspect``, ``snapshots``, ``content``, ``leases``, ``namespaces``, ``events``,
``stats``, and what they say of the daemon itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest

import corten
from benchmarks import daemons
from plugin_sdk import mounts
from scripts import images

pytestmark = pytest.mark.root
FULL = "docker.io/library/busybox:latest"

Run = Callable[..., subprocess.CompletedProcess[str]]
Invoke = Callable[..., click.testing.Result]


# --- import and export


@pytest.mark.engine
@pytest.mark.parametrize("name", ["oci-gzip", "oci-zstd", "oci-none", "docker", "docker-gzip"])
def test_every_format_is_imported_and_unpacked(
    command: Run, invoke: Invoke, client: corten.Client, archives: dict[str, Path], name: str
) -> None:
    assert invoke("image", "import", "-q", str(archives[name])).stdout == f"example.test/{name}:1\n"
    shown = command("run", "--rm", f"example.test/{name}:1", "sh", "-c", "cat /data/first /etc/motd; ls /old")
    assert shown.stdout == "changed\nhello\nc\n"
    assert not client.leases.list()


def test_a_directory_is_imported_twice(invoke: Invoke, busybox: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-xf", busybox, "-C", layout], check=True)
    for line in (["images", "import"], ["image", "import"]):  # the first is how it was called once
        assert invoke(*line, str(layout)).stdout == f"{FULL}\n"


def test_what_is_exported_is_imported_under_one_more_name(
    invoke: Invoke, imported: str, environment: dict[str, str], tmp_path: Path
) -> None:
    invoke("image", "export", "-q", "-o", str(tmp_path / "out.tar"), imported)
    assert os.listdir(tmp_path) == ["out.tar"]
    line = [sys.executable, "-m", "corten.cli", "image", "import", "--name", "mine:3", "--json", "-"]
    with (tmp_path / "out.tar").open("rb") as file:
        piped = subprocess.run(line, stdin=file, capture_output=True, timeout=100, env=environment)
    assert {image["name"] for image in json.loads(piped.stdout)} == {FULL, "docker.io/library/mine:3"}


def test_an_export_to_a_full_disk_and_to_a_fifo(imported: str, environment: dict[str, str], tmp_path: Path) -> None:
    line = [sys.executable, "-m", "corten.cli", "image", "export", "-q", imported]
    full = ["/bin/sh", "-c", '"$@" > /dev/full', "sh", *line]
    done = subprocess.run(full, capture_output=True, text=True, timeout=100, env=environment)
    assert (done.returncode, done.stderr) == (1, "Error: the archive cannot be written: No space left on device\n")
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen([*line, "-o", str(tmp_path / "fifo")], env=environment) as writer:
        with tarfile.open(tmp_path / "fifo", "r|") as archive:
            assert "index.json" in archive.getnames()
            while archive.fileobj and archive.fileobj.read(1 << 16):  # its padding
                pass
        assert writer.wait(60) == 0
    assert (tmp_path / "fifo").is_fifo()


def damaged(path: Path) -> Path:
    """One byte of its layer is changed; the layer is new, since blobs that are there are not read again."""
    layer = images.tar([images.Entry("file", os.urandom(50_000))])
    files = images.oci_files([layer], "bad:1", "none")
    [name] = [name for name, data in files.items() if data == layer]
    files[name] = layer[:5000] + bytes([layer[5000] ^ 1]) + layer[5001:]
    return images.write_archive(path, files)


def test_a_damaged_archive_leaves_no_image(invoke: Invoke, client: corten.Client, tmp_path: Path) -> None:
    told = invoke("image", "import", str(damaged(tmp_path / "bad.tar")), code=1).stderr.splitlines()[-1]
    assert told.startswith("Error: ")
    assert "sha256:" in told
    assert not client.images.list()
    assert not list(client.snapshotter("overlayfs").walk())
    assert not client.leases.list()


# --- records


def test_images_are_listed_for_people_and_for_programs(invoke: Invoke, imported: str) -> None:
    for line in (["images"], ["images", "ls"], ["image", "ls"]):
        head, row = invoke(*line).stdout.splitlines()
        assert head.split() == ["IMAGE", "DIGEST", "PLATFORMS", "SIZE", "CREATED"]
        assert row.split()[0] == "busybox:latest"
        assert "linux/amd64" in row
    assert invoke("images", "-q").stdout == f"{FULL}\n"
    [found] = json.loads(invoke("images", "--json").stdout)
    assert set(found) == {"name", "target", "labels", "created_at", "updated_at", "platforms", "size"}
    assert found["platforms"] == ["linux/amd64"]
    assert invoke("images", "-q", "name==nothing").stdout == ""
    assert invoke("images", "-q", "box:lat").stdout == f"{FULL}\n"
    assert invoke("images", "-q", "b.x").stdout == ""


def test_an_image_gets_more_names_and_loses_them(invoke: Invoke, imported: str) -> None:
    assert invoke("tag", imported, "localhost:5000/mine").stdout == "localhost:5000/mine:latest\n"
    assert "already exists" in invoke("tag", imported, "localhost:5000/mine", code=1).stderr
    invoke("image", "tag", "--force", imported, "localhost:5000/mine")
    told = invoke("image", "rm", imported, "nothing", code=1)
    assert told.stdout == f"{imported}\n"
    assert "`corten pull nothing`" in told.stderr
    assert invoke("images", "-q").stdout == "localhost:5000/mine:latest\n"


def test_an_image_is_inspected_with_manifest_and_config(invoke: Invoke, imported: str) -> None:
    [shown] = json.loads(invoke("inspect", imported).stdout)
    assert (shown["kind"], shown["name"]) == ("image", FULL)
    assert shown["manifest"]["layers"]
    assert shown["config"]["architecture"] == "amd64"
    assert json.loads(invoke("image", "inspect", imported).stdout) == [shown]


def test_usage_counts_blobs_and_snapshots(invoke: Invoke, imported: str) -> None:
    [row] = json.loads(invoke("image", "usage", "--json", imported).stdout)
    assert row["content"] > 100_000
    assert row["snapshots"] > 100_000
    assert row["size"] == row["content"] + row["snapshots"]
    assert "MB" in invoke("image", "usage", imported).stdout


def test_an_image_is_mounted_and_taken_off(
    invoke: Invoke, imported: str, client: corten.Client, tmp_path: Path
) -> None:
    for options in ([], ["--rw"]):
        assert invoke("image", "mount", *options, imported, str(tmp_path)).stdout == f"{tmp_path}\n"
        try:
            assert (tmp_path / "bin/busybox").exists()
            assert "corten image umount" in invoke("image", "mount", imported, str(tmp_path), code=1).stderr
            if options:
                (tmp_path / "new").write_text("")
        finally:
            invoke("image", "umount", str(tmp_path))
        assert str(tmp_path) not in mounts.mount_points()
        assert not os.listdir(tmp_path)
    assert len(list(client.snapshotter("overlayfs").walk())) == 1
    assert "mkdir -p" in invoke("image", "mount", imported, str(tmp_path / "none"), code=1).stderr


def test_an_image_is_unpacked_elsewhere(invoke: Invoke, imported: str, client: corten.Client) -> None:
    chain = invoke("image", "unpack", "--snapshotter", "native", imported).stdout.strip()
    assert client.snapshotter("native").exists(chain)


# --- what they are made of


def test_snapshots_are_shown_and_removed(invoke: Invoke, imported: str, client: corten.Client) -> None:
    [layer] = client.snapshotter("overlayfs").walk()
    client.snapshotter("overlayfs").prepare("work", layer.name)
    assert invoke("snapshots", "-q").stdout.splitlines() == [layer.name, "work"]
    assert invoke("snapshots", "tree").stdout == f"{layer.name}\n└── work (active)\n"
    shown = json.loads(invoke("snapshots", "info", "work").stdout)
    assert (shown["kind"], shown["parent"], shown["mounts"][0]["type"]) == ("active", layer.name, "overlay")
    assert json.loads(invoke("snapshots", "info", layer.name).stdout)["mounts"] == []
    assert [row["name"] for row in json.loads(invoke("snapshots", "usage", "--json").stdout)] == [layer.name, "work"]
    assert {row["kind"] for row in json.loads(invoke("snapshots", "ls", "--json").stdout)} == {"committed", "active"}
    assert invoke("snapshots", "rm", "work").stdout == "work\n"
    assert "snapshot" in invoke("snapshots", "rm", "work", code=1).stderr


def test_content_is_listed_read_and_removed(command: Run, invoke: Invoke, imported: str, client: corten.Client) -> None:
    target = client.images.get(FULL).target
    assert target.digest in invoke("content", "-q").stdout.split()
    assert json.loads(command("content", "get", target.digest).stdout)["schemaVersion"] == 2
    with client.content.writer("half") as writer:
        writer.write(b"half")
    [row] = json.loads(invoke("content", "ingests", "--json").stdout)
    assert (row["ref"], row["offset"]) == ("half", 4)
    assert "half" in invoke("content", "ingests").stdout
    invoke("content", "ingests", "--abort", "half")
    assert json.loads(invoke("content", "ingests", "--json").stdout) == []
    assert invoke("content", "rm", target.digest).stdout == f"{target.digest}\n"
    assert "corten pull" in invoke("content", "get", target.digest, code=1).stderr


def test_leases_are_made_listed_and_removed(invoke: Invoke) -> None:
    assert invoke("leases", "create", "--expires", "1", "--label", "owner=me", "mine").stdout == "mine\n"
    [shown] = json.loads(invoke("leases", "--json").stdout)
    assert shown["labels"]["owner"] == "me"
    assert "containerd.io/gc.expire" in shown["labels"]
    assert shown["resources"] == []
    assert "owner=me" in invoke("leases").stdout
    assert invoke("leases", "rm", "--sync", "mine").stdout == "mine\n"
    assert invoke("leases", "-q").stdout == ""


def test_namespaces_are_made_labelled_and_removed(invoke: Invoke, namespace: str) -> None:
    name = f"{namespace}more"
    invoke("namespaces", "create", "--label", "owner=me", name)
    shown = invoke("namespaces", "label", name, "owner=", "x=y").stdout
    assert "x=y" in shown
    assert "owner" not in shown
    assert name in invoke("namespaces", "ls", "-q").stdout.split()
    assert invoke("namespaces", "rm", name).stdout == f"{name}\n"


@pytest.mark.engine
def test_events_are_told_as_they_come(imported: str, invoke: Invoke, environment: dict[str, str]) -> None:
    line = [sys.executable, "-u", "-m", "corten.cli", "events", "--json", 'topic~="/tasks/"']
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as told:
        assert told.stdout is not None
        reader = threading.Thread(target=lambda: seen.extend(iter(told.stdout.readline, "")))
        seen: list[str] = []
        reader.start()
        try:
            until(lambda: invoke("run", "-d", imported, "sleep", "100") and seen)  # it has subscribed
            invoke("run", "-d", "--name", "a", imported, "sleep", "100")
            invoke("kill", "a")
            until(lambda: any('"/tasks/exit"' in line for line in seen))
        finally:
            told.terminate()
            reader.join()
    [event] = [json.loads(line) for line in seen if '"/tasks/exit"' in line]
    assert (event["event"]["container_id"], event["event"]["exit_status"]) == ("a", 137)


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.engine
def test_stats_are_shown(imported: str, invoke: Invoke) -> None:
    invoke("run", "-d", "--name", "a", imported, "sleep", "100")
    [row] = json.loads(invoke("stats", "--json", "a").stdout)
    assert row["memory"] > 0
    assert row["pids"] == 1
    assert invoke("stats", "--no-stream", "--interval", "0.1").stdout.splitlines()[1].startswith("a ")
    assert "corten ps -a" in invoke("stats", "none", code=1).stderr


# --- the daemon


def test_version_tells_both(invoke: Invoke) -> None:
    assert invoke("version").stdout.count("Version:  0.1.0") == 2
    assert json.loads(invoke("version", "--json").stdout)["server"]["version"] == "0.1.0"


def test_plugins_are_listed(invoke: Invoke) -> None:
    rows = invoke("plugins").stdout.splitlines()
    assert rows[0].split() == ["TYPE", "ID", "PLATFORMS", "STATUS"]
    assert any(row.split() == ["io.containerd.differ.v1", "walking", "linux/amd64", "ok"] for row in rows)
    assert {"kind", "id", "error"} <= set(json.loads(invoke("plugins", "--json").stdout)[0])


def test_the_settings_are_shown_and_checked(
    command: Run, invoke: Invoke, corten_daemon: daemons.Daemon, tmp_path: Path
) -> None:
    assert corten_daemon.address in invoke("config", "show").stdout
    assert invoke("config", "show", "--json").exit_code == 0
    (tmp_path / "config.json").write_text('{"credsStore": "of-nobody"}')
    done = command("config", "check", DOCKER_CONFIG=str(tmp_path))
    assert done.returncode == 1
    assert "docker-credential-of-nobody, which is not installed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason", "advice"),
    [
        (["images", "import", "/no/such/file"], 1, "/no/such/file: not found", ""),
        (["images", "import", "/etc/passwd"], 1, "/etc/passwd", ""),
        (["--address", "/no/such.sock", "ps"], 1, "/no/such.sock", "cortend"),
        (["--namespace", "bad/name", "ps"], 1, "bad/name", ""),
        (["frobnicate"], 2, "frobnicate", ""),
        (["imges"], 2, "Did you mean 'images'?", ""),
        (["image", "tag", "busybox", "Not A Name"], 1, "Not A Name", ""),
        (["pull", "--platform", "linux/amd64", "--all-platforms", "busybox"], 2, "--platform goes not with", ""),
        (["push", "nothing"], 1, 'image "nothing": not found', "corten pull nothing"),
        (["namespaces", "label", "default", "=x"], 2, "must be KEY=VALUE", ""),
    ],
)
def test_wrong_input_gets_one_sentence(
    invoke: Invoke, imported: str, arguments: list[str], code: int, reason: str, advice: str
) -> None:
    done = invoke(*arguments, code=code)
    assert done.stdout == ""
    error, *more = done.stderr.splitlines()[-2 if advice else -1 :]
    assert error.startswith("Error: ")
    assert reason in error
    assert advice in "".join(more)
