"""What people see of ``corten`` at a terminal, recorded by pexpect."""

from __future__ import annotations

import random
import re
import sys
import threading
from collections.abc import Callable, Iterator

import pexpect
import pytest

import corten
from tests import registry, registry_faults, registry_images

pytestmark = [pytest.mark.root, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]

PATIENCE = 90
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SIZE = (30, 120)

Type = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def typed(environment: dict[str, str]) -> Iterator[Type]:
    """``typed(*words)`` begins that line of the command at a terminal of 30 rows and 120 columns."""
    begun: list[pexpect.spawn[str]] = []

    def begin(*words: str, shell: str = "") -> pexpect.spawn[str]:
        program = [sys.executable, "-m", "corten.cli", *words]
        line = ["/bin/sh", "-c", shell, "sh", *program] if shell else program
        child = pexpect.spawn(
            line[0], line[1:], env=environment, dimensions=SIZE, timeout=PATIENCE, encoding="utf-8", echo=True
        )
        begun.append(child)
        return child

    yield begin
    for child in begun:
        child.close(force=True)


def ended(child: pexpect.spawn[str]) -> int:
    child.expect(pexpect.EOF)
    child.close()
    return int(child.exitstatus if child.exitstatus is not None else -int(child.signalstatus))


def noise(number: int, size: int = 3 << 20) -> bytes:
    return random.Random(number).randbytes(size)


# --- pull


def test_a_pull_draws_a_bar_for_each_layer_and_ends_with_a_line(
    typed: Type, registries: registry.Registries, client: corten.Client
) -> None:
    image = registry_images.simple("terminal", [noise(1), noise(2)], "none")
    registries.push(image, "terminal/pull:1")
    large = [layer["digest"] for layer in image.layers if layer["size"] > 1 << 20]
    assert len(large) == 2
    rest = threading.Event()
    with registries.proxy(registries["plain"]) as proxy:
        for digest in large:
            proxy.on(digest, registry_faults.budget(2 << 20, rest))
        name = proxy.reference("terminal/pull:1")
        child = typed("pull", "--plain-http", "--no-unpack", name)
        for digest in large:
            child.expect(rf"layer {digest.partition(':')[2][:12]}[^\n]*downloading[^\n]*/3\.1 MB")
        rest.set()
        child.expect(r"\d [kM]?B/s")
        child.expect(re.escape(name) + r": [0-9a-f]{12}, 6\.\d MB in \d+\.\d s\r\n")
        child.expect(re.escape(name) + "\r\n")
        shown = ESCAPES.sub("", child.before or "")
        assert ended(child) == 0
    assert "layer" not in shown
    assert client.images.get(name).target.digest == image.digest


def test_ctrl_c_ends_a_pull(typed: Type, registries: registry.Registries, client: corten.Client) -> None:
    image = registry_images.simple("interrupted", [noise(3)], "none")
    registries.push(image, "terminal/interrupted:1")
    rest = threading.Event()
    with registries.proxy(registries["plain"]) as proxy:
        proxy.on(image.layers[0]["digest"], registry_faults.budget(1 << 20, rest))
        child = typed("pull", "--plain-http", proxy.reference("terminal/interrupted:1"))
        child.expect(r"layer [^\n]*downloading[^\n]*/3\.1 MB")
        child.sendintr()
        assert ended(child) == 130
        rest.set()
    assert not client.images.list()


def test_a_password_is_asked_for_and_never_shown(typed: Type, registries: registry.Registries) -> None:
    image = registry_images.simple("asked", [])
    registries.push(image, "terminal/asked:1")
    secret = registry.USERS["reader"]
    name = registries["basic"].reference("terminal/asked:1")
    child = typed("pull", "--plain-http", "--no-unpack", "--user", "reader", name)
    child.expect("Password of reader at 127.0.0.1")
    before = child.before
    child.waitnoecho()
    child.sendline(secret)
    child.expect(re.escape(name) + "\r\n$")
    assert secret not in f"{before}{child.before}{child.after}"
    assert ended(child) == 0


# --- run


@pytest.mark.engine
def test_a_container_has_the_terminal_its_size_and_its_exit_code(typed: Type, imported: str) -> None:
    child = typed("run", "-it", "--rm", imported, "sh", shell='stty -g; "$@"; code=$?; stty -g; exit $code')
    child.expect(r"([0-9a-f:]{20,})\r\n")
    before = child.match[1]
    child.expect("# ")
    child.sendline("tty")
    child.expect("/dev/pts/0")
    until_size(child, "30 120")
    child.setwinsize(40, 90)
    until_size(child, "40 90")
    child.sendline("exit 7")
    child.expect(r"\n([0-9a-f:]{20,})\r\n")
    assert child.match[1] == before
    assert ended(child) == 7


def until_size(child: pexpect.spawn[str], size: str) -> None:
    """The size goes to the container by a call of its own: it is there a moment later."""
    for _ in range(100):
        child.sendline("stty size; echo en''d")
        child.expect(r"(\d+ \d+)\r\n")
        found = child.match[1]
        child.expect("end\r\n")
        if found == size:
            return
    raise AssertionError(f"the size is {found}, not {size}")


@pytest.mark.engine
def test_a_terminal_is_as_it_was_when_the_command_cannot_be_run(typed: Type, imported: str) -> None:
    child = typed("run", "-it", imported, "no-such-program", shell='stty -g; "$@"; code=$?; stty -g; exit $code')
    child.expect(r"([0-9a-f:]{20,})\r\n")
    before = child.match[1]
    child.expect("Error: [^\n]*no-such-program")
    child.expect(r"\n([0-9a-f:]{20,})\r\n")
    assert child.match[1] == before
    assert ended(child) == 1


@pytest.mark.engine
def test_one_detaches_attaches_and_is_alone(typed: Type, imported: str, client: corten.Client) -> None:
    child = typed("run", "-it", "--name", "a", imported, "sh")
    child.expect("# ")
    other = typed("attach", "a")
    other.expect('Error: container "a" is attached to elsewhere')
    assert ended(other) == 1
    child.send("\x10\x11")
    child.expect("`corten attach a` comes back")
    assert ended(child) == 0
    assert client.tasks.get("a").status.name == "RUNNING"
    child = typed("attach", "a")
    child.sendline("echo he''re; exit 3")
    child.expect("here\r\n")
    assert ended(child) == 3


@pytest.mark.engine
def test_a_container_in_the_background_with_a_terminal_is_attached_to(typed: Type, imported: str) -> None:
    child = typed("run", "-dit", "--name", "a", imported, "sh")
    child.expect("a\r\n")
    assert ended(child) == 0
    child = typed("attach", "a")
    until_size(child, "30 120")
    child.sendline("exit 4")
    assert ended(child) == 4


@pytest.mark.engine
def test_exec_has_a_terminal_and_stats_change_until_ctrl_c(typed: Type, imported: str) -> None:
    assert ended(typed("run", "-d", "--name", "a", imported, "sleep", "1000")) == 0
    child = typed("exec", "-it", "a", "sh")
    child.expect("# ")
    until_size(child, "30 120")
    child.sendline("exit 5")
    assert ended(child) == 5
    child = typed("stats", "--interval", "0.2")
    for _ in range(3):
        child.expect(r"a +\d+\.\d +\d")
    child.sendintr()
    assert ended(child) == 130
