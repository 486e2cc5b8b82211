"""A cortend whose proxy plugins are files in a folder that it imports, and ``moody.py`` as their program."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import corten
from benchmarks import daemons
from corten import cli
from kernel import toml
from plugin_sdk import plugin, snapshots
from plugin_sdk.daemon import PluginInfo
from plugin_sdk.scope import Scope
from plugin_sdk.wire import snapshots as wire_snapshots
from plugin_sdk.wire import transport
from tests import pace, programs

PROGRAMS = Path(__file__).parent / "proxies"
MOODY = programs.python(str(PROGRAMS / "moody.py"))
KINDS = {"snapshot": plugin.SNAPSHOTTER, "content": plugin.CONTENT, "diff": plugin.DIFFER}
EDIT = ("corten.configuration", "plugins.toml")
PID = re.compile(r"its program runs with PID (\d+)")


def until(true: Callable[[], Any], timeout: float = 10, every: float = 0.02) -> Any:
    """What ``true`` answers, as soon as that is true; ``timeout`` is for a quiet machine."""
    begun = time.monotonic()
    while not (found := true()):
        assert pace.within(time.monotonic() - begun, timeout), f"not so after {timeout} s"
        time.sleep(every)
    return found


def table(name: str, **keys: object) -> str:
    lines = [f"{key} = {value if key == 'exports' else toml.literal(value)}\n" for key, value in keys.items()]
    return f"[proxy_plugins.{name}]\n" + "".join(lines)


@dataclass(slots=True)
class Host:
    """``directory``/f holds plugins.toml and, in conf.d, one file a plugin."""

    directory: Path
    head: str = ""
    daemon: daemons.Daemon = field(init=False)
    connection: corten.Client = field(init=False)

    def __post_init__(self) -> None:
        self.conf.mkdir(parents=True)
        self.file.write_text(f'imports = ["conf.d/*.toml", "later/*.toml"]\n{self.head}')
        address = str(self.directory / "d" / "c.sock")
        self.daemon = daemons.Daemon("corten", self.directory / "d", address, [], daemons._marked())
        places = ["--root", str(self.daemon.root), "--state", str(self.daemon.state), "--address", address]
        self.daemon.command = [sys.executable, "-m", "kernel", "--config", str(self.file), *places]
        self.connection = corten.connect(address)

    @property
    def file(self) -> Path:
        return self.directory / "f" / "plugins.toml"

    @property
    def conf(self) -> Path:
        return self.directory / "f" / "conf.d"

    # --- the configuration

    def write(self, name: str, text: str) -> Path:
        """The file of a plugin, put into place by rename, as editors do."""
        path, new = self.conf / f"{name}.toml", self.directory / "f" / "new"
        new.write_text(text)
        new.rename(path)
        return path

    def declare(self, name: str, kind: str = "snapshot", **keys: object) -> Path:
        """Writes its table, with the address of ``name``; answers the file."""
        return self.write(name, table(name, type=kind, address=self.socket(name), **keys))

    def moody(self, name: str, *flags: str, kind: str = "snapshot", **keys: object) -> Path:
        """Declares one whose program is moody's, started by the daemon."""
        return self.declare(name, kind, command=self.command(name, *flags, kind=kind), **keys)

    def command(self, name: str, *flags: str, kind: str = "snapshot") -> list[str]:
        return [*MOODY, "--root", str(self.root(name)), "--kind", kind, *flags]

    def withdraw(self, name: str) -> None:
        (self.conf / f"{name}.toml").unlink()

    def keep_only(self, names: set[str]) -> None:
        """Withdraws all others; what a failed test has left would be a mistake in the next one's edits."""
        for path in self.conf.iterdir():
            if path.stem not in names:
                path.unlink()

    @property
    def declared(self) -> set[str]:
        return {path.stem for path in self.conf.iterdir()}

    def socket(self, name: str) -> str:
        return str(self.directory / f"{name}.sock")

    def root(self, name: str) -> Path:
        """Of the program."""
        return self.directory / name

    # --- the program

    @contextlib.contextmanager
    def program(self, name: str, *flags: str, kind: str = "snapshot") -> Iterator[programs.Program]:
        """Moody's, not started by the daemon; serves when this returns."""
        command = [*self.command(name, *flags, kind=kind), "--address", self.socket(name)]
        with programs.started(command, self.directory / f"{name}.log") as made:
            made.wait_for(self.socket(name))
            yield made

    def order(self, name: str, **methods: Mapping[str, object]) -> None:
        """What the program is to do from now on; without any, what is right."""
        path = self.root(name) / "orders.json"
        path.with_suffix(".new").write_text(json.dumps(methods))
        path.with_suffix(".new").rename(path)

    def calls(self, name: str) -> list[dict[str, Any]]:
        """What the program has recorded."""
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.root(name) / "calls.jsonl").read_text().splitlines()]
        return []

    def pid(self, name: str) -> int:
        """Of the program that the daemon started last."""
        return int(PID.findall("\n".join(self.said(f"{name}: its program runs")))[-1])

    # --- what is told

    def said(self, words: str = "") -> list[str]:
        """Lines of the daemon's log with these words."""
        return [line for line in self.daemon.log.read_text(errors="replace").splitlines() if words in line]

    def info(self, name: str) -> PluginInfo | None:
        return next((info for info in self.connection.plugins() if info.id == name), None)

    def state(self, name: str) -> str:
        info = self.info(name)
        return info.state if info is not None else ""

    def wait_for(self, name: str, state: str = "ok", timeout: float = 10) -> PluginInfo:
        """Returns when the plugin is in this state; ``""`` when it is not there."""

        def there() -> bool:
            return self.state(name) == state

        try:
            until(there, timeout)
        except AssertionError as err:
            raise AssertionError(f"{name} is not {state!r} after {timeout} s: {self.info(name)}") from err
        return self.info(name) or PluginInfo("", name)

    def wait_to_be_ready(self, name: str, timeout: float = 10) -> None:
        until(lambda: self.connection.health(f"{KINDS['snapshot']}.{name}"), timeout)

    def plugins(self) -> str:
        """What ``corten plugins`` prints."""
        return CliRunner().invoke(cli.main, ["--address", self.daemon.address, "plugins"]).stdout

    def refused_edit(self) -> str:
        """Why the last edit has changed nothing; empty when it has."""
        found = [info for info in self.connection.plugins() if (info.kind, info.id) == EDIT]
        return found[0].error if found else ""

    # --- use

    def snapshotter(self, name: str, namespace: str = "default") -> snapshots.Snapshotter:
        return self.connection.view(namespace).snapshotter(name)

    @contextlib.contextmanager
    def own(self, name: str) -> Iterator[snapshots.Snapshotter]:
        """The program's snapshotter, past the daemon."""
        channel = transport.connect(self.socket(name))
        try:
            yield wire_snapshots.Proxy(channel, Scope("default"), name)
        finally:
            channel.close()

    def held(self, name: str) -> set[str]:
        """What the program has, by the keys of the daemon's clients."""
        with self.own(name) as snapshotter:
            return {info.name.split("/", 2)[2] for info in snapshotter.walk()}

    def shown(self, name: str) -> set[str]:
        """What clients are told that it has."""
        return {info.name for info in self.snapshotter(name).walk()}

    # --- its life

    def start(self) -> None:
        self.daemon.start()
        self.connection.close()
        self.connection = corten.connect(self.daemon.address)

    def kill(self, name: str) -> int:
        """The program, as a crash; answers its PID."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def close(self) -> None:
        self.connection.close()
        self.daemon.stop()
        shutil.rmtree(self.directory)


@contextlib.contextmanager
def hosting(directory: Path, head: str = "", *, start: bool = True) -> Iterator[Host]:
    """A running one; at the end it is stopped, and nothing of it may be left."""
    host = Host(directory, head)
    try:
        if start:
            host.start()
        yield host
    finally:
        log = host.daemon.log.read_text(errors="replace") if host.daemon.log.exists() else ""
        host.close()
        sys.stderr.write(f"\ncortend's log ends:\n{log[-6000:]}\n")
    assert not host.daemon.leftovers(), f"processes left: {host.daemon.leftovers()}"
    assert "Traceback" not in log, "\n".join(log[log.index("Traceback") - 500 :].splitlines()[:60])


# --- clients

RATE = 50  # calls a second


@dataclass(slots=True)
class Caller:
    """A client in a process of its own, and what its log says."""

    process: subprocess.Popen[bytes]
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        *whole, _ = self.log.read_text().split("\n")
        return [json.loads(line) for line in whole]

    def answers(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if "took" in line]

    def stop(self) -> list[dict[str, Any]]:
        """All answers: one to each call, or this raises."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0
        calls = {(line["call"], line["key"]) for line in self.lines() if "took" not in line}
        answers = self.answers()
        assert {(line["call"], line["key"]) for line in answers} == calls
        assert len(answers) == len(calls)
        return answers


@contextlib.contextmanager
def calling(host: Host, name: str) -> Iterator[Caller]:
    """It has begun when this returns."""
    (log := host.directory / f"{name}-caller-{time.monotonic_ns()}").touch()
    command = programs.python(str(PROGRAMS / "caller.py"), host.daemon.address, name, str(RATE), str(log))
    with programs.started(command, log.with_suffix(".err")) as made:
        caller = Caller(made.process, log)
        until(lambda: len(caller.answers()) > RATE / 2, 20)
        yield caller


def kept(host: Host, name: str, answers: list[dict[str, Any]]) -> int:
    """How many snapshots were committed: no call has failed, and all of them are there, with their files."""
    assert [answer for answer in answers if "error" in answer] == []
    committed = {answer["key"]: Path(answer["path"]) for answer in answers if answer["call"] == "commit"}
    assert committed.keys() <= host.shown(name)
    assert committed.keys() <= host.held(name)
    assert all(path.read_text() == key for key, path in committed.items())
    return len(committed)
