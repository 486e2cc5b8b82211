"""What is installed: a wheel is built from what is committed."""

import email
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("plugin_sdk", "kernel", "plugins_builtin", "proxy_plugins", "corten")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, source / package, ignore=LEFT_OUT)
    for name in ("pyproject.toml", "README.md", "plugins.toml"):
        if (PROJECT / name).exists():
            shutil.copy(PROJECT / name, source)
    build = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(source)], cwd=source, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(source.glob("corten-*.whl"))) as archive:
        yield archive


def test_the_wheel_has_these_names_at_the_top(wheel):
    top = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)


def test_every_module_is_in_the_wheel(wheel):
    modules = {str(path.relative_to(PROJECT)) for package in PACKAGES for path in (PROJECT / package).rglob("*.py")}
    assert modules <= set(wheel.namelist())


def test_the_files_that_code_reads_are_in_the_wheel(wheel):
    assert {"plugin_sdk/py.typed", "kernel/py.typed", "corten/py.typed"} <= set(wheel.namelist())
    protos = {str(path.relative_to(PROJECT)) for path in (PROJECT / "plugin_sdk").rglob("*.proto")}
    assert protos <= set(wheel.namelist())
    templates = {str(path.relative_to(PROJECT)) for path in (PROJECT / "corten").rglob("*.tmpl")}
    assert len(templates) > 10
    assert templates <= set(wheel.namelist())


def test_no_test_is_in_the_wheel(wheel):
    assert not [name for name in wheel.namelist() if Path(name).name.startswith("test_")]


def test_the_commands_exist(wheel):
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"cortend", "corten", "corten-btrfs"}
    for target in scripts.values():
        module, _, function = target.partition(":")
        text = wheel.read(f"{module.replace('.', '/')}.py").decode()
        assert f"def {function}(" in text


def test_the_requirements_are_those_of_the_project(wheel):
    name = next(name for name in wheel.namelist() if name.endswith("dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert metadata["Name"] == "corten"
    assert metadata["Requires-Python"] == declared["requires-python"]
    assert len([line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]) == len(
        declared["dependencies"]
    )
