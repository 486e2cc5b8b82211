"""The plugin of docs/writing-a-plugin.md works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import daemons
from scripts import images

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]
FILE = re.compile(r"`([a-z_/]+\.(?:py|toml))`:\n\n```(?:python|toml)\n(.*?)```\n", re.DOTALL)
TABLE = re.compile(r"```toml\n(\[plugins.*?)```\n", re.DOTALL)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, and what pip would make of its pyproject.toml."""
    folder = tmp_path_factory.mktemp("package")
    page = (ROOT / "docs" / "writing-a-plugin.md").read_text()
    for name, text in FILE.findall(page):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "plugins.toml").write_text(TABLE.findall(page)[0])
    install(folder)
    return folder


def install(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    for group, points in project["entry-points"].items():
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


def path_of(package: Path) -> str:
    return f"{package}{os.pathsep}{ROOT}"


def test_it_passes_the_suite(package: Path) -> None:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "test_copies.py"]
    done = subprocess.run(
        line, cwd=package, env={**os.environ, "PYTHONPATH": path_of(package)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture
def daemon(scratch: Path, package: Path) -> Iterator[daemons.Daemon]:
    directory = scratch / "w"
    made = daemons.Daemon("corten", directory, str(directory / "c.sock"), [], daemons._marked())
    places = ["--root", str(made.root), "--state", str(made.state), "--address", made.address]
    made.command = [sys.executable, "-m", "kernel", "--config", str(package / "plugins.toml"), *places]
    made.environment["PYTHONPATH"] = path_of(package)
    made.start()
    yield made
    made.stop()


def test_a_container_runs_on_it(daemon: daemons.Daemon, busybox: Path) -> None:
    shown = daemon.ctr("plugins", "ls", "id==copies", check=True).stdout.decode().split()
    assert shown[-4:] == ["io.containerd.snapshotter.v1", "copies", "linux/amd64", "ok"]
    daemon.ctr("images", "import", "--snapshotter", "copies", str(busybox), check=True)
    run = ["run", "--rm", "--snapshotter", "copies", images.BUSYBOX, "a", "echo", "hi"]
    assert daemon.ctr(*run, check=True).stdout == b"hi\n"


def test_the_commands_work(daemon: daemons.Daemon, busybox: Path) -> None:
    [commands] = re.findall(r"```sh\n(.*?)```\n", (ROOT / "docs" / "writing-a-plugin.md").read_text(), re.DOTALL)
    environment = {**os.environ, "CONTAINERD_ADDRESS": daemon.address}
    done = subprocess.run(
        ["sh", "-ec", commands], cwd=busybox.parent, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "\nhello\n" in done.stdout
    assert done.stdout.rstrip().endswith("Committed")
