"""What is said of lines that are wrong, and where archives go."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import click.testing
import pytest
from rich.progress import Task, TaskID

from corten import cli
from corten.commands import archives
from corten.terminal import moves, progress_bars, registry_options
from corten.terminal.command import Failure
from corten.terminal.target import Target
from plugin_sdk import oci, transfer
from plugin_sdk.oci import Descriptor
from plugin_sdk.transfer import Progress

# --- subcommands and filters


def invoke(*words: str) -> click.testing.Result:
    line = ["--address", "/no/such.sock", *words]
    return click.testing.CliRunner().invoke(cli.main, line, prog_name="corten")


@pytest.mark.parametrize(
    "words", [("snapshots", "diff", "x"), ("content", "nosuch"), ("leases", "delete", "X"), ("images", "rm", "web")]
)
def test_a_command_that_there_is_not_is_no_filter(words: tuple[str, ...]) -> None:
    done = invoke(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    told = f"Error: No such command {words[1]!r}. Filters are given to ls: `corten {words[0]} ls {words[1]}`."
    assert done.stderr.splitlines()[-1] == told


def test_a_mistyped_command_gets_near_ones_said() -> None:
    assert "'usage'" in invoke("snapshots", "usge").stderr
    assert invoke("namespaces", "creat").stderr.endswith("Did you mean 'create'?\n")


@pytest.mark.parametrize(
    "words",
    [
        ("snapshots",),
        ("snapshots", "-q", "work"),
        ("snapshots", "kind==active"),
        ("content", 'labels."x"'),
        ("content", "labels.x!=y"),
        ("content", "sha256:00"),
        ("images", "name~=web"),
        ("images", "team/web:1"),
        ("leases", "ls", "delete"),
    ],
)
def test_a_list_is_asked_for_with_options_and_filters(words: tuple[str, ...]) -> None:
    done = invoke(*words)
    assert done.exit_code == 1
    assert "/no/such.sock" in done.stderr


# --- options for registries


def access(
    address: str = "/no/such.sock", hosts_dir: Path | None = None, headers: tuple[str, ...] = ()
) -> moves.Access:
    with click.Context(click.Command("pull"), obj=Target(address, "default")):
        return registry_options.access(False, hosts_dir, "", headers)


@pytest.mark.parametrize("text", ["foo", ":value", "", "a b: c", "a :b", "a(b): c", "ä: b", "a: b\r\nc: d"])
def test_a_malformed_header_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="--header must be NAME:VALUE"):
        access(headers=(text,))


def test_headers_are_read() -> None:
    assert access(headers=("X-A: b:c", "d:")).headers == {"X-A": "b:c", "d": ""}


def test_a_hosts_dir_must_be_a_directory_where_the_daemon_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file", tmp_path / "file/below"):
        for address in ("/no/such.sock", "unix:///no/such.sock"):
            with pytest.raises(click.UsageError, match=f"--hosts-dir: {path} is no directory"):
                access(address, path)
        assert access("tcp://10.0.0.1:7000", path).hosts_dir == str(path)
    assert access(hosts_dir=tmp_path).hosts_dir == str(tmp_path)


# --- credentials


def challenge() -> transfer.Challenge:
    return transfer.Challenge("r.test", "r.test/x:1")


def kept(monkeypatch: pytest.MonkeyPatch, folder: Path, config: str) -> Any:
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    (folder / "config.json").write_text(config)
    return moves.Access().registry("r.test/x:1", progress_bars.Silent()).ask


@pytest.mark.parametrize(
    ("config", "reason"),
    [("{", "cannot be read as Docker's configuration"), ('{"credsStore": "of-nobody"}', "docker-credential-of-nobody")],
)
def test_broken_credentials_are_told_of_once(
    config: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = kept(monkeypatch, tmp_path, config)
    assert [ask(challenge()), ask(challenge())] == [None, None]
    [told] = capsys.readouterr().err.splitlines()
    assert reason in told


def test_of_good_credentials_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    auth = base64.b64encode(b"me:secret").decode()
    ask = kept(monkeypatch, tmp_path, json.dumps({"auths": {"r.test": {"auth": auth}}}))
    assert ask(challenge()) == transfer.Credentials("me", "secret")
    assert capsys.readouterr() == ("", "")


# --- where an archive goes


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for name in ("fifo", "link"):
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append((tmp_path / "fifo").read_bytes()), daemon=True)  # noqa: B023
        reader.start()
        with archives._output(tmp_path / name) as file:
            file.write(b"archive")
        reader.join(20)
        assert read == [b"archive"]
        assert (tmp_path / "fifo").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link"]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_file_stays_one(tmp_path: Path, there: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    if there:
        (tmp_path / "folder/file").write_bytes(b"old")
    with archives._output(tmp_path / "link") as file:
        file.write(b"archive")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder/file").read_bytes() == b"archive"
    assert os.listdir(tmp_path / "folder") == ["file"]


def test_a_reader_that_goes_is_told_with_the_path(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    end = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with (
        pytest.raises(Failure, match=r"/fifo cannot be written: Broken pipe"),
        archives._output(tmp_path / "fifo") as to,
    ):
        os.close(end)
        to.write(b"archive")


def test_a_file_is_as_it_was_when_the_archive_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(KeyError), archives._output(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyError
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_full_disk_at_the_standard_output_gets_a_sentence(size: int) -> None:
    code = f"""
import click
from corten.commands import archives

@click.command()
def main():
    with archives._output(None) as file:
        file.write(bytes({size}))

main()
"""
    line = ["/bin/sh", "-c", '"$@" > /dev/full', "sh", sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "Error: the archive cannot be written: No space left on device\n")


# --- bars


def test_a_layer_that_waits_is_of_no_size_yet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bars.Bars() as bars:
        bars.tell(Progress("waiting", "l", (), 0, 0, Descriptor(oci.LAYER, "sha256:00000000000011", 10_000)))
    shown = capsys.readouterr().err
    assert "waiting" in shown
    assert "/100" not in shown


def test_the_rate_of_what_is_done_stays() -> None:
    now = 2.0
    task = Task(TaskID(0), "", 1000, 1000, lambda: now, finished_time=2.0)
    task.start_time = 0.0
    rate = progress_bars._rate()
    assert str(rate.render(task)) == "500 B/s"
    now = 100.0
    assert str(rate.render(task)) == "500 B/s"
