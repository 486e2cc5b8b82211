"""The main lines with ctr of containerd 1.7, against Corten and against containerd 1.7 itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts import images
from tests import terminal
from tests.sides import Both, Side

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
BUSYBOX = images.BUSYBOX
VERSIONS = [(r"(?m)^  (Version|Revision): .*", r"  \1: V"), (r"WARNING: (version|revision) mismatch\n", "")]


def test_it_is_another_ctr(later: Both) -> None:
    assert "1.7" in later.corten.output("--version")


def test_version(later: Both) -> None:
    assert "UUID: UUID" in later.ctr("version", scrubs=VERSIONS).stdout


@pytest.mark.parametrize("kind", ["io.containerd.content.v1", "io.containerd.snapshotter.v1"])
def test_plugins(later: Both, kind: str) -> None:
    later.ctr("plugins", "ls", f"type=={kind}")
    later.ctr("plugins", "ls", "-q", f"type=={kind}")


def test_run(later: Both) -> None:
    mark = later.mark()
    done = later.ctr("run", "--rm", BUSYBOX, "@run", "/bin/sh", "-c", "echo out; echo err >&2; exit 3", code=3)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    topics = later.same_events(mark, last=("/tasks/delete", "@run"))
    assert topics.count("/tasks/exit") == 1


@pytest.mark.parametrize(
    ("options", "script"),
    [
        (("--read-only",), "touch /x"),
        (("--env", "A=b", "--cwd", "/tmp"), "echo $A; pwd"),
        (("--mount", "type=tmpfs,src=tmpfs,dst=/tmp,options=size=64k"), "df /tmp | tail -n 1"),
        (("--net-host",), "readlink /proc/self/ns/net"),
        (("--user", "65534:65534"), "id -u; echo x > /dev/stdout"),
        (("--hostname", "changed"), "hostname"),
        ((), "grep -E 'Cap|NoNew|Seccomp' /proc/self/status; cat /proc/mounts | cut -d' ' -f2-3"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value)[:20],
)
def test_run_takes_its_options(later: Both, options: tuple[str, ...], script: str) -> None:
    later.ctr("run", "--rm", *options, BUSYBOX, "@options", "/bin/sh", "-c", script, code=None)


def test_run_has_a_terminal(later: Both) -> None:
    line = ("run", "--rm", "-t", BUSYBOX, "@tty", "/bin/sh", "-c", "sleep 0.5; stty size; read x; echo got $x; exit 4")
    code, shown = later.same(lambda side: terminal.run(side.argv(*line), [("100", "word\n")]))
    assert code == 4 and "got word" in shown


def test_exec(later: Both) -> None:
    later.ctr("run", "-d", BUSYBOX, "@exec", "/bin/sleep", "600")
    mark = later.mark()
    line = ("tasks", "exec", "--exec-id", "e1", "--user", "65534", "@exec", "/bin/sh", "-c", "id -u; exit 5")
    assert later.ctr(*line, code=5).stdout == "65534\n"
    later.same_events(mark, last=("/tasks/exit", "@exec"))
    later.ctr("tasks", "ls")
    later.ctr("tasks", "kill", "-s", "KILL", "@exec")


@pytest.mark.parametrize("name", ["oci-gzip", "oci-zstd", "docker"])
def test_import_and_export(later: Both, fresh: str, archives: dict[str, Path], name: str) -> None:
    later.ctr("images", "import", str(archives[name]), namespace=fresh, scrubs=PROGRESS)
    later.ctr("images", "ls", namespace=fresh)
    later.ctr("images", "check", namespace=fresh)
    later.ctr("content", "ls", namespace=fresh)
    later.ctr("snapshots", "ls", namespace=fresh)
    image = f"example.test/{name}:1"
    later.ctr("images", "export", "{dir}/" + f"{fresh}.tar", image, namespace=fresh, scrubs=PROGRESS)
    assert later.same(lambda side: names(side, f"{fresh}.tar"))


PROGRESS = [(r"elapsed: .*", "elapsed")]


def names(side: Side, archive: str) -> list[str]:
    path = side.resolve("{dir}/" + archive)
    return sorted(subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True).stdout.split())
