"""``corten plugin new``: what it writes passes its tests, installs, and serves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from plugin_sdk.conformance.program import Program
from tests import programs

ROOT = programs.ROOT
KINDS = {"snapshotter": "snapshot", "content": "content", "differ": "diff"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def new(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "corten.cli", "plugin", "new", *arguments]
    return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def made(kind: str, name: str, directory: Path) -> Path:
    done = new(kind, name, "--directory", str(directory))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{directory / name}: a package that works; next: cd {directory / name} && python -m pytest\n"
    return directory / name


@pytest.mark.root
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", KINDS)
def test_a_package_passes_its_tests_as_it_is(kind: str, scratch: Path) -> None:
    package = made(kind, f"my-{kind}", scratch / "new")
    (scratch / "t").mkdir(exist_ok=True)
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**ENVIRONMENT, "TMPDIR": str(scratch / "t")}
    done = subprocess.run(line, cwd=package, env=environment, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    tidy = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", "--select=E,F,W,I,B,UP,SIM", "."]
    done = subprocess.run(tidy, cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_says_how_it_is_declared_and_run(kind: str, tmp_path: Path) -> None:
    package = made(kind, "stars", tmp_path)
    table = tomllib.loads((package / "plugins.toml").read_text())["proxy_plugins"]["stars"]
    assert table == {"type": KINDS[kind], "address": "/run/stars/plugin.sock", "command": ["stars-plugin"]}
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"stars-plugin": "stars.__main__:main"}
    assert project["entry-points"] == {"corten.plugins": {"stars": "stars"}}
    files = [path for path in package.rglob("*") if path.is_file()]
    assert not [path for path in files if "$" in path.read_text() or path.suffix == ".tmpl"]
    named = [line.split("`")[1] for line in (package / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert len(named) == 5
    assert all((package / name).is_file() for name in named)


@pytest.mark.parametrize(
    "name", ["Stars", "my_stars", "-x", "x-", "a--b", "", "ä", "json", "class", "kernel", "x" * 41]
)
def test_a_name_that_cannot_be_is_one_sentence(name: str, tmp_path: Path) -> None:
    done = new("content", "--directory", str(tmp_path), "--", name)
    assert done.returncode == 1
    assert done.stderr.startswith(f'Error: name "{name}": ')
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "stars").mkdir()
    done = new("differ", "stars", "--directory", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, f"Error: {tmp_path}/stars is there already\n")
    assert list((tmp_path / "stars").iterdir()) == []


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = new("differ", "stars", "--directory", str(tmp_path / "file"))
    assert (done.returncode, done.stderr) == (1, f"Error: {tmp_path}/file/stars cannot be made: Not a directory\n")


@pytest.fixture(scope="module")
def virtualenv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second virtual environment, which finds this checkout and what it needs by a .pth file: nothing is fetched."""
    folder = Path(tmp_path_factory.mktemp("second") / "venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "first.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return folder


@pytest.mark.root
def test_a_package_is_installed_in_a_second_environment_and_serves_from_there(virtualenv: Path, scratch: Path) -> None:
    package = made("snapshotter", "far-stars", scratch / "installed")
    pip = [str(virtualenv / "bin/python"), "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*pip, "--no-index", str(package)], env=clean, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(package)
    command = [str(virtualenv / "bin/far-stars-plugin"), "--root", str(scratch / "far")]
    with Program(command, virtualenv) as program:
        assert program.describe().version == "0.1.0"
        assert program.describe().exports == {"root": str(scratch / "far")}
        # all checks have run where its own tests did
        line = [sys.executable, "-m", "corten.cli", "plugin", "check", program.address, "--only", "commit"]
        checked = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=1400)
        assert checked.returncode == 0, checked.stdout
        assert program.stop() == 0
