"""Parts of the command: advice, names, options, places, logs, keys, and lines of progress."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from corten.terminal import advice, foreground, logs, naming, options, places, progress_bars
from plugin_sdk import errors, oci
from plugin_sdk.oci import Descriptor
from plugin_sdk.transfer import Progress

# --- advice


@pytest.mark.parametrize(
    ("err", "words"),
    [
        (errors.Unavailable('"/run/x.sock" does not answer: No such file'), "cortend"),
        (errors.Unavailable('"/run/x.sock" does not answer: Permission denied'), "sudo"),
        (errors.NotFound('image "busybox": not found'), "corten pull busybox"),
        (errors.Unavailable("cannot resolve image r.test/x:1: r.test: its name cannot be resolved"), "--hosts-dir"),
        (errors.Unavailable("cannot resolve image r.test/x:1: r.test: certificate has expired"), "`ca = …`"),
        (errors.NotFound("cannot resolve image r.test/x:1: not found"), "Is the name right?"),
        (errors.AlreadyExists('container "web": already exists'), "corten rm web"),
        (errors.FailedPrecondition('container "web" is running'), "corten stop web"),
        (errors.Unauthenticated("registry r: 401"), "--user"),
        (errors.InvalidArgument("snapshotter not loaded: zfs"), "corten plugins"),
        (errors.Internal("whatever"), ""),
    ],
)
def test_an_error_says_what_to_do_next(err: errors.Error, words: str) -> None:
    said = advice.next_step(err)
    assert (words in said) if words else not said


# --- names


def test_names_are_shortened_and_made() -> None:
    assert naming.shortened("docker.io/library/busybox:latest") == "busybox:latest"
    assert naming.shortened("docker.io/team/web:1") == "team/web:1"
    assert naming.shortened("r.test/team/web:1") == "r.test/team/web:1"
    assert naming.for_container("r.test:5000/team/my_web:1@sha256:00").startswith("my-web-")
    assert naming.for_container("x") != naming.for_container("x")


# --- options


@pytest.mark.parametrize(
    ("text", "size"), [("5", 5), ("1k", 1024), ("512m", 512 << 20), ("1.5GiB", 3 << 29), ("2tb", 2 << 40)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert options.Size().convert(text, None, None) == size


@pytest.mark.parametrize(("text", "number"), [("TERM", 15), ("sigkill", 9), ("1", 1), ("usr1", 10)])
def test_signals_are_read(text: str, number: int) -> None:
    assert options.Signal().convert(text, None, None) == number


@pytest.mark.parametrize("text", ["", "0", "65", "SIGNOTHING", "-1"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no signal"):
        options.Signal().convert(text, None, None)


def test_a_pair_without_key_is_refused() -> None:
    assert options.pairs(("a=b=c", "d"), "x") == {"a": "b=c", "d": ""}
    with pytest.raises(click.UsageError, match="x must be KEY=VALUE"):
        options.pairs(("=b",), "x")


# --- places


def test_logs_lie_beside_the_socket_and_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORTEN_LOGS", raising=False)
    assert places.log(f"{tmp_path}/c.sock", "n", "a") == tmp_path / "corten-logs/n/a.log"
    assert places.logs("unix:///run/corten/corten.sock") == Path("/var/lib/corten-logs/corten")
    assert places.logs("/var/run/corten/corten.sock") == Path("/var/lib/corten-logs/corten")
    assert places.logs("tcp://10.0.0.1:7000") == Path("/var/lib/corten-logs/corten-remote")
    monkeypatch.setenv("CORTEN_LOGS", "/elsewhere")
    assert places.logs("/run/corten/corten.sock") == Path("/elsewhere")


def test_what_is_removed_leaves_no_empty_folder(tmp_path: Path) -> None:
    for id in "ab":
        log, fifos = places.log(f"{tmp_path}/c.sock", "n", id), places.fifos(f"{tmp_path}/c.sock", "n", id)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        fifos.mkdir(parents=True)
        os.mkfifo(fifos / "stdin")
    for id, left in (("a", ["corten-io", "corten-logs"]), ("b", [])):
        log, fifos = places.log(f"{tmp_path}/c.sock", "n", id), places.fifos(f"{tmp_path}/c.sock", "n", id)
        places.remove({places.LOG_LABEL: str(log), places.FIFO_LABEL: str(fifos)})
        assert sorted(os.listdir(tmp_path)) == left


# --- logs


@pytest.mark.parametrize(
    ("tail", "shown"),
    [
        (None, "one\ntwo\nthree\n"),
        (0, ""),
        (1, "three\n"),
        (2, "two\nthree\n"),
        (3, "one\ntwo\nthree\n"),
        (9, "one\ntwo\nthree\n"),
    ],
)
def test_a_log_is_shown_from_its_last_lines_on(
    tail: int | None, shown: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "log").write_text("one\ntwo\nthree\n")
    logs.show(tmp_path / "log", tail, None)
    assert capfdbinary.readouterr().out.decode() == shown


def test_a_last_line_without_end_is_a_line(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (tmp_path / "log").write_bytes(b"x" * 200_000 + b"\nprompt> ")
    logs.show(tmp_path / "log", 1, None)
    assert capfdbinary.readouterr().out == b"prompt> "
    logs.show(tmp_path / "log", 2, None)
    assert len(capfdbinary.readouterr().out) == 200_009


def test_a_log_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="none"):
        logs.show(tmp_path / "none", None, None)


# --- keys


@pytest.mark.parametrize(
    ("typed", "passed", "detached"),
    [
        ([b"ls\n"], b"ls\n", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"a\x10", b"\x11"], b"a", True),
        ([b"a\x10", b"b"], b"a\x10b", False),
        ([b"\x10", b"\x10\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_two_keys_detach_and_all_others_pass(typed: list[bytes], passed: bytes, detached: bool) -> None:
    keys = foreground.Keys()
    assert b"".join(map(keys.passed, typed)) == passed
    assert keys.detached is detached


# --- progress


def test_lines_tell_each_state_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress_bars.Lines()
    layer = Descriptor(oci.LAYER_GZIP, "sha256:0123456789abcdef", 10)
    index = Descriptor(oci.DOCKER_INDEX, "sha256:fedcba9876543210", 10)
    shown.tell(Progress("Resolving"))
    shown.tell(Progress("downloading", "index", (), 0, 10, index))
    for done in range(0, 11, 5):
        shown.tell(Progress("waiting" if not done else "downloading", "layer", (), done, 10, layer))
    shown.tell(Progress("complete", "layer", (), 10, 10, layer))
    assert capsys.readouterr().err.splitlines() == [
        "Resolving",
        "index fedcba987654: downloading",
        "layer 0123456789ab: downloading",
        "layer 0123456789ab: complete",
    ]


def test_bars_are_for_layers_and_large_things(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bars.Bars() as bars:
        bars.tell(
            Progress("downloading", "l", (), 5_000, 10_000, Descriptor(oci.LAYER, "sha256:00000000000011", 10_000))
        )
        bars.tell(Progress("downloading", "m", (), 400, 400, Descriptor(oci.MANIFEST, "sha256:0000000000002222", 400)))
        bars.tell(Progress("Pulling"))
    shown = capsys.readouterr().err
    assert "layer 000000000000" in shown
    assert "5.0/10.0 kB" in shown
    assert "/s" in shown
    assert "manifest" not in shown
