"""Plugins register by hooks, each by itself; what fails is recorded and harms nobody else."""

from __future__ import annotations

import logging
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from kernel import plugins
from plugin_sdk import daemon, errors, plugin


class Thing:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.closed = False

    def close(self) -> None:
        self.closed = True


def context_of(registration: plugin.Registration) -> plugin.PluginContext:
    root = Path("/nowhere") / registration.name
    nothing: Any = None
    return plugin.PluginContext(None, root, root, logging.getLogger(registration.name), nothing, nothing)


def registration(
    kind: str, id: str, create: Callable[[plugin.PluginContext], object] | None = None, **more: Any
) -> plugin.Registration:
    return plugin.Registration(kind, id, create or (lambda context: Thing(id)), **more)


CONTENT = registration(plugin.CONTENT, "content")


def load(
    *registrations: plugin.Registration, required: Iterable[str] = (), disabled: Iterable[str] = ()
) -> plugins.Registry:
    registry = plugins.Registry(context_of, platform="linux/amd64")
    found = plugins.Found([(f"from {each.id}", each) for each in (CONTENT, *registrations)], [])
    registry.load(found, disabled)
    registry.check(required)
    return registry


def info(registry: plugins.Registry, id: str) -> Any:
    [found] = [each for each in registry.infos() if each.id == id]
    return found


# --- discovery


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterable[Callable[[str, str], str]]:
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text("from plugin_sdk import plugin\n" + textwrap.dedent(text))
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


GOOD = """
    @plugin.hookimpl
    def register_snapshotters():
        return [plugin.Registration(plugin.SNAPSHOTTER, "good", lambda context: object())]
"""


def test_a_plugin_registers_by_its_hook(write: Callable[[str, str], str]) -> None:
    found = plugins.discover([write("corten_good", GOOD)], group="none")
    assert [(source, each.name) for source, each in found.registrations] == [
        ("corten_good", "io.containerd.snapshotter.v1.good")
    ]
    assert not found.failures


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("@plugin.hookimpl\ndef register_snapshotters():\n    raise OSError('gone')", "OSError: gone"),
        ("@plugin.hookimpl\ndef register_snapshotters():\n    return [3]", "register_snapshotters must return"),
        (
            "@plugin.hookimpl\ndef register_snapshotters():\n"
            "    return [plugin.Registration(plugin.DIFFER, 'x', print)]",
            "register_snapshotters must return Registrations of kind io.containerd.snapshotter.v1",
        ),
        ("@plugin.hookimpl\ndef register_snapshotters(surprise):\n    return []", "surprise"),
    ],
)
def test_a_plugin_that_raises_fails_alone(write: Callable[[str, str], str], text: str, reason: str) -> None:
    found = plugins.discover([write("corten_bad", text), write("corten_good", GOOD)], group="none")
    [failure] = found.failures
    assert failure.source == "corten_bad"
    assert reason in failure.error
    assert [source for source, _ in found.registrations] == ["corten_good"]


def test_a_plugin_that_fails_in_its_second_hook_registers_nothing(write: Callable[[str, str], str]) -> None:
    text = GOOD + "    @plugin.hookimpl\n    def register_runtimes():\n        raise OSError('late')\n"
    found = plugins.discover([write("corten_half", text)], group="none")
    assert not found.registrations
    assert "late" in found.failures[0].error


def test_a_misspelt_hook_is_an_error_with_plugin_hook_and_nearest_name(write: Callable[[str, str], str]) -> None:
    text = "@plugin.hookimpl\ndef register_snapshoters():\n    return []"
    [failure] = plugins.discover([write("corten_misspelt", text)], group="none").failures
    assert failure.source == "corten_misspelt"
    assert "corten_misspelt" in failure.error
    assert "register_snapshoters" in failure.error
    assert "did it mean register_snapshotters?" in failure.error


def test_an_installed_package_is_found_by_its_entry_point(write: Callable[[str, str], str], tmp_path: Path) -> None:
    write("corten_installed", GOOD)
    folder = tmp_path / "corten_installed-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: corten-installed\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[corten.test]\nstars = corten_installed\nbroken = corten_absent\n")
    found = plugins.discover([], group="corten.test")
    assert [source for source, _ in found.registrations] == ["stars (corten_installed)"]
    assert [failure.source for failure in found.failures] == ["broken (corten_absent)"]


def test_every_built_in_registers() -> None:
    found = plugins.discover(group="none")
    assert not found.failures
    assert {each.kind for _, each in found.registrations} >= {plugin.CONTENT, plugin.SNAPSHOTTER, plugin.DIFFER}


# --- loading


def test_plugins_are_made_in_the_order_of_what_they_require() -> None:
    made: list[str] = []

    def maker(id: str) -> Callable[[plugin.PluginContext], object]:
        return lambda context: made.append(id) or Thing(id)

    load(
        registration(plugin.SERVICE, "a", maker("a"), requires=(plugin.SNAPSHOTTER,)),
        registration(plugin.SNAPSHOTTER, "b", maker("b"), requires=(f"{plugin.DIFFER}.c",)),
        registration(plugin.DIFFER, "c", maker("c")),
    )
    assert made == ["c", "b", "a"]


def test_a_circle_is_an_error_that_names_it() -> None:
    registry = load(
        registration(plugin.SNAPSHOTTER, "a", requires=(f"{plugin.DIFFER}.b",)),
        registration(plugin.DIFFER, "b", requires=(plugin.SNAPSHOTTER,)),
    )
    assert "io.containerd.snapshotter.v1.a → io.containerd.differ.v1.b" in info(registry, "a").error
    assert "circle" in info(registry, "b").error
    assert registry.ids(plugin.CONTENT) == ["content"]


def test_a_plugin_whose_requirement_failed_says_which() -> None:
    def fail(context: plugin.PluginContext) -> object:
        raise OSError("no disk")

    registry = load(
        registration(plugin.DIFFER, "bad", fail),
        registration(plugin.SNAPSHOTTER, "needy", requires=(f"{plugin.DIFFER}.bad",)),
    )
    assert info(registry, "bad").error == "OSError: no disk"
    assert info(registry, "needy").error == "requires io.containerd.differ.v1.bad, which is not there"


def test_a_skipped_plugin_is_shown_in_the_words_that_clients_look_for() -> None:
    def skip(context: plugin.PluginContext) -> object:
        raise plugin.SkipPlugin("/dev/fuse is not there")

    shown = info(load(registration(plugin.SNAPSHOTTER, "fuse", skip)), "fuse")
    assert shown.skipped
    assert shown.error == "/dev/fuse is not there: skip plugin"


def test_a_disabled_plugin_is_not_made() -> None:
    registry = load(registration(plugin.SNAPSHOTTER, "a"), disabled=[f"{plugin.SNAPSHOTTER}.a"])
    assert not registry.ids(plugin.SNAPSHOTTER)


def test_two_content_stores_are_an_error_that_names_both() -> None:
    with pytest.raises(errors.FailedPrecondition, match=r"content.*and.*other"):
        load(registration(plugin.CONTENT, "other"))


def test_a_content_store_takes_the_place_of_a_disabled_one() -> None:
    registry = load(registration(plugin.CONTENT, "other"), disabled=[CONTENT.name])
    assert registry.ids(plugin.CONTENT) == ["other"]


def test_no_content_store_is_an_error() -> None:
    with pytest.raises(errors.FailedPrecondition, match="no content store"):
        load(disabled=[CONTENT.name])


def test_a_faulty_table_of_a_content_store_is_told_when_there_is_none() -> None:
    registry = plugins.Registry(context_of, platform="linux/amd64")
    registry.show(daemon.PluginInfo("proxy_plugins", "shelf", error="plugins.toml:3: no such key", state="refused"))
    with pytest.raises(errors.FailedPrecondition, match=r"plugins\.toml:3: no such key"):
        registry.check()


def test_a_required_plugin_that_is_missing_or_failed_stops_the_start() -> None:
    with pytest.raises(errors.FailedPrecondition, match=r"snapshotter\.v1\.zfs is not there"):
        load(required=["io.containerd.snapshotter.v1.zfs"])
    broken = registration(plugin.SNAPSHOTTER, "zfs", lambda context: 1 / 0)
    with pytest.raises(errors.FailedPrecondition, match="did not start: ZeroDivisionError"):
        load(broken, required=[broken.name])


def test_the_second_of_a_name_is_refused() -> None:
    registry = load(registration(plugin.SNAPSHOTTER, "a"), registration(plugin.SNAPSHOTTER, "a"))
    assert registry.ids(plugin.SNAPSHOTTER) == ["a"]
    assert "registered already, by from a" in info(registry, "from a").error


def test_infos_show_root_platform_and_capabilities() -> None:
    registry = load(registration(plugin.SNAPSHOTTER, "a", capabilities=frozenset({"rebase"})))
    shown = info(registry, "a")
    assert shown.platforms == ("linux/amd64",)
    assert shown.exports == {"root": "/nowhere/io.containerd.snapshotter.v1.a"}
    assert shown.capabilities == ["rebase"]


# --- using


def test_use_hands_over_the_object() -> None:
    with load().use(plugin.CONTENT, "content") as store:
        assert store.name == "content"


def test_a_plugin_that_is_not_loaded_is_an_invalid_argument() -> None:
    registry = load()
    with (
        pytest.raises(errors.InvalidArgument, match=r"^snapshotter not loaded: zfs$"),
        registry.use(plugin.SNAPSHOTTER, "zfs"),
    ):
        pass


def test_no_plugin_is_called_inside_a_transaction() -> None:
    def guard(what: str) -> None:
        raise errors.Internal(f"{what} in a transaction")

    registry = plugins.Registry(context_of, guard)
    registry.load(plugins.Found([("x", CONTENT)], []))
    with (
        pytest.raises(errors.Internal, match="content is called in a transaction"),
        registry.use(plugin.CONTENT, "content"),
    ):
        pass


def test_the_work_of_a_service_waits_and_is_no_ailment() -> None:
    registry = load(registration(plugin.SERVICE, "a"), registration(plugin.SNAPSHOTTER, "s"))
    go = threading.Event()
    for kind, id, most in ((plugin.SERVICE, "a", 200), (plugin.SNAPSHOTTER, "s", 32)):
        work = [registry.lane(f"{kind}.{id}").submit(go.wait, 60) for _ in range(most)]
        assert bool(info(registry, id).error) is (kind != plugin.SERVICE)
        assert not any(future.done() for future in work)
    with pytest.raises(errors.ResourceExhausted):
        registry.lane(f"{plugin.SNAPSHOTTER}.s").submit(go.wait, 60)
    go.set()
    registry.close()


def test_each_plugin_has_its_own_lane_and_the_rest_share_one() -> None:
    registry = load(registration(plugin.SNAPSHOTTER, "a"))
    own = registry.lane(f"{plugin.SNAPSHOTTER}.a")
    assert own is registry.lane(f"{plugin.SNAPSHOTTER}.a")
    assert own is not registry.lane(CONTENT.name)
    assert registry.lane("") is registry.lane("unknown")
    registry.close()


# --- coming and going


def test_put_swaps_and_closes_the_old_one_after_its_calls() -> None:
    registry = load(registration(plugin.SNAPSHOTTER, "a"))
    with registry.use(plugin.SNAPSHOTTER, "a") as old:
        retire = threading.Thread(target=registry.put(registration(plugin.SNAPSHOTTER, "a")))
        retire.start()
        with registry.use(plugin.SNAPSHOTTER, "a") as new:
            assert new is not old
        assert not old.closed
    retire.join(60)
    assert old.closed
    assert not new.closed


def test_put_keeps_the_old_one_when_the_new_one_does_not_start() -> None:
    registry = load(registration(plugin.SNAPSHOTTER, "a"))
    with pytest.raises(ZeroDivisionError):
        registry.put(registration(plugin.SNAPSHOTTER, "a", lambda context: 1 / 0))
    assert registry.has(plugin.SNAPSHOTTER, "a")


def test_what_is_withdrawn_is_refused_at_once_and_waited_for_no_longer_than_told() -> None:
    registry = load(registration(plugin.SNAPSHOTTER, "a"))
    with registry.use(plugin.SNAPSHOTTER, "a") as thing:
        retire = registry.withdraw(plugin.SNAPSHOTTER, "a")
        assert not registry.has(plugin.SNAPSHOTTER, "a")
        with pytest.raises(errors.InvalidArgument, match="not loaded"), registry.use(plugin.SNAPSHOTTER, "a"):
            pass
        assert not thing.closed
        retire(drain=0.01)
        assert thing.closed
    with pytest.raises(errors.NotFound):
        registry.withdraw(plugin.SNAPSHOTTER, "a")


def test_close_closes_all() -> None:
    registry = load()
    with registry.use(plugin.CONTENT, "content") as store:
        pass
    registry.close()
    assert store.closed
