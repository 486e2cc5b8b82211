"""The commands of the README, as a person types them."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import daemons
from tests import pace

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ("demo", "test", "bench", "peer", "prepare")
prepared = pytest.mark.skipif(
    not (ROOT / ".venv/corten-installed").exists(), reason="would install Corten: run by sh scripts/test"
)


@pytest.fixture
def own_tmp() -> Iterator[dict[str, str]]:
    """An environment whose TMPDIR must be empty and unmounted at the end."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield {**os.environ, "TMPDIR": folder}
        assert os.listdir(folder) == []
        assert daemons.mounts_below(Path(folder)) == []


def script(name: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    line = ["sh", str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd="/", env=environment, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_posix_shell(name: str) -> None:
    subprocess.run(["dash", "-n", ROOT / "scripts" / name], check=True)


def test_ci_runs_the_tests() -> None:
    assert "scripts/test" in (ROOT / ".ci/run").read_text()


@prepared
@pytest.mark.root
@pytest.mark.engine
def test_the_demo_shows_a_container(own_tmp: dict[str, str]) -> None:
    done = script("demo", environment=own_tmp)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Hello from a container under Corten.\nMy PID is 1, my hostname ")
    assert "\noverlay / overlay " in done.stdout
    assert "the container ended with exit code 0" in done.stderr


@prepared
@pytest.mark.root
@pytest.mark.engine
def test_the_demo_runs_a_command_and_passes_its_exit_code_on(own_tmp: dict[str, str]) -> None:
    done = script("demo", "/bin/sh", "-c", "echo out; echo err >&2; exit 7", environment=own_tmp)
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "err\n" in done.stderr


@prepared
@pytest.mark.root
@pytest.mark.engine
def test_the_demo_is_stopped_by_ctrl_c(own_tmp: dict[str, str]) -> None:
    line = ["sh", str(ROOT / "scripts/demo"), "/bin/sh", "-c", "echo started; sleep 600; echo not reached"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, env=own_tmp, start_new_session=True) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == b"started\n"
        begin = time.monotonic()
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(120) == 130
        assert demo.stdout.read() == b""
    assert pace.within(time.monotonic() - begin, 20)


@pytest.mark.root
@pytest.mark.parametrize("name", ["demo", "test", "bench"])
def test_who_is_not_root_is_told_in_one_line(name: str) -> None:
    arguments = ["start"] if name == "bench" else []
    line = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "sh",
        str(ROOT / "scripts" / name),
        *arguments,
    ]
    if subprocess.run([*line[:4], "test", "-r", line[5]], check=False).returncode:
        pytest.skip("the checkout cannot be read by others")
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"{name}: must run as root: containers need mounts and linux namespaces\n"


def test_an_unknown_benchmark_is_named() -> None:
    done = script("bench", "nonsense")
    assert done.returncode == 1
    assert done.stderr.startswith("bench: names no benchmark: nonsense (there are: ")
    assert "start" in done.stderr and done.stderr.count("\n") == 1


def test_a_suite_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = script("peer", "nonsense", str(tmp_path / "x"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "could not fetch containerd of nonsense" in done.stderr


def test_without_a_new_enough_python_it_says_so(tmp_path: Path) -> None:
    lines = [f'root={tmp_path}; . "{ROOT}/scripts/prepare"', "python_is_new() { return 1; }", "find_python"]
    done = subprocess.run(["sh", "-euc", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs Python 3.11 or later, and found Python 3" in done.stderr and done.stderr.count("\n") == 1


def test_without_apt_the_missing_packages_are_named(tmp_path: Path) -> None:
    lines = [f'root={tmp_path}; . "{ROOT}/scripts/prepare"', "need_packages nonsense-one nonsense-two"]
    for name in ("sh", "printf", "sha256sum"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/bin/sh", "-euc", "\n".join(lines)], capture_output=True, text=True, env={"PATH": str(tmp_path)}
    )
    assert done.returncode == 1
    assert done.stderr.endswith("missing packages and no apt-get to install them: nonsense-one nonsense-two\n")


def test_a_package_that_does_not_exist_is_named_in_one_line(tmp_path: Path) -> None:
    fake = tmp_path / "apt-get"
    fake.write_text("#!/bin/sh\necho 'E: Unable to locate package nonsense' >&2\nexit 100\n")
    fake.chmod(0o755)
    lines = [
        f'root={tmp_path}; . "{ROOT}/scripts/prepare"',
        f"policy={tmp_path}/policy",
        "need_packages nonsense",
    ]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-euc", "\n".join(lines)], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.endswith("apt-get could not install nonsense: E: Unable to locate package nonsense\n")
    assert not (tmp_path / "policy").exists()
