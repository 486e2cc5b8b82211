"""docs/writing-a-plugin.md: every file is written, every command run, in the order of the page.

Only three directories have other names here: /opt/plugins, /run/plugins and /var/lib.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import daemons
from scripts import images
from tests import pace

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-a-plugin.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
SECTION_NAMES = ("A snapshotter", "A content store", "A differ", "Inside of the daemon")
PART = re.compile(r"(?:`([a-z_]+\.(?:py|toml))`:?\n\n)?^```(python|toml|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LONGEST = 60  # lines of an example
MODEL = "example.test/model:1"
MEDIA_TYPE, TITLE = "application/vnd.example.file.v1", "org.opencontainers.image.title"


@dataclass(frozen=True, slots=True)
class Part:
    """A block of the page; ``file`` is its name if it has one."""

    file: str
    language: str
    text: str


def parts(section: str) -> list[Part]:
    return [Part(*found.groups("")) for found in PART.finditer(SECTIONS[section])]


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who follows the page, in a directory and a virtual environment of their own."""

    folder: Path
    python: Path
    daemon: daemons.Daemon

    def place(self, text: str) -> str:
        moved = {"/opt/plugins": "opt", "/run/plugins": "run", "/var/lib": "lib"}
        for path, name in moved.items():
            text = text.replace(path, str(self.folder / name))
        return text

    @property
    def work(self) -> Path:
        return self.folder / "opt"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.daemon.environment,
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "CORTEN_ADDRESS": self.daemon.address,
            "CONTAINERD_ADDRESS": self.daemon.address,
            "TMPDIR": str(self.folder / "tmp"),
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_QUIET": "1",
        }

    def write(self, file: str, text: str) -> None:
        (self.work / file).write_text(self.place(text))

    def run(self, commands: str) -> str:
        """Standard output. Every command must succeed."""
        done = subprocess.run(
            ["sh", "-ec", self.place(commands)],
            cwd=self.work,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{commands}{done.stdout[-3000:]}{done.stderr[-3000:]}\n{self.log()}"
        return done.stdout

    def log(self) -> str:
        return self.daemon.log.read_text()[-3000:] if self.daemon.log.exists() else ""

    def wait_until_ok(self, kind: str, name: str) -> None:
        """The page says two seconds."""
        begun = time.monotonic()
        while f"{kind} {name} " not in " ".join(self.run("corten plugins").split()) or not self.is_ok(name):
            assert pace.within(time.monotonic() - begun, 2), f"{self.run('corten plugins')}\n{self.log()}"
            time.sleep(0.1)

    def is_ok(self, name: str) -> bool:
        rows = [line.split() for line in self.run("corten plugins").splitlines()]
        return any(row[1] == name and row[3] == "ok" for row in rows)


@pytest.fixture(scope="module")
def virtualenv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip makes of ``corten[check]``, without fetching anything: this checkout by a .pth, and the command."""
    folder = Path(tmp_path_factory.mktemp("env") / "venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "first.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    python = folder / "bin" / "python3"
    (folder / "bin" / "corten").write_text(f'#!/bin/sh\nexec {python} -m corten.cli "$@"\n')
    (folder / "bin" / "corten").chmod(0o755)
    return python


@pytest.fixture
def reader(scratch: Path, virtualenv: Path, busybox: Path, request: pytest.FixtureRequest) -> Iterator[Reader]:
    folder = scratch / f"w{len(list(scratch.iterdir()))}"
    for name in ("opt", "tmp"):
        (folder / name).mkdir(parents=True)
    os.symlink(busybox, folder / "opt" / "busybox.tar")
    environment = {name: text for name, text in daemons._marked().items() if name != "PYTHONPATH"}
    config = folder / "plugins.toml"
    config.write_text("")
    directory = folder / "d"
    daemon = daemons.Daemon("corten", directory, str(directory / "c.sock"), [], environment)
    places = ["--root", str(daemon.root), "--state", str(daemon.state), "--address", daemon.address]
    daemon.command = [str(virtualenv), "-m", "kernel", "--config", str(config), *places]
    made = Reader(folder, virtualenv, daemon)
    daemon.environment = made.environment
    try:
        yield made
    finally:
        daemon.stop()
    assert not daemon.leftovers()


@contextlib.contextmanager
def following(reader: Reader, section: str) -> Iterator[list[Part]]:
    """Writes the section's files; answers its other blocks, in order."""
    found = parts(section)
    for part in found:
        if part.file:
            reader.write(part.file, part.text)
    yield [part for part in found if not part.file]


def test_each_example_is_short_and_can_be_read() -> None:
    examples = {part.file: part.text for section in SECTION_NAMES for part in parts(section) if part.file}
    assert len(examples) == 8
    assert {name: text for name, text in examples.items() if text.count("\n") > LONGEST} == {}
    for name, text in examples.items():
        if name.endswith(".py"):
            ast.parse(text)


def test_the_page_names_what_there_is() -> None:
    table = re.findall(r"`((?:snapshots|content|diff)\.\w+Suite)`", PAGE)
    assert table == ["snapshots.SnapshotSuite", "content.ContentSuite", "diff.DiffSuite"]
    for name in table:
        module, _, suite = name.partition(".")
        assert f"class {suite}" in (ROOT / "plugin_sdk" / "conformance" / f"{module}.py").read_text()


def test_a_snapshotter(reader: Reader) -> None:
    with following(reader, "A snapshotter") as (tests, table, use, check):
        assert "passed" in reader.run(tests.text)
        reader.daemon.start()
        with (reader.folder / "plugins.toml").open("a") as file:
            file.write(reader.place(table.text))
        reader.wait_until_ok("io.containerd.snapshotter.v1", "copies")
        said = reader.run(use.text)
        assert "\nhello\n" in said
        assert said.rstrip().endswith("Committed")
        assert "passed" in reader.run(check.text)
        assert list((reader.folder / "lib" / "copies" / "snapshots").iterdir())


@pytest.mark.timeout(1500)
def test_a_content_store(reader: Reader) -> None:
    with following(reader, "A content store") as (tests, table, use):
        assert "passed" in reader.run(tests.text)
        (reader.folder / "plugins.toml").write_text(reader.place(table.text))
        reader.daemon.start()
        said = reader.run(use.text)
        assert "\nhello\n" in said
        kept = {path.name for path in (reader.folder / "lib" / "packed" / "blobs").iterdir()}
        assert kept == set(re.findall(r"^(sha256:\w+)", said, re.MULTILINE))
        assert len(kept) >= 3


def test_a_differ(reader: Reader) -> None:
    with following(reader, "A differ") as (tests, table, use):
        assert "passed" in reader.run(tests.text)
        write_model(reader.work / "model.tar")
        reader.daemon.start()
        with (reader.folder / "plugins.toml").open("a") as file:
            file.write(reader.place(table.text))
        reader.wait_until_ok("io.containerd.differ.v1", "files")
        assert reader.run(use.text).endswith("weights of a model\n")


def write_model(path: Path) -> None:
    """An image of busybox and a layer that is a file."""
    files = images.oci_files([images.busybox_layer(), b"weights of a model\n"], MODEL, "none")
    index = json.loads(files["index.json"])
    [entry] = index["manifests"]
    manifest = json.loads(files.pop(blob(entry["digest"])))
    manifest["layers"][1] |= {"mediaType": MEDIA_TYPE, "annotations": {TITLE: "model.bin"}}
    text = json.dumps(manifest).encode()
    entry |= {"digest": images.digest(text), "size": len(text)}
    images.write_archive(path, {**files, "index.json": json.dumps(index).encode(), blob(entry["digest"]): text})


def blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def test_inside_of_the_daemon(reader: Reader) -> None:
    for part in parts("A snapshotter"):
        if part.file:
            reader.write(part.file, part.text)
    with following(reader, "Inside of the daemon") as (install, table, use):
        reader.run(install.text)
        (reader.folder / "plugins.toml").write_text(table.text)
        reader.daemon.start()
        said = reader.run(use.text)
        assert re.search(r"^io\.containerd\.snapshotter\.v1 +copies .* ok$", said, re.MULTILINE)
        assert "\nhello\n" in said
        reader.run("python3 -m pip uninstall --yes corten-copies")


def test_what_a_snapshot_is_for(reader: Reader) -> None:
    """The function of the page, in a program of its own: ``corten`` says what it unpacks."""
    [function] = [part.text for part in parts("What to know")]
    [copies] = [part.text for part in parts("A snapshotter") if part.file == "copies.py"]
    reader.write("copies.py", copies)
    reader.write("telling.py", function + TELLING)
    (reader.folder / "plugins.toml").write_text(reader.place(TELLING_TABLE))
    reader.daemon.start()
    reader.run("corten images import --snapshotter telling busybox.tar")
    digest = images.digest(images.compress(images.busybox_layer(), "gzip"))
    assert f"{images.BUSYBOX}: {digest}\n" in reader.log()
    reader.run(f"ctr run --rm --snapshotter telling {images.BUSYBOX} hello /bin/true")
    assert "telling: a container\n" in reader.log()


TELLING = """
from copies import Copies
from plugin_sdk import serve


class Telling(Copies):
    def prepare(self, key, parent="", labels=None):
        print(prepared_for(labels, parent), flush=True)
        return super().prepare(key, parent, labels)


if __name__ == "__main__":
    serve.main("telling", snapshotter=lambda options: Telling(options.root))
"""
TELLING_TABLE = """
[proxy_plugins.telling]
type = "snapshot"
address = "/run/plugins/telling.sock"
command = ["python3", "/opt/plugins/telling.py", "--root", "/var/lib/telling"]
"""
