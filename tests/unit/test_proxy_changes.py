"""The proxy plugins of a configuration: begun with it and changed with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.proxies import changes
from kernel.proxies.changes import Proxies
from kernel.proxies.tables import ProxyPlugin, Spec, Tables
from kernel.toml import Duration
from plugin_sdk import daemon, errors, plugin


class Registry:
    """What stands in it, by ``kind.id``, and what was ended, with the seconds given."""

    def __init__(self, **others: str) -> None:
        self.others = {f"{kind}.{id}": "built in" for id, kind in others.items()}
        self.made: dict[str, object] = {}
        self.ended: list[tuple[str, float]] = []
        self.shown: dict[tuple[str, str], daemon.PluginInfo] = {}

    def put(self, registration: plugin.Registration, source: str = "", *, remote: bool = False) -> Callable[..., None]:
        assert remote
        old = self.made.get(registration.name)
        self.made[registration.name] = registration.create(None)  # type: ignore[arg-type]
        return self._end(registration.name, old)

    def withdraw(self, kind: str, id: str) -> Callable[..., None]:
        return self._end(f"{kind}.{id}", self.made.pop(f"{kind}.{id}"))

    def _end(self, name: str, made: object) -> Callable[..., None]:
        def end(drain: float) -> None:
            self.ended.append((name, drain))
            made.close()  # type: ignore[attr-defined]

        return end

    def sources(self) -> dict[str, str]:
        return self.others

    def ids(self, kind: str) -> list[str]:
        found = [*self.others, *self.made]
        return [name.removeprefix(f"{kind}.") for name in found if name.startswith(f"{kind}.")]

    def show(self, info: daemon.PluginInfo) -> None:
        self.shown[info.kind, info.id] = info

    def hide(self, kind: str, id: str) -> None:
        self.shown.pop((kind, id), None)


class Remote:
    """Of the real one, what is done with it."""

    log: list[str]

    def __init__(self, spec: Spec, surroundings: object) -> None:
        self.spec = spec
        self.surroundings = surroundings

    def start(self) -> None:
        self.log.append(f"start {self.spec.name}")

    def adopt(self, spec: Spec) -> None:
        self.spec = spec
        self.log.append(f"adopt {spec.name}")

    def give_way(self, successor: Remote) -> None:
        self.log.append(f"{self.spec.name} gives way")

    def close(self) -> None:
        self.log.append(f"close {self.spec.name}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    Remote.log = []
    monkeypatch.setattr(changes, "Remote", Remote)
    return Remote.log


@pytest.fixture
def registry() -> Registry:
    return Registry(overlayfs=plugin.SNAPSHOTTER)


@pytest.fixture
def proxies(log: list[str], registry: Registry, tmp_path: Path) -> Iterator[Proxies]:
    made = Proxies(registry, tmp_path / "root", tmp_path / "state", "/run/c.sock", lambda *a, **k: None, lambda: None)
    yield made
    made.close()


def spec(name: str, kind: str = plugin.SNAPSHOTTER, line: int = 1, **keys: object) -> Spec:
    table = ProxyPlugin(**{"type": kind, "address": f"/{name}", **keys})  # type: ignore[arg-type]
    return Spec(name, kind, f"plugins.toml:{line}", table)


def tables(*specs: Spec, **faults: str) -> Tables:
    return Tables({each.name: each for each in specs}, faults)


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_at_start_what_is_wrong_is_shown_and_the_rest_begun(
    proxies: Proxies, registry: Registry, log: list[str]
) -> None:
    proxies.begin(tables(spec("a"), spec("overlayfs", line=7), b="plugins.toml:3: proxy plugin 'b': moon"))
    assert log == ["start a"]
    shown = {id: info for (_, id), info in registry.shown.items()}
    assert shown["b"].error == "plugins.toml:3: proxy plugin 'b': moon"
    assert shown["b"].state == "refused"
    assert shown["overlayfs"].error == (
        "plugins.toml:7: proxy plugin 'overlayfs': there is a plugin io.containerd.snapshotter.v1.overlayfs already "
        "(built in): disabled_plugins can name it"
    )


def test_the_daemons_own_address_is_none_for_a_plugin(proxies: Proxies, log: list[str]) -> None:
    with pytest.raises(
        errors.InvalidArgument, match=r"plugins\.toml:1: proxy plugin 'a': has the daemon's own address"
    ):
        proxies.change(tables(spec("a", address="/run/../run/c.sock")))
    assert log == []


def test_an_edit_adds_changes_and_removes(proxies: Proxies, registry: Registry, log: list[str]) -> None:
    same, soft, hard, gone = spec("same"), spec("soft"), spec("hard"), spec("gone", drain=Duration(3))
    proxies.begin(tables(same, soft, hard, gone))
    log.clear()
    proxies.change(tables(same, spec("soft", grace=Duration(1)), spec("hard", address="/other"), spec("new")))
    wait_for(lambda: len(registry.ended) == 2)
    assert set(registry.ended) == {("io.containerd.snapshotter.v1.gone", 3), ("io.containerd.snapshotter.v1.hard", 10)}
    assert {"start new", "start hard", "hard gives way", "adopt soft"} <= set(log)
    assert "start soft" not in log
    assert set(registry.ids(plugin.SNAPSHOTTER)) == {"overlayfs", "same", "soft", "hard", "new"}


def test_an_edit_that_is_wrong_changes_nothing(proxies: Proxies, registry: Registry, log: list[str]) -> None:
    proxies.begin(tables(spec("a")))
    log.clear()
    with pytest.raises(errors.InvalidArgument) as refused:
        proxies.change(tables(spec("b"), spec("overlayfs"), c="plugins.toml:9: moon"))
    assert len(refused.value.message.splitlines()) == 2
    assert log == []
    assert registry.ids(plugin.SNAPSHOTTER) == ["overlayfs", "a"]


def test_what_was_wrong_at_start_is_no_edit_and_is_hidden_when_it_is_right(
    proxies: Proxies, registry: Registry, log: list[str]
) -> None:
    wrong = tables(b="plugins.toml:3: moon")
    proxies.begin(wrong)
    proxies.change(wrong)
    assert registry.shown
    proxies.change(tables(spec("b")))
    assert not registry.shown
    assert log == ["start b"]


def test_a_plugin_that_becomes_another_kind_is_removed_and_added(
    proxies: Proxies, registry: Registry, log: list[str]
) -> None:
    proxies.begin(tables(spec("a")))
    proxies.change(tables(spec("a", plugin.DIFFER)))
    assert registry.ids(plugin.DIFFER) == ["a"]
    assert registry.ids(plugin.SNAPSHOTTER) == ["overlayfs"]
    wait_for(lambda: registry.ended)


def test_there_is_one_content_store(log: list[str], tmp_path: Path) -> None:
    registry = Registry(content=plugin.CONTENT)
    proxies = Proxies(registry, tmp_path, tmp_path / "s", "/c", lambda *a, **k: None, lambda: None)
    proxies.begin(tables(spec("far", plugin.CONTENT, line=4)))
    [info] = registry.shown.values()
    assert info.error == (
        "plugins.toml:4: proxy plugin 'far': there is a content store already, io.containerd.content.v1.content: "
        "disabled_plugins can name it"
    )
    proxies.close()


def test_a_content_store_can_take_the_place_of_another(proxies: Proxies, registry: Registry) -> None:
    proxies.begin(tables(spec("a", plugin.CONTENT)))
    proxies.change(tables(spec("b", plugin.CONTENT)))
    assert registry.ids(plugin.CONTENT) == ["b"]


def test_a_program_is_told_where_it_is_and_a_differ_where_the_blobs_are(proxies: Proxies, registry: Registry) -> None:
    own = spec("d", plugin.DIFFER, command=("d",))
    given = spec("e", plugin.DIFFER, command=("e", "--content=/x"))
    proxies.begin(tables(own, given, spec("s", command=("s",))))
    found = {name.rpartition(".")[2]: made.surroundings for name, made in registry.made.items()}  # type: ignore[attr-defined]
    assert found["d"].arguments == ["--content", "/run/c.sock"]
    assert found["e"].arguments == found["s"].arguments == []
    assert found["s"].environment == {
        "CORTEN_PLUGIN_ADDRESS": "/s",
        "CORTEN_PLUGIN_NAME": "s",
        "CORTEN_CONTENT_ADDRESS": "/run/c.sock",
    }


def test_two_of_one_address_wait_for_each_other_and_others_do_not(proxies: Proxies, registry: Registry) -> None:
    proxies.begin(tables(spec("a", address="/same"), spec("b", address="/same"), spec("c")))
    free = {name[-1]: made.surroundings.address_free for name, made in registry.made.items()}  # type: ignore[attr-defined]
    assert free["a"] is free["b"]
    assert free["a"] is not free["c"]


def test_close_ends_all_at_once(proxies: Proxies, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)
    monkeypatch.setattr(Remote, "close", lambda self: together.wait(60))
    proxies.begin(tables(spec("a"), spec("b")))
    proxies.close()
    assert not together.broken
