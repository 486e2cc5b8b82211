"""plugins.toml: containerd's schema, read strictly, and mistakes told where they are."""

from __future__ import annotations

import dataclasses
import re
import tomllib
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kernel import config, plugins, toml
from kernel.proxies import tables
from plugin_sdk import errors, plugin

ROOT = Path(__file__).parents[2]
REGISTRATIONS = [each for _, each in plugins.discover(group="none").registrations]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "plugins.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def refused(path: Path) -> str:
    with pytest.raises(errors.InvalidArgument) as caught:
        loaded = config.load(path)
        loaded.check_plugins(REGISTRATIONS)
    return caught.value.message


def fault(path: Path, name: str = "stars") -> str:
    """Why a proxy plugin cannot be used."""
    return config.load(path).proxies.faults[name]


# --- the defaults


def test_the_daemon_needs_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "PATH", tmp_path / "absent.toml")
    loaded = config.load()
    assert loaded.config.root == "/var/lib/corten"
    assert loaded.config.state == "/run/corten"
    assert loaded.config.grpc.address == "/run/corten/corten.sock"
    assert loaded.config.ttrpc_address == "/run/corten/corten.sock.ttrpc"
    assert not loaded.warnings


def test_the_annotated_file_of_the_repository_is_what_config_default_prints() -> None:
    assert (ROOT / "plugins.toml").read_text() == config.default_text(REGISTRATIONS)


def test_the_annotated_file_loads_without_a_warning_and_says_the_defaults() -> None:
    loaded = config.load(ROOT / "plugins.toml")
    loaded.check_plugins(REGISTRATIONS)
    assert not loaded.warnings
    assert dataclasses.replace(loaded.config, plugins={}) == config.Config()


def test_every_key_stands_in_the_annotated_file() -> None:
    written = tomllib.loads((ROOT / "plugins.toml").read_text())
    for field in dataclasses.fields(config.Config):
        assert field.name in written
    for name in ("grpc", "ttrpc", "debug", "metrics", "cgroup"):
        table = type(getattr(config.Config(), name))
        assert set(written[name]) == {field.name for field in dataclasses.fields(table)}


def test_the_example_of_the_annotated_file_is_one(write: Callable[..., Path]) -> None:
    text = (ROOT / "plugins.toml").read_text().replace("\n# [proxy", "\n[proxy")
    for key in ("type", "address", "command"):
        text = text.replace(f"\n# {key} =", f"\n{key} =")
    loaded = config.load(write(text))
    assert not loaded.warnings
    assert loaded.proxies.specs["btrfs"].table.command == ("corten-btrfs", "--root", "/var/lib/corten-btrfs")


def test_a_dump_loads_again_as_the_same(write: Callable[..., Path]) -> None:
    text = """
        version = 3
        [proxy_plugins.stars]
        type = "snapshot"
        address = "/run/stars.sock"
        timeout = "1m30s"
        exports = { root = "/var/lib/stars" }
        [timeouts]
        "io.containerd.timeout.x" = "2s"
    """
    first = config.load(write(text))
    second = config.load(write(config.dump_text(first), "dump.toml"))
    assert first.config == second.config


# --- mistakes


TABLES = [
    ("", config.Config),
    ("grpc", config.Grpc),
    ("ttrpc", config.Ttrpc),
    ("debug", config.Debug),
    ("metrics", config.Metrics),
    ("cgroup", config.Cgroup),
    ("proxy_plugins.x", tables.ProxyPlugin),
    ("stream_processors.x", config.StreamProcessor),
]


@pytest.mark.parametrize(("table", "cls"), TABLES)
def test_an_unknown_key_is_told_with_file_line_and_nearest_name(
    write: Callable[..., Path], table: str, cls: type
) -> None:
    known = dataclasses.fields(cls)[0].name
    path = write((f"version = 3\n\n[{table}]\n" if table else "\n\n\n") + f"{known}z = 1\n")
    message = fault(path, "x") if table == "proxy_plugins.x" else refused(path)
    assert message.startswith(f"{path}:4: unknown key '{known}z'")
    assert message.endswith(f"; did you mean {known!r}?")


def test_a_wrong_type_is_told(write: Callable[..., Path]) -> None:
    path = write('[grpc]\n\nuid = "root"\n')
    assert refused(path) == f"{path}:3: 'uid' in [grpc] must be a whole number, not \"root\""
    assert "'grpc' must be a table" in refused(write("grpc = 1"))
    assert "'imports' must be a list" in refused(write('imports = "x"'))
    assert "true or false" in fault(write("[proxy_plugins.a]\nrestart = 1"), "a")


def test_what_is_no_toml_is_told(write: Callable[..., Path]) -> None:
    path = write("a = = 1")
    assert str(path) in refused(path)


@pytest.mark.parametrize(("content", "reason"), [(b"\xff", "is not UTF-8 at byte 0"), (None, "Is a directory")])
def test_what_cannot_be_read_is_told(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "plugins.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(errors.InvalidArgument) as refused:
        config.load(path)
    assert refused.value.message == f"configuration file {path}: {reason}"


def test_a_given_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"absent\.toml"):
        config.load(tmp_path / "absent.toml")


@pytest.mark.parametrize("version", [2, 3, 4])
def test_containerds_versions_are_read(write: Callable[..., Path], version: int) -> None:
    assert config.load(write(f"version = {version}")).config.version == version


def test_another_version_is_refused(write: Callable[..., Path]) -> None:
    path = write("version = 1")
    assert refused(path) == f"{path}:1: version 1 is not known; known are 2, 3 and 4"


def test_an_unknown_level_is_refused_with_the_nearest(write: Callable[..., Path]) -> None:
    assert refused(write('[debug]\nlevel = "debgu"')).endswith("unknown level 'debgu'; did you mean 'debug'?")


# --- version 4


def test_version_4_has_the_sockets_among_the_plugins(write: Callable[..., Path]) -> None:
    text = 'version = 4\n[plugins."io.containerd.server.v1.grpc"]\naddress = "/run/a.sock"\nuid = 7\n'
    loaded = config.load(write(text))
    loaded.check_plugins(REGISTRATIONS)
    assert (loaded.config.grpc.address, loaded.config.grpc.uid) == ("/run/a.sock", 7)
    assert loaded.config.ttrpc_address == "/run/a.sock.ttrpc"
    assert not loaded.warnings


def test_a_mistake_there_is_told_there(write: Callable[..., Path]) -> None:
    path = write('version = 4\n[plugins."io.containerd.server.v1.grpc"]\nadress = "/run/a.sock"\n')
    message = refused(path)
    assert message.startswith(f"{path}:3: ")
    assert "did you mean 'address'?" in message


# --- imports


def test_imports_are_read_over_the_file_in_order(write: Callable[..., Path]) -> None:
    write('[grpc]\nuid = 1\ngid = 1\n[proxy_plugins.a]\ntype = "snapshot"\naddress = "/a"\n', "conf.d/a.toml")
    write('disabled_plugins = ["b"]\n[grpc]\nuid = 2\n', "conf.d/b.toml")
    path = write('imports = ["conf.d/*.toml"]\ndisabled_plugins = ["a"]\n[grpc]\naddress = "/x"\n')
    loaded = config.load(path).config
    assert (loaded.grpc.address, loaded.grpc.uid, loaded.grpc.gid) == ("/x", 2, 1)
    assert loaded.disabled_plugins == ("a", "b")
    assert set(loaded.proxy_plugins) == {"a"}


def test_a_mistake_in_an_import_is_told_there(write: Callable[..., Path]) -> None:
    bad = write("\nroott = 1\n", "bad.toml")
    assert refused(write('imports = ["bad.toml"]')).startswith(f"{bad}:2: unknown key 'roott'")


def test_imports_that_name_each_other_end(write: Callable[..., Path]) -> None:
    write('imports = ["plugins.toml"]\nroot = "/b"\n', "other.toml")
    assert config.load(write('imports = ["other.toml"]\nroot = "/a"\n')).config.root == "/b"


def test_an_import_that_is_not_there_is_told(write: Callable[..., Path]) -> None:
    path = write('\nimports = ["absent.toml"]')
    assert refused(path).startswith(f"{path}:2: imported file")
    assert config.load(write('imports = ["absent/*.toml"]')).config.imports == ("absent/*.toml",)


# --- plugins


@dataclass(frozen=True, slots=True)
class Settings:
    brightness: int = 3
    filters: tuple[str, ...] = ()
    delay: toml.Duration = toml.Duration(1)  # noqa: RUF009


STARS = plugin.Registration(plugin.SNAPSHOTTER, "stars", lambda context: None, config=Settings)


def test_a_plugins_table_becomes_its_config(write: Callable[..., Path]) -> None:
    text = f'[plugins."{STARS.name}"]\nbrightness = 5\nfilters = ["a"]\ndelay = "500ms"\n'
    assert config.load(write(text)).plugin_config(STARS) == Settings(5, ("a",), toml.Duration(0.5))
    assert config.load(write("")).plugin_config(STARS) == Settings()


def test_an_unknown_key_of_a_plugin_is_told_with_line(write: Callable[..., Path]) -> None:
    path = write(f'[plugins]\n  [plugins."{STARS.name}"]\n    brightnes = 5\n')
    with pytest.raises(errors.InvalidArgument) as caught:
        config.load(path).check_plugins([STARS])
    assert caught.value.message.startswith(f"{path}:3: unknown key 'brightnes'")
    assert "did you mean 'brightness'?" in caught.value.message


def test_a_plugin_without_configuration_takes_no_key(write: Callable[..., Path]) -> None:
    plain = plugin.Registration(plugin.SNAPSHOTTER, "plain", lambda context: None)
    path = write(f'[plugins."{plain.name}"]\ncolour = 5\n')
    with pytest.raises(errors.InvalidArgument, match=r":2: plugin .*plain has no key 'colour'"):
        config.load(path).check_plugins([plain])


def test_a_table_of_a_plugin_that_is_not_there_is_a_warning(write: Callable[..., Path]) -> None:
    path = write('[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "pause"\n')
    loaded = config.load(path)
    loaded.check_plugins([STARS])
    [warning] = loaded.warnings
    assert warning.startswith(f"{path}:1: there is no plugin 'io.containerd.grpc.v1.cri'")


def test_a_key_that_only_containerd_needs_is_a_warning(write: Callable[..., Path]) -> None:
    path = write('[grpc]\ntcp_address = "127.0.0.1:1"\n')
    assert config.load(path).warnings == [f"{path}:2: 'tcp_address' in [grpc] is known and has no effect here"]


# --- proxy plugins

PROXY = '[proxy_plugins.stars]\ntype = "{}"\naddress = "/run/stars.sock"\nplatform = "{}"\n'


@pytest.mark.parametrize("kind", ["snapshot", "content", "diff", plugin.SNAPSHOTTER])
def test_a_proxys_type_is_short_or_long(write: Callable[..., Path], kind: str) -> None:
    loaded = config.load(write(PROXY.format(kind, "linux/arm64/v8")))
    assert loaded.config.proxy_plugins["stars"].type == kind


def test_an_unknown_type_is_told_with_line_and_nearest(write: Callable[..., Path]) -> None:
    path = write(PROXY.format("snapshoter", ""))
    assert fault(path) == (
        f"{path}:2: proxy plugin 'stars' has the unknown type 'snapshoter'; did you mean 'snapshot'?"
    )


@pytest.mark.parametrize("platform", ["linux/amd64/v3/x", "plan10/vax", "linux/vax"])
def test_an_unknown_platform_is_told_with_line(write: Callable[..., Path], platform: str) -> None:
    path = write(PROXY.format("snapshot", platform))
    assert fault(path).startswith(f"{path}:4: proxy plugin 'stars' has an unknown platform")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "has no address"),
        ('address = "stars"', "has the address 'stars', which is neither an absolute path nor HOST:PORT"),
        ('address = "./stars.sock"', "has an address that is not an absolute path: './stars.sock'"),
        ('address = "http://stars"', 'has the address "http://stars": neither unix:///path nor tcp://host:port'),
        ('address = "stars:99999"', "has the address 'stars:99999', which is neither an absolute path nor HOST:PORT"),
        ('address = "127.0.0.1:99"', "has an address of TCP, which needs TLS: set tls_ca"),
        ('address = "/a"\ntls_ca = "/b"', "has tls_ca, which goes with HOST:PORT and not with a socket"),
        ('address = "h:1"\ntls_ca = "/b"\ntls_key = "/c"', "needs tls_cert and tls_key together"),
        ('address = "h:1"\ntls_ca = "b.pem"', "has a file tls_ca that is not an absolute path: 'b.pem'"),
        ('address = "/a"\ncommand = [""]', "has an empty command"),
        ('address = "/a"\nexports = { root = "var" }', "has a root that is not an absolute path: 'var'"),
    ],
)
def test_what_cannot_be_a_plugin_is_told_with_its_line(write: Callable[..., Path], lines: str, said: str) -> None:
    path = write(f'[proxy_plugins.stars]\ntype = "snapshot"\n{lines}\n')
    assert re.sub(r":\d+:", ":N:", fault(path)) == f"{path}:N: proxy plugin 'stars' {said}"


def test_a_name_that_is_no_identifier_is_refused(write: Callable[..., Path]) -> None:
    path = write('[proxy_plugins."a/b"]\ntype = "snapshot"\naddress = "/a"\n')
    assert fault(path, "a/b").startswith(f"{path}:1: proxy plugin 'a/b' has a name that cannot be used")


def test_a_table_that_is_there_twice_is_told_with_its_line(write: Callable[..., Path]) -> None:
    path = write("[proxy_plugins.stars]\n[proxy_plugins.stars]\n")
    assert refused(path) == f"{path}:2: [proxy_plugins.stars] is there twice"


def test_a_wrong_table_leaves_the_others(write: Callable[..., Path]) -> None:
    loaded = config.load(write(PROXY.format("moon", "") + '[proxy_plugins.b]\ntype = "diff"\naddress = "/b"\n'))
    assert set(loaded.proxies.specs) == set(loaded.config.proxy_plugins) == {"b"}
    assert set(loaded.proxies.faults) == {"stars"}


def test_one_program_serves_an_address(write: Callable[..., Path]) -> None:
    table = '[proxy_plugins.{}]\ntype = "{}"\naddress = "/a"\n{}\n'
    path = write(table.format("a", "snapshot", 'command = ["x"]') + table.format("b", "diff", ""))
    assert config.load(path).proxies.faults == {}
    path = write(table.format("a", "snapshot", 'command = ["x"]') + table.format("b", "diff", 'command = ["x"]'))
    assert "has the address of 'a', and both have a command" in fault(path, "b")


def test_there_is_one_content_store(write: Callable[..., Path]) -> None:
    table = '[proxy_plugins.{}]\ntype = "content"\naddress = "/{}"\n'
    path = write(table.format("a", "a") + table.format("b", "b"))
    assert fault(path, "b") == f"{path}:4: proxy plugin 'b': is a second content store beside 'a': there can be one"


def test_what_a_built_in_is_already_is_found_before_the_daemon_starts(write: Callable[..., Path]) -> None:
    table = '[proxy_plugins.{}]\ntype = "{}"\naddress = "/{}"\n'
    path = write(table.format("overlayfs", "snapshot", "a") + table.format("mine", "content", "b"))
    first, second = config.load(path).proxy_faults(("built in", each) for each in REGISTRATIONS)
    assert first.startswith(
        f"{path}:1: proxy plugin 'overlayfs': there is a plugin io.containerd.snapshotter.v1.overlay"
    )
    assert second.startswith(f"{path}:4: proxy plugin 'mine': there is a content store already")
    path = write(
        f'disabled_plugins = ["{plugin.SNAPSHOTTER}.overlayfs"]\n' + table.format("overlayfs", "snapshot", "a")
    )
    assert config.load(path).proxy_faults(("built in", each) for each in REGISTRATIONS) == []


def test_a_configuration_without_a_content_store_is_found_before_the_daemon_starts(write: Callable[..., Path]) -> None:
    path = write(f'disabled_plugins = ["{plugin.CONTENT}.content"]\n')
    found = config.load(path).proxy_faults(("built in", each) for each in REGISTRATIONS)
    assert found == ["there would be no content store"]


@pytest.mark.parametrize("text", ["xx = [1, \n", 'a = """abc\n'])
def test_what_is_not_closed_is_told_with_a_line(write: Callable[..., Path], text: str) -> None:
    path = write(f"level = 1\n{text}")
    with pytest.raises(errors.InvalidArgument, match=f"{path}:2: "):
        config.load(path)


def test_sandbox_controllers_are_known_and_not_used(write: Callable[..., Path]) -> None:
    loaded = config.load(write(PROXY.format("sandbox", "")))
    assert not loaded.proxies.specs
    assert "sandbox controllers are known and not used yet" in loaded.warnings[0]


@pytest.mark.parametrize(
    "page",
    [
        """
        version = 2
        [plugins."io.containerd.grpc.v1.cri".containerd]
          snapshotter = "stargz"
          disable_snapshot_annotations = false
        [proxy_plugins]
          [proxy_plugins.stargz]
            type = "snapshot"
            address = "/run/containerd-stargz-grpc/containerd-stargz-grpc.sock"
          [proxy_plugins.stargz.exports]
            root = "/var/lib/containerd-stargz-grpc/"
            enable_remote_snapshot_annotations = "true"
        """,
        """
        [proxy_plugins]
          [proxy_plugins.nydus]
            type = "snapshot"
            address = "/run/containerd-nydus/containerd-nydus-grpc.sock"
        [plugins."io.containerd.grpc.v1.cri".containerd]
           snapshotter = "nydus"
           disable_snapshot_annotations = false
        """,
    ],
    ids=["stargz", "nydus"],
)
def test_tables_of_other_projects_pages_are_accepted_as_they_stand(write: Callable[..., Path], page: str) -> None:
    loaded = config.load(write(page))
    loaded.check_plugins(REGISTRATIONS)
    assert loaded.proxies.faults == {}
    [spec] = loaded.proxies.specs.values()
    assert spec.kind == plugin.SNAPSHOTTER
    assert all("there is no plugin" in warning for warning in loaded.warnings)


@pytest.mark.parametrize(
    ("key", "value", "soft"),
    [
        ("grace", '"1s"', True),
        ("exports", '{ root = "/x" }', True),
        ("address", '"/b"', False),
        ("command", '["x"]', False),
    ],
)
def test_what_can_change_without_a_new_connection(write: Callable[..., Path], key: str, value: str, soft: bool) -> None:
    table = {"type": '"snapshot"', "address": '"/a"'}

    def spec(more: dict[str, str]) -> tables.Spec:
        lines = "\n".join(f"{name} = {text}" for name, text in {**table, **more}.items())
        return config.load(write(f"[proxy_plugins.a]\n{lines}\n")).proxies.specs["a"]

    assert spec({}).connects_like(spec({key: value})) == soft


def test_what_needs_a_restart_is_named_with_its_line(write: Callable[..., Path]) -> None:
    before = config.load(write('root = "/a"\n[proxy_plugins.a]\ntype = "diff"\naddress = "/a"\n'))
    path = write('root = "/b"\n')
    assert config.load(path).needs_restart(before) == [
        f"{path}:1: 'root' takes effect when the daemon is started again"
    ]


# --- flags


def test_flags_go_before_the_file(write: Callable[..., Path]) -> None:
    flags = {"address": "/b.sock", "root": "/b", "state": "/c", "log_level": "debug"}
    loaded = config.load(write('root = "/a"\n[grpc]\naddress = "/a.sock"\n'), flags).config
    assert (loaded.grpc.address, loaded.root, loaded.state, loaded.debug.level) == ("/b.sock", "/b", "/c", "debug")
    assert loaded.ttrpc_address == "/b.sock.ttrpc"


@pytest.mark.parametrize(
    "flags", [{"log_level": "lout"}, {"root": "relative"}, {"root": "/run/corten"}, {"state": "/" + 83 * "s"}]
)
def test_flags_are_checked_like_the_file(write: Callable[..., Path], flags: dict[str, str]) -> None:
    with pytest.raises(errors.InvalidArgument):
        config.load(write(""), flags)


# --- the page

PAGE = (ROOT / "docs" / "plugins-toml.md").read_text()


@pytest.mark.parametrize(("table", "cls"), TABLES)
def test_every_key_is_documented_under_its_table(table: str, cls: type) -> None:
    headings = {section.partition("\n")[0]: section for section in PAGE.split("\n## ")[1:]}
    section = headings[f"[{table.replace('.x', '.NAME')}]" if table else "The file"]
    for field in dataclasses.fields(cls):
        own_section = any(heading.startswith(f"[{field.name}") for heading in headings)
        assert f"`{field.name}`" in section or (not table and own_section), field.name


@pytest.mark.parametrize("name", [*config.LEVELS, *tables.TYPES, *config.SERVER_TABLES, *config.FLAGS])
def test_every_name_that_is_allowed_is_documented(name: str) -> None:
    assert name.replace("_", "-") in PAGE or name in PAGE


@pytest.mark.parametrize("registration", [each for each in REGISTRATIONS if each.config], ids=lambda each: each.id)
def test_every_key_of_a_built_in_is_explained(registration: plugin.Registration) -> None:
    assert registration.config is not None
    for field in keys(registration.config):
        assert str(field.metadata.get("doc", "")).endswith("."), field.name
        assert f"`{field.name}`" in PAGE
    assert f"`{registration.table}`" in PAGE


def keys(cls: type) -> Iterator[dataclasses.Field[Any]]:
    """Those of the tables within it, too."""
    for hint in typing.get_type_hints(cls).values():
        yield from (each for inner in typing.get_args(hint) if dataclasses.is_dataclass(inner) for each in keys(inner))  # type: ignore[arg-type]
    yield from dataclasses.fields(cls)  # type: ignore[arg-type]
