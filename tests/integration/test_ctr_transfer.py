"""Transfers that ctr of containerd 1.7 (``--local=false``) and of 2.x ask for, of Corten and of their own containerd.

containerd 1.7 serves Transfer too, but speaks HTTPS only and reads no folder of hosts: where a registry is needed, its
ctr is tried with Corten alone. That ctr passes few options on, and has images unpacked only for a platform that it
names. containerd ends an export before ctr has all of it, so that ctr exports by itself, to compare with.
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts import images
from tests import holdings, registry, registry_faults, registry_images
from tests.sides import Both, Outcome, Side

pytestmark = [pytest.mark.root, pytest.mark.engine, pytest.mark.peer]


@dataclass(frozen=True, slots=True)
class Pair:
    """Both daemons, by a ctr that has to be told to let them work with ``flags``."""

    both: Both
    flags: Sequence[str]
    pulls: Sequence[str]
    sides: Sequence[Side]

    @property
    def is_newest(self) -> bool:
        return len(self.sides) == 2

    def line(self, *line: str) -> tuple[str, ...]:
        """``images VERB …``"""
        more = {"pull": [*self.pulls, "--plain-http"], "push": ["--plain-http"]}.get(line[0], [])
        return ("images", line[0], *self.flags, *more, *line[1:])

    def run(self, side: Side, *line: str, namespace: str, code: int = 0) -> Outcome:
        done = side.outcome(side.ctr(*self.line(*line), namespace=namespace, timeout=180))
        assert done.code == code, f"{side.name}: {done.stderr}"
        return done

    def each(self, *line: str, namespace: str, code: int = 0) -> tuple[Outcome, Outcome]:
        """Runs it on both, for their exit code; answers (containerd's, Corten's)."""
        done: tuple[Outcome, Outcome] = self.both.each(
            lambda side: self.run(side, *line, namespace=namespace, code=code)
        )
        return done

    def fetch(self, *line: str, namespace: str, code: int = 0) -> Outcome:
        """The same with a registry, on those that can; answers Corten's."""
        if self.is_newest:
            return self.each(*line, namespace=namespace, code=code)[1]
        return self.run(self.both.corten, *line, namespace=namespace, code=code)

    def same(self, namespace: str) -> holdings.Holdings:
        """What both hold alike, and keep."""
        held: holdings.Holdings = self.both.same(lambda side: holdings.of(side, namespace).kept())
        return held

    def held(self, namespace: str) -> holdings.Holdings:
        """By Corten, and by all that have done the same alike."""
        held = [holdings.of(side, namespace) for side in self.sides]
        assert all(other == held[0] for other in held)
        return held[0]


@pytest.fixture(params=["1.7", "2.x"])
def pair(request: pytest.FixtureRequest) -> Pair:
    if request.param == "1.7":
        later = request.getfixturevalue("later")
        return Pair(later, ["--local=false"], ["--platform", "linux/amd64"], [later.corten])
    newest = request.getfixturevalue("newest")
    return Pair(newest, [], [], [newest.corten, newest.peer])


@pytest.fixture
def name(pair: Pair, request: pytest.FixtureRequest) -> str:
    """Of a repository that no other test uses."""
    return re.sub(r"\W+", "-", f"ctr-{request.node.name}".lower()).strip("-")


def test_pull(pair: Pair, registries: registry.Registries, fresh: str, name: str) -> None:
    plain, image = registries["plain"], registry_images.two_platforms(name, [images.busybox_layer()])
    registries.push(image, f"{name}:1")
    reference = plain.reference(f"{name}:1")
    told = pair.fetch("pull", reference, namespace=fresh)
    assert f"Pulling from OCI Registry ({reference})" in told.stdout
    assert f"{shown(reference)} fetching image content" in told.stdout
    held = pair.held(fresh)
    assert list(held.images) == [reference]
    assert len(held.snapshots) == 2
    assert (held.ingests, held.leases) == ([], [])
    line = ("run", "--rm", reference, "@pulled", "/bin/echo", "hello")
    assert pair.both.corten.output(*line, namespace=fresh) == "hello\n"


def test_what_has_been_pulled_is_shown_alike(
    newest: Both, registries: registry.Registries, fresh: str, layers: list[bytes]
) -> None:
    registries.push(registry_images.two_platforms("shown", layers), "shown:1")
    reference = registries["plain"].reference("shown:1")
    newest.each(lambda side: side.output("images", "pull", "--plain-http", reference, namespace=fresh))
    newest.ctr("images", "ls", namespace=fresh)
    newest.ctr("images", "check", namespace=fresh)
    assert newest.same(lambda side: holdings.tree(side, fresh, reference))


def test_pull_again_fetches_no_blob(pair: Pair, registries: registry.Registries, fresh: str, name: str) -> None:
    plain, image = registries["plain"], registry_images.simple(name)
    registries.push(image, f"{name}:1")
    pair.fetch("pull", plain.reference(f"{name}:1"), namespace=fresh)
    held = pair.held(fresh)
    mark = plain.mark()
    pair.run(pair.both.corten, "pull", plain.reference(f"{name}:1"), namespace=fresh)
    assert not [one for one in plain.requests(mark) if "/blobs/" in one.path]
    assert holdings.of(pair.both.corten, fresh) == held


@pytest.mark.parametrize(
    "options",
    [("--all-platforms",), ("--platform", "linux/arm64"), ("--label", "color=blue"), ("--skip-metadata",)],
    ids=" ".join,
)
def test_pull_takes_its_options(
    newest: Both, registries: registry.Registries, fresh: str, options: Sequence[str]
) -> None:
    name = f"options{''.join(options)}".replace("=", "").replace("/", "")
    registries.push(registry_images.two_platforms(name), f"{name}:1")
    line = ("images", "pull", "--plain-http", *options, registries["plain"].reference(f"{name}:1"))
    newest.each(lambda side: side.output(*line, namespace=fresh))
    assert newest.same(lambda side: holdings.of(side, fresh)).images


def test_pull_into_another_snapshotter(pair: Pair, registries: registry.Registries, fresh: str, name: str) -> None:
    registries.push(registry_images.simple(name), f"{name}:1")
    reference = registries["plain"].reference(f"{name}:1")
    pair.run(pair.both.corten, "pull", "--snapshotter", "native", reference, namespace=fresh)
    with holdings.client(pair.both.corten, fresh) as view:
        chain = view.images.chain_id(reference)
        assert [info.name for info in view.snapshotter("native").walk()] == [chain]
        assert not list(view.snapshotter("overlayfs").walk())


def test_pull_of_what_is_not_there_is_refused(
    pair: Pair, registries: registry.Registries, fresh: str, name: str
) -> None:
    reference = registries["plain"].reference(f"{name}:absent")
    told = pair.fetch("pull", reference, namespace=fresh, code=1)
    assert reference in told.stderr
    assert "404" in told.stderr
    assert not pair.held(fresh).content


def test_pull_asks_the_caller_for_credentials(
    pair: Pair, registries: registry.Registries, fresh: str, name: str
) -> None:
    registries.push(registry_images.simple(name), f"{name}:1")
    for kind in ("basic", "token"):
        reference = registries[kind].reference(f"{name}:1")
        secret = registry.USERS["reader"]
        pair.fetch("pull", "--user", f"reader:{secret}", reference, namespace=fresh)
    assert len(pair.held(fresh).images) == 2


@pytest.mark.parametrize("user", [[], ["--user", "reader:wr0ng-secret"]], ids=["none", "wrong"])
def test_pull_without_the_right_credentials_is_refused(
    pair: Pair, registries: registry.Registries, fresh: str, name: str, user: list[str]
) -> None:
    registries.push(registry_images.simple(name), f"{name}:1")
    reference = registries["basic"].reference(f"{name}:1")
    told = pair.fetch("pull", *user, reference, namespace=fresh, code=1)
    assert reference in told.stderr
    assert "wr0ng" not in told.stderr
    assert "wr0ng" not in pair.both.corten.daemon.log.read_text()


def test_pull_reads_the_folder_of_hosts_that_it_names(
    newest: Both, registries: registry.Registries, fresh: str, tmp_path: Path
) -> None:
    registries.push(registry_images.simple("folder"), "folder:1")
    mirror = {"url": registries["plain"].url, "capabilities": ["pull", "resolve"]}
    registries.hosts(tmp_path, "mirrored.example", mirror)
    line = ("images", "pull", "--hosts-dir", str(tmp_path), "mirrored.example/folder:1")
    newest.each(lambda side: side.output(*line, namespace=fresh))
    assert list(newest.same(lambda side: holdings.of(side, fresh)).images) == ["mirrored.example/folder:1"]


def test_a_request_for_a_dump_has_no_effect(newest: Both, registries: registry.Registries, fresh: str) -> None:
    registries.push(registry_images.simple("dumped"), "dumped:1")
    line = ("images", "pull", "--plain-http", "--http-dump", registries["plain"].reference("dumped:1"))
    assert "HTTP/1.1" not in newest.corten.output(*line, namespace=fresh)
    assert list(holdings.of(newest.corten, fresh).images)


def test_push(pair: Pair, registries: registry.Registries, fresh: str, name: str) -> None:
    plain, image = registries["plain"], registry_images.simple(name)
    registries.push(image, f"{name}:1")
    source = plain.reference(f"{name}:1")
    pair.fetch("pull", source, namespace=fresh)
    for side in pair.sides:
        target = plain.reference(f"{name}-{side.name}:2")
        told = pair.run(side, "push", target, source, namespace=fresh)
        assert f"OCI Registry ({target})" in told.stdout
        registries.check(image, f"{name}-{side.name}:2")
    assert pair.held(fresh).leases == []


def test_push_of_all_platforms(newest: Both, registries: registry.Registries, fresh: str) -> None:
    plain, image = registries["plain"], registry_images.two_platforms("pushed")
    registries.push(image, "pushed:1")
    source = plain.reference("pushed:1")

    def push(side: Side) -> None:
        side.output("images", "pull", "--plain-http", "--all-platforms", source, namespace=fresh)
        target = plain.reference(f"pushed-{side.name}:2")
        side.output("images", "push", "--plain-http", target, source, namespace=fresh)

    newest.each(push)
    for side in newest:
        registries.check(image, f"pushed-{side.name}:2")


def test_push_of_what_is_not_there_is_refused(
    pair: Pair, registries: registry.Registries, fresh: str, name: str
) -> None:
    reference = registries["plain"].reference(f"{name}:1")
    told = pair.fetch("push", reference, "example.test/absent:1", namespace=fresh, code=1)
    assert '"example.test/absent:1": not found' in told.stderr


@pytest.mark.parametrize("archive", ["oci-gzip", "oci-zstd", "docker", "docker-gzip"])
def test_import_and_export(pair: Pair, fresh: str, archives: dict[str, Path], archive: str, tmp_path: Path) -> None:
    image = f"example.test/{archive}:1"
    for told in pair.each("import", str(archives[archive]), namespace=fresh):
        assert shown(image) in told.stdout
    held = pair.same(fresh)
    assert list(held.images) == [image]
    assert len(held.snapshots) == 4

    def export(side: Side) -> dict[str, Any]:
        path = tmp_path / f"{side.name}.tar"
        line = pair.line("export", str(path), image) if side is pair.both.corten else by_itself(str(path), image)
        side.output(*line, namespace=fresh)
        return members(path)

    assert image in pair.both.corten.output("images", "ls", "-q", namespace=fresh)
    exported = pair.both.same(export)
    assert exported["index.json"]["manifests"][0]["annotations"]["io.containerd.image.name"] == image


def by_itself(*line: str) -> tuple[str, ...]:
    return ("images", "export", "--local", *line)


def members(archive: Path) -> dict[str, Any]:
    """Of an exported image: the texts as values, of all else the digest."""
    with tarfile.open(archive) as tar:
        found = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        data = {name: file.read() for name, file in found.items() if file is not None}
    return {name: json.loads(text) if name.endswith(".json") else images.digest(text) for name, text in data.items()}


def test_an_export_is_whole_when_ctr_has_ended(
    pair: Pair, registries: registry.Registries, fresh: str, name: str, tmp_path: Path
) -> None:
    registries.push(registry_images.simple(name, [registry_images.noise(name, 3 << 20)]), f"{name}:1")
    side, reference = pair.both.corten, registries["plain"].reference(f"{name}:1")
    side.output(*pair.line("pull", reference), namespace=fresh)
    for number in range(5):
        path = tmp_path / f"{number}.tar"
        side.output(*pair.line("export", str(path), reference), namespace=fresh)
        assert path.read_bytes()[-1024:] == bytes(1024)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_several_images_are_imported_by_a_prefix(pair: Pair, fresh: str, archives: dict[str, Path]) -> None:
    pair.each("import", "--base-name", "example.test/oci-gzip", str(archives["oci-gzip"]), namespace=fresh)
    assert list(pair.same(fresh).images) == ["example.test/oci-gzip:1"]


def test_import_without_unpacking(pair: Pair, fresh: str, archives: dict[str, Path]) -> None:
    pair.each("import", "--no-unpack", "--digests", str(archives["oci-gzip"]), namespace=fresh)
    held = pair.same(fresh)
    assert held.images
    assert not held.snapshots


def test_import_of_what_is_no_archive_is_refused(pair: Pair, fresh: str, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    pair.each("import", str(tmp_path / "junk"), namespace=fresh, code=1)
    held = pair.same(fresh)
    assert not held.images
    assert not held.content


def test_tag(pair: Pair, fresh: str, archives: dict[str, Path]) -> None:
    pair.each("import", "--no-unpack", str(archives["docker"]), namespace=fresh)
    names = ["example.test/a:1", "example.test/b:2"]
    for told in pair.each("tag", "example.test/docker:1", *names, namespace=fresh):
        assert told.lines == names
    assert sorted(pair.same(fresh).images) == [*names, "example.test/docker:1"]
    for told in pair.each("tag", "example.test/absent:1", "example.test/c:1", namespace=fresh, code=1):
        assert '"example.test/absent:1": not found' in told.stderr


def test_a_pull_ends_with_its_client(pair: Pair, registries: registry.Registries, fresh: str, name: str) -> None:
    registries.push(registry_images.simple(name, [registry_images.noise(name, 1 << 20)]), f"{name}:1")
    side = pair.both.corten
    with registries.proxy(registries["plain"]) as proxy:
        proxy.on("/blobs/", registry_faults.stall(1000, 60))
        reference = proxy.reference(f"{name}:1")
        with subprocess.Popen(side.argv(*pair.line("pull", reference), namespace=fresh), stdout=subprocess.PIPE) as ctr:
            eventually(lambda: own_leases(side, fresh) and proxy.count("/blobs/"))
            ctr.kill()
        eventually(lambda: not own_leases(side, fresh))
    assert not holdings.of(side, fresh).images


def own_leases(side: Side, namespace: str) -> list[str]:
    """Without those that ctr makes, and leaves when it is killed."""
    return [lease for lease in holdings.of(side, namespace).leases if lease.startswith("transfer-")]


def shown(name: str) -> str:
    """As ctr draws it."""
    return name.replace("-", " ")[:40]


def eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
