"""Edits of plugins.toml while the daemon runs: they take effect, or they change nothing and are shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plugin_sdk import errors
from tests import proxied
from tests.proxied import RATE, Host, calling, until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def host(scratch: Path) -> Iterator[Host]:
    with proxied.hosting(scratch / "e") as host:
        yield host


def cortend(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kernel", "--config", str(host.file), "config", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


# --- what takes effect


def test_a_changed_command_drops_no_call(host: Host) -> None:
    host.moody("changes", grace="15s")
    host.wait_for("changes")
    with calling(host, "changes") as caller:
        old = host.pid("changes")
        host.moody("changes", "--says", '{"version": "2.0"}', grace="15s")
        until(lambda: host.said("changes: is ok, version 2.0"))
        assert host.pid("changes") != old
        time.sleep(0.5)
        answers = caller.stop()
    assert proxied.kept(host, "changes", answers) > RATE / 3
    assert not Path(f"/proc/{old}").exists()
    host.withdraw("changes")


def test_a_changed_address_drops_no_call(host: Host) -> None:
    host.moody("moves", grace="15s")
    host.wait_for("moves")
    with calling(host, "moves") as caller:
        old, moved = host.socket("moves"), host.socket("moved")
        command = host.command("moves")
        host.write("moves", proxied.table("moves", type="snapshot", address=moved, command=command, grace="15s"))
        until(lambda: os.path.exists(moved) and not os.path.exists(old))
        host.wait_for("moves")
        time.sleep(0.5)
        answers = caller.stop()
    assert [answer for answer in answers if "error" in answer] == []
    host.withdraw("moves")


def test_soft_keys_change_without_another_program(host: Host) -> None:
    host.moody("soft", "--plain", timeout="0.3s", exports='{ root = "/nowhere" }')
    host.wait_for("soft")
    pid = host.pid("soft")
    snapshotter = host.snapshotter("soft")
    with pytest.raises(errors.Internal, match="outside of its root '/nowhere'"):
        snapshotter.prepare("key")
    host.moody("soft", "--plain", timeout="0.3s", exports=f'{{ root = "{host.root("soft")}" }}')
    until(lambda: host.info("soft").exports.get("root") == str(host.root("soft")), 2)  # type: ignore[union-attr]
    snapshotter.prepare("key")
    host.order("soft", Mounts={"hold": 0.6})
    with pytest.raises(errors.DeadlineExceeded, match=r'snapshotter "soft" has not answered Mounts within 0.3 s'):
        snapshotter.mounts("key")
    host.moody("soft", "--plain", timeout="5s", grace="0s")
    until(lambda: host.info("soft").exports == {}, 2)  # type: ignore[union-attr]
    assert len(snapshotter.mounts("key")) == 1
    assert host.pid("soft") == pid
    host.kill("soft")
    host.wait_for("soft", "backoff")
    with pytest.raises(errors.Unavailable, match='snapshotter "soft" is backoff'):
        snapshotter.prepare("another")
    host.wait_for("soft")
    host.withdraw("soft")


def test_what_a_program_says_of_itself_stays_true_after_an_edit_of_soft_keys(host: Host) -> None:
    says = '{"version": "7.1", "capabilities": ["remap-ids"], "platforms": ["linux/arm64"]}'
    host.moody("says", "--says", says)
    before = host.wait_for("says")
    assert before.capabilities == ("remap-ids",)
    assert before.platforms == ("linux/arm64",)
    assert before.exports == {"root": str(host.root("says"))}
    host.moody("says", "--says", says, exports='{ color = "blue" }', timeout="7s")
    after = until(lambda: (info := host.info("says")) and "color" in info.exports and info, 2)
    assert after.exports == {"root": str(host.root("says")), "color": "blue"}
    assert (after.capabilities, after.platforms) == (before.capabilities, before.platforms)
    host.withdraw("says")


def test_a_changed_type_is_another_plugin(host: Host) -> None:
    host.moody("turns")
    host.wait_for("turns")
    host.declare("turns", "diff", command=host.command("turns"))
    told = host.wait_for("turns", "refused")
    assert told.kind == proxied.KINDS["diff"]
    assert "its table says type 'diff', and it serves io.containerd.snapshotter.v1" in told.error
    host.withdraw("turns")
    host.wait_for("turns", "")


def test_a_file_that_is_written_in_place_counts_when_it_is_whole(host: Host) -> None:
    path = host.conf / "slowly.toml"
    with path.open("w") as file:
        for line in proxied.table("slowly", type="snapshot", address=host.socket("slowly")).splitlines():
            file.write(line + "\n")
            file.flush()
            time.sleep(0.03)
    assert host.wait_for("slowly", "backoff", timeout=2).kind == proxied.KINDS["snapshot"]
    assert not host.refused_edit()
    path.unlink()
    host.wait_for("slowly", "", timeout=2)


def test_a_signal_lets_it_read_what_it_does_not_watch(host: Host) -> None:
    later = host.conf.parent / "later"
    later.mkdir()
    (later / "signalled.toml").write_text(proxied.table("signalled", type="diff", address=host.socket("signalled")))
    time.sleep(0.5)
    assert host.info("signalled") is None
    os.kill(host.daemon.pid, signal.SIGHUP)
    assert host.wait_for("signalled", "backoff", timeout=2).kind == proxied.KINDS["diff"]
    (later / "signalled.toml").unlink()
    host.wait_for("signalled", "", timeout=2)


def test_what_needs_another_start_is_said(host: Host) -> None:
    text = host.file.read_text()
    host.file.write_text(text + "oom_score = 7\n")
    [line] = until(lambda: host.said("'oom_score' takes effect when the daemon is started again"), 3)
    assert f"{host.file}:{len(text.splitlines()) + 1}: " in line
    host.file.write_text(text)


# --- what changes nothing


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[proxy_plugins.wrong]\ntype = "snap"\naddress = "/x"\n', 2, "did you mean 'snapshot'?"),
        ('[proxy_plugins.wrong]\ntype = "snapshot"\naddress = "/x"\ntimout = "3s"\n', 4, "did you mean 'timeout'?"),
        ("[proxy_plugins.wrong\n", 1, "Expected ']'"),
    ],
)
def test_an_edit_with_a_mistake_changes_nothing_and_is_shown(host: Host, text: str, line: int, reason: str) -> None:
    host.declare("stays", timeout="7s")
    host.wait_for("stays", "backoff")
    host.write("wrong", text)
    host.withdraw("stays")
    told = until(host.refused_edit, 3)
    assert told.startswith("the last edit is refused and changes nothing: ")
    for said in (told, host.said("the configuration stays as it is: ")[-1], host.plugins()):
        assert f"{host.conf}/wrong.toml:{line}: " in said
        assert reason in said
    assert "corten.configuration    " in host.plugins()
    assert host.state("stays") == "backoff"
    assert host.info("wrong") is None
    checked = cortend(host, "check")
    assert checked.returncode == 1
    assert f"{host.conf}/wrong.toml:{line}: " in checked.stderr
    host.withdraw("wrong")
    until(lambda: not host.refused_edit(), 3)
    host.wait_for("stays", "", timeout=2)


# --- the command


def test_config_dump_prints_the_tables_and_check_accepts_them(host: Host) -> None:
    host.declare("dumped", grace="1m30s", exports='{ root = "/srv" }', command=["/opt/dumped", "--root", "/srv"])
    assert cortend(host, "check").stdout == "the configuration can be used\n"
    text = cortend(host, "dump").stdout
    assert "[proxy_plugins.dumped]" in text
    assert 'grace = "90s"' in text
    assert 'command = ["/opt/dumped", "--root", "/srv"]' in text
    assert "[proxy_plugins.dumped.exports]" in text
    (host.conf / "dumped.toml").write_text(text)
    assert cortend(host, "dump").stdout == text
    host.withdraw("dumped")


def test_config_default_declares_no_plugin_and_shows_how(host: Host) -> None:
    text = cortend(host, "default").stdout
    assert tomllib.loads(text)["proxy_plugins"] == {}
    assert "# [proxy_plugins.btrfs]" in text


def test_calls_that_wait_for_a_program_that_cannot_be_run_go_on_when_its_command_is_corrected(host: Host) -> None:
    host.declare("typo", command=["/none"], grace="20s")
    host.wait_for("typo", "backoff")
    with ThreadPoolExecutor(40) as threads:
        waiting = [threads.submit(host.snapshotter("typo").prepare, f"key-{number}") for number in range(40)]
        until(lambda: b"default" in host.daemon.ctr("namespaces", "ls").stdout)
        time.sleep(0.3)
        host.moody("typo", grace="20s")
        host.wait_for("typo")
        assert all(each.result(120) for each in waiting)
    assert len(host.held("typo")) == 40
    host.withdraw("typo")
