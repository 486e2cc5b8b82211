"""Options of ``ctr`` beyond the common ones: other specs, other ways of input and output, namespaces to join."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from scripts import images
from tests.proxied import until
from tests.sides import Both, Side

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]
BUSYBOX = images.BUSYBOX
FAILED = [(r": (unknown|invalid argument)$", ": CODE"), ("failed to create shim task: ", "")]


def sh(script: str) -> tuple[str, str, str]:
    return ("/bin/sh", "-c", script)


@pytest.mark.parametrize(
    ("options", "script"),
    [
        (("--annotation", "a=b"), "true"),
        (("--cap-add", "CAP_SYS_ADMIN"), "grep Cap /proc/self/status"),
        (("--seccomp",), "grep Seccomp: /proc/self/status"),
        (("--cpu-shares", "512"), "true"),
        (("--device", "/dev/loop-control"), "ls -l /dev/loop-control | cut -c1-10"),
        (("--rootfs-propagation", "shared"), "grep ' / ' /proc/self/mountinfo | grep -c shared"),
        (("--no-pivot",), "cat /proc/mounts | wc -l"),
        (("--cgroup", ""), "cut -d: -f2 /proc/self/cgroup | sort"),
        (("--cgroup", "/zcgroup/@inner"), "grep memory /proc/self/cgroup"),
        (("--null-io",), "echo nowhere"),
        (("--platform", "linux/amd64"), "uname -m"),
        (("--snapshotter-label", "a=b"), "true"),
        (("--cpu-quota", "20000", "--cpu-period", "100000"), "true"),
        (("--privileged", "--net-host"), "ls /dev | wc -l; grep -c cgroup /proc/mounts"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value)[:30],
)
def test_run_takes_rarer_options(both: Both, options: tuple[str, ...], script: str) -> None:
    both.ctr("run", "--rm", *options, BUSYBOX, "@more", *sh(script), code=None, scrubs=FAILED)
    both.ctr("tasks", "ls")
    both.ctr("containers", "ls")


def test_the_environment_may_come_from_a_file(both: Both) -> None:
    def write(side: Side) -> None:
        (side.directory / "env").write_text("ONE=1\nTWO=two words\n")

    both.each(write)
    done = both.ctr("run", "--rm", "--env-file", "{dir}/env", BUSYBOX, "@env", *sh("env | sort"))
    assert "TWO=two words" in done.stdout


def test_a_directory_may_be_the_root(both: Both) -> None:
    def unpack(side: Side) -> None:
        (side.directory / "tree").mkdir()
        subprocess.run(["tar", "-x", "-C", side.directory / "tree"], input=images.busybox_layer(), check=True)

    both.each(unpack)
    done = both.ctr(
        "run", "--rm", "--rootfs", "{dir}/tree", "@tree", *sh("cat /etc/group; touch /made; exit 4"), code=4
    )
    assert done.stdout.startswith("root:x:0:")
    assert both.same(lambda side: (side.directory / "tree/made").exists())


def test_a_spec_may_come_from_a_file(both: Both) -> None:
    both.ctr("containers", "create", BUSYBOX, "@model", "/bin/true")
    both.each(lambda side: side.ctr("snapshots", "prepare", "@view", chain(side)))

    def write(side: Side) -> None:
        spec = json.loads(side.output("containers", "info", "--spec", "@model"))
        (side.directory / "own").mkdir(exist_ok=True)
        spec["root"] = {"path": str(side.directory / "tree")}
        spec["process"]["args"] = ["/bin/echo", "from a file"]
        (side.directory / "spec.json").write_text(json.dumps(spec))

    both.each(write)
    done = both.ctr("run", "--rm", "--config", "{dir}/spec.json", "@config")
    assert done.stdout == "from a file\n"
    both.ctr("snapshots", "rm", "@view")
    both.ctr("containers", "rm", "@model")


def chain(side: Side) -> str:
    return next(row.split()[0] for row in side.output("snapshots", "ls").splitlines() if row.startswith("sha256:"))


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_output_may_go_to_a_file(both: Both) -> None:
    line = ("run", "-d", "--log-uri", "file://{dir}/out.log", BUSYBOX, "@log", *sh("echo out; echo err >&2"))
    both.ctr(*line)
    both.each(lambda side: until(lambda: len(text(side.directory / "out.log").split()) > 1))
    both.ctr("tasks", "rm", "-f", "@log", code=None)
    both.ctr("containers", "rm", "@log")
    both.same(lambda side: sorted((side.directory / "out.log").read_text().split()))


def test_a_program_may_take_the_output(both: Both) -> None:
    def write(side: Side) -> None:
        logger = side.directory / "logger"
        logger.write_text(f"#!/bin/sh\nexec 5>&-\ncat <&3 >{side.directory}/taken\n")
        logger.chmod(0o755)

    both.each(write)
    both.ctr("run", "-d", "--log-uri", "binary://{dir}/logger", BUSYBOX, "@taken", *sh("echo out"))
    both.each(lambda side: until(lambda: text(side.directory / "taken")))
    both.ctr("tasks", "rm", "-f", "@taken", code=None)
    both.ctr("containers", "rm", "@taken")
    assert both.same(lambda side: (side.directory / "taken").read_text()) == "out\n"


def test_fifos_may_lie_elsewhere(both: Both) -> None:
    done = both.ctr("run", "--rm", "--fifo-dir", "{dir}/fifos", BUSYBOX, "@fifos", *sh("echo out"))
    assert done.stdout == "out\n"


def test_a_container_joins_the_network_of_another(both: Both) -> None:
    both.ctr("run", "-d", BUSYBOX, "@first", "/bin/sleep", "600")

    def joined(side: Side) -> bool:
        pid = side.output("tasks", "ls").split(side.resolve("@first"))[1].split()[0]
        line = (
            "run",
            "--rm",
            "--with-ns",
            f"network:/proc/{pid}/ns/net",
            BUSYBOX,
            "@second",
            *sh("readlink /proc/self/ns/net"),
        )
        return side.output(*line).strip() == str(Path(f"/proc/{pid}/ns/net").readlink())

    assert both.same(joined)


def test_metrics_are_shown(both: Both) -> None:
    both.ctr("run", "-d", BUSYBOX, "@metrics", "/bin/sleep", "600")

    def names(side: Side) -> list[str]:
        rows = side.normalise(side.output("tasks", "metrics", "@metrics")).splitlines()
        return [row.split()[0] for row in rows if row.strip()]

    both.same(names)


def test_a_container_is_checkpointed_alike_or_not_at_all(both: Both) -> None:
    both.ctr("run", "-d", BUSYBOX, "@checkpoint", "/bin/sleep", "600")
    for done in both.each(lambda side: side.ctr("tasks", "checkpoint", "@checkpoint")):
        assert done.returncode == 1
    both.ctr("tasks", "ls")


def test_images_are_converted(both: Both, fresh: str, archives: dict[str, Path]) -> None:
    both.ctr("images", "import", "--no-unpack", str(archives["docker"]), namespace=fresh)
    both.ctr(
        "images",
        "convert",
        "--oci",
        "--uncompress",
        "example.test/docker:1",
        "example.test/new:1",
        namespace=fresh,
        code=None,
    )
    both.ctr("images", "ls", namespace=fresh)


def test_two_images_are_exported_together(both: Both, fresh: str, archives: dict[str, Path]) -> None:
    for name in ("oci-gzip", "docker"):
        both.ctr("images", "import", "--no-unpack", str(archives[name]), namespace=fresh)
    names = ("example.test/oci-gzip:1", "example.test/docker:1")
    both.ctr("images", "export", "{dir}/two.tar", *names, namespace=fresh)
    both.ctr("images", "import", "--digests", "{dir}/two.tar", namespace=fresh + "-again")
    both.ctr("images", "ls", namespace=fresh + "-again")


def test_many_containers_at_once(both: Both) -> None:
    for number in range(8):
        both.ctr("run", "-d", BUSYBOX, f"@many-{number}", "/bin/sleep", "600")
    assert len(both.ctr("tasks", "ls", "-q").lines) == 8
    names = [f"@many-{number}" for number in range(8)]
    for name in names:
        both.ctr("tasks", "kill", "-s", "KILL", name)
    both.each(lambda side: until(lambda: side.output("tasks", "ls").count("STOPPED") == 8))
    both.ctr("tasks", "rm", *names)
    both.ctr("containers", "rm", *names)
    assert both.ctr("containers", "ls", "-q").lines == []


def test_a_name_may_be_used_again(both: Both) -> None:
    for number in range(3):
        both.ctr("run", "--rm", BUSYBOX, "@again", *sh(f"exit {number}"), code=number)


def test_large_output_and_input_pass(both: Both) -> None:
    data = b"".join(b"%d\n" % number for number in range(200_000))
    both.ctr("run", "-d", BUSYBOX, "@large", "/bin/sleep", "600")
    line = ("tasks", "exec", "--exec-id", "e", "@large", *sh("cat | md5sum; seq 1 100000 | md5sum; seq 1 50000"))
    done = both.ctr(*line, stdin=data)
    assert done.lines[-1] == "50000"
